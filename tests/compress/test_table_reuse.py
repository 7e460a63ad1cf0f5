"""When an older table still holds: the laws of the check, and its two error rates on made-up tables."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.compress.paired import BatchLosses
from reprune.compress.planning.allocate import Limit, Problem, allocate
from reprune.compress.sensitivity.reuse import (
    COMMON,
    OWN,
    Unit,
    alarms,
    champion_p,
    moved,
    nearest,
    row_of,
    spliced,
    units_to_check,
)
from reprune.core.artifacts import (
    BlockSensitivity,
    Cost,
    CutPoint,
    GroupSensitivity,
    RowCheck,
    Sensitivity,
)

SHARES = st.floats(0.001, 5.0)


def row(before: float, now: float, error: float = 0.01, unit: str = "a", keep: int = 4) -> RowCheck:
    return RowCheck(
        unit=unit, why="near", keep=keep, before=before, before_error=error, now=now, now_error=error
    )  # fmt: skip


def table(groups: int = 4, *, blocks: bool = False) -> Sensitivity:
    return Sensitivity(
        criterion="l1",
        base_loss=0.2,
        examples=100,
        groups=tuple(
            GroupSensitivity(
                group=f"g{i}",
                width=8,
                cuts=tuple(
                    CutPoint(
                        keep=keep,
                        loss_increase=0.01 * (i + 1) * (8 - keep),
                        standard_error=0.001,
                        macs=0,
                        params=0,
                    )
                    for keep in (6, 4, 2)
                ),
            )
            for i in range(groups)
        ),
        blocks=(
            BlockSensitivity(
                block="b", loss_increase=0.3, standard_error=0.02, macs=0, params=0
            ),
        )
        if blocks
        else (),
    )  # fmt: skip


def cost(widths) -> Cost:
    return Cost(params=0, macs=7 + sum(widths.values()), bytes=0)


def test_retraining_alone_seldom_raises_an_alarm_and_a_new_table_does():
    """Rows that move by the factors that are allowed for: at most the rate; five times as far: mostly."""
    rng = np.random.default_rng(3)

    def rate(common: float, own: float) -> float:
        found = []
        for _ in range(400):
            before = np.abs(rng.normal(0.3, 0.1, 6)) + 0.05
            shared = rng.normal(0.0, common)
            now = before * np.exp(shared + rng.normal(0.0, own, 6)) + rng.normal(0.0, 0.01, 6)
            rows = [row(float(b), float(n)) for b, n in zip(before, now, strict=True)]
            found.append(moved(rows, 0.2).p_value <= 0.05)
        return float(np.mean(found))

    assert rate(COMMON, OWN) <= 0.08
    assert rate(COMMON, 5.0 * OWN) >= 0.9


def weeks() -> list[dict]:
    """The weeks of the committed benchmarks whose data did not shift and that had a table to check."""
    folder = Path(__file__).parents[2] / "benchmarks/results"
    names = ("generations.json", "generations_resnet20.json")
    rows = [row for name in names for row in json.loads((folder / name).read_text())["rows"]]
    return [row for row in rows if not row["shift"] and row["p_rows"] is not None]


@pytest.mark.parametrize("checked", [2, 4])
def test_tables_of_retrained_models_are_seldom_measured_anew(checked):
    """With a spread that moves rows further than the benchmarks' trainings did (by their chi-squares: they
    checked two rows each, so that -2 log p is the statistic), at most 1 in 10 by any of the row tests; with
    all that is allowed for, too.
    """
    rng = np.random.default_rng(4)
    real = np.mean([-2.0 * math.log(row["p_rows"]) for row in weeks()])

    def simulated(spread: float) -> tuple[float, float]:
        """The share that is measured anew, and the mean statistic of two rows."""
        anew, statistics = [], []
        for _ in range(400):
            before = np.abs(rng.normal(0.3, 0.1, checked)) + 0.05
            now = before * np.exp(rng.normal(0.0, spread) + rng.normal(0.0, spread, checked))
            rows = [row(float(b), float(n)) for b, n in zip(before, now, strict=True)]
            found, first = moved(rows, 0.2), moved(rows[:2], 0.2)
            anew.append(found.apart or found.p_value <= 0.025)
            statistics.append(-2.0 * math.log(first.p_value))
        return float(np.mean(anew)), float(np.mean(statistics))

    rate, statistic = simulated(0.42)
    assert statistic > real
    assert rate <= 0.1
    assert simulated(COMMON)[0] <= 0.1


@pytest.mark.parametrize(
    ("factors", "apart"),
    [
        ((1.0, 1.0), False),
        ((2.0, 0.7), False),
        ((3.0, 3.0), False),
        ((0.2, 0.2), False),
        ((5.0, 5.0), True),
        ((8.0, 8.0), True),
        ((10.0, 1.0), True),
        ((1.0, 0.0), True),
    ],
)
def test_rows_that_the_level_does_not_explain_are_apart(factors, apart):
    """Ten times as much was not three standard deviations; the others were scaled by 1.6, and it held."""
    assert moved([row(1.0, one, 0.02) for one in factors], 0.3).apart == apart


def test_noise_and_what_hardly_costs_anything_is_not_apart():
    assert not moved([row(0.001, 0.02), row(0.002, 0.0005)], 0.3).apart
    assert not moved([row(0.1, 0.9, error=0.4), row(1.0, 1.0, error=0.4)], 0.3).apart


@given(before=st.lists(SHARES, min_size=1, max_size=6), factor=st.floats(0.25, 4.0))
def test_the_level_follows_a_common_factor_and_never_passes_it(before, factor):
    """It is drawn towards 1, and no rows at all moved is the least surprising thing there is."""
    found = moved([row(one, one * factor, 1e-6) for one in before], 0.0)
    low, high = sorted((1.0, factor))
    assert low - 1e-9 <= found.level <= high + 1e-9
    same = moved([row(one, one) for one in before], 0.0)
    assert same.level == pytest.approx(1.0)
    assert same.p_value == pytest.approx(1.0)


@given(before=SHARES, now=SHARES)
def test_doubling_is_as_surprising_as_halving(before, now):
    assert moved([row(before, now)], 0.1).p_value == pytest.approx(
        moved([row(now, before)], 0.1).p_value
    )


def test_the_champion_is_seldom_called_worse_on_like_data_and_nearly_always_on_other():
    """Student's t over batches of fresh examples: both rates by simulation."""
    rng = np.random.default_rng(5)

    def rate(true: float) -> float:
        """How often p <= 0.025, the loss on 8 batches of 64 having been 0.2 when it was trained."""
        hits = 0
        for _ in range(400):
            old = float(rng.exponential(0.2, 512).mean())
            losses = tuple(float(rng.exponential(true, 64).mean()) for _ in range(8))
            hits += champion_p(BatchLosses(losses=losses, sizes=(64,) * 8), old) <= 0.025
        return hits / 400

    assert rate(0.2) <= 0.03
    assert rate(0.4) >= 0.9
    assert champion_p(BatchLosses(losses=(9.0,), sizes=(64,)), 0.1) == 1.0


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_champion_whose_loss_is_no_number_on_new_data_is_worse_there(loss):
    found = champion_p(BatchLosses(losses=(loss, 0.1, 0.1), sizes=(32,) * 3), 0.1)
    assert alarms({"rows": 0.9, "champion": found}, 0.05) == ["champion"]
    assert champion_p(BatchLosses(losses=(loss,), sizes=(32,)), 0.1) == 0.0


