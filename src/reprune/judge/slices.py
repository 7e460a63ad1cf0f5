"""Slice rules: no slice may show harm, by the lower limit of what it lost, Holm over the slices.

Harm is shown at the level of the attempt, as everything that blocks. That none is shown there proves
nothing, and less at each attempt, whose level shrinks: the rule holds only where none is shown at the
policy's whole alpha either. What lies between is undecided.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from msgspec import UNSET

from reprune.core.artifacts import SliceResult
from reprune.core.policy import Policy, SliceRules
from reprune.judge.comparisons import Comparison, MarginTest
from reprune.judge.distributions import critical, holm
from reprune.judge.drafts import Draft
from reprune.judge.examples import NEWER
from reprune.judge.family import Baseline, slice_baselines
from reprune.judge.numeric import halve, rounded
from reprune.judge.quality import (
    Setting,
    flips_in_words,
    limits_in_words,
    setting_of,
    what_decides,
)
from reprune.judge.scores import Scores, record_key
from reprune.judge.words import ARM_NAMES, count, moved, points

_POWER_Z = 0.8416212335729143  # the normal quantile of 80 %


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """`p_doubt` is the smaller of the p-values of harm, corrected for all it should be and not; `alpha` the
    level of the limits; `showing` says whether harm could have been shown at all.
    """

    label: str
    compared: Comparison
    test: MarginTest
    p_adjusted: float
    p_doubt: float
    alpha: float
    showing: bool


@dataclass(frozen=True, kw_only=True)
class _Gaps:
    """Labels of slices that are required and not there, or required and too small; of those on which
    nothing could be shown; and how many are too small. `none_newer`: NEWER is required and cannot be.
    """

    absent: list[str]
    none_newer: bool
    untold: list[str]
    unseen: list[str]
    small: int


def slice_drafts(
    scores: Scores, policy: Policy, target: str, arms: Collection[str], alpha: float
) -> tuple[list[Draft], list[SliceResult]]:
    """One draft for each metric with slice rules and each baseline, and every slice's result."""
    drafts, results = [], []
    for metric, rules in policy.quality.items():
        setting = setting_of(scores, policy, metric, target, alpha)
        for baseline in slice_baselines(rules, arms):
            if rules.slices is not None:
                draft, found = _one_rule(scores, setting, baseline, rules.slices)
                drafts.append(draft)
                results += found
    return drafts, results


def _one_rule(
    scores: Scores, setting: Setting, baseline: Baseline, rules: SliceRules
) -> tuple[Draft, list[SliceResult]]:
    rule = f"{setting.metric}.slices.{baseline.name}"
    base, mine = (record_key(arm, setting.target) for arm in (baseline.arm, "candidate"))
    slices = scores.slices[setting.metric]

    def compare(labels: Collection[str]) -> dict[str, Comparison]:
        return {label: scores.compare((setting.metric, label), base, mine) for label in labels}

    tested = _judge(compare(slices.judged), rules, setting.alpha)
    judged = [one for one in tested if one.showing]
    binary = scores.metrics[setting.metric].form == "binary"
    results = [_result(one, rule, setting, rules, binary) for one in judged]
    unseen = {one.label: one.compared for one in tested if not one.showing}
    small = compare(slices.small)
    results += [
        _not_judged(label, one, rule, setting, rules) for label, one in (unseen | small).items()
    ]
    draft = _draft(rule, setting, baseline, rules, judged)
    gaps = _Gaps(
        absent=[
            label
            for label in rules.required
            if label not in scores.examples.slices and not (label == NEWER and scores.none_newer)
        ],
        none_newer=scores.none_newer and NEWER in rules.required,
        untold=[label for label in rules.required if label in small],
        unseen=list(unseen),
        small=len(small),
    )
    return _with_gaps(draft, gaps), results


def _judge(compared: Mapping[str, Comparison], rules: SliceRules, alpha: float) -> list[_Judged]:
    """Limits hold for all slices at once (alpha / k each); p-values are Holm's."""
    each = alpha / max(1, len(compared))
    tests = {label: one.drop_test(rules.max_drop, each) for label, one in compared.items()}
    adjusted = holm([test.p_harm for test in tests.values()])
    plain = holm([test.p_plain for test in tests.values()])
    return [
        _Judged(
            label=label,
            compared=compared[label],
            test=tests[label],
            p_adjusted=rounded(p),
            p_doubt=rounded(min(p, doubt)),
            alpha=each,
            showing=rounded(min(p, len(tests) * tests[label].p_least)) <= rounded(alpha),
        )
        for label, p, doubt in zip(tests, adjusted, plain, strict=True)
    ]


def _outcome(one: _Judged, setting: Setting) -> Literal["ok", "undecided", "harm"]:
    if one.p_adjusted <= rounded(setting.alpha):
        return "harm"
    return "undecided" if one.p_doubt <= rounded(setting.whole) else "ok"


