"""What may be wrong with a folder that a component is handed: each makes a fault of a whole copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from reprune.core import store
from tests.component_run import put

Break = Callable[[Path], None]


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"{}")


def _draft_only(folder: Path) -> None:
    """What a kill leaves: the payload without manifest and digest."""
    (folder / store.MANIFEST).unlink()
    (folder / store.DIGEST).unlink()


def _manifest(change: Callable[[bytes], bytes]) -> Break:
    def broken(folder: Path) -> None:
        path = folder / store.MANIFEST
        put(path, change(path.read_bytes()))

    return broken


def _edited(raw: bytes) -> bytes:
    value = json.loads(raw)
    value["parents"]["nobody"] = "sha256:" + "0" * 64
    return json.dumps(value).encode()


def _of_tomorrow(raw: bytes) -> bytes:
    value = json.loads(raw)
    value["schema"] = 99
    return json.dumps(value).encode()


def _digest(content: bytes) -> Break:
    return lambda folder: put(folder / store.DIGEST, content)


def _payload(change: Callable[[bytes], bytes | None]) -> Break:
    def broken(folder: Path) -> None:
        path = folder / payload_of(folder)[-1]
        changed = change(path.read_bytes())
        if changed is None:
            path.unlink()
        else:
            put(path, changed)

    return broken


def _linked(folder: Path) -> None:
    path = folder / payload_of(folder)[0]
    aside = folder.with_name(f"{folder.name}-aside")
    path.rename(aside)
    path.symlink_to(aside)


def payload_of(folder: Path) -> list[str]:
    """The payload files that the manifest lists."""
    return sorted(json.loads((folder / store.MANIFEST).read_bytes())["payload"])


def _turned(raw: bytes) -> bytes:
    place = len(raw) // 2
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


WHOLE: Mapping[str, Break] = {
    "no folder": shutil.rmtree,
    "an empty folder": _emptied,
    "a file in its place": _file_instead,
    "no manifest and no digest": _draft_only,
    "no manifest": lambda folder: (folder / store.MANIFEST).unlink(),
    "no digest": lambda folder: (folder / store.DIGEST).unlink(),
    "manifest empty": _manifest(lambda raw: b""),
    "manifest cut": _manifest(lambda raw: raw[: len(raw) // 2]),
    "manifest edited": _manifest(_edited),
    "manifest of a later schema": _manifest(_of_tomorrow),
    "manifest of no encoding": _manifest(lambda raw: b"\xff\xfe" + raw),
    "manifest of another shape": _manifest(lambda raw: b"[1, 2]"),
    "digest of another": _digest(b"sha256:" + b"0" * 64),
    "digest empty": _digest(b""),
}
# For artefacts that have a payload.
PAYLOAD: Mapping[str, Break] = {
    "payload missing": _payload(lambda raw: None),
    "payload empty": _payload(lambda raw: b""),
    "payload cut": _payload(lambda raw: raw[: len(raw) // 2]),
    "payload a byte turned": _payload(_turned),
    "payload a link": _linked,
}


def faults_of(folder: Path) -> dict[str, Break]:
    """All that may be wrong with the artefact in `folder`."""
    return {**WHOLE, **(PAYLOAD if payload_of(folder) else {})}
