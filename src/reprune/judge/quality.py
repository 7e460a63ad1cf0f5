"""Quality rules as drafts: margins against each baseline, and absolute floors."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from reprune.core.policy import Margin, Policy
from reprune.judge.bootstrap import RESAMPLES
from reprune.judge.comparisons import MIN_UNITS, Comparison, Level, MarginTest
from reprune.judge.distributions import critical
from reprune.judge.drafts import Draft
from reprune.judge.family import Baseline, margins
from reprune.judge.numeric import rounded
from reprune.judge.scores import EVERYTHING, Scores, record_key
from reprune.judge.words import ARM_NAMES, confidence, count, moved, percent, points, roughly

_POWER_Z = 0.8416212335729143  # the normal quantile of 80 %


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a quality rule is judged, and at which level: `alpha` is the attempt's, `whole` the policy's."""

    metric: str
    higher_is_better: bool
    target: str
    required: bool
    alpha: float
    whole: float
    relative: bool
    reach: float

    def signed(self, loss: float) -> float:
        """A loss as a change of the metric."""
        return rounded(-loss if self.higher_is_better else loss)

    def interval(self, test: MarginTest) -> tuple[float | None, float | None]:
        """The limits of a loss as limits of the change, the lower one first."""
        low, high = (None if x is None else self.signed(x) for x in (test.low, test.high))
        return (high, low) if self.higher_is_better else (low, high)


def setting_of(scores: Scores, policy: Policy, metric: str, target: str, alpha: float) -> Setting:
    return Setting(
        metric=metric,
        higher_is_better=scores.metrics[metric].higher_is_better,
        target=target,
        required=policy.targets[target] == "required",
        alpha=alpha,
        whole=policy.alpha,
        relative=scores.metrics[metric].relative,
        reach=scores.metrics[metric].reach,
    )


def quality_drafts(
    scores: Scores, policy: Policy, target: str, arms: Collection[str], alpha: float
) -> list[Draft]:
    """One draft a margin or floor of the target, in the policy's order."""
    drafts = []
    mine = record_key("candidate", target)
    for metric, rules in policy.quality.items():
        setting = setting_of(scores, policy, metric, target, alpha)
        everything = (metric, EVERYTHING)
        for baseline, margin in margins(rules, arms):
            compared = scores.compare(everything, record_key(baseline.arm, target), mine)
            drafts.append(_margin_draft(setting, baseline, margin, compared))
        if rules.floor is not None:
            drafts.append(_floor_draft(setting, rules.floor, scores.level(everything, mine)))
    return drafts


def _margin_draft(
    setting: Setting, baseline: Baseline, margin: Margin, compared: Comparison
) -> Draft:
    tests = [compared.drop_test(margin.max_drop, setting.alpha)]
    if margin.max_error_ratio is not None and setting.relative:
        tests.append(compared.error_test(margin.max_error_ratio, setting.alpha))
    binding = min(tests, key=lambda test: test.room)
    low, high = setting.interval(binding)
    change = setting.signed(compared.loss)
    name = ARM_NAMES[baseline.arm] + (" as trained" if baseline.arm == "dense" else "")
    allowed = _allowed(margin, binding)
    return Draft(
        rule=f"{setting.metric}.{baseline.name}",
        baseline=baseline.arm,
        target=setting.target,
        required=setting.required,
        unit="share",
        baseline_value=compared.baseline,
        candidate_value=compared.candidate,
        change=change,
        low=low,
        high=high,
        limit=setting.signed(binding.limit),
        direction="at least" if setting.higher_is_better else "at most",
        samples=compared.examples,
        facts=(
            f"On {setting.target}, {moved(setting.metric, change)} against {name} "
            f"({percent(compared.baseline)} to {percent(compared.candidate)}; "
            f"{limits_in_words(low, high, setting.alpha)}), {flips_in_words(compared)}, "
            f"and {allowed}"
        ),
        short=f"{moved(setting.metric, change)} against {ARM_NAMES[baseline.arm]}",
        allowed=allowed,
        decide=what_decides(compared, binding, setting.alpha),
        holds=all(test.holds for test in tests),
        # Two chances to break one rule: Bonferroni.
        p_harm=(
            rounded(min(1.0, len(tests) * min(test.p_harm for test in tests)))
            if compared.trusted
            else 1.0
        ),
        sure=None if compared.trusted else "inconclusive",
    )


