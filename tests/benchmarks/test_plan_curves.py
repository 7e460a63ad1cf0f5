"""What the benchmark of curves makes of trainings and timings, on made-up ones."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.plan_arms import (
    CONFIGS,
    MODELS,
    STEPS,
    allocator_of,
    name_of,
    points,
    precision_of,
    read_config,
)
from benchmarks.plan_curves import in_precision
from benchmarks.plan_report import summary, whole_seeds
from benchmarks.speed_curves import above, gap, within
from reprune.compress.planning.allocate import ladder
from reprune.compress.planning.costs import cost_model
from reprune.compress.structure.groups import find_groups
from reprune.core.params import PlanParams
from reprune.measure.profile import count_cost

CONFIG: dict[str, Any] = {
    "model": "mobilenetv2",
    "seeds": 5,
    "points": {"latency": [0.8, 0.5], "uniform": [0.7, 0.4], "tp_global": [0.3]},
}
# Speeds of the points; the accuracy of ours falls by 4 points for each doubling that it is faster by.
LEFT = {"latency": (0.8, 0.5), "uniform": (0.8, 0.4), "tp_global": (0.625,)}


def rows(*, ahead: float) -> list[dict[str, Any]]:
    """Five seeds: at every speed each rival is `ahead` points below the line of ours, a little by seed."""
    found = []
    for seed in range(CONFIG["seeds"]):
        dense = {"arm": "dense", "share": 1.0, "seed": seed, "accuracy": 70.0, "macs": 100}
        found.append(dense)
        for arm, share in points(CONFIG):
            left = LEFT[arm][CONFIG["points"][arm].index(share)]
            line = 70.0 - 4.0 * (1.0 / left - 1.0)
            behind = 0.0 if arm == "latency" else ahead + 0.01 * seed
            found.append(
                {
                    "arm": arm, "share": share, "seed": seed, "accuracy": line - behind,
                    "macs": 50, "params": 10, "planned_latency": None,
                }
            )  # fmt: skip
    return found


def times() -> list[dict[str, float]]:
    """Two processes, one of them slower for all alike."""
    left = {
        name_of(arm, share, seed): LEFT[arm][CONFIG["points"][arm].index(share)]
        for seed in range(CONFIG["seeds"])
        for arm, share in points(CONFIG)
    }
    return [{name: slow * ms for name, ms in {"dense": 1.0, **left}.items()} for slow in (1.0, 1.5)]


def test_a_rival_is_compared_at_its_own_speed() -> None:
    found = summary(CONFIG, rows(ahead=1.0), times())
    figures = found["figures"]
    assert figures["accuracy_margin_mobilenetv2_uniform"] == pytest.approx(1.02)
    assert figures["accuracy_margin_mobilenetv2_tp_global"] == pytest.approx(1.02)
    assert 0.9 < figures["accuracy_margin_low_mobilenetv2_uniform"] < 1.02
    assert {claim["verdict"] for claim in found["claims"]} == {"holds"}
    assert [row["latency_left"] for row in found["rows"]] == [0.8, 0.5, 0.8, 0.4, 0.625]
    assert all(row["macs_left"] == 0.5 for row in found["rows"])
    # Two points lost: ours is 1.5 times as fast then, uniform about 1.25 times; tp_global, whose point is
    # 1.6 times as fast and 3.4 points below the dense model, 1 + 0.6 * 2 / 3.4 times.
    assert figures["speed_2_points_below_dense_latency"] == pytest.approx(1.5)
    assert figures["speedup_at_equal_accuracy_mobilenetv2"] == pytest.approx(1.5 / 1.35, rel=0.01)


def test_a_better_rival_is_told_too() -> None:
    found = summary(CONFIG, rows(ahead=-1.0), times())
    assert found["figures"]["accuracy_margin_mobilenetv2_uniform"] == pytest.approx(-0.98)
    assert {claim["verdict"] for claim in found["claims"]} == {"not shown"}
    assert found["figures"]["speedup_at_equal_accuracy_mobilenetv2"] < 1.0


def test_in_int8_plans_by_its_own_tables_stand_against_all_others() -> None:
    """Each seed's engines are held against that seed's own dense engine, of the same precision."""
    arms = {"latency_int8": [0.8, 0.5], "latency": [0.7], "uniform": [0.4]}
    config = {**CONFIG, "points": arms}
    left = {"latency_int8": (0.8, 0.5), "latency": (0.75,), "uniform": (0.625,)}
    found, engines, ms = [], [], {}
    for seed in range(5):
        # The dense engine of each seed has other layers in float.
        dense_ms = 1.0 + seed
        for arm, share in [("dense", 1.0), *points(config)]:
            of_dense = 1.0 if arm == "dense" else left[arm][arms[arm].index(share)]
            ms["dense-" + str(seed) if arm == "dense" else name_of(arm, share, seed)] = (
                of_dense * dense_ms
            )
            behind = {"latency": 0.5, "uniform": 2.0}.get(arm, 0.0)
            row = {"arm": arm, "share": share, "seed": seed}
            accuracy = 70.0 - 4.0 * (1.0 / of_dense - 1.0) - behind
            found.append(
                row | {"accuracy": 10.0, "macs": 50, "params": 10, "planned_latency": None}
            )
            engines.append(row | {"accuracy": accuracy, "float_layers": ["fc"]})
    rows = in_precision(found, engines[:-1])
    assert whole_seeds(config, rows) == [0, 1, 2, 3]
    seen = summary(config, in_precision(found, engines), [ms], "int8")
    figures = seen["figures"]
    assert figures["dense_accuracy_int8"] == 70.0
    assert figures["accuracy_margin_mobilenetv2_int8_latency_fp32"] == pytest.approx(0.5)
    assert figures["accuracy_margin_low_mobilenetv2_int8_uniform_fp32"] == pytest.approx(2.0)
    assert {row["precision"] for row in seen["rows"]} == {"int8"}
    assert seen["rows"][0]["latencies_left"] == pytest.approx([0.8] * 5)
    assert seen["rows"][0]["float_layers"] == [1] * 5
    assert all(claim["claim"].endswith(", int8") for claim in seen["claims"])
    assert figures["points_within_our_range_mobilenetv2_int8_uniform_fp32"] == 1.0
    # At equal accuracy the plans by tables of fp32 are a rival too, as they are in the claims.
    at = "speed_int8_2_points_below_dense"
    assert figures[f"{at}_latency"] > figures[f"{at}_uniform"]
    ratio = figures[f"{at}_latency_int8"] / figures[f"{at}_latency"]
    assert figures["speedup_at_equal_accuracy_mobilenetv2_int8"] == pytest.approx(ratio)


def test_in_fp32_plans_by_other_tables_are_not_compared() -> None:
    config = {**CONFIG, "points": {**CONFIG["points"], "latency_int8": [0.8]}}
    more = [{**rows(ahead=1.0)[1], "arm": "latency_int8", "seed": seed} for seed in range(5)]
    found = summary(config, [*rows(ahead=1.0), *more], times())
    assert found["figures"] == summary(CONFIG, rows(ahead=1.0), times())["figures"]
    assert "latency_int8" not in {row["arm"] for row in found["rows"]}


def test_it_is_told_how_many_points_of_a_rival_our_own_plans_reach() -> None:
    """Uniform's are as slow as our slowest plan and faster than our fastest; tp_global's is between ours."""
    found = summary(CONFIG, rows(ahead=1.0), times())
    assert found["figures"]["points_within_our_range_mobilenetv2_uniform"] == 1.0
    assert found["figures"]["points_within_our_range_mobilenetv2_tp_global"] == 1.0
    for claim in found["claims"]:
        assert (
            "at equal measured speed (the dense model counted as our slowest point)"
            in claim["claim"]
        )
    ours = [(1.0, 70.0), (1.5, 69.0), (2.0, 66.0)]
    assert within(ours, [(1.0, 70.0), (1.2, 69.0), (1.5, 68.0), (1.7, 67.0), (2.5, 60.0)]) == 2


def test_points_beyond_the_reach_of_ours_are_not_compared() -> None:
    ours = [(1.0, 70.0), (2.0, 66.0)]
    assert above(ours, (1.5, 67.0)) == pytest.approx(1.0)
    assert above(ours, (2.0, 66.0)) == pytest.approx(0.0)
    assert above(ours, (2.1, 60.0)) is None
    # Slower than the dense model: that one stands against it.
    assert above(ours, (0.9, 69.0)) == pytest.approx(1.0)
    assert gap(ours, [(1.0, 70.0), (1.5, 67.0), (3.0, 0.0)]) == pytest.approx(1.0)


def test_a_seed_without_all_its_points_does_not_count() -> None:
    done = rows(ahead=1.0)[:-1]
    assert whole_seeds(CONFIG, done) == [0, 1, 2, 3]
    assert {claim["verdict"] for claim in summary(CONFIG, done, times())["claims"]} == {
        "not enough seeds"
    }
    with pytest.raises(SystemExit, match="go on with --part train"):
        whole_seeds(CONFIG, done[:3])


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_share_of_a_config_can_be_reached(model: str) -> None:
    """By widths alone: plans that remove no blocks would be refused, after hours."""
    config = read_config(CONFIGS / f"plan_curves_{model}.json")
    task = MODELS[model].task()
    module = task.model().eval()
    shares = config["points"]
    groups = find_groups(module, task.example_inputs(2), ())
    cost = cost_model(module, groups, count_cost(module, task.example_inputs(1)))
    for arm, own in shares.items():
        rounded = STEPS[precision_of(arm)]
        least = {
            group.name: ladder(group.width, round_to=rounded, min_keep=PlanParams().min_keep)[0]
            for group in groups
        }
        narrowest = cost(least).macs / cost({}).macs
        if allocator_of(arm) in ("uniform", "global"):
            assert min(own) > narrowest
        elif allocator_of(arm) == "sensitivity":
            assert config["depth"] or min(own) > narrowest
