"""The receipt that a judged version carries, and which one of a lock is the accepted one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from reprune.core.accepted import accepted
from reprune.core.errors import ReceiptInvalid
from reprune.registry.protocol import Registry, VersionInfo, known_versions
from reprune.registry.receipts import Receipted, decode, verify
from reprune.registry.stored import compressed_name, place, receipt_bytes, refuse_stranger
from reprune.registry.tags import LOCK, MARKS, RECEIPT, TAGS, tags_of

if TYPE_CHECKING:
    from securesystemslib.signer import Key


class Registered(NamedTuple):
    """A version with its receipt."""

    info: VersionInfo
    receipt: Receipted

    @property
    def lock(self) -> str:
        return self.receipt.statement.predicate.lock

    @property
    def verdict(self) -> str:
        return self.receipt.statement.predicate.verdict


def read_receipt(registry: Registry, info: VersionInfo) -> Receipted:
    """The receipt that a version carries and its tag names. Raises ReceiptInvalid if it has none such."""
    where = place(registry, info)
    found = decode(receipt_bytes(registry, info, RECEIPT), where=where)
    decision = found.statement.predicate
    stated = {RECEIPT: found.digest, **tags_of(found)}
    wrong = [tag for tag in (*TAGS, *MARKS) if info.tags.get(tag) != stated.get(tag)]
    if wrong:
        raise ReceiptInvalid(f"its receipt contradicts its tags ({', '.join(wrong)})", where=where)
    home = (decision.registry, decision.workspace)
    refuse_stranger(registry, info, home=home, name=decision.name)
    return found


def accepted_for(
    registry: Registry,
    versions: Sequence[VersionInfo],
    lock: str,
    keys: Sequence[Key] | None = None,
) -> Registered | None:
    """The version whose verdict is the accepted one for the lock digest; None while it has none.

    `versions` are oldest first. Only versions with a receipt of ours count, and with `keys` only those
    that one of them signed. Raises RegistryUnreachable.
    """
    return accepted(_judged(registry, versions, lock, keys)).get(lock)


def taken_locks(registry: Registry, name: str) -> frozenset[str]:
    """The locks that a verdict was registered for, as tags say: one too many only skips a number."""
    versions = known_versions(registry, compressed_name(name))
    return frozenset(info.tags[LOCK] for info in versions if LOCK in info.tags)


def _judged(
    registry: Registry, versions: Sequence[VersionInfo], lock: str, keys: Sequence[Key] | None
) -> Iterator[Registered]:
    for info in versions:
        if info.tags.get(LOCK) != lock:
            continue
        try:
            receipt = read_receipt(registry, info)
            if keys is not None:
                receipt = verify(receipt.raw, keys, where=place(registry, info))
        except ReceiptInvalid:
            # Somebody else's version decides nothing.
            continue
        yield Registered(info, receipt)
