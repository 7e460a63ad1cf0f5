"""Which override promote accepts for a verdict that did not pass. Deny by default, each with a reason."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from reprune.core.artifacts import Waiver
from reprune.core.errors import PromotionRefused
from reprune.core.overrides import (
    MAX_DAYS,
    OVERRIDES_FILE,
    Override,
    days_left,
    not_held,
    read_overrides,
)
from reprune.steps.acceptance import Case
from reprune.steps.promoter import Authority


def accepted_waiver(
    case: Case, authority: Authority, root: Path, *, used: Collection[Waiver], now: float
) -> Waiver | None:
    """The override that lets this block or inconclusive verdict through; None where nobody wrote one.

    `used` are the waivers that receipts in the registry name as having promoted something. Raises
    PromotionRefused, with the reason of the newest entry, where there are entries and none will do.
    """
    path = root / OVERRIDES_FILE
    entries = [
        each for each in read_overrides(path).overrides if each.verdict == case.verdict.digest
    ]
    refusal: PromotionRefused | None = None
    for entry in reversed(entries):
        found = next(_objections(entry, case, authority, used=used, now=now), None)
        if found is None:
            return entry.waiver
        reason, what, fix = found
        refusal = refusal or PromotionRefused(what, reason=reason, where=str(path), fix=fix)
    if refusal is not None:
        raise refusal
    return None


def stale_words(case: Case, root: Path) -> str:
    """That somebody overrode an earlier verdict on this very candidate, where so; else empty."""
    candidate = case.evidence.arms.get("candidate")
    for entry in reversed(read_overrides(root / OVERRIDES_FILE).overrides):
        if entry.candidate == candidate and entry.verdict != case.verdict.digest:
            return (
                f"the override by {entry.by} is for another verdict on this candidate and does not count: "
                "it was judged again since"
            )
    return ""


def _objections(
    entry: Override, case: Case, authority: Authority, *, used: Collection[Waiver], now: float
) -> Iterator[tuple[str, str, str]]:
    """Why this entry, which names the verdict, will not do: reason, words, what to do."""
    judgement = case.judgement
    if judgement.outcome not in ("block", "inconclusive"):
        words = f"overrides a verdict that is '{judgement.outcome}'"
        yield "override_of_error", words, "repair what the verdict names, then `dvc repro`"
    if entry.candidate != case.evidence.arms.get("candidate"):
        yield "override_other_candidate", "is for another candidate than was judged", _WRITE
    if entry.policy != case.verdict.manifest.policy:
        yield "override_other_policy", "is for another policy than it was judged by", _WRITE
    failed = not_held(judgement)
    missing = [rule for rule in failed if rule not in entry.rules]
    if missing or not failed:
        words = f"leaves standing what did not hold: {', '.join(missing) or 'nothing was judged'}"
        yield "override_incomplete", words, _WRITE
    if entry.by not in authority.promoter.overrides.allowed_by:
        yield (
            "override_not_allowed",
            f"is by '{entry.by}', who may not override here",
            "ask the promoter's owner: `overrides.allowed_by` in the promoter's config.yaml",
        )
    left = days_left(entry.expires, now)
    if left < 0:
        yield "override_expired", f"expired at the end of {entry.expires} (UTC)", _WRITE
    if left > MAX_DAYS:
        yield "override_too_long", f"expires in {left} days; {MAX_DAYS} are allowed", _WRITE
    if entry.waiver in used:
        words = "was used before: an override promotes once"
        yield "override_used", words, "judge again, or decide anew with `reprune override`"


_WRITE = "write a new one with `reprune override`, or delete the entry to have the verdict recorded"
