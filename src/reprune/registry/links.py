"""The chain: judged generations, rollbacks and adoptions, each naming the receipt before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from reprune.core.errors import ReceiptInvalid
from reprune.registry.compressed import read_receipt
from reprune.registry.protocol import Registry, VersionInfo, known_versions
from reprune.registry.receipts import Receipted, chain_gaps, verify
from reprune.registry.records import AnyRecord, decode_record, read_record
from reprune.registry.stored import compressed_name, place
from reprune.registry.tags import BEFORE, RECEIPT, RECORD, ROLLED_BACK

if TYPE_CHECKING:
    from securesystemslib.signer import Key

Link: TypeAlias = Receipted | AnyRecord
Place: TypeAlias = tuple[VersionInfo, Link]


def read_link(registry: Registry, info: VersionInfo, keys: Sequence[Key] | None = None) -> Link:
    """What a version carries of ours; with `keys`, only if one of them signed it. Raises ReceiptInvalid."""
    if RECORD in info.tags:
        return read_record(registry, info, keys=keys)
    receipt = read_receipt(registry, info)
    return receipt if keys is None else verify(receipt.raw, keys, where=place(registry, info))


def verified(registry: Registry, info: VersionInfo, link: Link, keys: Sequence[Key]) -> Link:
    """`link`, which this version carries, if one of `keys` signed it. Raises ReceiptInvalid."""
    where = place(registry, info)
    if isinstance(link, Receipted):
        return verify(link.raw, keys, where=where)
    return decode_record(link.raw, info, keys=keys, where=where)


def newest_link(registry: Registry, name: str, keys: Sequence[Key]) -> Place | None:
    """The newest link that we trust; other people's versions are none of the chain."""
    for info in reversed(known_versions(registry, compressed_name(name))):
        try:
            return info, read_link(registry, info, keys)
        except ReceiptInvalid:
            continue
    return None


def links(
    registry: Registry, name: str, *, since: str = "", keys: Sequence[Key] | None = None
) -> tuple[Place, ...]:
    """The links from the version `since` on (from the first, if it is empty), oldest first."""
    found: list[Place] = []
    begun = not since
    for info in known_versions(registry, compressed_name(name)):
        begun = begun or info.version == since
        if not begun:
            continue
        try:
            found.append((info, read_link(registry, info, keys)))
        except ReceiptInvalid:
            continue
    return tuple(found)


def gaps_since(registry: Registry, name: str, version: str, keys: Sequence[Key]) -> tuple[str, ...]:
    """What is missing in the chain from `version` on (from the first, if it is empty), in words.

    Only who signed with one of `keys` can say that a receipt was there; that it still is, any receipt
    shows, whoever signed it: a key that is trusted no more does not tear the chain.
    """
    infos = known_versions(registry, compressed_name(name))
    since = links(registry, name, since=version, keys=keys)
    held = {link.digest for _, link in since}
    named = {_named(link) for _, link in since} - held - {None}
    # Promotes that overlapped name what lies before, and others' receipts lie in between.
    earlier: set[str | None] = {None} if version else set()
    for info in infos:
        if info.tags.get(RECEIPT) in named or info.tags.get(RECORD) in named:
            try:
                earlier.add(read_link(registry, info).digest)
            except ReceiptInvalid:
                continue
    return chain_gaps([link for _, link in since], before=earlier)


def _named(link: Link) -> str | None:
    found: str | None = link.statement.predicate.predecessor
    return found


def records(registry: Registry, name: str) -> tuple[tuple[VersionInfo, AnyRecord], ...]:
    """The rollbacks and adoptions on record, oldest first. No signature is checked here."""
    found: list[tuple[VersionInfo, AnyRecord]] = []
    for info in known_versions(registry, compressed_name(name)):
        if RECORD not in info.tags:
            continue
        try:
            found.append((info, read_record(registry, info)))
        except ReceiptInvalid:
            continue
    return tuple(found)


def rolled_back(versions: Sequence[VersionInfo]) -> frozenset[str]:
    """The versions that were rolled back, as tags say: fail closed, so one tag of either side is enough."""
    marked = {info.version for info in versions if ROLLED_BACK in info.tags}
    return frozenset(marked | {info.tags[BEFORE] for info in versions if BEFORE in info.tags})
