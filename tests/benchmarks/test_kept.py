"""What a benchmark keeps is taken up for the knobs it was made with, and quick runs keep to themselves."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import common, generations, latency_plans, plan_arms, plan_curves, sensitivity_cost
from benchmarks import mobilenetv2_cifar10 as mobilenetv2
from benchmarks import resnet20_cifar10 as resnet20
from benchmarks.kept import read_kept, write_kept
from benchmarks.latency.models import MODELS
from benchmarks.plan_arms import CONFIGS, Seed, lay_images, read_config
from benchmarks.weekly.retrained import MNIST


def test_a_kept_file_says_nothing_of_its_knobs_and_is_refused_for_others(tmp_path):
    path = tmp_path / "deep" / "a.json"
    assert read_kept(path, {"n": 1}) is None
    write_kept(path, {"n": 1, "pair": (1, 2)}, {"value": 3})
    assert read_kept(path, {"n": 1, "pair": [1, 2]}) == {"value": 3}
    for other in ({"n": 2, "pair": [1, 2]}, {"n": 1}, {"n": 1, "pair": [1, 2], "m": 0}):
        with pytest.raises(SystemExit, match="was made with other knobs"):
            read_kept(path, other)
    path.write_text('{"value": 3}')
    with pytest.raises(SystemExit, match="an older version"):
        read_kept(path, {"n": 1})


def test_a_quick_run_has_a_folder_of_its_own(tmp_path):
    with common.kept_in(tmp_path, quick=True) as folder:
        assert folder == tmp_path / "quick"
    with common.kept_in(tmp_path, quick=False) as folder:
        assert folder == tmp_path
    with common.kept_in(None, quick=True) as folder:
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize("module", [resnet20, mobilenetv2, plan_curves])
def test_quick_runs_of_trainings_keep_to_themselves(module, tmp_path, monkeypatch):
    seen = []

    def part(config, folder, options):
        seen.append((folder, config["seeds"]))
        return 0

    monkeypatch.setattr(module, "_PARTS", dict.fromkeys(module._PARTS, part))
    for more in ([], ["--quick"]):
        monkeypatch.setattr(sys, "argv", ["x", "--out", str(tmp_path), *more, "--part", "train"])
        assert module.main() == 0
    assert seen == [(tmp_path, 5), (tmp_path / "quick", 1)]


def quick_folder(module, name, monkeypatch, *words):
    """Where the function `name` of the benchmark is told to keep what a quick run makes."""
    seen = []

    def told(*given, **more):
        seen.extend(one for one in given if isinstance(one, Path))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, told)
    monkeypatch.setattr(sys, "argv", ["x", "--quick", *words])
    with pytest.raises(KeyboardInterrupt):
        module.main()
    return seen


def test_other_quick_runs_keep_to_themselves_too(tmp_path, monkeypatch):
    quick = [tmp_path / "quick"]
    work = ("--work", str(tmp_path))
    assert quick_folder(generations, "kept_rows", monkeypatch, *work) == quick
    assert quick_folder(sensitivity_cost, "table_row", monkeypatch, *work) == quick
    assert quick_folder(latency_plans, "_cases", monkeypatch, "--out", str(tmp_path)) == quick


def test_a_row_of_latency_plans_is_of_its_counts(tmp_path):
    case = latency_plans.Case(
        model=MODELS["chain"], precision="fp32", batch=1, builds=6, plans=6, rounds=7, folder=tmp_path
    )  # fmt: skip
    write_kept(tmp_path / "row.json", case.given, {"model": "chain"})
    assert latency_plans.measured(case) == {"model": "chain"}
    with pytest.raises(SystemExit, match="plans is 6 there, 30 is asked"):
        latency_plans.measured(replace(case, plans=30))


def test_rows_of_sensitivity_cost_are_of_their_reference_and_device(tmp_path):
    given = argparse.Namespace(reference=None, quick=False, device="cpu")
    row = {"model": "resnet20", "seed": 0, "cost_ratio": 0.1, "tau": 0.8, "ceiling": 0.9}
    path = tmp_path / "tables-resnet20-0.json"
    write_kept(path, sensitivity_cost.made_with("resnet20", 0, given), row)
    assert sensitivity_cost.table_row("resnet20", 0, given, tmp_path) == row
    (joined,) = sensitivity_cost.joined(tmp_path, ["resnet20"], given)["rows"]
    assert joined == row | {"regret": None}
    given.device = "cuda"
    with pytest.raises(SystemExit, match="device"):
        sensitivity_cost.table_row("resnet20", 0, given, tmp_path)
    assert sensitivity_cost.joined(tmp_path, ["resnet20"], given)["rows"] == [joined]
    given.reference = 500
    with pytest.raises(SystemExit, match="reference is 10000 there, 500 is asked"):
        sensitivity_cost.joined(tmp_path, ["resnet20"], given)


def test_weeks_are_of_their_knobs(tmp_path):
    write_kept(
        tmp_path / "mnist-30.json", generations.made_with(MNIST, 30), {"rows": [{"week": 1}]}
    )
    assert generations.kept_rows(MNIST, 30, tmp_path) == [{"week": 1}]
    with pytest.raises(SystemExit, match="growth is 100 there, 7 is asked"):
        generations.kept_rows(replace(MNIST, growth=7), 30, tmp_path)


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(plan_arms, "arrays", lambda sizes: {"train_y": torch.zeros(2).numpy()})


def test_plans_are_of_their_images_and_knobs(tmp_path, few_images):
    config = read_config(CONFIGS / "plan_curves_mobilenetv2.json")
    lay_images(tmp_path, config)
    lay_images(tmp_path, {**config, "seeds": 1, "recipe": {}, "points": {}})
    with pytest.raises(SystemExit, match=r"sensitivity\.examples is 500 there, 9 is asked"):
        lay_images(tmp_path, {**config, "sensitivity": {"examples": 9}})
    (tmp_path / "planned.json").unlink()
    with pytest.raises(SystemExit, match=r"no planned\.json"):
        lay_images(tmp_path, config)


def test_plans_are_of_their_dense_model(tmp_path, few_images):
    config = read_config(CONFIGS / "plan_curves_mobilenetv2.json")
    place = Seed(config=config, folder=tmp_path, seed=0)
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        weights = place.model.task().model().state_dict()
        save_file(weights, tmp_path / f"{name}.safetensors")
    place.begin(tmp_path / "a.safetensors")
    place.begin(tmp_path / "a.safetensors")
    with pytest.raises(SystemExit, match="was planned from another dense model"):
        place.begin(tmp_path / "b.safetensors")


def test_a_training_reads_no_other_point_than_its_own():
    """One point or seed more makes no job another one; what its plans depend on does."""
    config = read_config(CONFIGS / "plan_curves_resnet20.json")
    jobs = {job.name: job for job in plan_curves.jobs_of(config, judge="eval")}
    more = {**config, "seeds": 9, "points": {"latency": [0.86, 0.5]}, "build": {"trials": 99}}
    others = {job.name: job for job in plan_curves.jobs_of(more, judge="eval")}
    assert others["latency-0.86-0"] == jobs["latency-0.86-0"]
    more["tables"] = {"builds": 1}
    assert plan_curves.jobs_of(more, judge="eval")[1].given != jobs["latency-0.86-0"].given


def test_a_stage_reads_the_stages_before_it_and_the_dense_model_none():
    config = mobilenetv2.read_config()
    shared = {"device": "cpu", "judge": "eval", "examples": None}
    jobs = {job.name: job.given for job in mobilenetv2.jobs_of(config, **shared)}
    later = {**config, "fractions": [*config["fractions"][:2], 0.1], "recipe": config["recipe"]}
    others = {job.name: job.given for job in mobilenetv2.jobs_of(later, **shared)}
    same = {name for name in others if others[name] == jobs[name]}
    assert {name for name in others if name not in same} == {
        f"{arm}-3-{seed}" for arm in ("pruned", "control") for seed in range(5)
    }
    tuned = {job.name: job.given for job in mobilenetv2.jobs_of({**config, "recipe": {}}, **shared)}
    assert tuned["dense-0"] == jobs["dense-0"]
    assert tuned["control-1-0"] != jobs["control-1-0"]
