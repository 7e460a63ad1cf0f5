"""What a reviewer asks after the verdict: what serves now, is it noise, where is it, what do I do?"""

from __future__ import annotations

from pathlib import Path

from msgspec import UNSET, structs

from reprune.core.artifacts import Outcome, RuleResult, SliceResult
from reprune.core.errors import DocumentError
from reprune.core.overrides import not_held
from reprune.core.params import PARAMS_FILE, Params, PlanParams, check_params
from reprune.core.plan_checks import PLAN_KNOBS
from reprune.report import cells, guards, words
from reprune.report.facts import ReportFacts
from reprune.report.measured import Expected, expected_losses
from reprune.report.parents import missed_by_the_parent, mostly_the_parents
from reprune.report.phrases import Code, Phrase, sentence

DRY_RUN: Phrase = ("the policy says ", Code("mode: dry-run"))
# Every step refuses a lock that was written before a knob changed.
AFTERWARDS: Phrase = ("then ", Code("reprune update"), " and ", Code("dvc repro"), ".")
_REPAIRED: Phrase = (
    "Repair what is named above, then ",
    Code("dvc repro"),
    "; if that changed params.yaml, policy.yaml or the task, ",
    Code("reprune update"),
    " before it.",
)
RECOMPUTE = "reprune check artifacts/verdict --recompute"
OVERRIDE = "reprune override --by NAME --reason TEXT --expires DATE"
_OVERRIDE: tuple[Phrase, ...] = (
    ("Or let it through by name, once, for exactly this model: ", Code(OVERRIDE), "."),
)
_TIMES: tuple[words.Family, ...] = ("latency", "tail", "objective", "throughput")
_SPEED: tuple[words.Family, ...] = (*_TIMES, "memory", "size")


def serving(facts: ReportFacts) -> Phrase:
    """What is promoted now, and what this verdict changes about it. The report is written before promote."""
    champion, name = facts.verdict.champion, Code(facts.verdict.name)
    mine = words.full_version(facts.verdict.dense_version)
    if facts.judgement.dry_run is True:
        now = "there is no champion yet" if champion is None else ""
        kept: Phrase = (f"{now}, as before.",)
        if champion is not None:
            kept = (Code("champion"), f" stays {words.version(champion.version)}.")
        return (name, f" {mine} is not promoted, whatever the outcome: ", *DRY_RUN, "; ", *kept)
    if facts.judgement.outcome == "pass":
        end: Phrase = (" makes it the first champion; none is promoted yet.",)
        if champion is not None:
            held = f" is {words.version(champion.version)} until then."
            end = (" makes it the champion; ", Code("champion"), held)
        return (name, f" {mine} may be promoted: ", Code("reprune promote"), *end)
    if champion is None:
        return (name, f" {mine} is not promoted: there is no champion yet, as before.")
    held = f" stays {words.version(champion.version)}."
    return (name, f" {mine} is not promoted: ", Code("champion"), held)


def overrides(facts: ReportFacts) -> list[Phrase]:
    """What nobody may read this report without: which overrides still hold, whose, and past what."""
    held = facts.judgement.waivers
    serving_now = facts.verdict.champion.bundle if facts.verdict.champion is not None else ""
    return [
        (
            "The champion" if waiver.candidate == serving_now else "An earlier champion",
            " was promoted by an override of ",
            waiver.by,
            " (",
            waiver.reason,
            f"), until {waiver.expires}: ",
            ", ".join(waiver.rules),
            " did not hold.",
        )
        for waiver in (() if held is UNSET else held)
    ]


def warnings(facts: ReportFacts) -> list[Phrase]:
    """What decides nothing and should be read all the same: an eval split that is worn out."""
    evidence, policy = facts.evidence, facts.policy
    if evidence is None or policy is None or evidence.uses <= policy.eval.max_uses:
        return []
    worn = f"{evidence.uses} times; the policy warns above {policy.eval.max_uses} ("
    return [
        (f"This eval split has been judged on {worn}", Code("eval.max_uses"), "). Draw a new one.")
    ]


def reasons(facts: ReportFacts) -> list[Phrase]:
    """Why, in the judge's own sentences. The headline is not said twice, and a pass needs no list:
    each demand that holds is in the table.
    """
    judgement = facts.judgement
    held = {one.words for one in judgement.rules} if judgement.outcome == "pass" else set()
    return [
        sentence(reason)
        for reason in judgement.reasons
        if reason not in judgement.headline and reason not in held
    ]


