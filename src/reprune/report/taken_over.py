"""What this generation took over from the champion's, what it measured anew, and what that saved."""

from __future__ import annotations

from msgspec import UNSET

from reprune.core.artifacts import (
    JointTrial,
    KnownRecovery,
    Plan,
    RateChoice,
    TableReuse,
    TimesReuse,
    VerdictSummary,
)
from reprune.registry.figures import latency_ratios, quality_drops, rooms
from reprune.registry.generations import Rising
from reprune.report import words
from reprune.report.facts import ReportFacts
from reprune.report.phrases import Phrase
from reprune.report.trends import Lap, risings, trend_words


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
        found.append(recovery_words(facts.recovery.known, facts.recovery.saved))
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


def recovery_words(known: KnownRecovery, saved: int = 0) -> str:
    """How many epochs recovery took of those that it might, what that saved in examples, and who taught."""
    less = f" It saved about {words.big(saved)} examples." if saved else ""
    if known.age:
        less += (
            f" The last one that took nothing over was {words.plural(known.age, 'generation')} ago."
        )
    taught = f"; the champion taught {words.percent(known.weight, 0)} of it" if known.second else ""
    if known.start and known.start.taken:
        return (
            f"Recovery: {known.epochs} of {words.plural(known.asked, 'epoch')}, begun with the champion's "
            f"weights (loss on tune {known.start.champion_loss:.4g}, of the cut model "
            f"{known.start.cut_loss:.4g}){taught}.{less}"
        )
    return (
        f"Recovery: {known.epochs} of {words.plural(known.asked, 'epoch')}, for the champion needed "
        f"{known.needed}{taught}.{less}"
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
    """Which figures get worse from generation to generation, and when the gate would stop it; which groups
    are cut otherwise. Nothing where chance explains it.
    """
    return [(f"{one}.",) for one in trend_words(trends_here(facts))]


def trends_here(facts: ReportFacts) -> tuple[Rising, ...]:
    """The trends of the generations on record with this one; of one dense version the last verdict counts."""
    rules, plan = facts.judgement.rules, facts.plan
    mine = Lap(
        drops=quality_drops(rules),
        ratios=latency_ratios(rules),
        rise=plan.predicted.loss_increase if plan is not None else None,
        kept=plan.left if plan is not None else {},
        asked=plan.asked if plan is not None else None,
    )
    history = facts.previous.history if facts.previous is not None else ()
    before = {one.dense_version: one for one in history}
    before.pop(facts.verdict.dense_version, None)
    units = {words.metric(one): one.unit for one in rules if words.family(one) == "quality"}
    return risings([*(_lap(one, mine) for one in before.values()), mine], rooms(rules), units)


def _lap(one: VerdictSummary, mine: Lap) -> Lap:
    """Older records hold two figures alone: of the first metric by name, and of the first target."""
    drops, ratios = one.quality_drops or {}, one.latency_ratios or {}
    if not drops and one.quality_drop is not None:
        drops = {min(mine.drops, default=""): one.quality_drop}
    if not ratios and one.latency_ratio is not None and len(mine.ratios) == 1:
        ratios = dict.fromkeys(mine.ratios, one.latency_ratio)
    rise = None if one.predicted_loss is UNSET else one.predicted_loss
    asked = one.asked or None
    return Lap(drops=drops, ratios=ratios, rise=rise, kept=one.kept or {}, asked=asked)


def _widths_words(plan: Plan, tried: JointTrial) -> str:
    gap = (
        f"{words.points(-tried.worse)} (standard error {words.points(tried.standard_error)})"
        if tried.unit == "share"
        else f"{tried.worse:.4g} of loss (standard error {tried.standard_error:.4g})"
    )
    end = "the champion's were kept" if plan.kept_champions else "fresh ones were taken"
    if plan.kept_champions and tried.doubt:
        end += f" ({tried.doubt})"
    return (
        f"Widths: the champion's and fresh ones were both cut, before recovery, and tried on "
        f"{words.plural(tried.examples, 'example')} of tune; the champion's came to {gap} against the "
        f"fresh: {end}."
    )
