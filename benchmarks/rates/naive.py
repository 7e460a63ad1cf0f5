"""Rules that gates use today, on the same simulated blocks and on the real trace.

"mean": blocks where the mean call is more than 5 % longer. "Mann-Whitney": blocks where single calls
differ at two-sided 5 % and the candidate's are longer. Each is tried as usual (the baseline's run, then
the candidate's, one session each) and on the interleaved units that the judge looks at first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.rates import latency, model, trace
from benchmarks.rates.chance import limits
from reprune.judge.evidence import Unit

RATIOS = (1.0, 1.05, 1.1)
UNITS = 8
CALLS = 20  # a block
_AT_ONCE = 250
# The figure of each rule: they err so differently that one for both would be of neither.
NAMED = {
    "mean": "naive_false_block_aa_means",
    "Mann-Whitney": "naive_false_block_aa_mann_whitney",
}


def rows(
    noise: model.Noise, calls: model.Floats, *, seed: int, replications: int
) -> list[dict[str, Any]]:
    """Two arms; `calls` are single calls over their block's median, resampled."""
    hits: dict[tuple[str, str, float, float], int] = {}
    done = 0
    for random, order, quick in _blocks(noise, seed, replications):
        size = len(quick)
        done += size
        slow = model.slow_level(noise, size, UNITS, random)[:, :, None]
        for session in latency.SESSIONS:
            arms = {
                "one after the other": _in_turn(quick + slow, session, random),
                "interleaved units": _interleaved(quick + slow, order, session, random),
            }
            for how, (mine, base) in arms.items():
                pair = _single_calls(mine, calls, random), _single_calls(base, calls, random)
                for ratio in RATIOS:
                    for rule, blocked in decide(pair[0] * ratio, pair[1]).items():
                        key = (rule, how, session, ratio)
                        hits[key] = hits.get(key, 0) + int(blocked.sum())
    found = []
    for (rule, how, session, ratio), count in hits.items():
        row = {"part": "latency, usual rules", "rule": rule, "arms": 2, "how": how}
        row |= {"session_sd": session, "ratio": ratio}
        found.append(row | _rates(count, done))
    return found


def _rates(blocked: int, count: int) -> dict[str, Any]:
    rate, low, high = limits(blocked, count)
    return {
        "replications": count,
        "first_blocked": rate,
        "first_blocked_limits": [low, high],
        "first_passed": 1 - rate,
        "first_passed_limits": [1 - high, 1 - low],
    }


def _blocks(noise: model.Noise, seed: int, replications: int) -> Any:
    """The first units of the very replications that the cells of two arms are judged on."""
    for chunk in range(math.ceil(replications / latency.AT_ONCE)):
        size = min(latency.AT_ONCE, replications - chunk * latency.AT_ONCE)
        random, order, quick = latency.drawn(noise, 2, seed, chunk, size)
        for start in range(0, size, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            yield random, order[part, :UNITS], quick[part, :UNITS]


def _in_turn(
    blocks: model.Floats, session: float, random: np.random.Generator
) -> tuple[model.Floats, model.Floats]:
    flat = blocks.reshape(len(blocks), -1)
    half = flat.shape[1] // 2
    effect = random.normal(0, session, (2, len(blocks), 1)) if session else np.zeros((2, 1, 1))
    return flat[:, half:] + effect[0], flat[:, :half] + effect[1]


def _interleaved(
    blocks: model.Floats, order: model.Integers, session: float, random: np.random.Generator
) -> tuple[model.Floats, model.Floats]:
    places = model.orders(2)[order]
    arms = []
    for arm in (0, 1):
        place = places[:, :, arm : arm + 1]
        effect = random.normal(0, session, place.shape) if session else 0.0
        both = [np.take_along_axis(blocks, at, axis=2) for at in (place, 3 - place)]
        arms.append((np.concatenate(both, axis=2) + effect).reshape(len(blocks), -1))
    return arms[0], arms[1]


def _single_calls(
    logs: model.Floats, calls: model.Floats, random: np.random.Generator
) -> model.Floats:
    off = calls[random.integers(0, len(calls), (*logs.shape, CALLS))]
    return np.asarray((np.exp(logs)[:, :, None] * off).reshape(len(logs), -1))


def decide(mine: model.Floats, base: model.Floats) -> dict[str, Any]:
    """Which rows of single calls each rule blocks."""
    tested = stats.mannwhitneyu(mine, base, axis=1, method="asymptotic")
    longer = tested.statistic > mine.shape[1] * base.shape[1] / 2
    return {
        "mean": mine.mean(axis=1) / base.mean(axis=1) > latency.MARGIN,
        "Mann-Whitney": (tested.pvalue < 0.05) & longer,
    }


def real_rows(units: Sequence[Unit]) -> list[dict[str, Any]]:
    """The recorded calls in the order of time, cut into runs of 16 blocks: every two runs are one
    independent comparison of the model with itself.
    """
    # On a slow moment a block holds fewer calls: every block counts with as many as the shortest.
    calls = min(CALLS, *(len(block) for unit in units for block in _recorded(unit)))
    flat = np.concatenate([_in_time(unit, calls) for unit in units])
    run = 2 * UNITS
    count = len(flat) // (2 * run)
    if not count:
        return []
    runs = flat[: count * 2 * run].reshape(count, 2, run * calls)
    return [
        {
            "part": "latency, usual rules on the real trace",
            "rule": rule,
            "how": "one after the other",
            "ratio": ratio,
            **_rates(int(blocked.sum()), count),
        }
        for ratio in RATIOS
        for rule, blocked in decide(runs[:, 1] * ratio, runs[:, 0]).items()
    ]


def _recorded(unit: Unit) -> Iterator[tuple[int, ...]]:
    return (block for arm in trace.ARMS for block in unit.arms[arm].blocks_ns)


def _in_time(unit: Unit, calls: int) -> model.Floats:
    """The first `calls` calls of each block, blocks in the order of time."""
    count = len(trace.ARMS)
    found = np.empty((2 * count, calls))
    for arm in trace.ARMS:
        taken = unit.arms[arm]
        for place, block in zip(
            (taken.order, 2 * count - 1 - taken.order), taken.blocks_ns, strict=True
        ):
            found[place] = block[:calls]
    return found


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of each usual rule its worst cell, as for ours: the upper limit of blocks at equal speed."""
    found: dict[str, float] = {}
    for row in rows:
        if row["ratio"] == 1.0:
            name = NAMED[row["rule"]]
            found[name] = max(found.get(name, 0.0), row["first_blocked_limits"][1])
    return found
