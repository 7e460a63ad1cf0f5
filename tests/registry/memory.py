"""A registry that is a list in memory, and a hand that writes signed versions into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner, Key

from reprune.core.errors import VersionNotFound
from reprune.registry.protocol import VersionInfo
from reprune.registry.receipts import (
    RECEIPT_FILE,
    Statement,
    decode,
    decode_statement,
    sign,
    subjects,
)
from reprune.registry.records import (
    Adoption,
    AdoptionRecord,
    AdoptionStatement,
    Rollback,
    RollbackRecord,
    RollbackStatement,
    record_tags,
)
from reprune.registry.tags import tags_of
from tests.registry.test_receipts import statement

MODEL = "digits-compressed"
OURS = CryptoSigner.generate_ed25519()
STRANGER = CryptoSigner.generate_ed25519()
KEYS: tuple[Key, ...] = (OURS.public_key,)


def sha(letter: str) -> str:
    """A digest that is told apart by one letter of hex."""
    return f"sha256:{letter * 64}"


@dataclass
class Memory:
    """One model's versions, each with its files; aliases by name. Nothing is there before the first."""

    identity: str = "memory"
    workspace: str = "default"
    held: list[tuple[VersionInfo, dict[str, bytes]]] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        if name != MODEL or not self.held:
            raise VersionNotFound(f"no model '{name}'")
        return tuple(info for info, _ in self.held)

    def fetch(self, name: str, version: str, destination: Path, *, part: str = "") -> None:
        files = next((files for info, files in self.held if info.version == version), {})
        found = {
            path: raw
            for path, raw in files.items()
            if not part or path == part or path.startswith(f"{part}/")
        }
        if name != MODEL or not found:
            raise VersionNotFound(f"no {part or 'version'}")
        for path, raw in found.items():
            (destination / path).parent.mkdir(parents=True, exist_ok=True)
            (destination / path).write_bytes(raw)

    def register(self, name: str, folder: Path, tags: Mapping[str, str]) -> str:
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        return self.add(files, tags).version

    def alias(self, name: str, alias: str) -> str | None:
        if name != MODEL or not self.held:
            raise VersionNotFound(f"no model '{name}'")
        return self.aliases.get(alias)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self.aliases[alias] = version

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        self.retag(version, **tags)

    # --- the hand ---

    def add(self, files: Mapping[str, bytes], tags: Mapping[str, str]) -> VersionInfo:
        version = str(len(self.held) + 1)
        info = VersionInfo(name=MODEL, version=version, tags=dict(tags), stamp=version)
        self.held.append((info, dict(files)))
        return info

    def info(self, version: str) -> VersionInfo:
        return next(info for info, _ in self.held if info.version == version)

    def retag(self, version: str, **tags: str | None) -> None:
        """Sets tags of a version; those that are None are taken away."""
        for at, (info, files) in enumerate(self.held):
            if info.version == version:
                kept = {k: v for k, v in {**info.tags, **tags}.items() if v is not None}
                told = VersionInfo(name=MODEL, version=version, tags=kept, stamp=version)
                self.held[at] = (told, files)

    def drop(self, version: str) -> None:
        self.held = [each for each in self.held if each[0].version != version]

    def digest(self, version: str) -> str:
        """The digest of the receipt, of whatever kind, that lies in a version."""
        tags = self.info(version).tags
        return tags.get("reprune.receipt") or tags["reprune.record"]

    def judge(
        self,
        *,
        signer: CryptoSigner = OURS,
        files: Mapping[str, bytes] | None = None,
        listed: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> VersionInfo:
        """A judged version: a pass, unless the changes say otherwise."""
        made: Statement = statement(**{"registry": self.identity} | changes)
        if listed is not None:
            made = msgspec.structs.replace(made, subject=subjects(listed))
        raw = sign(made, signer)
        return self.add({**(files or {}), RECEIPT_FILE: raw}, tags_of(decode(raw, where="r")))

    def roll(
        self, version: str, before: str | None, *, signer: CryptoSigner = OURS, **changes: Any
    ) -> VersionInfo:
        """A record that the champion returned to `version`, and was `before`."""
        given: dict[str, Any] = {
            "registry": self.identity, "workspace": "default", "name": "digits", "version": version,
            "receipt": sha("a"), "bundle": sha("a"), "before": before, "before_receipt": None,
            "by": "Ada", "reason": "why", "predecessor": None, "reprune": "0",
            "signed_at_s": len(self.held),
        }  # fmt: skip
        told = Rollback(**given | changes)
        raw = sign(RollbackStatement(subject=subjects({"a": sha("a")}), predicate=told), signer)
        found, digest = decode_statement(raw, RollbackStatement, where="r")
        tags = record_tags(RollbackRecord(statement=found, digest=digest, raw=raw))
        return self.add({RECEIPT_FILE: raw}, tags)

    def adopt(
        self,
        *,
        signer: CryptoSigner = OURS,
        listed: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> VersionInfo:
        """A model that somebody made champion, unjudged."""
        given: dict[str, Any] = {
            "registry": self.identity, "workspace": "default", "name": "digits", "source": "folder",
            "source_version": None, "dense_version": "1", "bundle": sha("a"), "before": None,
            "by": "Ada", "reason": "why", "predecessor": None, "reprune": "0", "signed_at_s": 1,
        }  # fmt: skip
        told = Adoption(**given | changes)
        subject = subjects({"a": sha("a")} if listed is None else listed)
        raw = sign(AdoptionStatement(subject=subject, predicate=told), signer)
        found, digest = decode_statement(raw, AdoptionStatement, where="r")
        tags = record_tags(AdoptionRecord(statement=found, digest=digest, raw=raw))
        return self.add({RECEIPT_FILE: raw}, tags)
