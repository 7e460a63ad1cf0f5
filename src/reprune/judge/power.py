"""How likely a policy passes a candidate that deserves it, before anything is measured."""

from __future__ import annotations

import math

from reprune.core.artifacts import PowerFact
from reprune.core.errors import UnknownName
from reprune.core.policy import Margin, Policy
from reprune.judge.distributions import alpha_of_attempt, binomial_cdf, critical
from reprune.judge.family import margins
from reprune.judge.metrics import get_metric
from reprune.judge.numeric import rounded
from reprune.judge.paired import tango_z

MARGIN_STEP = 0.005
WANTED_POWER = 0.9
_ARMS = ("dense", "champion", "anchor")


def pass_chance(*, examples: int, flips: float, drop: float, margin: float, alpha: float) -> float:
    """The chance that Tango's test at level `alpha` shows a loss of at most `margin`, exactly.

    `flips` is the true share of examples that change either way, `drop` the true loss; where less
    flips than is lost, as much flips as is lost. Summed over every possible count of flips.
    """
    if examples < 1:
        return 0.0
    share_flipped = min(1.0, max(flips, drop))
    share_lost = 0.5 if share_flipped == 0.0 else (share_flipped + drop) / (2 * share_flipped)
    z = critical(alpha, None)
    chance = 0.0
    for flipped in _likely_counts(examples, share_flipped):
        likelihood = _binomial(flipped, examples, share_flipped)
        most = _most_lost(flipped, examples, margin, z)
        if most >= 0:
            chance += likelihood * binomial_cdf(most, flipped, share_lost)
    return rounded(min(1.0, chance))


def _likely_counts(examples: int, share: float) -> range:
    """Counts that hold all but a negligible part of the binomial's mass: 9 standard deviations."""
    middle, reach = examples * share, 9 * math.sqrt(examples * share * (1 - share)) + 9
    return range(max(0, math.floor(middle - reach)), min(examples, math.ceil(middle + reach)) + 1)


def _binomial(count: int, trials: int, share: float) -> float:
    if share in (0.0, 1.0):
        return float(count == trials * share)
    ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return math.exp(ways + count * math.log(share) + (trials - count) * math.log1p(-share))


def _most_lost(flipped: int, examples: int, margin: float, z: float) -> int:
    """The most of `flipped` examples that may be lost and still pass; -1 if not even none may."""
    low, high = -1, flipped
    while low < high:
        middle = (low + high + 1) // 2
        if tango_z(middle, flipped - middle, examples, margin) <= -z:
            low = middle
        else:
            high = middle - 1
    return low


def plan_power(
    policy: Policy,
    *,
    examples: int,
    flips: float,
    attempt: int = 1,
    baseline_error: float | None = None,
) -> tuple[PowerFact, ...]:
    """The power of every margin rule on 0/1 records, at the level of this attempt.

    `baseline_error` is the expected error rate of the baseline: with it the margin is the stricter
    of max_drop and max_error_ratio; without it max_error_ratio cannot be turned into points and is
    left out, so that the true power may be lower. Each rule is seen on its own, for one target,
    without sources. Rules of metrics that are not 0/1, or unknown, are not planned, nor is agreement:
    a candidate that lost nothing may still answer otherwise than the dense model.
    """
    alpha = alpha_of_attempt(policy.alpha, attempt)
    facts = []
    for name, rules in policy.quality.items():
        if not _is_binary(name):
            continue
        for baseline, margin in margins(rules, _ARMS):
            allowed = _allowed(margin, baseline_error)
            equal, third = (
                pass_chance(examples=examples, flips=flips, drop=drop, margin=allowed, alpha=alpha)
                for drop in (0.0, allowed / 3)
            )
            facts.append(
                PowerFact(
                    rule=f"{name}.{baseline.name}",
                    examples=examples,
                    flips=rounded(flips),
                    alpha=rounded(alpha),
                    pass_if_equal=equal,
                    pass_if_third_lost=third,
                )
            )
    return tuple(facts)


def _is_binary(name: str) -> bool:
    try:
        metric = get_metric(name)
        return metric.form == "binary" and not metric.against_dense
    except UnknownName:
        return False


def _allowed(margin: Margin, baseline_error: float | None) -> float:
    if margin.max_error_ratio is None or baseline_error is None:
        return margin.max_drop
    return min(margin.max_drop, (margin.max_error_ratio - 1.0) * baseline_error)


def propose_margin(examples: int, flips: float, alpha: float) -> float:
    """The smallest margin, in steps of half a point, that passes an equal candidate 9 times in 10.

    `alpha` is the policy's; the first attempt is tested at half of it. At most 1.
    """
    level = alpha_of_attempt(alpha, 1)
    steps = round(1 / MARGIN_STEP)
    for step in range(1, steps):
        margin = rounded(step * MARGIN_STEP)
        chance = pass_chance(examples=examples, flips=flips, drop=0.0, margin=margin, alpha=level)
        if chance >= WANTED_POWER:
            return margin
    return 1.0
