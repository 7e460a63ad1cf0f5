"""Where a model's compressed versions are, and a version's receipt as bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reprune.core.errors import (
    MissingExtra,
    ReceiptInvalid,
    RegistryError,
    RegistryUnreachable,
    VersionNotFound,
)
from reprune.registry.protocol import Registry, VersionInfo
from reprune.registry.receipts import MAX_RECEIPT_BYTES, RECEIPT_FILE
from reprune.registry.tags import RECEIPT, RECORD

_GONE = (
    "restore that version's files from a backup; where there is none, `reprune promote` of the verdict that "
    "its tags name registers it anew, if it never served; where that is lost too, and no version ever "
    "served, delete the version, or its tags `reprune.*`, with the registry's own tools"
)
_UNREADABLE = (
    "restore that version's files from a backup; or, if Reprune never registered it, delete it, or its tags "
    "`reprune.*`, with the registry's own tools"
)


def compressed_name(name: str) -> str:
    return f"{name}-compressed"


def place(registry: Registry, info: VersionInfo) -> str:
    """A version, as errors name it."""
    return f"{registry.identity}: {info.name} version {info.version}"


def refuse_stranger(
    registry: Registry, info: VersionInfo, *, home: tuple[str, str], name: str
) -> None:
    """Returns only if a receipt for `name` in `home`, a registry and its workspace, belongs to the version.

    Raises ReceiptInvalid.
    """
    if home != (registry.identity, registry.workspace) or compressed_name(name) != info.name:
        raise ReceiptInvalid(
            f"its receipt is for '{name}' in {home[0]} (workspace '{home[1]}')",
            where=place(registry, info),
        )


def receipt_bytes(registry: Registry, info: VersionInfo, tag: str) -> bytes:
    """The receipt that a version carries. Raises ReceiptInvalid if it lacks `tag` or the file."""
    if tag not in info.tags:
        raise ReceiptInvalid("carries no receipt of ours", where=place(registry, info))
    return receipt_file(registry, info)


def receipt_file(registry: Registry, info: VersionInfo) -> bytes:
    """The receipt that lies in a version, whatever its tags say. Raises ReceiptInvalid if none does.

    Where the files cannot be read, as with links in them or at an address that is not asked, a version
    without a tag of ours is somebody else's, and carries none. One with such a tag may be ours: it raises
    RegistryError, or MissingExtra; and RegistryUnreachable is no answer about either.
    """
    where = place(registry, info)
    with scratch() as folder:
        try:
            registry.fetch(info.name, info.version, folder, part=RECEIPT_FILE)
        except VersionNotFound as error:
            raise ReceiptInvalid("its receipt is gone", where=where, fix=_GONE) from error
        except RegistryUnreachable:
            raise
        except (RegistryError, MissingExtra) as error:
            if not {RECEIPT, RECORD} & info.tags.keys():
                what = f"carries no receipt of ours: {error.what}"
                raise ReceiptInvalid(what, where=where) from error
            if isinstance(error, MissingExtra):
                raise
            raise RegistryError(
                f"its tags say that it is ours, and its receipt cannot be read: {error.what}",
                where=where,
                fix=_UNREADABLE,
            ) from error
        path = folder / RECEIPT_FILE
        if not path.is_file():
            raise ReceiptInvalid("its receipt is gone: a folder lies there", where=where, fix=_GONE)
        if path.stat().st_size > MAX_RECEIPT_BYTES:
            raise ReceiptInvalid(f"is larger than {MAX_RECEIPT_BYTES} bytes", where=where)
        return path.read_bytes()


@contextmanager
def scratch() -> Iterator[Path]:
    """A private folder (0700), gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="reprune-") as folder:
        yield Path(folder)