def test_a_loss_below_zero_rises_towards_it():
    """A likelihood of a density: what stayed as it was is not worse, what lost half of it is."""
    losses = tuple(-2.0 + 0.01 * (-1) ** number for number in range(8))
    assert champion_p(BatchLosses(losses=losses, sizes=(64,) * 8), -2.0) > 0.5
    half = tuple(loss / 2 for loss in losses)
    assert champion_p(BatchLosses(losses=half, sizes=(64,) * 8), -2.0) < 0.01


def test_holm_rejects_at_one_rate_for_both():
    assert alarms({"rows": 0.03, "champion": 0.9}, 0.05) == []
    assert alarms({"rows": 0.02, "champion": 0.9}, 0.05) == ["rows"]
    assert set(alarms({"rows": 0.02, "champion": 0.04}, 0.05)) == {"rows", "champion"}
    assert alarms({"rows": 0.04, "champion": None}, 0.05) == ["rows"]


def test_the_options_that_flip_first_come_first():
    """With equal costs, those whose next or last step is priced like the budget's last one."""
    rises = {"cheap": (0.01, 0.005, 0.0), "near": (1.2, 0.1, 0.0), "dear": (90.0, 40.0, 0.0)}
    problem = Problem(
        rungs=dict.fromkeys(rises, (1, 2, 3)),
        rises=rises,
        cost=lambda widths: float(sum({**dict.fromkeys(rises, 3), **widths}.values())),
        limit=6.0,
    )
    widths = allocate("sensitivity", problem)
    assert widths == {"cheap": 1, "near": 2, "dear": 3}
    assert nearest(problem, widths)[0] == "near"


