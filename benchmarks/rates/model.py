"""A model of a machine's noise, fitted to a recorded A/A trace, and simulated units.

log(median call) of a block is the sum of: a slow level that is the same for all arms of a unit (first-order
autoregression over units, and a drift); quick noise with Student's tails, autocorrelated from block to block
(also across units, though they lie further apart); and bursts, in which a foreign process slows a run of
blocks (a two-state Markov chain, log-normal excess). On top lie what the cells prescribe: an effect of each
session, and what the arm before leaves behind in a block.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter

from benchmarks.rates import trace
from reprune.judge.evidence import Unit

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

_BURST = 5.0  # robust standard deviations above the level
_NEAR = 5  # units whose median is the level
_NORMAL = 1.4826  # the median absolute deviation of a normal, to its standard deviation


@dataclass(frozen=True, kw_only=True)
class Noise:
    """All in logs. `scale` and `df` are of the quick noise, `lag1` its correlation from block to block;
    `burst_enter` and `burst_leave` are chances a block; `burst_mu` and `burst_sigma` of log(excess).
    """

    call_ns: float
    scale: float
    df: float
    lag1: float
    burst_enter: float
    burst_leave: float
    burst_mu: float
    burst_sigma: float
    slow_sd: float
    slow_lag1: float
    drift_a_unit: float


def fit(units: Sequence[Unit], arms: Sequence[str] = trace.ARMS) -> Noise:
    """The noise of the trace; the arms must be one and the same model."""
    logs = trace.block_logs(units, arms)
    level = _level(np.median(logs, axis=1))
    off = logs - level[:, None]
    spread = _NORMAL * float(np.median(np.abs(off)))
    burst = off > _BURST * spread
    calm = off[~burst]
    df, _, scale = stats.t.fit(calm, floc=0.0)
    excess = np.log(off[burst]) if burst.any() else np.array([-3.0])
    enter, leave = _chain(burst)
    middles = np.median(logs, axis=1)
    slope = float(np.polyfit(np.arange(len(middles)), middles, 1)[0])
    slow = middles - np.polyval(
        np.polyfit(np.arange(len(middles)), middles, 1), range(len(middles))
    )
    return Noise(
        call_ns=float(np.exp(np.median(logs))),
        scale=float(scale),
        df=float(min(100.0, max(2.1, df))),
        lag1=_lag1(np.where(burst, np.nan, off)),
        burst_enter=enter,
        burst_leave=leave,
        burst_mu=float(excess.mean()),
        burst_sigma=float(max(0.1, excess.std())),
        slow_sd=float(slow.std()),
        slow_lag1=float(np.clip(np.corrcoef(slow[:-1], slow[1:])[0, 1], 0.0, 0.99)),
        drift_a_unit=slope,
    )


def _level(middles: Floats) -> Floats:
    """The median of the units around each one: bursts that fill a whole unit stay above it."""
    half = _NEAR // 2
    return np.array(
        [np.median(middles[max(0, at - half) : at + half + 1]) for at in range(len(middles))]
    )


def _lag1(off: Floats) -> float:
    """One less the ratio of half the squared differences of neighbours to those of far blocks."""
    near = _half_square(off[:, 1:] - off[:, :-1])
    far = np.mean([_half_square(off[:, lag:] - off[:, :-lag]) for lag in range(3, off.shape[1])])
    return float(np.clip(1.0 - near / far, 0.0, 0.95))


def _half_square(differences: Floats) -> float:
    return 0.5 * float((_NORMAL * np.nanmedian(np.abs(differences))) ** 2)


def _chain(burst: NDArray[np.bool_]) -> tuple[float, float]:
    """The chances that a calm block is followed by a burst, and a burst by a calm block."""
    before, after = burst[:, :-1], burst[:, 1:]
    enter = (before < after).sum() / max(1, (~before).sum())
    leave = (before > after).sum() / max(1, before.sum())
    return float(enter), float(leave) if burst.any() else 1.0


def described(noise: Noise, units: Sequence[Unit], simulated: Floats) -> dict[str, Any]:
    """The fitted numbers, and how well simulated unit log-ratios (of two arms) look like the real ones.

    Of the trace itself: `session_sd`, by how much an arm's two blocks agree more with each other than
    with those of other arms (0 where they do not); `after_another`, how much longer a block takes after
    another arm than after its own; `unit_ratio_lag1`, the correlation of one unit's log-ratio with the next.
    """
    logs, pairs = trace.block_logs(units), trace.pair_logs(units)
    means = pairs.mean(axis=2)
    one, other = means[:, 0] - means[:, 1], means[:, 2] - means[:, 3]
    half = logs.shape[1] // 2
    own = logs[:, [0, half]].mean(axis=1)
    rest = np.delete(logs, [0, half], axis=1).mean(axis=1)
    return {
        **asdict(noise),
        "units": len(units),
        "session_sd": _session_sd(pairs),
        "after_another": float(np.median(rest - own)),
        "unit_ratio_lag1": float(np.corrcoef(np.sign(one[:-1]), np.sign(one[1:]))[0, 1]),
        "unit_ratio_quantiles_real": _quantiles(np.concatenate([one, other])),
        "unit_ratio_quantiles_simulated": _quantiles(simulated.reshape(-1)),
    }


def _session_sd(pairs: Floats) -> float:
    """Out of (units, arms, 2) block logs, cut off where bursts begin, which fill neighbouring blocks."""
    off = pairs - np.median(pairs, axis=(1, 2))[:, None, None]
    reach = _BURST * _NORMAL * float(np.median(np.abs(off)))
    off = np.clip(off, -reach, reach)
    products = np.einsum("ui,uj->ij", off[:, :, 0], off[:, :, 1]) / len(off)
    arms = len(products)
    across = (products.sum() - np.trace(products)) / (arms * (arms - 1))
    return float(np.sqrt(max(0.0, np.trace(products) / arms - across)))


def _quantiles(values: Floats) -> list[float]:
    """Of the absolute value: half, 90 and 99 in 100."""
    return [float(x) for x in np.quantile(np.abs(values), [0.5, 0.9, 0.99])]


@lru_cache(maxsize=16)
def orders(arms: int) -> Integers:
    """Every permutation, as the place of each arm: (arms!, arms)."""
    return np.array(
        [np.argsort(order) for order in itertools.permutations(range(arms))], dtype=np.int64
    )


@lru_cache(maxsize=64)
def left_behind(arms: int, carry: tuple[float, ...], own_first: bool = True) -> Floats:
    """Each arm's mean over its two blocks of what the arm before left: (arms!, arms), as `orders`.

    `carry` says what each arm leaves to the block after it. `own_first`: the first block follows calls of
    its own arm; else those of the arm that was warmed up last, any of them (averaged here).
    """
    found = np.zeros((len(orders(arms)), arms))
    for row, places in zip(found, orders(arms), strict=True):
        first = np.argsort(places).tolist()
        blocks = [*first, *reversed(first)]
        opening = carry[first[0]] if own_first else sum(carry) / arms
        for place, arm in enumerate(blocks):
            row[arm] += (opening if place == 0 else carry[blocks[place - 1]]) / 2
    return found


def block_noise(
    noise: Noise, replications: int, units: int, blocks: int, random: np.random.Generator
) -> Floats:
    """Quick noise and bursts: (replications, units, blocks)."""
    length = units * blocks
    shocks = random.standard_t(noise.df, (replications, length)) * noise.scale
    quick = lfilter([np.sqrt(1 - noise.lag1**2)], [1.0, -noise.lag1], shocks, axis=1)
    rate = noise.burst_enter / max(1e-9, noise.burst_enter + noise.burst_leave)
    state = random.random(replications) < rate
    draws = random.random((length, replications))
    for step in range(length):
        state = draws[step] < np.where(state, 1 - noise.burst_leave, noise.burst_enter)
        hit = np.flatnonzero(state)
        quick[hit, step] += random.lognormal(noise.burst_mu, noise.burst_sigma, len(hit))
    return np.asarray(quick.reshape(replications, units, blocks))


def slow_level(noise: Noise, replications: int, units: int, random: np.random.Generator) -> Floats:
    """The level that all arms of a unit share: (replications, units)."""
    shocks = random.normal(0, noise.slow_sd, (replications, units))
    shocks[:, 1:] *= np.sqrt(1 - noise.slow_lag1**2)
    wander = lfilter([1.0], [1.0, -noise.slow_lag1], shocks, axis=1)
    return np.asarray(wander + noise.drift_a_unit * np.arange(units))


def arm_means(quick: Floats, order: Integers) -> Floats:
    """Each arm's mean over its two blocks: (replications, units, arms); `order` indexes `orders`."""
    arms = quick.shape[2] // 2
    folded = (quick[:, :, :arms] + quick[:, :, : arms - 1 : -1]) / 2
    return np.take_along_axis(folded, orders(arms)[order], axis=2)
