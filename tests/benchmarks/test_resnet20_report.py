"""Rows, figures and claims of the ResNet-20 benchmark, from made-up trainings and timings."""

import argparse
import json

import pytest

from benchmarks.cifar_models import DENSE_WIDTHS
from benchmarks.jobs import read_job
from benchmarks.kept import write_kept
from benchmarks.resnet20_cifar10 import begin
from benchmarks.resnet20_cifar10 import trained as reported
from benchmarks.resnet20_jobs import jobs_of, read_config
from benchmarks.resnet20_report import DENSE, faster_at_equal_accuracy, summary, text
from benchmarks.timing import shapes_name, speedup

OURS, STOCK, SLOW = (0, *DENSE_WIDTHS[1:]), (8, *DENSE_WIDTHS[1:]), (12, *DENSE_WIDTHS[1:])
CONFIG = {
    "seeds": 5,
    "bars": ["1.6", "2.0"],
    "points": {"ours": {"p1": []}, "tp_uniform": {"fast": 0.5, "slow": 0.1}},
}


def trained(arm, point, widths, accuracies, macs=100):
    return [
        {
            "arm": arm,
            "point": point,
            "seed": seed,
            "widths": list(widths),
            "accuracy": accuracy,
            "tune_accuracy_before": 20.0,
            "tune_accuracy": accuracy - 1.0,
            "judged_examples": 10_000,
            "judged_on": "eval",
            "device": "cpu",
            "macs": macs,
            "params": 10,
            "examples": 5,
        }
        for seed, accuracy in enumerate(accuracies)
    ]


def rows(ours=(86.0, 86.2, 86.4, 86.1, 86.3), fast=(83.0, 83.1, 83.6, 83.0, 83.3)):
    return [
        *trained("dense", "dense", DENSE_WIDTHS, [87.0] * 5, macs=200),
        *trained("ours", "p1", OURS, ours),
        *trained("tp_uniform", "fast", STOCK, fast),
        *trained("tp_uniform", "slow", SLOW, [86.9] * 5),
    ]


def timed(folder, *, ours=1.7, fast=1.65, slow=1.2):
    for size in (1, 32):
        speeds = {OURS: ours, STOCK: fast, SLOW: slow}
        ms = [
            {DENSE: 1.0 * drift}
            | {shapes_name("resnet20", shape): drift / speed for shape, speed in speeds.items()}
            for drift in (1.0, 1.2, 0.9, 1.1, 1.0, 1.3, 0.8, 1.0, 1.1, 1.0)
        ]
        (folder / f"times-batch{size}.json").write_text(json.dumps({"batch_size": size, "ms": ms}))


def test_a_peer_is_taken_at_its_best_point_that_is_fast_enough(tmp_path):
    timed(tmp_path)
    found = summary(CONFIG, rows(), tmp_path)
    figures = found["figures"]
    assert figures["dense_accuracy"] == 87.0
    assert figures["accuracy"] == pytest.approx(86.2)
    assert figures["speedup_batch1"] == pytest.approx(1.7)
    assert figures["tp_uniform_accuracy"] == pytest.approx(83.2)
    assert figures["tp_uniform_speedup_batch32"] == pytest.approx(1.65)
    claims = {claim["claim"]: claim for claim in found["claims"]}
    assert claims["ours p1 above tp_uniform fast at 1.6x"]["verdict"] == "holds"
    assert 2.5 < figures["margin_low"] < 3.0
    row = next(row for row in found["rows"] if row["arm"] == "ours")
    assert row["macs_left"] == 0.5


def test_a_peer_that_never_gets_there_is_compared_at_its_fastest_and_a_missed_bar_is_said(tmp_path):
    timed(tmp_path)
    found = summary(CONFIG, rows(), tmp_path)
    assert found["figures"]["tp_uniform_accuracy_at_2x"] == pytest.approx(83.2)
    missed = "has no point at 2.0x: its fastest one is taken"
    assert f"tp_uniform {missed}, fast at 1.650x" in found["notes"]
    assert f"ours {missed}, p1 at 1.700x" in found["notes"]


def test_a_faster_and_better_peer_point_wins_over_ours(tmp_path):
    timed(tmp_path, slow=1.6)
    found = summary(CONFIG, rows(), tmp_path)
    assert found["figures"]["tp_uniform_accuracy"] == pytest.approx(86.9)
    assert found["figures"]["margin_low"] < 0
    assert found["claims"][0]["verdict"] == "not shown"


