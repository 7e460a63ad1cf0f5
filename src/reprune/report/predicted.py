"""What the plan predicted beside what came of it: the loss before and after recovery, latency by target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from msgspec import UNSET

from reprune.compress.planning.achieved import Achieved, achieved
from reprune.core.artifacts import LatencyPrediction, RuleResult
from reprune.report import cells, plain, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.sections import Section


@dataclass(frozen=True, kw_only=True)
class Rise:
    """A rise in loss over the dense model, of this generation and, where the plan knew it, the champion's."""

    what: str
    mine: float | None
    champion: float | None = None


@dataclass(frozen=True, kw_only=True)
class Time:
    """A target's latency as a share of the dense model's; `rule` is the gate's, None where it has none."""

    target: str
    table: float | None
    timed: float | None
    rule: RuleResult | None


def predicted_section(facts: ReportFacts) -> Section | None:
    """None where the plan predicted neither loss nor latency."""
    losses, times = rises(facts), latencies(facts)
    if not losses and not times:
        return None
    content = [_loss_table(losses)] if losses else []
    content += [_time_table(times)] if times else []
    told = f" {lead}" if losses and (lead := _after_words(facts)) else ""
    return Section(
        key="predicted",
        title="Predicted and achieved",
        lead=f"What the plan expected, and what was measured of it later.{told}",
        content=tuple(content),
    )


def predicted_lines(facts: ReportFacts) -> Iterator[str]:
    """The same for the pull request: a line on the loss, and one on each target."""
    known = [one for one in rises(facts) if one.mine is not None]
    if known:
        told = "; ".join(f"{one.what} {words.signed(one.mine or 0.0, 3)}" for one in known)
        yield plain.text(f"Loss over the dense model's: {told}.", 600)
    for one in latencies(facts):
        told = "; ".join(
            f"{what} {words.ratio(value)}"
            for what, value in (
                ("as the plan forecast", one.table),
                ("in the plan's trial", one.timed),
                ("at the gate", _ratio(one)),
            )
            if value is not None
        )
        yield plain.text(f"Latency on {one.target}, of the dense model's: {told}.", 300)


def rises(facts: ReportFacts) -> tuple[Rise, ...]:
    """Every stage of which this generation or the champion's knows something; empty where no loss was
    predicted.
    """
    plan = facts.plan
    found = _achieved(facts)
    if plan is None or found is None or found.sum_of_cuts is None:
        return ()
    came, said = plan.predicted.champion or None, plan.predicted
    refitted = said.additivity is not UNSET and said.additivity.outcome == "refitted"
    before = came.before if came else None
    # Where the champion's plan measured its joint cut on tune, what came of it is that (see Achieved).
    joint = facts.past_plan is not None and facts.past_plan.predicted.tried is not UNSET
    told = (
        Rise(
            what="predicted, the sum of single cuts" + (", refitted" if refitted else ""),
            mine=found.sum_of_cuts,
            champion=came.sum_of_cuts if came else None,
        ),
        Rise(what="predicted, as joint cuts came out", mine=said.joint_loss_increase or None),
        Rise(
            what="the joint cut, measured by the plan",
            mine=found.measured,
            champion=before if joint else None,
        ),
        Rise(what="cut, not repaired (calibration)", mine=found.cut),
        Rise(
            what="before recovery (calibration)",
            mine=found.repaired,
            champion=None if joint else before,
        ),
        Rise(
            what="after recovery (tune)",
            mine=found.recovered,
            champion=came.after if came else None,
        ),
    )
    return tuple(one for one in told if one.mine is not None or one.champion is not None)


def latencies(facts: ReportFacts) -> tuple[Time, ...]:
    """Every target of which the plan said something, with the gate's own ratio."""
    plan = facts.plan
    if plan is None:
        return ()
    gate = {
        one.target: one
        for one in facts.judgement.rules
        if one.rule == "latency.vs_parent" and one.change is not None
    }
    by_table = plan.predicted.latencies or {}
    found = [_time(target, one, gate.get(target)) for target, one in by_table.items()]
    ratio = plan.predicted.latency_ratio
    # Of a latency budget without tables the plan names no target; params.yaml does.
    target = facts.params.plan.latency_target if facts.params is not None else ""
    if ratio is not None and target not in by_table:
        rule = gate.get(target)
        found.append(Time(target=target or plan.budget, table=None, timed=ratio, rule=rule))
    return tuple(found)


def _time(target: str, one: LatencyPrediction, rule: RuleResult | None) -> Time:
    return Time(target=target, table=one.forecast, timed=one.measured, rule=rule)


def _achieved(facts: ReportFacts) -> Achieved | None:
    bundle = facts.candidate or facts.pruned
    if facts.plan is None or bundle is None:
        return None
    base = facts.table.base_loss if facts.table is not None else None
    return achieved(facts.plan, bundle, base)


def _after_words(facts: ReportFacts) -> str:
    """On which examples the losses after recovery are, where the two models did not see the same."""
    tune = facts.data.splits.get("tune") if facts.data is not None else None
    if tune is None or facts.table is None or facts.table.examples >= tune.examples:
        return ""
    return (
        f"After recovery the loss is on all {words.count(tune.examples)} examples of tune, the dense "
        f"model's on {words.count(facts.table.examples)} of them."
    )


def _loss_table(losses: tuple[Rise, ...]) -> Safe:
    both = any(one.champion is not None for one in losses)
    rows = [
        [
            esc(words.sentence_case(one.what)),
            esc(_signed(one.mine)),
            *([esc(_signed(one.champion))] if both else []),
        ]
        for one in losses
    ]
    head = ["Loss over the dense model's", "This one", *(["The champion's"] if both else [])]
    return html_table("Loss added: predicted, and as it came out", head, rows, numbers=1)


def _time_table(times: tuple[Time, ...]) -> Safe:
    rows = [
        [
            tag("bdi", esc(one.target, 60)),
            esc(_share(one.table)),
            esc(_share(one.timed)),
            esc(_at_gate(one)),
            esc(_off(one)),
        ]
        for one in times
    ]
    head = ["Target", "As the plan forecast", "In the plan's trial", "At the gate", "Gate / plan"]
    caption = "Latency, share of the dense model's: predicted, and measured"
    return html_table(caption, head, rows, numbers=1)


def _at_gate(one: Time) -> str:
    if one.rule is None:
        return "not judged"
    spread = cells.interval(one.rule)
    return f"{cells.change(one.rule)} ({spread})" if spread else cells.change(one.rule)


def _off(one: Time) -> str:
    """How far the gate's ratio is from what the plan said last."""
    said, ratio = one.timed if one.timed is not None else one.table, _ratio(one)
    return words.ratio(ratio / said) if said and ratio is not None else words.EN_DASH


def _ratio(one: Time) -> float | None:
    return None if one.rule is None else one.rule.change


def _signed(value: float | None) -> str:
    return words.EN_DASH if value is None else words.signed(value)


def _share(value: float | None) -> str:
    return words.EN_DASH if value is None else words.ratio(value)
