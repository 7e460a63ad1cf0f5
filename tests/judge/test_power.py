"""Planned power: what a policy would pass, before anything is measured."""

from __future__ import annotations

import math
import random

import pytest

from reprune.judge.distributions import critical
from reprune.judge.paired import tango_z
from reprune.judge.power import pass_chance, plan_power, propose_margin
from tests.building import make_policy


@pytest.mark.parametrize(
    ("examples", "flips", "margin", "drop", "expected"),
    [
        (450, 0.03, 0.03, 0.0, 0.955),
        (450, 0.03, 0.01, 0.0, 0.31),
        (450, 0.05, 0.03, 0.0, 0.86),
        (450, 0.03, 0.05, 0.0, 1.00),
        (1821, 0.06, 0.01, 0.0, 0.53),
        (1821, 0.10, 0.01, 0.0, 0.38),
        (10_000, 0.08, 0.01, 0.0, 0.97),
        (10_000, 0.08, 0.01, 0.005, 0.55),
    ],
)
def test_power_as_simulated_before(
    examples: int, flips: float, margin: float, drop: float, expected: float
) -> None:
    """The chances at level 5 % that simulations of the same test gave."""
    found = pass_chance(examples=examples, flips=flips, drop=drop, margin=margin, alpha=0.05)
    assert found == pytest.approx(expected, abs=0.011)


def test_power_is_the_sum_over_all_outcomes() -> None:
    """For 12 examples, the same as adding up every possible pair of flips one by one."""
    n, flips, drop, margin, alpha = 12, 0.4, 0.1, 0.45, 0.1
    p_lost, p_gained, z = (flips + drop) / 2, (flips - drop) / 2, critical(alpha, None)
    total = 0.0
    for lost in range(n + 1):
        for gained in range(n + 1 - lost):
            rest = n - lost - gained
            ways = math.factorial(n) / math.prod(map(math.factorial, (lost, gained, rest)))
            chance = ways * p_lost**lost * p_gained**gained * (1 - flips) ** rest
            total += chance * (tango_z(lost, gained, n, margin) <= -z)
    found = pass_chance(examples=n, flips=flips, drop=drop, margin=margin, alpha=alpha)
    assert 0.2 < total < 0.8
    assert found == pytest.approx(total, rel=1e-8)


def test_power_without_flips_is_certain_either_way() -> None:
    """Nothing flips: 450 examples show a loss below 3 points, 50 do not."""
    assert pass_chance(examples=450, flips=0.0, drop=0.0, margin=0.03, alpha=0.05) == 1.0
    assert pass_chance(examples=50, flips=0.0, drop=0.0, margin=0.03, alpha=0.05) == 0.0
    assert pass_chance(examples=0, flips=0.03, drop=0.0, margin=0.03, alpha=0.05) == 0.0


def test_a_loss_implies_flips() -> None:
    """A candidate that lost 5 points flipped at least 5 %; at the margin it passes as rarely as alpha."""
    found = pass_chance(examples=2000, flips=0.0, drop=0.05, margin=0.05, alpha=0.05)
    assert 0.0 < found <= 0.055
    assert found == pass_chance(examples=2000, flips=0.05, drop=0.05, margin=0.05, alpha=0.05)


def test_power_agrees_with_a_simulation() -> None:
    """Against 3,000 simulated test sets, within three standard errors."""
    rng = random.Random(2)
    n, flips, drop, margin = 300, 0.06, 0.01, 0.05
    z, passed, runs = critical(0.05, None), 0, 3000
    for _ in range(runs):
        draws = [rng.random() for _ in range(n)]
        lost = sum(d < (flips + drop) / 2 for d in draws)
        gained = sum((flips + drop) / 2 <= d < flips for d in draws)
        passed += tango_z(lost, gained, n, margin) <= -z
    expected = pass_chance(examples=n, flips=flips, drop=drop, margin=margin, alpha=0.05)
    assert passed / runs == pytest.approx(expected, abs=3 * math.sqrt(0.25 / runs))


def test_a_policy_s_power_is_planned_rule_by_rule() -> None:
    """Each margin on 0/1 records, at the attempt's level; Dice and unknown metrics are left out."""
    policy = make_policy(
        quality={
            "accuracy": {
                "vs_parent": {"max_drop": 0.03},
                "vs_anchor": {"max_drop": 0.05},
                "floor": 0.5,
            },
            "dice": {"vs_parent": {}},
            "nothing_of_the_kind": {"vs_parent": {}},
        }
    )
    facts = plan_power(policy, examples=450, flips=0.03)
    assert [fact.rule for fact in facts] == ["accuracy.vs_parent", "accuracy.vs_anchor"]
    assert (facts[0].examples, facts[0].flips, facts[0].alpha) == (450, 0.03, 0.025)
    one = pass_chance(examples=450, flips=0.03, drop=0.0, margin=0.03, alpha=0.025)
    third = pass_chance(examples=450, flips=0.03, drop=0.01, margin=0.03, alpha=0.025)
    assert (facts[0].pass_if_equal, facts[0].pass_if_third_lost) == (one, third)
    assert third < one < facts[1].pass_if_equal
    later = plan_power(policy, examples=450, flips=0.03, attempt=3)
    assert later[0].alpha == pytest.approx(0.05 / 12)
    assert later[0].pass_if_equal < one


def test_the_error_ratio_counts_where_the_baseline_s_errors_are_known() -> None:
    """25 % of 4 % errors is one point; of 40 % it is more than max_drop; None leaves it out."""
    policy = make_policy(quality={"accuracy": {"vs_parent": {"max_drop": 0.03}}})
    free = make_policy(
        quality={"accuracy": {"vs_parent": {"max_drop": 0.03, "max_error_ratio": None}}}
    )

    def chance(one: object, error: float | None) -> float:
        found = plan_power(one, examples=450, flips=0.03, baseline_error=error)  # type: ignore[arg-type]
        return found[0].pass_if_equal

    point = pass_chance(examples=450, flips=0.03, drop=0.0, margin=0.01, alpha=0.025)
    assert chance(policy, 0.04) == point
    assert chance(policy, 0.4) == chance(policy, None) == chance(free, 0.04)


@pytest.mark.parametrize(("examples", "flips"), [(450, 0.03), (10_000, 0.08), (60, 0.1)])
def test_the_proposed_margin_is_the_smallest_that_is_likely_to_pass(
    examples: int, flips: float
) -> None:
    """Nine in ten at the first attempt's level, and half a point less would not do."""
    margin = propose_margin(examples, flips, 0.05)
    assert margin * 200 == pytest.approx(round(margin * 200))

    def chance(m: float) -> float:
        return pass_chance(examples=examples, flips=flips, drop=0.0, margin=m, alpha=0.025)

    assert chance(margin) >= 0.9
    assert margin == 0.005 or chance(margin - 0.005) < 0.9


def test_no_margin_helps_a_handful_of_examples() -> None:
    """Two examples: everything may be lost, and that is what is proposed."""
    assert propose_margin(1, 0.9, 0.05) == 1.0
