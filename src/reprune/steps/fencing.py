"""The fence of promote: one accepted verdict for each lock, however many runs and promotes there are.

No registry adds a version or moves an alias on a condition, but each numbers its versions, and never
gives a lower number later. So of two verdicts for one lock the one with the lower version is accepted, and
whoever looks after having registered knows which that is. A second look that is wanted has a lock of its
own (`reprune update --again`).
"""

from __future__ import annotations

from reprune.core.errors import PromotionRefused
from reprune.registry.protocol import known_versions
from reprune.registry.receipted import Registered, accepted_for
from reprune.registry.stored import place
from reprune.registry.tags import PROMOTED
from reprune.steps.acceptance import Case
from reprune.steps.moving import Desk

AGAIN = (
    "a second look at this version counts as another attempt and has a lock of its own: run "
    "`reprune update --again`, then `dvc repro` and `reprune promote` (in a cluster: "
    "`reprune submit --again`)"
)


def check_first(desk: Desk, case: Case, *, registered: str | None = None) -> None:
    """Returns only if no other verdict is the accepted one for the lock of this one.

    Only versions that a key of the promoter signed count. After `registered`, the version that holds this
    verdict, it must be the accepted one, and not merely be that none is. Raises PromotionRefused.
    """
    versions = known_versions(desk.registry, desk.compressed)
    lock = case.verdict.manifest.lock
    first = accepted_for(desk.registry, versions, lock, desk.authority.keys)
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


def _words(first: Registered) -> str:
    decision = first.receipt.statement.predicate
    if PROMOTED in first.info.tags:
        return f"{decision.outcome}, promoted"
    if decision.promotes:
        return f"{decision.outcome}, and its promotion was cut short or is under way"
    return decision.outcome