def test_our_point_is_chosen_on_the_held_out_part_and_not_on_the_test_set(tmp_path):
    timed(tmp_path, slow=1.8)
    lucky = trained("ours", "p2", SLOW, [90.0] * 5)
    for row in lucky:
        row["tune_accuracy"] = 10.0
    found = summary(CONFIG, [*rows(), *lucky], tmp_path)
    assert found["figures"]["accuracy"] == pytest.approx(86.2)


def test_few_seeds_make_no_claim(tmp_path):
    timed(tmp_path)
    few = [row for row in rows() if row["seed"] < 3]
    assert {c["verdict"] for c in summary(CONFIG, few, tmp_path)["claims"]} == {"not enough seeds"}


def test_without_timings_there_are_accuracies_and_no_claims(tmp_path):
    found = summary(CONFIG, rows(), tmp_path)
    assert found["claims"] == []
    assert "speedup_batch1" not in found["figures"]
    assert "86.2" in text(found)


def test_speed_is_paired_in_each_process():
    times = [{"a": 1.0 * drift, "b": 0.5 * drift} for drift in (1, 5, 3, 2, 9, 4, 7, 1, 1, 1)]
    found = speedup(times, "b", "a")
    assert found["median"] == found["low"] == found["high"] == pytest.approx(2.0)


def test_jobs_come_seed_by_seed_and_what_matters_most_first():
    config = read_config()
    jobs = jobs_of(config, device="cpu", judge="eval", examples=None)
    points = sum(len(found) for found in config["points"].values())
    assert len(jobs) == config["seeds"] * (1 + points)
    assert [job.given["seed"] for job in jobs] == sorted(job.given["seed"] for job in jobs)
    first = {f"ours-{point}-0" for point in config["first"]}
    assert {job.name for job in jobs[1 : 1 + len(first)]} == first
    assert all(job.needs == (f"dense-{job.given['seed']}",) for job in jobs if job.needs)


def test_the_pinned_configuration_fits_the_model_and_has_curves():
    config = read_config()
    assert all(len(points) >= 5 for points in config["points"].values())
    for widths in config["points"]["ours"].values():
        assert all(0 <= width <= full for width, full in zip(widths, DENSE_WIDTHS, strict=True))
    assert set(config["first"]) <= set(config["points"]["ours"])


def test_ours_is_a_point_that_all_seeds_have_and_a_peer_may_be_one_that_few_have(tmp_path):
    timed(tmp_path)
    few = [
        *rows(),
        *trained("ours", "p2", OURS, [99.0]),
        *trained("tp_uniform", "few", STOCK, [85.0]),
    ]
    found = summary(CONFIG, few, tmp_path)
    assert found["figures"]["accuracy"] == pytest.approx(86.2)
    assert found["figures"]["tp_uniform_accuracy"] == 85.0
    # One seed has no limit, and JSON has no infinity.
    assert "margin_low" not in found["figures"]
    json.dumps(found["figures"], allow_nan=False)


def equally_trained(*rows):
    return [{"seeds": 5, "devices": ["cpu"], **row} for row in rows]


@pytest.mark.parametrize(
    "less", [{"seeds": 3}, {"devices": ["cuda"]}, {"devices": ["cpu", "cuda"]}]
)
def test_without_seeds_and_one_device_for_all_there_is_no_speed_at_equal_accuracy(less):
    """Whether it is ours or a rival's, and however slow: a line without that point would be another one."""
    ours = {"arm": "ours", "accuracy": 86.0, "speedup_batch1": 1.95}
    rival = {"arm": "tp_uniform", "accuracy": 86.5, "speedup_batch1": 1.2}
    rows = equally_trained(ours, rival | less)
    assert faster_at_equal_accuracy(rows, rows[0]) is None
    rows = equally_trained(ours | less, rival)
    assert faster_at_equal_accuracy(rows, rows[0]) is None


def test_a_figure_that_few_seeds_or_two_devices_would_make_is_left_out_and_that_is_said(tmp_path):
    timed(tmp_path)
    assert "speedup_at_equal_accuracy" in summary(CONFIG, rows(), tmp_path)["figures"]
    mixed = rows()
    mixed[-1]["device"] = "cuda"
    found = summary(CONFIG, mixed, tmp_path)
    assert "speedup_at_equal_accuracy" not in found["figures"]
    assert any("no speed at equal accuracy at 1.6x" in note for note in found["notes"])


