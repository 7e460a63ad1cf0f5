"""Each vision benchmark once from end to end, as small as it goes: whether its parts fit.

Deep: all but ResNet-20.
"""

import os
from pathlib import Path

import msgspec
import pytest

from benchmarks import mobilenetv2_cifar10, mobilenetv2_jobs, resnet20_jobs, unet_membrane
from benchmarks.resnet20_report import summary, text
from reprune.core.params import DistillParams, PruneParams

DATA = Path(os.environ.get("REPRUNE_DATA", "../shared/data"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DATA / "cifar10_jpeg.npz").exists(), reason="missing data: set REPRUNE_DATA"
    ),
]
TINY = {"tune": 64, "calibration": 64}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def test_resnet20_trains_every_arm_and_is_reported(tmp_path):
    config = resnet20_jobs.read_config()
    # The tests after this one train in float32, and a process keeps its first precision.
    for part in ("dense", "recipe"):
        config[part] = {**config[part], "precision": "no"}
    config = {
        **config,
        **TINY,
        "seeds": 1,
        "cut": {"criterion": "taylor", "examples": 64},
        "points": {
            "ours": {"p": [0, 16, 16, 16, 32, 32, 64, 64, 64]},
            "tp_uniform": {"r": 0.5},
            "tp_taylor": {"r": 0.5},
        },
        "first": ["p"],
    }
    jobs = resnet20_jobs.jobs_of(config, device="cpu", judge="tune", examples=256)
    rows = [resnet20_jobs.work(job.given, tmp_path) for job in jobs]
    widths = {row["arm"]: row["widths"] for row in rows}
    assert widths["ours"] == config["points"]["ours"]["p"]
    assert widths["tp_uniform"] == [8, 8, 8, 16, 16, 16, 32, 32, 32]
    assert (tmp_path / "ours-p-0.safetensors").is_file()
    found = summary(config, rows, tmp_path)
    assert len(found["rows"]) == 4
    assert "tp_taylor" in text({**found})


@pytest.mark.parametrize("name", ["mobilenetv2", "mobilenetv2_cpu"])
def test_a_configuration_says_what_training_knows(name):
    config = mobilenetv2_jobs.read_config(mobilenetv2_jobs.CONFIG.with_name(f"{name}.json"))
    recipes = [
        msgspec.convert(config[part], type=DistillParams, strict=True)
        for part in ("dense", "recipe")
    ]
    assert {recipe.precision for recipe in recipes} == {"no"}
    assert msgspec.convert(config["cut"], type=PruneParams).criterion == "taylor"


@pytest.mark.deep
def test_mobilenetv2_loses_macs_stage_by_stage_and_is_rebuilt(tmp_path):
    config = mobilenetv2_cifar10.quick(mobilenetv2_jobs.read_config())
    config = {
        **config,
        **TINY,
        "cut": {**config["cut"], "examples": 64},
        "width": 0.25,
        "fractions": [0.9, 0.8],
    }
    jobs = mobilenetv2_jobs.jobs_of(config, device="cpu", judge="tune", examples=128)
    rows = [mobilenetv2_jobs.work(job.given, tmp_path) for job in jobs]
    macs = {(row["arm"], row["stage"]): row["macs"] for row in rows}
    dense = macs["dense", 0]
    assert 0.8 * dense < macs["pruned", 1] <= 0.9 * dense
    assert 0.7 * dense < macs["pruned", 2] <= 0.8 * dense
    assert macs["control", 2] == dense
    again = mobilenetv2_jobs.rebuilt(config, "pruned", 2, 0, tmp_path)
    assert sum(tensor.numel() for tensor in again.parameters()) == rows[3]["params"]
    found = mobilenetv2_cifar10.summary(config, rows, {})
    assert [row["stage"] for row in found["rows"]] == [0, 1, 2]
    assert found["claims"][0]["verdict"] == "not enough seeds"


@pytest.mark.deep
def test_the_membrane_picture_is_drawn_and_all_arms_are_as_sparse_as_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(unet_membrane, "SENSITIVITY_TILES", 8)
    task = unet_membrane.smaller(unet_membrane.HalfSize(), 2)
    for split in ("train", "tune", "eval"):
        task.rows[split] = task.rows[split][:8]
    found = unet_membrane.run(task, (1, 1), tmp_path)
    for arm in unet_membrane.MODELS[1:]:
        sparsity = unet_membrane.sparsity_of(found[arm], found["plans"][arm])
        assert sparsity == pytest.approx(0.95, abs=1e-3)
    picture = tmp_path / "picture.png"
    unet_membrane.draw(found, picture, tiles=2)
    assert 1000 < picture.stat().st_size < 200_000
