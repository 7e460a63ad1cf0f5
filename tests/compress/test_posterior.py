"""The fit of all cuts together, and the choice of what to measure next: laws, and coverage on truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reprune.compress.sensitivity.evidence import CONTROL, Trace, controls, estimate, next_cut
from reprune.compress.sensitivity.posterior import Points, posterior

GROUPS, SHARES = 8, 3
POINTS = Points(
    groups=np.repeat(np.arange(GROUPS), SHARES).tolist(),
    shares=np.tile(np.arange(SHARES), GROUPS).tolist(),
    estimates=np.full(GROUPS * SHARES, np.nan),
)
EVERY = range(GROUPS * SHARES)


def truth(rng):
    """Rises that grow with the share and differ by group, over two decades."""
    group = rng.normal(0.0, 0.8, GROUPS)[:, None]
    share = np.log([0.01, 0.05, 0.2])[None]
    return np.exp(group + share + rng.normal(0.0, 0.2, (GROUPS, SHARES))).ravel()


def test_without_noise_the_measurements_are_the_answer():
    """Exact measurements come back as they are, whatever the prior."""
    rises = truth(np.random.default_rng(0))
    found = posterior(POINTS, EVERY, rises, np.diag((1e-6 * rises) ** 2))
    assert found.mean == pytest.approx(rises, rel=1e-4)
    assert np.all(found.sd < 1e-3 * rises)


def test_noise_is_smoothed_by_what_groups_and_shares_have_in_common():
    """The fit ranks groups better than the noisy measurements it is made of, and its errors are smaller."""
    raw, fitted, before, after = [], [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rises = truth(rng)
        sd = 0.5 * np.sqrt(rises) * 0.2
        noisy = rises + rng.normal(0.0, sd)
        found = posterior(POINTS, EVERY, noisy, np.diag(sd**2)).mean
        for share in range(SHARES):
            raw.append(stats.kendalltau(noisy[share::SHARES], rises[share::SHARES]).statistic)
            fitted.append(stats.kendalltau(found[share::SHARES], rises[share::SHARES]).statistic)
        before.append(np.square(noisy - rises).mean())
        after.append(np.square(found - rises).mean())
    assert np.mean(fitted) > np.mean(raw) + 0.03
    assert np.mean(after) < np.mean(before)


@pytest.mark.slow
def test_errors_cover_the_truth():
    """Over many simulated tables the truth lies within two of the fit's own errors about 95 times in 100."""
    hits = []
    for seed in range(40):
        rng = np.random.default_rng(100 + seed)
        rises = truth(rng)
        sd = 0.1 * np.sqrt(rises)
        noisy = rises + rng.normal(0.0, sd)
        found = posterior(POINTS, EVERY, noisy, np.diag(sd**2))
        hits += list(np.abs(np.log(rises) - np.log(found.mean)) <= 2.2 * found.log_sd)
    assert 0.9 < np.mean(hits) < 0.995


def test_an_unmeasured_cut_is_told_by_its_group_and_share():
    """Half of the cuts are not measured: they come out within their error, which is larger."""
    rng = np.random.default_rng(3)
    rises = truth(rng)
    measured = [row for row in EVERY if row % 4]
    found = posterior(POINTS, measured, rises[measured], np.diag((0.02 * rises[measured]) ** 2))
    left = [row for row in EVERY if row not in measured]
    assert np.all(np.abs(np.log(found.mean[left] / rises[left])) < 3.0 * found.log_sd[left])
    assert found.log_sd[left].min() > found.log_sd[measured].max()


@pytest.mark.slow
def test_a_good_estimate_helps_and_a_random_one_does_little_harm():
    """The log of an estimate moves the fit as far as measurements bear it out."""

    def error(estimates, seed):
        rng = np.random.default_rng(seed)
        rises = truth(rng)
        sd = 0.25 * np.sqrt(rises)
        points = Points(groups=POINTS.groups, shares=POINTS.shares, estimates=estimates(rises, rng))
        noisy = rises + rng.normal(0.0, sd)
        found = posterior(points, EVERY, noisy, np.diag(sd**2)).mean
        return float(np.abs(np.log(found / rises)).mean())

    none = [error(lambda rises, _: np.full_like(rises, np.nan), seed) for seed in range(10)]
    good = [error(lambda rises, _: 7.0 * rises, seed) for seed in range(10)]
    random = [error(lambda rises, rng: rng.lognormal(size=len(rises)), seed) for seed in range(10)]
    assert np.mean(good) < 0.8 * np.mean(none)
    assert np.mean(random) < 1.4 * np.mean(none)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-6, 1e6))