def test_speed_at_equal_accuracy_is_over_the_fastest_peer_between_its_points():
    """The peer passes 86 halfway from 1.2 to 1.4; a second peer is never as good."""
    rows = equally_trained(
        {"arm": "dense", "accuracy": 87.0},
        {"arm": "ours", "accuracy": 86.0, "speedup_batch1": 1.95},
        {"arm": "tp_uniform", "accuracy": 86.5, "speedup_batch1": 1.2},
        {"arm": "tp_uniform", "accuracy": 85.5, "speedup_batch1": 1.4},
        {"arm": "tp_global", "accuracy": 80.0, "speedup_batch1": 1.1},
    )
    assert faster_at_equal_accuracy(rows, rows[1]) == pytest.approx(1.5)
    assert faster_at_equal_accuracy(rows[:2], rows[1]) == pytest.approx(1.95)
    # As good as the dense model: no peer of that accuracy is faster than it.
    assert faster_at_equal_accuracy(rows, rows[1] | {"accuracy": 87.0}) == pytest.approx(1.95)


def begun(tmp_path, kept, **more):
    knobs = dict.fromkeys(("tune", "calibration", "dense", "recipe", "cut"), 1)
    config = {"seeds": 2, "points": {"ours": {"p1": []}}, "first": [], **knobs}
    made = {"config": config, "examples": None}
    (tmp_path / "kept.json").write_text(json.dumps({"trained": kept, "made_with": made}))
    options = argparse.Namespace(unpack=tmp_path / "kept.json")
    begin(config, tmp_path, options, **more)
    return sorted(path.stem for path in (tmp_path / "jobs").glob("*.json"))


def test_a_run_goes_on_from_the_rows_of_a_result(tmp_path):
    kept = [
        *trained("dense", "dense", DENSE_WIDTHS, [87.0] * 2),
        *trained("ours", "p1", OURS, [86.0]),
    ]
    assert begun(tmp_path, kept) == ["dense-0", "dense-1", "ours-p1-0"]
    assert read_job(tmp_path / "jobs", "ours-p1-0") == kept[2]
    given = json.loads((tmp_path / "jobs" / "ours-p1-0.json").read_text())["given"]
    assert (given["device"], given["judge"], given["point"]) == ("cpu", "eval", "p1")
    assert given["config"]["points"] == {"ours": {"p1": []}}


def test_a_result_that_does_not_say_what_its_rows_were_made_with_is_no_begin(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps({"trained": []}))
    with pytest.raises(SystemExit, match="does not say what its rows were made with"):
        begin({}, tmp_path, argparse.Namespace(unpack=tmp_path / "old.json"))


def test_what_was_trained_for_another_recipe_is_not_reported(tmp_path):
    """Wherever it was trained; one point more than the others had is no other recipe."""
    config = read_config()
    (job,) = (job for job in jobs_of(config, device="cuda", judge="eval", examples=None)
              if job.name == "dense-0")  # fmt: skip
    write_kept(tmp_path / "dense-0.json", job.given, {"accuracy": 87.0})
    more = {**config, "seeds": 9, "points": {"ours": {}}, "recipe": {"epochs": 9}}
    assert reported(more, tmp_path) == [{"accuracy": 87.0}]
    with pytest.raises(SystemExit, match=r"config\.dense\.epochs"):
        reported({**config, "dense": {**config["dense"], "epochs": 9}}, tmp_path)


def test_a_seed_that_lacks_a_row_begins_with_its_dense_model_because_a_result_holds_no_weights(
    tmp_path,
):
    kept = [
        *trained("dense", "dense", DENSE_WIDTHS, [87.0] * 2),
        *trained("ours", "p1", OURS, [86.0]),
    ]
    assert begun(tmp_path, kept, for_training=True) == ["dense-0", "ours-p1-0"]


def test_what_is_there_already_is_not_replaced(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "ours-p1-0.json").write_text("{}")
    begun(tmp_path, trained("ours", "p1", OURS, [86.0]))
    assert (tmp_path / "jobs" / "ours-p1-0.json").read_text() == "{}"
