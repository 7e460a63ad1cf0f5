"""What this generation took over from the champion's, what it measured anew, and what that saved."""

from __future__ import annotations

from reprune.core.artifacts import (
    JointTrial,
    KnownRecovery,
    Plan,
    RateChoice,
    RuleResult,
    TableReuse,
    TimesReuse,
)
from reprune.judge.trend import Trend, trend
from reprune.report import words
from reprune.report.facts import ReportFacts
from reprune.report.metrics import drop
from reprune.report.phrases import Phrase

# A rise is worth a warning where the gate would block within so many generations.
SOON = 8


def taken_over(facts: ReportFacts) -> list[Phrase]:
    """A sentence each on the tables, the widths and recovery; empty where nothing was asked for."""
    found: list[str] = []
    if facts.table is not None and facts.table.reuse:
        found.append(table_words(facts.table.reuse, facts.table.cost or 0))
    found += [
        times_words(one.target, one.reuse)
        for profile in facts.profiles
        for one in profile.tables or ()
        if one.reuse
    ]
    if facts.plan is not None and facts.plan.tried:
        found.append(_widths_words(facts.plan, facts.plan.tried))
    if facts.recovery is not None and facts.recovery.known:
        found.append(recovery_words(facts.recovery.known))
    if facts.recovery is not None and facts.recovery.rate:
        found += rate_words(facts.recovery.rate)
    return [(one,) for one in found]


def table_words(reuse: TableReuse, cost: int) -> str:
    """Which rows of the sensitivity are whose, why, and what that took or saved, in examples."""
    if reuse.how == "measured":
        extra = f" (the check took {words.big(reuse.check_cost)})" if reuse.check_cost else ""
        return (
            f"Sensitivity: measured whole with {words.big(cost)} examples{extra}, for {reuse.why}."
        )
    again = words.listing([row.unit for row in reuse.checked])
    saved = max(0, reuse.full_cost - cost)
    share = f" ({words.percent(saved / reuse.full_cost, 0)})" if reuse.full_cost else ""
    age = words.plural(reuse.age, "generation")
    return (
        f"Sensitivity: the champion's table, {age} old, with {again} measured again: {reuse.why}. It saved "
        f"{words.big(saved)} examples{share}."
    )


def times_words(target: str, reuse: TimesReuse) -> str:
    """Whose latency tables of the target were planned by, why, and how many engines that took or saved."""
    if reuse.how == "measured":
        built = words.plural(reuse.full_builds, "engine")
        return f"Latency tables of {target}: measured with {built}, for {reuse.why}."
    age = words.plural(reuse.age, "generation")
    return (
        f"Latency tables of {target}: the champion's, {age} old: {reuse.why}. It saved "
        f"{max(0, reuse.full_builds - reuse.built)} of {words.plural(reuse.full_builds, 'engine')}."
    )


def recovery_words(known: KnownRecovery) -> str:
    """How many epochs recovery took of those that it might, and who taught."""
    taught = f"; the champion taught {words.percent(known.weight, 0)} of it" if known.second else ""
    if known.start and known.start.taken:
        return (
            f"Recovery: {known.epochs} of {words.plural(known.asked, 'epoch')}, begun with the champion's "
            f"weights (loss on tune {known.start.champion_loss:.4g}, of the cut model "
            f"{known.start.cut_loss:.4g}){taught}."
        )
    return (
        f"Recovery: {known.epochs} of {words.plural(known.asked, 'epoch')}, for the champion needed "
        f"{known.needed}{taught}."
    )


def rate_words(rate: RateChoice) -> list[str]:
    """Where the learning rate comes from; nothing of one that was given."""
    if rate.how == "given":
        return []
    if rate.how == "champion":
        since = words.plural(rate.age, "generation")
        return [f"Learning rate: {rate.learning_rate:g}, the champion's, found {since} ago."]
    return [
        f"Learning rate: {rate.learning_rate:g}, the best on tune of {len(rate.tried)} that were tried "
        f"for an epoch each, with {words.big(rate.examples)} examples."
    ]


def difficulty(facts: ReportFacts) -> list[Phrase]:
    """Whether generations lose more and more, and when the gate would block; nothing where they do not."""
    found = quality_trend(facts)
    if found is None or not found.rises:
        return []
    step = words.points(-found.slope)
    told = (
        f"Harder to compress: over the last {found.of} generations the first metric changed by {step} from "
        f"one to the next (Theil-Sen; Mann-Kendall p = {found.p_value:.2g})"
    )
    room = _room(facts)
    left = None if room is None else found.generations_to(room)
    if left is None or left > SOON:
        return [(f"{told}.",)]
    when = "now" if left == 0 else f"in about {words.plural(left, 'generation')}"
    return [(f"{told}; if that goes on, the gate blocks {when}.",)]


def quality_trend(facts: ReportFacts) -> Trend | None:
    """Of what the first metric lost, a generation each; of one dense version the last verdict counts."""
    history = facts.previous.history if facts.previous is not None else ()
    lost = {one.dense_version: one.quality_drop for one in history}
    lost.pop(facts.verdict.dense_version, None)
    mine = _first_metric(facts)
    values = [value for value in lost.values() if value is not None]
    return trend([*values, drop(mine)]) if mine is not None else trend(values)


def _widths_words(plan: Plan, tried: JointTrial) -> str:
    mine = {item.group: item.keep for item in plan.groups}
    kept = all(tried.known.get(group) == keep for group, keep in mine.items())
    gap = (
        f"{words.points(-tried.worse)} (standard error {words.points(tried.standard_error)})"
        if tried.unit == "share"
        else f"{tried.worse:.4g} of loss (standard error {tried.standard_error:.4g})"
    )
    end = "the champion's were kept" if kept else "fresh ones were taken"
    return (
        f"Widths: the champion's and fresh ones were both cut, before recovery, and tried on "
        f"{words.plural(tried.examples, 'example')} of tune; the champion's came to {gap} against the "
        f"fresh: {end}."
    )


def _first_metric(facts: ReportFacts) -> RuleResult | None:
    """The rule whose change a receipt remembers: the first metric by name, against the dense model."""
    found = [
        one
        for one in facts.judgement.rules
        if words.is_parent(one) and words.family(one) == "quality" and one.change is not None
    ]
    return min(found, key=words.metric, default=None)


def _room(facts: ReportFacts) -> float | None:
    """How much the first metric may lose before its interval passes the policy's margin."""
    rule = _first_metric(facts)
    if rule is None or rule.change is None:
        return None
    least = rule.direction == "at least"
    margin, end = (-rule.limit, rule.low) if least else (rule.limit, rule.high)
    return margin - (abs(end - rule.change) if end is not None else 0.0)