def _result(
    one: _Judged, rule: str, setting: Setting, rules: SliceRules, binary: bool
) -> SliceResult:
    low, high = setting.interval(one.test)
    return SliceResult(
        slice=one.label,
        rule=rule,
        target=setting.target,
        examples=one.compared.examples,
        outcome=_outcome(one, setting),
        right_to_wrong=one.compared.lost,
        wrong_to_right=one.compared.gained,
        changed=UNSET if one.compared.changed is None else one.compared.changed,
        change=setting.signed(one.compared.loss),
        low=-setting.reach if low is None else low,
        high=setting.reach if high is None else high,
        detectable=_detectable(one, rules.max_drop, setting, binary),
        required=one.label in rules.required,
    )


def _not_judged(
    label: str, compared: Comparison, rule: str, setting: Setting, rules: SliceRules
) -> SliceResult:
    """A slice of which nothing can be said: its interval is everything."""
    return SliceResult(
        slice=label,
        rule=rule,
        target=setting.target,
        examples=compared.examples,
        outcome="not judged",
        right_to_wrong=compared.lost,
        wrong_to_right=compared.gained,
        changed=UNSET if compared.changed is None else compared.changed,
        change=setting.signed(compared.loss),
        low=-setting.reach,
        high=setting.reach,
        detectable=setting.reach,
        required=label in rules.required,
    )


def _detectable(one: _Judged, margin: float, setting: Setting, binary: bool) -> float:
    """The smallest true loss that would be called harm with a chance of 80 %, were it the only one.

    For 0/1 records a loss brings its own noise: at least d (1 - d).
    """
    reach = (critical(one.alpha, None) + _POWER_Z) / math.sqrt(one.compared.units)
    variance = one.compared.spread**2

    def missed(loss: float) -> bool:
        own = loss * (1.0 - loss) if binary else 0.0
        return loss - margin < reach * math.sqrt(max(variance, own))

    return rounded(halve(missed, min(margin, setting.reach), setting.reach))


def _draft(
    rule: str, setting: Setting, baseline: Baseline, rules: SliceRules, judged: list[_Judged]
) -> Draft:
    """The rule as its worst slice has it: the surest harm, then the largest loss."""
    name = ARM_NAMES[baseline.arm]
    allowed = f"the policy allows a loss of {points(rules.max_drop)} points on any slice"
    harm = rounded(setting.alpha)
    worst = min(
        judged,
        key=lambda one: (one.p_adjusted > harm, one.p_doubt, -one.compared.loss),
        default=None,
    )
    facts, short, decide = f"On {setting.target}, no slice is large enough", "no slice judged", ""
    low = high = change = None
    if worst is not None:
        low, high = setting.interval(worst.test)
        change = setting.signed(worst.compared.loss)
        facts = (
            f"On {setting.target}, the worst of {count(len(judged), 'slice')} against {name} is "
            f"{worst.label}: {moved(setting.metric, change)} "
            f"({limits_in_words(low, high, worst.alpha)}), "
            f"{flips_in_words(worst.compared)}"
        )
        short = f"{moved(setting.metric, change)} on {worst.label} against {name}"
        decide = what_decides(worst.compared, worst.test, worst.alpha, by="low")
    return Draft(
        rule=rule,
        baseline=baseline.arm,
        target=setting.target,
        required=setting.required,
        unit="share",
        baseline_value=None if worst is None else worst.compared.baseline,
        candidate_value=None if worst is None else worst.compared.candidate,
        change=change,
        low=low,
        high=high,
        limit=setting.signed(rules.max_drop),
        direction="at least" if setting.higher_is_better else "at most",
        samples=0 if worst is None else worst.compared.examples,
        facts=f"{facts}, and {allowed}",
        short=short,
        allowed=allowed,
        decide=decide,
        holds=worst is not None and all(_outcome(one, setting) == "ok" for one in judged),
        p_harm=min((one.p_adjusted for one in judged), default=1.0),
    )


def _with_gaps(draft: Draft, gaps: _Gaps) -> Draft:
    """What was demanded and cannot be answered keeps the rule from holding."""
    facts = draft.facts
    if gaps.small:
        facts += f"; {count(gaps.small, 'slice')} too small to be judged alone"
    if gaps.none_newer:
        facts += "; no example is newer than those that a champion was judged on"
    if gaps.absent:
        lack = f"the required slice {', '.join(gaps.absent)} is not among the examples"
        return replace(draft, facts=f"{facts}; {lack}", short=lack, allowed="", sure="error")
    lacks, more = [], []
    if gaps.untold:
        labels = ", ".join(gaps.untold)
        lacks.append(f"the required slice {labels} is too small to be judged")
        more.append(f"More examples of {labels}.")
    if gaps.unseen:
        lacks.append(f"no loss on {_some(gaps.unseen)} could have been shown to be harm")
        more.append(
            f"More examples of {_some(gaps.unseen)}, or fewer slices (a larger slices.min_examples in the "
            "policy): with so many slices at this attempt, even a total loss there would show nothing."
        )
    if not lacks:
        return replace(draft, facts=facts)
    return replace(
        draft,
        facts="; ".join([facts, *lacks]),
        decide=" ".join(more),
        doubt=" and ".join(lacks),
        holds=False,
    )


def _some(labels: list[str]) -> str:
    """The first three, and how many more there are."""
    more = f" and {count(len(labels) - 3, 'more slice')}" if len(labels) > 3 else ""
    return f"{', '.join(labels[:3])}{more}"
