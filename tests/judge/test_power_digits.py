"""Distributions to the last digits of scipy, and the power of policies summed outcome by outcome."""

from __future__ import annotations

import pytest
from scipy import stats

from reprune.judge import distributions, power
from reprune.judge.distributions import (
    alpha_of_attempt,
    beta_cdf,
    beta_quantile,
    binomial_cdf,
    critical,
    holm,
    tail,
)
from reprune.judge.numeric import rounded
from reprune.judge.paired import tango_z
from reprune.judge.power import MARGIN_STEP, pass_chance, plan_power, propose_margin
from tests.building import make_policy


@pytest.mark.parametrize("a", [0.5, 1.0, 2.5, 40.0])
@pytest.mark.parametrize("b", [0.5, 1.0, 3.0, 75.0])
@pytest.mark.parametrize("x", [1e-6, 0.02, 0.3, 0.5, 0.7, 0.99])
def test_incomplete_beta_to_the_digits_of_scipy(a: float, b: float, x: float) -> None:
    expected = float(stats.beta.cdf(x, a, b))
    assert beta_cdf(x, a, b) == pytest.approx(expected, rel=2e-12, abs=1e-300)
    if 1e-9 < expected < 1 - 1e-9:
        assert beta_quantile(expected, a, b) == pytest.approx(x, rel=1e-9)


def test_the_ends_of_the_beta_distribution() -> None:
    assert (beta_cdf(-0.5, 2, 3), beta_cdf(0.0, 2, 3)) == (0.0, 0.0)
    assert (beta_cdf(1.0, 2, 3), beta_cdf(1.5, 2, 3)) == (1.0, 1.0)
    assert (beta_quantile(0.3, 0.0, 2), beta_quantile(0.3, -1.0, 2)) == (0.0, 0.0)
    assert (beta_quantile(0.3, 2, 0.0), beta_quantile(0.3, 2, -1.0)) == (1.0, 1.0)
    assert beta_quantile(0.3, 0.5, 0.5) == pytest.approx(stats.beta.ppf(0.3, 0.5, 0.5), rel=1e-12)


@pytest.mark.parametrize("df", [1, 2, 3, 10, 300])
@pytest.mark.parametrize("z", [-9.0, -1.5, -0.1, 0.0, 1e-3, 0.1, 1.5, 9.0])
def test_students_tail_to_the_digits_of_scipy(df: int, z: float) -> None:
    assert tail(z, df) == pytest.approx(float(stats.t.sf(z, df)), rel=1e-11)
    assert tail(z, None) == pytest.approx(float(stats.norm.sf(z)), rel=1e-13)


@pytest.mark.parametrize("alpha", [0.49, 0.2, 1e-3, 1e-8])
def test_quantiles_to_the_digits_of_scipy(alpha: float) -> None:
    assert critical(alpha, None) == pytest.approx(float(stats.norm.isf(alpha)), rel=1e-12)
    for df in (1, 3, 30):
        assert critical(alpha, df) == pytest.approx(float(stats.t.isf(alpha, df)), rel=1e-10)


@pytest.mark.parametrize(("successes", "trials", "p"), [
    (0, 5, 0.3), (4, 5, 0.3), (3, 5, 0.99), (7, 900, 0.01), (0.5, 3.0, 0.2), (2.7, 3.0, 0.2),
])  # fmt: skip
def test_binomial_to_the_digits_of_scipy(successes: float, trials: float, p: float) -> None:
    """Also between whole numbers, by the beta function."""
    expected = float(stats.beta.sf(p, successes + 1, trials - successes))
    assert binomial_cdf(successes, trials, p) == pytest.approx(expected, rel=1e-11)
    assert binomial_cdf(trials, trials, p) == binomial_cdf(trials + 1, trials, p) == 1.0
    assert binomial_cdf(-0.25, trials, p) == 0.0


def test_the_fraction_never_divides_by_zero() -> None:
    """What is 0 becomes 1e-300; what is not stays, of either sign."""
    small = distributions._not_zero
    assert [small(each) for each in (0.0, 1e-301, -1e-301, 1e-300)] == [1e-300] * 4
    assert [small(each) for each in (1e-299, -1e-299, -2.0)] == [1e-299, -1e-299, -2.0]


def test_holm_by_hand() -> None:
    """Four times the smallest, three times the next, never below the one before, at most 1."""
    assert holm([0.04, 0.01, 0.5, 0.015]) == pytest.approx([0.08, 0.04, 0.5, 0.045], rel=1e-14)
    assert holm([0.02, 0.021, 0.4]) == pytest.approx([0.06, 0.06, 0.4], rel=1e-14)
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert alpha_of_attempt(0.06, 2) == pytest.approx(0.01, rel=1e-14)


def by_outcomes(n: int, flips: float, drop: float, margin: float, alpha: float) -> float:
    """The sum over all pairs of lost and gained."""
    flips = min(1.0, max(flips, drop))
    lost_, gained_ = (flips + drop) / 2, (flips - drop) / 2
    z, total = stats.norm.isf(alpha), 0.0
    for lost in range(n + 1):
        for gained in range(n + 1 - lost):
            if tango_z(lost, gained, n, margin) <= -z:
                chance = stats.multinomial.pmf(
                    [lost, gained, n - lost - gained], n, [lost_, gained_, 1 - flips]
                )
                total += float(chance)
    return total


