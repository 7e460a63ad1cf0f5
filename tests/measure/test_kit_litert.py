"""The kit's runner on LiteRT engines: it computes and refuses what our own session does."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from reprune.core.params import Target
from reprune.judge.evidence import CONTROL
from reprune.measure import kit_runner
from reprune.measure.device_results import (
    read_arrays,
    read_result,
    read_result_starts,
    read_result_units,
)
from reprune.runtimes.litert import LiteRt
from reprune.steps.kit_out import RUNNERS
from reprune.steps.kits import import_result
from tests import tflite_files as made
from tests.litert_environment import converter_python
from tests.measure.test_devices import ARMS, batches, make_job
from tests.measure.test_measuring_steps import put_cut, put_data, put_dense, put_previous
from tests.runtimes.test_litert import TARGET, reshaping
from tests.steps.test_remote import Away, run_kit


def adding(width: int, path: Path) -> Path:
    """Two examples at once, each plus 1, 2, ..."""
    content = made.tflite(
        [
            made.Tensor("x", (2, width)),
            made.Tensor("c", (width,), values=np.arange(1, width + 1)),
            made.Tensor("y", (2, width)),
        ],
        [made.operator("ADD", [0, 1], [2], options=schema.AddOptionsT())],
        inputs=[0],
        outputs=[2],
    )
    path.write_bytes(content)
    return path


@pytest.mark.slow
def test_a_kit_of_litert_engines_comes_back(tmp_path: Path) -> None:
    """As on a device: outputs bit for bit ours, whatever the batch size; and units, and starts."""
    engines = (adding(64, tmp_path / "a.tflite"), adding(64, tmp_path / "b.tflite"))
    job = make_job(tmp_path / "job", engines, runtime="litert")
    (tmp_path / "job" / "runner.py").write_bytes(Path(kit_runner.__file__).read_bytes())
    done = run_kit(tmp_path / "job", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "out", job, now=time.time())
    assert result.runtime_version == LiteRt().version()
    for arm, path in zip(ARMS, engines, strict=True):
        session = LiteRt().open(path, TARGET)
        for file, (inputs,) in zip(result.outputs["eval"][arm], batches(), strict=True):
            (found,) = read_arrays(tmp_path / "out" / file)
            (ours,) = session.run([inputs])
            assert found.shape == inputs.shape
            assert np.array_equal(found, ours)
    units = read_result_units(tmp_path / "out", result.units[0])
    assert [set(unit.arms) for unit in units] == [{*ARMS, CONTROL}] * 3
    assert set(read_result_starts(tmp_path / "out", result)) == set(ARMS)


@pytest.mark.parametrize(
    ("kind", "scale", "zero", "values"),
    [
        ("FLOAT32", 0.0, 0, [0.5, -1.5, 3e38, -0.0]),
        ("INT8", 0.5, -3, [0.0, 0.26, -1.1, 1000.0]),
        ("INT32", 0.0, 0, [1, -2, 3, 2**31 - 1]),
    ],
)
def test_numbers_are_stored_and_read_as_we_do(
    tmp_path: Path, kind: str, scale: float, zero: int, values: list[float]
) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(reshaping(kind, scale, zero))
    x = np.array([values, values[::-1]], np.int64 if kind == "INT32" else np.float32)
    (ours,) = LiteRt().open(path, TARGET).run([x])
    (found,) = kit_runner.LiteRtSession(str(path), 1).run([x])
    assert found.dtype == ours.dtype
    assert np.array_equal(found, ours)


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """They would come back as others, and nobody would know."""
    path = tmp_path / "net.tflite"
    path.write_bytes(reshaping("INT32"))
    with pytest.raises(kit_runner.Refused, match="holds numbers up to 2147483647"):
        kit_runner.LiteRtSession(str(path), 1).run([np.array([[1, 2, 3, 2**31]], np.int64)])


@pytest.mark.parametrize("runtime", RUNNERS)
def test_a_device_without_the_runtime_is_told_its_package(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kit_runner.PACKAGES[runtime] == RUNNERS[runtime].split()[-1]
    for module in ("onnxruntime", "ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(kit_runner.Refused, match=f"pip install {kit_runner.PACKAGES[runtime]}"):
        kit_runner.runtime_of({"runtime": runtime, "threads": 1})


@pytest.mark.deep
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_from_a_model_to_a_benchmark(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Converted here, carried out, measured by the runner alone, taken back and judged by a benchmark."""
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    away = Away(tmp_path / "world")
    phone = Target(runtime="litert", precision=precision, kit=True, python=converter_python())
    away.params = msgspec.structs.replace(away.params, targets={"phone": phone})
    away.policy = msgspec.structs.replace(away.policy, targets={"phone": "required"})
    dense = put_dense(away.world, "dense")
    put_cut(away.world, "candidate", dense)
    put_previous(away.world, "none")
    put_data(away.world, "data", dense)
    away.build()
    away.kit(tmp_path / "kits")
    done = run_kit(tmp_path / "kits" / "phone", tmp_path / "back")
    assert done.returncode == 0, done.stderr
    import_result(away.world.root, tmp_path / "back", kit=None, now=time.time())
    (samples,) = away.benchmark().manifest.targets
    assert samples.units == away.policy.looks[-1]
    assert samples.machine
    assert samples.machine.instance != away.benchmark("again").manifest.machine.instance