@given(near=st.floats(0.01, 0.5), seed=st.integers(0, 999), groups=st.integers(1, 9))
def test_as_many_at_random_as_near_and_none_twice(near, seed, groups):
    held = table(groups, blocks=True)
    names = [f"g{i}" for i in range(groups)]
    units = units_to_check(held, names, dict.fromkeys(names, 4), near=near, seed=seed)
    first = [unit.name for unit in units if unit.why == "near"]
    other = [unit.name for unit in units if unit.why == "random"]
    count = max(1, math.floor(near * (groups + 1) + 0.5))
    assert first == names[:count]
    assert len(other) == min(count, groups + 1 - len(first))
    assert not set(first) & set(other)
    assert units == units_to_check(held, names, dict.fromkeys(names, 4), near=near, seed=seed)
    for unit in units:
        assert unit.keep == (0 if unit.name == "block b" else 4)
        assert row_of(held, unit)[1] > 0.0


def test_a_spliced_table_is_the_old_one_but_for_what_was_measured():
    """Checked rows are the new ones, the rest the old times the level; a checked row takes its cuts along."""
    held = table(3, blocks=True)
    unit = Unit(name="g1", keep=4, why="near")
    before, error = row_of(held, unit)
    rows = [row(before, 3.0 * before, error, "g1"), row(0.3, 0.6, 0.02, "block b", 0)]
    groups, blocks = spliced(held, rows, 2.0, cost)
    old = {group.group: group for group in held.groups}
    for group in groups:
        by = 3.0 if group.group == "g1" else 2.0
        assert [cut.loss_increase for cut in group.cuts] == pytest.approx(
            [by * cut.loss_increase for cut in old[group.group].cuts]
        )
        assert all(cut.macs == 7 + cut.keep for cut in group.cuts)
    assert (blocks[0].loss_increase, blocks[0].standard_error) == (0.6, 0.02)


def test_of_several_budgets_the_one_that_is_used_up_sets_the_price():
    """The first budget, which asks nothing, counts alike what the other one counts a hundredfold."""
    rises = {"small": (2.0, 1.0, 0.0), "large": (120.0, 60.0, 0.0), "middle": (9.0, 3.0, 0.0)}
    sizes = {"small": 1.0, "large": 100.0, "middle": 10.0}
    full = dict.fromkeys(rises, 3)

    def size(widths):
        return sum(sizes[name] * width for name, width in {**full, **widths}.items())

    def count(widths):
        return float(sum({**full, **widths}.values()))

    widths = {"small": 3, "large": 3, "middle": 2}
    free = Problem(rungs=dict.fromkeys(rises, (1, 2, 3)), rises=rises, cost=count, limit=900.0)
    params = Limit(name="params", cost=size, most=size(widths))
    bound = dataclasses.replace(free, others=(params,))
    alone = dataclasses.replace(free, cost=size, limit=params.most)
    assert nearest(bound, widths) == nearest(alone, widths)
    assert nearest(bound, widths) != nearest(free, widths)