def test_the_fit_is_positive_finite_and_follows_the_unit(seed, scale):
    """Rises told in another unit give the same fit in that unit; ruined and negative ones are borne."""
    rng = np.random.default_rng(seed)
    rises = truth(rng) - 0.02
    rises[rng.integers(len(rises))] = 1000.0
    noise = np.diag(np.full(len(rises), 0.01**2))
    found = posterior(POINTS, EVERY, rises, noise)
    assert np.all(np.isfinite(found.mean))
    assert np.all(found.mean > 0.0)
    assert np.all(np.isfinite(found.sd))
    assert np.all(found.sd > 0.0)
    scaled = posterior(POINTS, EVERY, scale * rises, scale**2 * noise)
    assert scaled.mean == pytest.approx(scale * found.mean, rel=1e-5)


def traces(rng, *, pieces=40, correlation=0.9, rises=(0.02, 0.1, 0.4)):
    """What a group would show: first-order changes of mean 0 on all pieces, rises that go with them."""
    found = []
    for rise in rises:
        spread = 0.5 * np.sqrt(rise)
        slopes = rng.normal(0.0, spread, pieces)
        own = rng.normal(0.0, spread * np.sqrt(1.0 - correlation**2), pieces)
        found.append((rise + correlation * slopes + own, slopes))
    return found


def shown(full, counts):
    return [
        Trace(rises=tuple(rise[:count]), slopes=tuple(slopes))
        for (rise, slopes), count in zip(full, counts, strict=True)
    ]


def test_the_control_variate_is_unbiased_and_sharper():
    """Its mean over many draws is the truth; its spread is below that of the plain mean."""
    ours, plain = [], []
    for seed in range(300):
        ((rise, slopes),) = traces(np.random.default_rng(seed), rises=(0.1,))
        ours.append(estimate(Trace(rises=tuple(rise[:8]), slopes=tuple(slopes)), 0.8).rise)
        plain.append(float(rise[:8].mean()))
    assert np.mean(ours) == pytest.approx(0.1, abs=3 * np.std(ours) / np.sqrt(300))
    assert np.std(ours) < 0.75 * np.std(plain)


def test_where_slopes_tell_all_the_rise_is_known_from_all_batches():
    """Rises that are 0.1 above the first-order changes: three batches give the mean over all ten."""
    slopes = np.linspace(-0.3, 0.5, 10)
    trace = Trace(rises=tuple(0.1 + slopes[:3]), slopes=tuple(slopes))
    assert estimate(trace, 1.0).rise == pytest.approx(0.1 + slopes.mean())


def test_the_stated_variance_is_the_real_one():
    """Over many draws the squared error is about what the estimate says of itself."""
    squares, stated = [], []
    for seed in range(400):
        ((rise, slopes),) = traces(np.random.default_rng(seed), rises=(0.1,))
        found = estimate(Trace(rises=tuple(rise[:10]), slopes=tuple(slopes)), 0.9, ratio=0.2)
        squares.append((found.rise - 0.1) ** 2)
        stated.append(found.variance(10))
    assert 0.75 < np.mean(stated) / np.mean(squares) < 1.6


def test_the_coefficient_is_learnt_from_all_groups():
    """Pooled over cuts of very different size it is what made the data; without data it is the default."""
    full = [t for seed in range(9) for t in traces(np.random.default_rng(seed), correlation=0.6)]
    found = controls({0: shown(full, [30] * len(full))})[0]
    assert found[0] == pytest.approx(0.6, abs=0.1)
    assert found[1] == pytest.approx(1.0 - 0.36, abs=0.15)
    assert controls({0: shown(full, [1] * len(full))})[0][0] == CONTROL


def test_every_cut_is_looked_at_first_and_then_the_one_that_tells_most():
    """The same four batches of each, in order; then more of the deep cut, which stands out of its noise."""
    full = traces(np.random.default_rng(1))
    counts = [0, 0, 0]
    order = []
    for _ in range(30):
        number = next_cut(shown(full, counts), pieces=40, precision=0.01)
        assert number is not None
        order.append(number)
        counts[number] += 1
    assert order[:12] == [0, 1, 2] * 4
    assert counts[2] > counts[0]


def test_measuring_stops_when_it_is_tight_enough_and_the_interval_still_covers():
    """With a precision of 20 % fewer batches are used than there are; the estimates at that moment are
    within two of their errors about as often as they should be, though the stop looked at them.
    """
    hits, used = [], []
    for seed in range(100):
        full = traces(np.random.default_rng(seed), pieces=60, rises=(0.3, 0.5, 0.9))
        counts = [0, 0, 0]
        while (n := next_cut(shown(full, counts), pieces=60, precision=0.2)) is not None:
            counts[n] += 1
        used.append(sum(counts))
        for trace, rise in zip(shown(full, counts), (0.3, 0.5, 0.9), strict=True):
            found = estimate(trace, CONTROL, ratio=0.5)
            hits.append(abs(found.rise - rise) <= 2.2 * found.variance(len(trace.rises)) ** 0.5)
    assert np.mean(used) < 0.5 * 180
    assert np.mean(hits) > 0.88


def test_it_ends_when_all_batches_are_used():
    """However tight the wish, no batch is asked for twice."""
    full = traces(np.random.default_rng(2), pieces=3)
    assert next_cut(shown(full, [3, 3, 3]), pieces=3, precision=1e-9) is None
