"""Two verdicts, or two plans, compared: what moved, and whether the intervals leave room for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reprune.core.artifacts import Plan, RuleResult, SliceResult
from reprune.judge.between import Estimate, difference, factor
from reprune.judge.evidence import Evidence
from reprune.judge.median import sign_test
from reprune.judge.numeric import rounded
from reprune.report import cells, words
from reprune.report.diff_figures import plan_figures, verdict_figures
from reprune.report.diff_settings import settings
from reprune.report.differences import (
    Between,
    FlipDiff,
    Moved,
    PartDiff,
    PlanDiff,
    RuleDiff,
    SliceDiff,
    VerdictDiff,
)
from reprune.report.facts import ReportFacts
from reprune.report.measured import right_or_wrong
from reprune.report.plan_change import compared_parts
from reprune.report.plan_knobs import plan_knobs

# What a reader looks for first.
_ORDER: tuple[Moved, ...] = ("worse", "better", "gone", "new", "unknown", "noise", "same")
_WORST_LAST = ("ok", "undecided", "harm")


def compare_verdicts(before: ReportFacts, after: ReportFacts) -> VerdictDiff:
    """Every demand and figure of both; of slices those that moved, the worst first."""
    slices, same = _slices(before, after)
    return VerdictDiff(
        rules=_rules(before, after),
        slices=slices,
        slices_same=same,
        flips=_flips(before.evidence, after.evidence),
        figures=verdict_figures(before, after),
        settings=settings(before, after),
        notes=tuple(_notes(before, after)),
    )


def compare_plans(before: Plan, after: Plan) -> PlanDiff:
    """The parts that are cut otherwise, as shares: dense widths may differ from generation to generation."""
    parts = compared_parts(before, after)
    changed = [one for one in parts if one.how != "as before"]
    return PlanDiff(
        changed=tuple(
            PartDiff(
                part=one.part,
                how=one.how,
                before=one.was,
                after=one.now,
                share_before=one.share_was,
                share_after=one.share_now,
            )
            for one in changed
        ),
        same=len(parts) - len(changed),
        knobs=tuple(plan_knobs(before, after)),
        figures=plan_figures(before, after),
    )


def share_a_part(before: Plan, after: Plan) -> bool:
    """Whether any group, tensor or block is named by both: plans of two models share none."""
    parts = compared_parts(before, after)
    return not parts or any(one.how not in ("new", "gone") for one in parts)


def _rules(before: ReportFacts, after: ReportFacts) -> tuple[RuleDiff, ...]:
    was, now = (
        {(one.rule, one.baseline, one.target): one for one in facts.judgement.rules}
        for facts in (before, after)
    )
    known = {**was, **now}
    found = [_rule(one, was.get(key), now.get(key)) for key, one in known.items()]
    return tuple(sorted(found, key=lambda one: _ORDER.index(one.moved)))


def _rule(one: RuleResult, before: RuleResult | None, after: RuleResult | None) -> RuleDiff:
    """`one` is either of them."""
    moved: Moved = "gone" if after is None else "new"
    between = None
    if before is not None and after is not None:
        between = _between(before, after)
        exact = words.family(one) in words.EXACT
        moved = _moved(between, lower_is_better=one.direction == "at most", exact=exact)
    return RuleDiff(
        rule=one.rule,
        baseline=one.baseline,
        target=one.target,
        moved=moved,
        before=before,
        after=after,
        between=between,
    )


def _between(before: RuleResult, after: RuleResult) -> Between | None:
    """None where one of them was not measured, or in another unit."""
    was, now = cells.measured(before), cells.measured(after)
    if was is None or now is None or before.unit != after.unit:
        return None
    exact = words.family(after) in words.EXACT
    ends = [
        Estimate(value=value) if exact else Estimate(value=value, low=one.low, high=one.high)
        for value, one in ((was, before), (now, after))
    ]
    found = factor(*ends) if after.unit == "ratio" else None
    if found is not None:
        return Between(scale="factor", value=found.value, low=found.low, high=found.high)
    found = difference(*ends)
    return Between(scale="difference", value=found.value, low=found.low, high=found.high)


def _moved(between: Between | None, *, lower_is_better: bool, exact: bool = False) -> Moved:
    """What the gap and its interval say; an `exact` one has no interval and needs none."""
    if between is None:
        return "unknown"
    none = 1.0 if between.scale == "factor" else 0.0
    if between.value == none:
        return "same"
    fell = between.value < none
    moved: Moved = "better" if fell is lower_is_better else "worse"
    # Only the end towards "no change" can leave room for it.
    end = between.high if fell else between.low
    if exact:
        return moved
    if end is None:
        return "unknown"
    return moved if (end < none if fell else end > none) else "noise"


def _slices(before: ReportFacts, after: ReportFacts) -> tuple[tuple[SliceDiff, ...], int]:
    was, now = (
        {(one.rule, one.target, one.slice): one for one in facts.judgement.slices}
        for facts in (before, after)
    )
    growing = words.growing_is_worse((*before.judgement.rules, *after.judgement.rules))
    known = {**was, **now}
    found = [_slice(one, was.get(key), now.get(key), growing) for key, one in known.items()]
    moved = [one for one in found if one.moved not in ("same", "noise")]
    moved.sort(
        key=lambda one: (_ORDER.index(one.moved), -abs(one.between.value if one.between else 0))
    )
    return tuple(moved), len(found) - len(moved)


def _slice(
    one: SliceResult,
    before: SliceResult | None,
    after: SliceResult | None,
    growing: frozenset[tuple[str, str | None]],
) -> SliceDiff:
    """`one` is either of them. A slice that was judged otherwise moved, whatever the intervals say."""
    moved: Moved = "gone" if after is None else "new"
    between = None
    if before is not None and after is not None:
        if "not judged" in (before.outcome, after.outcome):
            moved = "same" if before.outcome == after.outcome else "unknown"
        else:
            ends = [Estimate(value=s.change, low=s.low, high=s.high) for s in (before, after)]
            told = difference(*ends)
            between = Between(scale="difference", value=told.value, low=told.low, high=told.high)
            moved = _moved(between, lower_is_better=(one.rule, one.target) in growing)
        if before.outcome != after.outcome and moved in ("same", "noise"):
            worse = _WORST_LAST.index(after.outcome) > _WORST_LAST.index(before.outcome)
            moved = "worse" if worse else "better"
    return SliceDiff(
        rule=one.rule,
        target=one.target,
        slice=one.slice,
        moved=moved,
        before=before,
        after=after,
        between=between,
    )


def _flips(before: Evidence | None, after: Evidence | None) -> tuple[FlipDiff, ...]:
    """Both candidates on the examples that both were judged on, where records are right or wrong."""
    if before is None or after is None:
        return ()
    places = {name: at for at, name in enumerate(after.quality.ids)}
    shared = [(at, places[name]) for at, name in enumerate(before.quality.ids) if name in places]
    found = []
    for target in dict.fromkeys(given.target for given in before.targets):
        was, now = (
            right_or_wrong(each.quality.arms.get(f"candidate@{target}")) for each in (before, after)
        )
        found += [
            _flipped(
                target, member, [(was[member][one], now[member][other]) for one, other in shared]
            )
            for member in was
            if shared and was[member] and now.get(member)
        ]
    return tuple(found)


def _flipped(target: str, member: str, pairs: Sequence[tuple[int, int]]) -> FlipDiff:
    lost, won = pairs.count((1, 0)), pairs.count((0, 1))
    return FlipDiff(
        target=target,
        member=member,
        examples=len(pairs),
        only_before=lost,
        only_after=won,
        p=rounded(min(1.0, 2 * sign_test(min(lost, won), lost + won))),
    )


def _notes(before: ReportFacts, after: ReportFacts) -> Iterator[str]:
    """What a reader has to know before reading a difference as one of the models."""
    was, now = before.verdict, after.verdict
    if before.digest == after.digest:
        yield "Both are the same verdict."
        return
    one, other = before.evidence, after.evidence
    if (
        one is not None
        and other is not None
        and one.arms.get("candidate") == other.arms.get("candidate")
    ):
        yield "Both judge the same candidate: what differs is the measurement, or what is demanded."
    if was.dense_version != now.dense_version:
        yield (
            f"They were cut from dense {words.version(was.dense_version)} and "
            f"{words.version(now.dense_version)}: a change against dense is each against its own parent."
        )
    champions = [None if each.champion is None else each.champion.version for each in (was, now)]
    if None not in champions and champions[0] != champions[1]:
        yield (
            f"A change against the champion is against {words.version(champions[0] or '')} in A and "
            f"{words.version(champions[1] or '')} in B."
        )
    if one is not None and other is not None:
        yield from _circumstances(one, other)
    if before.judgement.procedure != after.judgement.procedure:
        yield "The statistics are of two versions, so that intervals may differ on equal samples."


def _circumstances(one: Evidence, other: Evidence) -> Iterator[str]:
    if one.quality.eval_digest != other.quality.eval_digest:
        yield (
            "They were judged on other examples: part of a difference in quality is the draw, which the "
            "intervals allow for."
        )
    elsewhere = {given.target: given.machine.instance for given in one.targets}
    moved = [
        given.target
        for given in other.targets
        if elsewhere.get(given.target, given.machine.instance) != given.machine.instance
    ]
    if moved:
        yield (
            f"{words.listing(moved)} was measured on two machines: ratios compare, milliseconds and costs "
            "do not."
        )
