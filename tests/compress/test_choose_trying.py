"""Latency budgets of allocators that try: which of the timed plans is taken, and what may be tried."""

from __future__ import annotations

import random

import pytest

from reprune.compress.planning.choose import choose
from reprune.compress.planning.curves import Curve
from reprune.compress.planning.options import Options
from reprune.compress.planning.terms import Term, merged
from reprune.compress.planning.trying import Tries
from reprune.core.artifacts import Cost, GroupPlan, Plan, Prediction
from reprune.core.errors import CompressionError
from reprune.core.params import PlanParams

RUNGS = (8, 16, 24, 32)


def cost(widths) -> Cost:
    total = sum(widths.values())
    return Cost(params=total, macs=total * 100, bytes=total * 4)


def toy(names: str, rises, evaluate, times, tries: Tries) -> Options:
    """Groups of 32 channels: `rises` a channel by single cuts, `times` a channel by the table."""

    def forecast(rungs):
        terms = [
            Term(options=(name,), values={(width,): times[name] * width for width in rungs[name]})
            for name in names
        ]
        return merged(10.0, terms, rungs)

    return Options(
        rungs=dict.fromkeys(names, RUNGS),
        curves={
            name: Curve(
                keeps=RUNGS,
                increases=tuple(rises[name] * (32 - width) for width in RUNGS),
                errors=(0.05, 0.05, 0.05, 0.0),
            )
            for name in names
        },
        cost=lambda widths: cost(dict.fromkeys(names, 32) | dict(widths)),
        forecasts={"cpu": forecast},
        timers={},
        evaluate=evaluate,
        tries=tries,
    )


def params(allocator: str, trials: int = 5) -> PlanParams:
    return PlanParams(
        allocator=allocator,
        budget="latency",
        latency_target="cpu",
        fraction=0.6,
        round_to=8,
        latency_trials=trials,
    )


@pytest.mark.parametrize("seed", [*range(6), 8, 22])
def test_of_timed_plans_the_one_that_was_measured_to_lose_least_is_taken(seed):
    """Groups cost more together than alone: that is why the allocator measures joint cuts."""
    draw = random.Random(seed)
    names = "abcd"
    alone = {name: draw.uniform(0.01, 0.1) for name in names}
    really = {name: alone[name] * draw.uniform(0.3, 3) for name in names}
    pairs = [(x, y) for i, x in enumerate(names) for y in names[i + 1 :]]
    joint = {pair: draw.uniform(-0.001, 0.004) for pair in pairs}
    times = {name: draw.uniform(0.5, 1.5) for name in names}
    gain, full = draw.uniform(0.8, 1.4), 10 + 32 * sum(times.values())
    timed = []

    def measured(widths):
        cut = {name: 32 - widths[name] for name in names}
        both = sum(by * cut[x] * cut[y] for (x, y), by in joint.items())
        return sum(really[name] * cut[name] for name in names) + both

    def ratio(widths):
        saved = 1 - (10 + sum(times[name] * widths[name] for name in names)) / full
        timed.append((dict(widths), 1 - gain * saved))
        return timed[-1][1]

    options = toy(names, alone, measured, times, Tries(evaluations=14))
    try:
        chosen = choose(options, params("evolutionary"), ratio, None, lambda text: None)
    except CompressionError:
        assert all(found > 0.6 for _, found in timed)
        return
    within = [widths for widths, found in timed if found <= 0.6]
    assert measured(chosen.widths) == min(map(measured, within))


@pytest.mark.parametrize("left", [12, 52])
def test_every_run_gets_its_part_of_what_is_left(left):
    """One more than the starts at least: less would search nothing. The last run may take all there is."""
    names = "abcdef"
    rises = {name: 0.02 * (place + 1) for place, name in enumerate(names)}
    seen, before = [], []

    def measured(widths):
        key = tuple(sorted(widths.items()))
        if key not in seen:
            seen.append(key)
        return sum(rises[name] * (32 - widths[name]) for name in names)

    def ratio(widths):  # never fast enough, so that every trial is made
        before.append(len(seen))
        return 0.61 + 0.1 * sum(widths.values()) / 192

    tries = Tries(evaluations=left, remaining=lambda: left - len(seen))
    options = toy(names, rises, measured, dict.fromkeys(names, 1.0), tries)
    said = []
    with pytest.raises(CompressionError, match="fast enough"):
        choose(options, params("evolutionary", trials=3), ratio, None, said.append)
    assert before[0] == max(tries.fewest, left // 3)
    assert before[0] < before[1]
    assert len(seen) <= left
    assert any("the least to search with" in line for line in said) == (
        left - before[1] < tries.fewest
    )


@pytest.mark.parametrize("allocator", ["evolutionary", "latency"])
def test_no_more_plans_are_timed_than_the_trials_that_are_allowed(allocator):
    """With a champion too, whose widths take the last one: one alone leaves nothing to compare with."""
    rises = {"a": 0.010, "b": 0.011}
    champion = Plan(
        allocator=allocator,
        budget="latency",
        fraction=0.6,
        before=cost({"a": 32, "b": 32}),
        groups=tuple(
            GroupPlan(group=name, width=32, keep=keep) for name, keep in (("a", 24), ("b", 8))
        ),
        predicted=Prediction(params=1, macs=50, loss_increase=0.4, latency_ratio=None),
    )
    for trials in (1, 2):
        timed, said = [], []

        def ratio(widths, timed=timed):
            timed.append(dict(widths))
            return (10 + sum(widths.values())) / 74

        def measured(widths):
            return sum(rises[name] * (32 - widths[name]) for name in rises)

        tries = Tries(evaluations=8)
        options = toy("ab", rises, measured, {"a": 1.0, "b": 1.0}, tries)
        found = choose(options, params(allocator, trials), ratio, champion, said.append)
        assert len(timed) <= trials
        assert found.prediction.latencies["cpu"].most == trials
        assert found.champion == (trials > 1)
        assert any("leaves no trial for them" in line for line in said) == (trials == 1)