@pytest.mark.parametrize(("n", "flips", "drop", "margin", "alpha"), [
    (1, 0.2, 0.1, 0.9, 0.1), (2, 0.5, 0.0, 0.8, 0.2), (9, 0.3, 0.1, 0.5, 0.1), (9, 1.0, 0.2, 0.6, 0.1),
    (9, 0.1, 0.4, 0.6, 0.1), (14, 0.02, 0.02, 0.35, 0.05), (14, 0.6, 0.05, 0.3, 0.05),
])  # fmt: skip
def test_power_is_the_sum_over_outcomes(
    n: int, flips: float, drop: float, margin: float, alpha: float
) -> None:
    found = pass_chance(examples=n, flips=flips, drop=drop, margin=margin, alpha=alpha)
    assert found == pytest.approx(by_outcomes(n, flips, drop, margin, alpha), rel=2e-8)
    assert found == rounded(found)


def test_power_of_more_flips_than_examples_is_that_of_all() -> None:
    common = {"examples": 60, "drop": 0.0, "margin": 0.3, "alpha": 0.05}
    assert pass_chance(flips=1.7, **common) == pass_chance(flips=1.0, **common)
    certain = pass_chance(flips=1.0, **common)
    z = stats.norm.isf(0.05)
    most = max(lost for lost in range(61) if tango_z(lost, 60 - lost, 60, 0.3) <= -z)
    assert certain == pytest.approx(float(stats.binom.cdf(most, 60, 0.5)), rel=1e-8)


def test_power_of_many_examples_is_summed_where_the_chances_are() -> None:
    """Against every count of flips from none to all, by scipy."""
    n, flips, drop, margin, z = 900, 0.05, 0.01, 0.02, stats.norm.isf(0.05)
    total = 0.0
    for flipped in range(140):
        most = next(
            (
                lost
                for lost in range(flipped, -1, -1)
                if tango_z(lost, flipped - lost, n, margin) <= -z
            ),
            -1,
        )
        ways = float(stats.binom.pmf(flipped, n, flips))
        total += ways * float(stats.binom.cdf(most, flipped, (flips + drop) / (2 * flips)))
    found = pass_chance(examples=n, flips=flips, drop=drop, margin=margin, alpha=0.05)
    assert found == pytest.approx(total, rel=1e-8)


def test_plans_leave_out_what_cannot_be_planned() -> None:
    """Agreement, other forms, unknown names; of the rest each baseline's margin at its own limit."""
    rules = {
        "vs_parent": {"max_drop": 0.06},
        "vs_champion": {"max_drop": 0.03, "max_error_ratio": 2.0},
    }
    policy = make_policy(quality=dict.fromkeys(("agreement", "accuracy", "mae", "nothing"), rules))
    facts = plan_power(policy, examples=300, flips=1 / 30, attempt=2, baseline_error=0.02)
    assert [fact.rule for fact in facts] == ["accuracy.vs_parent", "accuracy.vs_champion"]
    level = policy.alpha / 6
    for fact, margin in zip(facts, (0.25 * 0.02, 0.02), strict=True):
        common = {"examples": 300, "flips": 1 / 30, "margin": margin, "alpha": level}
        assert fact.pass_if_equal == pass_chance(drop=0.0, **common)
        assert fact.pass_if_third_lost == pass_chance(drop=margin / 3, **common)
        assert (fact.alpha, fact.flips, fact.examples) == (rounded(level), rounded(1 / 30), 300)
    without = plan_power(policy, examples=300, flips=0.03)
    assert without[1].pass_if_equal == pass_chance(
        examples=300, flips=0.03, drop=0.0, margin=0.03, alpha=policy.alpha / 2
    )


def test_margins_are_proposed_in_half_points() -> None:
    """The first that passes nine in ten; the last before 1 is 0.995; one example needs them all."""
    assert MARGIN_STEP == 0.005
    found = propose_margin(2000, 0.02, 0.05)
    chances = [
        pass_chance(examples=2000, flips=0.02, drop=0.0, margin=rounded(0.005 * step), alpha=0.025)
        for step in range(1, 10)
    ]
    first = next(step for step, chance in enumerate(chances, 1) if chance >= 0.9)
    assert found == rounded(0.005 * first)
    assert propose_margin(10**6, 1e-6, 0.05) == 0.005
    assert propose_margin(1, 0.0, 0.05) == pytest.approx(0.795, abs=1e-12)
    assert propose_margin(1, 1.0, 0.05) == 1.0
    assert propose_margin(1, 0.0, 2e-30) == 0.995
    assert propose_margin(1, 0.0, 2e-60) == 1.0


def test_a_proposed_margin_is_written_as_a_person_would() -> None:
    """41 steps of half a point are 0.205, and not what a product of floats makes of it."""
    assert 41 * MARGIN_STEP != 0.205
    assert propose_margin(32, 0.05, 0.05) == 0.205


def test_a_chance_that_is_just_what_is_wanted_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    level = alpha_of_attempt(0.05, 1)
    chance = pass_chance(examples=200, flips=0.05, drop=0.0, margin=0.04, alpha=level)
    monkeypatch.setattr(power, "WANTED_POWER", chance)
    assert propose_margin(200, 0.05, 0.05) == 0.04
