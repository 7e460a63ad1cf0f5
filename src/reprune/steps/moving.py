"""What promote, rollback and adopt share: who may move the champion, and onto what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from reprune.core import store
from reprune.core.errors import (
    InputError,
    PayloadCorrupt,
    PromotionRefused,
    ReceiptInvalid,
    VersionNotFound,
)
from reprune.core.params import PARAMS_FILE, Params, read_params
from reprune.registry import compressed, links, receipts, records
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry, VersionInfo, known_versions
from reprune.registry.tags import PROMOTED
from reprune.steps.holding import holding
from reprune.steps.promoter import Authority, read_promoter
from reprune.steps.signers import sign

MAX_TEXT = 500


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What one call that may move the champion works with. `now` is Unix time in seconds."""

    root: Path
    given: Params
    registry: Registry
    authority: Authority
    now: float
    say: Callable[[str], None]

    @property
    def compressed(self) -> str:
        return compressed.compressed_name(self.given.name)

    @property
    def names(self) -> tuple[str, str, str]:
        return (self.registry.identity, self.given.registry.workspace, self.given.name)


@contextmanager
def at_the_desk(root: Path, *, what: str, now: float, say: Callable[[str], None]) -> Iterator[Desk]:
    """The repository's registry under the promoter's authority, and no other call of ours here moves it (see
    steps.holding). Raises Busy if one does.
    """
    given = read_params(root / PARAMS_FILE)
    desk = Desk(
        root=root,
        given=given,
        registry=open_registry(given.registry, root),
        authority=read_promoter(root),
        now=now,
        say=say,
    )
    with holding(root, given, what=f"{what} of '{given.name}' is running", say=say):
        yield desk


def check_stored(registry: Registry, info: VersionInfo, link: links.Link) -> None:
    """Returns only if the registry's bytes of this version are those that its receipt lists.

    Raises PromotionRefused.
    """
    listed = {**receipts.subject_digests(link.statement), receipts.RECEIPT_FILE: link.digest}
    with compressed.scratch() as folder:
        try:
            # Files that are gone altogether differ, too.
            with suppress(VersionNotFound):
                registry.fetch(info.name, info.version, folder)
            compressed.check_files(folder, listed, where=f"{info.name} version {info.version}")
        except PayloadCorrupt as error:
            raise PromotionRefused(
                error.what, reason="stored_differs", where=error.where, fix=error.fix
            ) from error


def mark_outgoing(desk: Desk, serving: str | None) -> None:
    """The champion that is about to be replaced is marked as promoted, if it is not.

    A promotion that was cut short between alias and mark would look, once the alias has moved on, as if
    it had never been. What has no receipt of ours that could promote it is left as it is.
    """
    versions = known_versions(desk.registry, desk.compressed)
    info = next((each for each in versions if each.version == serving), None)
    if info is None or PROMOTED in info.tags:
        return
    try:
        link = links.read_link(desk.registry, info, desk.authority.keys)
    except ReceiptInvalid:
        return
    if not isinstance(link, records.RollbackRecord) and link.statement.predicate.promotes:
        desk.registry.set_tags(desk.compressed, info.version, {PROMOTED: link.digest})


@overload
def register_record(
    desk: Desk, statement: records.RollbackStatement, folder: Path
) -> tuple[VersionInfo, records.RollbackRecord]: ...


@overload
def register_record(
    desk: Desk, statement: records.AdoptionStatement, folder: Path
) -> tuple[VersionInfo, records.AdoptionRecord]: ...


def register_record(
    desk: Desk, statement: records.RollbackStatement | records.AdoptionStatement, folder: Path
) -> tuple[VersionInfo, records.AnyRecord]:
    """Signs the statement, puts it beside the files of `folder`, and registers both as one version."""
    raw = sign(statement, desk.authority.signer, desk.authority.keys)
    stated, digest, signer = receipts.verify_statement(
        raw, type(statement), desk.authority.keys, where="the receipt just signed"
    )
    record: records.AnyRecord
    if isinstance(stated, records.RollbackStatement):
        record = records.RollbackRecord(statement=stated, digest=digest, raw=raw, signer=signer)
    else:
        record = records.AdoptionRecord(statement=stated, digest=digest, raw=raw, signer=signer)
    store.write_bytes(folder / receipts.RECEIPT_FILE, raw)
    tags = records.record_tags(record)
    version = desk.registry.register(desk.compressed, folder, tags)
    return VersionInfo(name=desk.compressed, version=version, tags=tags, stamp=""), record


def said(text: str, flag: str) -> str:
    """What a person wrote after `flag`, on one line. Raises InputError for nothing and for too much."""
    words = " ".join(text.split())
    if not words or len(words) > MAX_TEXT or not words.isprintable():
        raise InputError(
            f"{flag} must say something, in at most {MAX_TEXT} printable characters",
            fix='say who does it and why: --by "Ada Lovelace" --reason "wrong labels in June"',
        )
    return words