def _allowed(margin: Margin, binding: MarginTest) -> str:
    if binding.kind == "drop":
        return f"the policy allows a loss of {points(binding.limit)} points"
    more = percent((margin.max_error_ratio or 1.0) - 1.0)
    return f"the policy allows {more} more errors, here a loss of {points(binding.limit)} points"


def limits_in_words(low: float | None, high: float | None, alpha: float) -> str:
    if low is None or high is None:
        return "no interval can be given"
    return f"{confidence(alpha)} limits {points(low)} and {points(high)} points"


def flips_in_words(compared: Comparison) -> str:
    if compared.changed is not None:
        return f"{compared.changed} of {count(compared.examples, 'example')} have other records"
    return (
        f"{compared.lost} of {count(compared.examples, 'example')} got worse and "
        f"{compared.gained} got better"
    )


def what_decides(
    compared: Comparison, test: MarginTest, alpha: float, *, by: Literal["low", "high"] = "high"
) -> str:
    """About how much more evidence gives an 80 % chance of an answer, if the loss stays as it is; `by` is
    the limit that has to pass the margin.
    """
    noun = "example" if compared.units == compared.examples else "source"
    if not compared.trusted:
        return f"At least {MIN_UNITS} independent {noun}s; there are {compared.units}."
    if test.kind == "errors" and test.limit == 0.0:
        return (
            "The baseline made no error on these examples, so no share of more errors can be "
            "allowed: judge on examples that it gets wrong, or set max_error_ratio to null."
        )
    if getattr(test, by) is None:
        return _what_gives_a_limit(noun, alpha)
    distance = abs(test.limit - compared.loss)
    reach = (critical(alpha, None) + _POWER_Z) * compared.spread
    needed = _needed(reach, distance)
    if needed is None:
        return f"The loss lies on the limit: no number of {noun}s would decide it."
    more = roughly(max(needed - compared.units, 1.0))
    return f"About {count(more, f'more {noun}')}, if the loss stays as it is."


def _what_gives_a_limit(noun: str, alpha: float) -> str:
    """Where a level is out of reach: of all resamples, or of those of so few units."""
    if rounded(alpha * (RESAMPLES + 1)) < 1.0:
        return (
            f"{RESAMPLES} resamples give no limit at so small a level, however many {noun}s there are: it "
            "falls with each attempt, and a new dense version begins at the first."
        )
    return f"More {noun}s: so few of them, or of those that a resample needs, give no limit at this level."


def _needed(reach: float, distance: float) -> float | None:
    """How many units make `reach`, which is that of one, as short as the distance; None above 1e8."""
    return None if distance * 1e4 <= reach else (reach / distance) ** 2


def _floor_draft(setting: Setting, floor: float, level: Level) -> Draft:
    low, high = level.interval(setting.alpha)
    value = level.value
    reached = "no limit can be given" if low is None else f"at least {percent(low)}"
    sides = "" if high is None else f" and at most {percent(high)}"
    allowed = f"the policy demands {percent(floor)}"
    return Draft(
        rule=f"{setting.metric}.floor",
        baseline="absolute",
        target=setting.target,
        required=setting.required,
        unit="share",
        baseline_value=None,
        candidate_value=value,
        change=None,
        low=low,
        high=high,
        limit=rounded(floor),
        direction="at least",
        samples=level.examples,
        facts=(
            f"On {setting.target}, {setting.metric} is {percent(value)} on "
            f"{count(level.examples, 'example')} ({confidence(setting.alpha)} sure to be "
            f"{reached}{sides}), and {allowed} at that limit"
        ),
        short=f"{setting.metric} is {percent(value)}",
        allowed=allowed,
        decide=_what_decides_floor(floor, level, setting.alpha, low),
        holds=low is not None and low >= rounded(floor),
        p_harm=level.p_below(floor) if level.trusted else 1.0,
        sure=None if level.trusted else "inconclusive",
    )


def _what_decides_floor(floor: float, level: Level, alpha: float, low: float | None) -> str:
    if not level.trusted:
        return f"At least {MIN_UNITS} independent examples or sources; there are {level.units}."
    if low is None:
        return _what_gives_a_limit("example" if level.units == level.examples else "source", alpha)
    distance = abs(level.value - floor)
    reach = (critical(alpha, None) + _POWER_Z) * math.sqrt(floor * (1 - floor))
    needed = _needed(reach, distance)
    if needed is None:
        return "The value lies on the floor: no number of examples would decide it."
    more = roughly(max(needed - level.examples, 1.0))
    return f"About {count(more, 'more example')}, if the value stays as it is."
