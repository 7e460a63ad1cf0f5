"""`reprune.lock.yaml`: the one reviewable file that identifies a run. Its digest names the run."""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import count
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import yaml
from msgspec import UNSET, UnsetType

from reprune.core.documents import Document, digest_of, read_yaml

LOCK_FILE = "reprune.lock.yaml"

Digest: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


class MemberRef(Document, kw_only=True):
    """A version of the model `name` that is a member of a set, and the digest of its weight file."""

    name: Name
    version: str
    weights: Digest


class DenseRef(Document, kw_only=True):
    """A retrained model version, and the digest of the weight file that was looked at.

    That of a set has `members`; its `version` is then their `label_of`, and `weights` is the digest of
    the one file that theirs make (see registry.sets).
    """

    version: str
    weights: Digest
    members: dict[Name, MemberRef] | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Refuses a set whose version does not say which members it has: attempts are counted by it."""
        if self.members is not UNSET:
            label = label_of({member: ref.version for member, ref in self.members.items()})
            if label != self.version:
                raise ValueError(
                    f"the members are {label or 'none'}, the version says {self.version}"
                )


def label_of(versions: Mapping[str, str]) -> str:
    """One text for a version of each member of a set, such as `depth=7+detector=4`."""
    return "+".join(f"{member}={version}" for member, version in sorted(versions.items()))


class ChampionRef(Document, kw_only=True):
    """A promoted compressed version; `receipt` is the digest of the receipt that made it champion."""

    version: str
    bundle: Digest
    receipt: Digest


class Lock(Document, kw_only=True):
    """`champion` is the word `none` only where nothing was ever promoted under this name.

    `params`, `policy` and `task` are digests of what lay beside the lock when it was written. `look` is
    there from the second look on: one lock has one accepted verdict, so who wants another writes another.
    """

    schema: Literal[1] = 1
    reprune: str
    registry: str
    workspace: str
    name: Name
    dense: DenseRef
    champion: ChampionRef | Literal["none"]
    anchor: ChampionRef | Literal["none"] = "none"
    targets: tuple[str, ...]
    params: Digest
    policy: Digest
    task: Digest
    data_version: str
    images: dict[str, Digest] = {}
    look: Annotated[int, msgspec.Meta(ge=2)] | UnsetType = UNSET

    @property
    def digest(self) -> str:
        return digest_of(self)


def read_lock(path: Path) -> Lock:
    """The lock at `path`. Raises DocumentError with file, key and line."""
    return read_yaml(path, Lock)


def first_look(lock: Lock) -> Lock:
    """The same lock without a word about which look it is."""
    return msgspec.structs.replace(lock, look=UNSET)


def fresh_look(lock: Lock, taken: Container[str]) -> Lock:
    """The same lock under its first look whose digest is not in `taken`, the locks that have a verdict."""
    looks = (
        msgspec.structs.replace(lock, look=UNSET if number == 1 else number) for number in count(1)
    )
    return next(each for each in looks if each.digest not in taken)


def lock_text(lock: Lock) -> str:
    """The YAML text of a lock: fields in their order, one a line, so that a diff reads well."""
    header = "# Written by `reprune update`. Its digest names the run: edit nothing here by hand.\n"
    body = yaml.safe_dump(msgspec.to_builtins(lock), sort_keys=False, width=float("inf"))
    return header + body
