"""The fence of promote: one accepted verdict for each lock, however many runs and promotes there are.

No registry adds a version or moves an alias on a condition, but each numbers its versions, and never
gives a lower number later. So of two verdicts for one lock the one with the lower version is accepted, and
whoever looks after having registered knows which that is. A second look that is wanted has a lock of its
own (`reprune update --again`).
"""

from __future__ import annotations

import hashlib

from reprune.core.errors import PromotionRefused, ReceiptInvalid
from reprune.registry.protocol import VersionInfo, known_versions
from reprune.registry.receipted import Registered, accepted_for, read_receipt
from reprune.registry.receipts import verify
from reprune.registry.standing import standing
from reprune.registry.stored import place, receipt_bytes
from reprune.registry.tags import LOCK, PROMOTED, RECEIPT, VERDICT
from reprune.steps.acceptance import Case
from reprune.steps.moving import Desk

AGAIN = (
    "a second look at this version counts as another attempt and has a lock of its own: run "
    "`reprune update --again`, then `dvc repro` and `reprune promote` (in a cluster: "
    "`reprune submit --again`)"
)


def check_first(desk: Desk, case: Case, *, registered: str | None = None) -> None:
    """Returns only if no other verdict is the accepted one for the lock of this one.

    Only versions that a key of the promoter signed count; one that came first and whose receipt is gone
    is refused, since nobody can tell whose it was, unless it was of this very verdict and never served: then
    to register that anew decides nothing else. After `registered`, the version that holds this
    verdict, it must be the accepted one, and not merely be that none is. Raises PromotionRefused.
    """
    versions = known_versions(desk.registry, desk.compressed)
    lock = case.verdict.manifest.lock
    first = accepted_for(desk.registry, versions, lock, desk.authority.keys)
    for info in versions:
        if first is not None and info.version == first.info.version:
            # What comes later decides nothing, whatever it holds.
            break
        if info.tags.get(LOCK) == lock and RECEIPT in info.tags:
            _check_stranger(desk, case, info)
    if first is None and registered is not None:
        raise PromotionRefused(
            f"version {registered} was registered, but the registry does not show it",
            reason="not_listed",
            where=f"{desk.registry.identity}: {desk.compressed}",
            fix="promote again; if it stays, look at the registry's log",
        )
    if first is not None and first.verdict != case.verdict.digest:
        raise PromotionRefused(
            f"version {first.info.version} holds another verdict for the same lock, which came "
            f"first and counts: {_words(first)}",
            reason="lock_taken",
            where=place(desk.registry, first.info),
            fix=AGAIN,
        )


def _check_stranger(desk: Desk, case: Case, info: VersionInfo) -> None:
    """Returns only if this version, which no receipt of ours speaks for, is known to be somebody else's.

    Its tags say that it was judged for the lock. Where its receipt is gone, or is not the one that they
    name, it may have been ours, and the verdict that counts. Raises PromotionRefused.
    """
    doubt = _doubt(desk, case, info)
    if doubt:
        raise PromotionRefused(
            f"version {info.version} says that it was judged for the same lock and came first, but {doubt}",
            reason="receipt_gone",
            where=place(desk.registry, info),
            fix="restore that version from a backup; or promote the verdict that its tags name "
            f"({info.tags.get(VERDICT, 'none')[:19]}); or delete it, or its tags `reprune.*`, with the "
            f"registry's own tools, if Reprune never judged it; or look again: {AGAIN}",
        )


def _doubt(desk: Desk, case: Case, info: VersionInfo) -> str:
    """Why the version may be ours all the same, in words; empty if it is not, or if that is no matter."""
    where = place(desk.registry, info)
    try:
        raw = receipt_bytes(desk.registry, info, RECEIPT)
    except ReceiptInvalid as error:
        return "" if _began(desk, case, info) else error.what
    if f"sha256:{hashlib.sha256(raw).hexdigest()}" != info.tags[RECEIPT]:
        return "its receipt is not the one that its tag names"
    try:
        verify(raw, desk.authority.keys, where=where)
    except ReceiptInvalid:
        # Whole, and signed by nobody whom we trust.
        return ""
    try:
        read_receipt(desk.registry, info)
    except ReceiptInvalid as error:
        return error.what
    return ""


def _began(desk: Desk, case: Case, info: VersionInfo) -> bool:
    """Whether a version without its receipt is an earlier registration of this verdict, and no more.

    Its tags alone say so, but who can write them can delete the version as well; that it served, or was
    taken back, is told by what is signed, too. A receipt that followed its own is a gap in the chain.
    """
    if info.tags.get(VERDICT) != case.verdict.digest or PROMOTED in info.tags:
        return False
    versions = known_versions(desk.registry, desk.compressed)
    return standing(desk.registry, versions, info.version, desk.authority.keys) == ""


def _words(first: Registered) -> str:
    decision = first.receipt.statement.predicate
    if PROMOTED in first.info.tags:
        return f"{decision.outcome}, promoted"
    if decision.promotes:
        return f"{decision.outcome}, and its promotion was cut short or is under way"
    return decision.outcome
