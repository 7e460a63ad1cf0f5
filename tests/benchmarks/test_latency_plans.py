"""What the latency benchmark counts, on numbers made up for it."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.latency_plans import figures, pairs, random_plans, told_of


def plan(predicted: float, low: float, high: float) -> dict[str, Any]:
    return {"predicted": predicted, "measured": (low * high) ** 0.5, "halves": [low, high]}


def test_only_pairs_within_five_per_cent_are_counted_and_only_agreeing_ones_are_sure() -> None:
    """a and b are near and surely ordered, and predicted so; b and c near, unsure, predicted wrong."""
    a, b, c, far = (
        plan(0.70, 0.69, 0.70),
        plan(0.72, 0.71, 0.72),
        plan(0.71, 0.70, 0.74),
        plan(0.1, 1.0, 1.0),
    )
    assert pairs([a, b]) == {"near": 1, "right": 1, "sure": 1, "sure_right": 1}
    assert pairs([b, c]) == {"near": 1, "right": 0, "sure": 0, "sure_right": 0}
    assert pairs([a, far]) == {"near": 0, "right": 0, "sure": 0, "sure_right": 0}
    row = {"model": "m", "batch": 1, "median_error": 0.02, "pairs": pairs([a, b, c, far])}
    found = figures([row])
    assert found["prediction_median_error_m_batch1"] == 0.02
    assert found["pair_order_correct_within_5_percent"] == pytest.approx(2 / 3)
    assert found["pair_order_correct_within_5_percent_sure"] == 1.0


def test_plans_are_the_same_every_time_and_of_allowed_widths() -> None:
    rungs = {"a": (8, 16, 24), "b": (8, 32)}
    plans = random_plans(rungs, 12)
    assert plans == random_plans(rungs, 12)
    assert all(widths[name] in rungs[name] for widths in plans for name in rungs)
    assert len({tuple(widths.values()) for widths in plans}) > 3


def test_what_training_found_is_told_where_there_are_seeds_enough() -> None:
    figures = {"accuracy_margin_low_net_uniform": 3.0, "speedup_at_equal_accuracy_net": 5.0}
    held = {"seeds": [0, 1, 2, 3, 4], "figures": {**figures, "dense_accuracy": 1.0}}
    assert told_of(held) == figures
    assert told_of({**held, "seeds": [0, 1, 2, 3]}) == {}