def certainty(facts: ReportFacts) -> list[Phrase]:
    """For each blocked rule, whether chance could explain it."""
    return [
        found
        for result in words.worst_first(facts.judgement.rules)
        if result.outcome == "block"
        and result.required
        and (found := _beyond(result, facts)) is not None
    ]


def where(facts: ReportFacts) -> list[Phrase]:
    """Where the loss sits: the harmed slices, and the groups whose cut was expected to cost most."""
    found = [_slice_line(one, facts) for one in words.moved(facts.judgement)[:3]]
    asked = _asks(facts, "quality", "block") or found
    if asked and not _retraining(facts):
        for one in costliest(facts):
            kept = f" ({one.width} to {one.keep} channels) was expected to cost {one.loss:.2g} of loss."
            found.append(("The cut of ", Code(one.group), kept))
    return found


def costliest(facts: ReportFacts, most: int = 2) -> list[Expected]:
    """The groups whose cut alone was measured to raise the loss most."""
    groups = expected_losses(facts.plan, facts.table, facts.surgery)
    known = [one for one in groups if (one.loss or 0) > 0]
    return sorted(known, key=lambda one: -(one.loss or 0))[:most]


def to_try(facts: ReportFacts) -> list[Phrase]:
    """What to do next, one knob or command a line; empty where nothing is to be done."""
    outcome = facts.judgement.outcome
    if outcome == "pass":
        return []
    if outcome == "error":
        return [_REPAIRED]
    instead = () if facts.judgement.dry_run is True or not not_held(facts.judgement) else _OVERRIDE
    broken = any(one.required and one.outcome == "block" for one in facts.judgement.rules)
    if outcome == "inconclusive" or (instead and not broken):
        return [*_to_decide(facts), *instead]
    lines: list[Phrase] = []
    if _asks(facts, "quality") or _asks(facts, "slices"):
        lines += _retraining(facts) or _cut_less(facts)
    if any(_asks(facts, kind, "block", "error") for kind in _SPEED):
        lines += _cut_more(facts, also_better=bool(lines))
    if _asks(facts, "parity"):
        lines.append(("Look at the export: the engine does not compute what its model computes.",))
    change: Phrase = ("Read the reasons above, change the task or ", Code("params.yaml"), ", ")
    lines = lines or [(*change, *AFTERWARDS)]
    return [*lines, *instead]


def _to_decide(facts: ReportFacts) -> list[Phrase]:
    decide = [
        sentence(result.decide)
        for result in words.worst_first(facts.judgement.rules)
        if result.outcome == "inconclusive"
        and result.required
        and result.decide
        and not guards.is_told(result.decide, result.target, facts)
    ]
    unique: list[Phrase] = list(dict.fromkeys([*guards.to_do(facts), *decide]))
    if guards.tripped(facts):
        return unique
    return [*unique, ("The same data gives the same answer: a mere re-run decides nothing.",)]


def _beyond(result: RuleResult, facts: ReportFacts) -> Phrase | None:
    """Whether the whole interval lies beyond the limit."""
    if result.low is None or result.high is None or words.family(result) in ("size", "memory"):
        return None
    nearest = result.low if result.direction == "at most" else result.high
    outside = nearest > result.limit if result.direction == "at most" else nearest < result.limit
    if not outside:
        return None
    return (
        f"Hardly. {words.label(result)} {words.against(result, facts)}: even the end of its interval "
        f"nearest to the limit is beyond it ({cells.amount(result, nearest)}, "
        f"limit {cells.limit(result)}).",
    )


def _slice_line(one: SliceResult, facts: ReportFacts) -> Phrase:
    rule = words.rule_of(one, facts)
    compared = "" if rule is None else f" {words.against(rule, facts)}"
    both = f"{one.right_to_wrong} got worse, {one.wrong_to_right} got better"
    if one.changed is not UNSET:
        both = f"the records of {one.changed} changed"
    return (
        "Slice ",
        Code(one.slice),
        f" changed by {words.points(one.change)}{compared} ({words.plural(one.examples, 'example')}: "
        f"{both}).",
    )


