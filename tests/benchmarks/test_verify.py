"""What `--verify` compares: something made anew with something committed, and it can come out either way."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from benchmarks import (
    allocators,
    gate_cost,
    latency_plans,
    perception,
    pipeline_overhead,
    training_step,
    trust,
)
from benchmarks import resnet20_cifar10 as resnet20
from benchmarks.common import committed
from benchmarks.jobs import Outcome, is_done
from benchmarks.kept import write_kept
from benchmarks.rates import builds


def arguments(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["x", "--verify", *words])


@pytest.mark.parametrize(("off", "code"), [(0.3, 0), (1.5, 1)])
def test_resnet20_takes_up_nothing_that_a_run_has_left(off, code, tmp_path, monkeypatch):
    """A finished run lies in --out, with the row that is committed; what is trained now counts."""
    config = resnet20.read_config()
    point = config["first"][0]
    before = next(
        row for row in committed("resnet20_cifar10")["rows"]
        if (row["arm"], row["point"]) == ("ours", point)
    )["accuracies"][0]  # fmt: skip
    for job in resnet20.jobs_of(config, device="cpu", judge="eval", examples=None):
        write_kept(tmp_path / "jobs" / f"{job.name}.json", job.given, {"accuracy": before})

    def trained(jobs, work, folder, **more):
        for job in jobs:
            if not is_done(folder, job.name):
                write_kept(folder / f"{job.name}.json", job.given, {"accuracy": before - off})
        return Outcome()

    monkeypatch.setattr("benchmarks.cifar.load", lambda: None)
    monkeypatch.setattr(resnet20, "run_jobs", trained)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    arguments(monkeypatch, "--out", str(tmp_path))
    assert resnet20.main() == code


def test_latency_plans_takes_up_nothing_that_a_run_has_left(tmp_path, monkeypatch):
    folders = []

    def measured(case):
        folders.append(case.folder)
        return committed("latency_plans")["rows"][0]

    monkeypatch.setattr(latency_plans, "measured", measured)
    arguments(monkeypatch, "--out", str(tmp_path))
    assert latency_plans.main() == 0
    assert not folders[0].is_relative_to(tmp_path)


def test_latency_plans_looks_at_both_errors():
    kept = committed("latency_plans")["rows"][0]
    better = {"median_error": 0.0, "worst_error": 0.0}
    assert latency_plans.as_good(better, kept)
    for name, most in latency_plans.VERIFY_ABOVE.items():
        assert latency_plans.as_good(kept | {name: kept[name] + 0.9 * most}, kept)
        assert not latency_plans.as_good(kept | {name: kept[name] + 1.1 * most}, kept)
    assert not latency_plans.as_good(kept | {"median_error": 3 * kept["median_error"]}, kept)


@pytest.mark.parametrize(("wrong", "code"), [(0, 0), (1, 1)])
def test_trust_compares_the_pack_with_what_is_committed(wrong, code, monkeypatch, tmp_path):
    figures = committed("trust")["figures"]
    pack = {name: value for name, value in figures.items() if name.startswith(("must_", "tuf_"))}
    pack["must_refuse_wrong"] = wrong
    monkeypatch.setitem(trust.PARTS, "pack", lambda folder, quick: pack)
    held = tmp_path / "held.json"
    held.write_text(json.dumps({"figures": {"fields": 1}, "rows": []}))
    before = held.read_text()
    arguments(monkeypatch, "--json", str(held))
    assert trust.main() == code
    assert held.read_text() == before


def test_trust_adds_up_only_what_was_run():
    assert trust._summed({"must_refuse": 3}) == {}
    found = {f"swaps_files{what}": 2 for what in ("", "_refused", "_promoted")}
    assert trust._summed(found) == {"swaps": 2, "swaps_refused": 2, "swaps_promoted": 2}


def test_perception_looks_at_the_sign_and_the_time():
    wanted = committed("perception")["rows"][0]
    assert perception.as_committed(wanted, wanted)
    equal, shared = wanted["equal"], wanted["shared"]
    assert not perception.as_committed(wanted | {"equal": shared, "shared": equal}, wanted)
    slow = {**shared, "time": 1.06 * perception.FRACTION}
    assert not perception.as_committed(wanted | {"shared": slow}, wanted)


def test_allocators_plan_uniformly_again(monkeypatch):
    wanted = next(r for r in committed("allocators")["rows"] if r["allocator"] == "uniform")
    for rise, widths, code in ((1.005, None, 0), (1.02, None, 1), (1.0, [4], 1)):
        now = wanted | {"rise_unseen": rise * wanted["rise_unseen"]}
        now |= {"widths": widths or wanted["widths"]}
        monkeypatch.setattr(allocators, "run", lambda *given, now=now: {"rows": [now]})
        arguments(monkeypatch)
        assert allocators.main() == code


def test_the_gate_may_cost_twice_as_much_elsewhere(monkeypatch):
    before = committed("gate_cost")["figures"]["cpu_s"]
    for times, code in ((1.9, 0), (2.1, 1)):
        row = {"sources": True, "part": "assemble and judge", "cpu_s": times * before}
        monkeypatch.setattr(gate_cost, "_measured", lambda *given, row=row, **more: [row])
        arguments(monkeypatch)
        assert gate_cost.main() == code


def test_a_pipeline_may_add_a_second_more(monkeypatch):
    before = committed("pipeline_overhead")["figures"]["added_max_s"]
    monkeypatch.setattr(pipeline_overhead, "_repository", lambda folder: None)
    for more, code in ((0.9, 0), (1.1, 1)):
        steps = ("fetch", *pipeline_overhead.TASKS)
        taken = {f"task:{name}": before + more for name in steps}
        taken |= {f"direct:{name}": 0.0 for name in steps} | {"choose": 0.1}
        monkeypatch.setattr(pipeline_overhead, "_round", lambda *given, taken=taken: taken)
        arguments(monkeypatch)
        assert pipeline_overhead.main() == code


def test_a_cell_of_builds_is_simulated_again(monkeypatch):
    arguments(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        builds.main()
    assert ended.value.code == 0
    rows = [row | {"passed_limits": [0.5, 1.0]} for row in committed("error_rates_builds")["rows"]]
    monkeypatch.setattr(builds.common, "committed", lambda name: {"rows": rows})
    with pytest.raises(SystemExit) as ended:
        builds.main()
    assert ended.value.code == 1
    assert builds.meet([0.0, 0.1], [0.1, 0.2])
    assert not builds.meet([0.0, 0.1], [0.11, 0.2])


def test_the_membranes_of_an_earlier_run_are_not_taken_up(tmp_path, monkeypatch):
    from benchmarks import unet_membrane

    seen: list[Path] = []

    def run(task, epochs, work):
        seen.append(work)
        raise KeyboardInterrupt

    monkeypatch.setattr(unet_membrane, "smaller", lambda task, images: task)
    monkeypatch.setattr(unet_membrane, "HalfSize", argparse.Namespace)
    monkeypatch.setattr(unet_membrane, "run", run)
    arguments(monkeypatch, "--work", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        unet_membrane.main()
    assert seen[0] != tmp_path


def test_perception_tells_how_far_the_times_of_both_splits_are_apart():
    rows = [
        row | {"shared_over_equal_time": row["shared"]["time"] / row["equal"]["time"]}
        for row in committed("perception")["rows"]
    ]
    figures = perception._result(rows)["figures"]
    assert figures["shared_over_equal_time_most"] == pytest.approx(1.033, abs=1e-3)
    assert figures["shared_over_equal_time_least"] == pytest.approx(1.001, abs=1e-3)


def test_a_result_says_whether_its_seeds_are_models_or_draws():
    from benchmarks import one_shot, one_shot_masks

    row = {"cut": "three blocks", "seed": 0, **dict.fromkeys(one_shot.ARMS, 1.0)}
    assert one_shot.concluded([row])["claims_over"] == "calibration draws of one dense model"
    over = one_shot_masks.concluded([])["claims_over"]
    assert over == {"resnet20": "calibration draws of one dense model", "minilm": "dense models"}


@pytest.mark.parametrize(
    ("ratio", "same", "code"), [(1.0, True, 0), (1.2, True, 1), (0.8, False, 1)]
)
def test_training_step_asks_for_no_slower_step_and_the_same_weights(ratio, same, code, monkeypatch):
    row = committed("training_step")["rows"][0] | {"time_ratio_kept": ratio, "same_weights": same}
    monkeypatch.setattr(training_step, "measured", lambda name, count: row)
    arguments(monkeypatch)
    assert training_step.main() == code