def _asks(facts: ReportFacts, kind: words.Family, *outcomes: Outcome) -> bool:
    """Whether a required rule of this kind stands in the way of passing."""
    stops = outcomes or ("block", "inconclusive", "error")
    if kind == "slices":
        harmed = (words.rule_of(one, facts) for one in words.moved(facts.judgement))
        if any(one is None or one.required for one in harmed):
            return True
    return any(
        result.required and result.outcome in stops and words.family(result) == kind
        for result in facts.judgement.rules
    )


def _retraining(facts: ReportFacts) -> list[Phrase]:
    """Where the dense parent is itself at fault, compression is not what to change."""
    quality = [one for one in facts.judgement.rules if words.family(one) == "quality"]
    return mostly_the_parents(quality, facts) or missed_by_the_parent(quality, facts)


def _cut_less(facts: ReportFacts) -> list[Phrase]:
    params = facts.params
    if params is None:
        return [("Cut less: raise ", Code("plan.fraction"), ", ", *AFTERWARDS)]
    fraction = params.plan.fraction
    lines: list[Phrase] = []
    if params.plan.method == "weights":
        sparsity = params.plan.sparsity
        knob = Code(f"plan.sparsity: {round(max(0.05, 1 - 1.3 * (1 - sparsity)), 4):g}")
        lines.append(("Mask less: ", knob, f" (now {sparsity:g}), ", *AFTERWARDS))
    elif params.plan.method == "n:m":
        now = f" (now {params.plan.pattern}), "
        lines.append(("Mask less: a wider ", Code("plan.pattern"), now, *AFTERWARDS))
    elif fraction < 0.95:
        less = round(min(0.95, fraction + max(0.05, 0.3 * (1 - fraction))), 2)
        knob = Code(f"plan.fraction: {less:g}")
        lines.append(("Cut less: ", knob, f" (now {fraction:g}), ", *AFTERWARDS))
    longer = max(2, 2 * params.distill.epochs)
    knob = Code(f"distill.epochs: {longer}")
    lines.append(("Recover longer: ", knob, f" (now {params.distill.epochs}), ", *AFTERWARDS))
    return lines


def _cut_more(facts: ReportFacts, *, also_better: bool = False) -> list[Phrase]:
    """What makes it faster or smaller; with `also_better` nothing that would cost yet more quality."""
    params = facts.params
    if params is None:
        less = [("Cut more: lower ", Code("plan.fraction"), ", ", *AFTERWARDS)]
        return [] if also_better else less
    if params.plan.method != "channels":
        return [_cut_channels(params.plan)]
    lines = _plan_by_time(facts, params)
    if also_better:
        return lines
    fraction = params.plan.fraction
    more = max(0.05, round(0.75 * fraction, 2))
    if more < fraction:
        knob = Code(f"plan.fraction: {more:g}")
        lines.append(("Cut more: ", knob, f" (now {fraction:g}), ", *AFTERWARDS))
    return lines


def _cut_channels(plan: PlanParams) -> Phrase:
    """What only masks read is refused beside channels, so it is named."""
    plain = type(plan)()
    knobs = [knob.removeprefix("plan.") for knob in PLAN_KNOBS]
    idle = [f"plan.{knob}" for knob in knobs if getattr(plan, knob) != getattr(plain, knob)]
    without: Phrase = ()
    for place, knob in enumerate(idle):
        without += ("without " if place == 0 else "and ", Code(knob), ", ")
    why = "Masks alone make nothing faster or smaller: cut channels, "
    return (why, Code("plan.method: channels"), ", ", *without, *AFTERWARDS)


def _plan_by_time(facts: ReportFacts, params: Params) -> list[Phrase]:
    """The budget of latency on the first target that is too slow and that params.yaml could have one on."""
    budget = params.plan.budget
    slow = (
        one.target
        for one in words.worst_first(facts.judgement.rules)
        if one.required and one.outcome != "pass" and words.family(one) in _TIMES
    )
    for target in slow:
        if budget == "latency" or target is None:
            continue
        plan = structs.replace(params.plan, budget="latency", latency_target=target)
        try:
            check_params(structs.replace(params, plan=plan), Path(PARAMS_FILE))
        except DocumentError:
            continue
        both: Phrase = (
            Code("plan.budget: latency"),
            " and ",
            Code(f"plan.latency_target: {target}"),
        )
        return [("Plan by measured time: ", *both, f" (now {budget}), ", *AFTERWARDS)]
    return []
