"""OpenVINO engines: what does not load says so, threads and precision are as asked, times have names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reprune.core.errors import BuildError
from reprune.core.params import Precision, Target
from reprune.runtimes.base import Source
from reprune.runtimes.openvino import OpenVino, OpenVinoSession

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)


class Net(nn.Module):
    """Two convolutions and a linear layer, none of them called as OpenVINO would call it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(nn.Conv2d(3, 13, 3, padding=1), nn.BatchNorm2d(13), nn.ReLU())
        self.body = nn.Conv2d(13, 27, 3, padding=1)
        self.head = nn.Linear(27, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.body(self.stem(image))).mean(dim=(2, 3)))
        return logits


def target(precision: Precision = "fp32", threads: int = 1) -> Target:
    return Target(runtime="openvino", precision=precision, threads=threads)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("openvino"), {}
    for precision in ("fp32", "int8"):
        source = Source(
            module=Net().eval(),
            example_inputs=(torch.randn(2, 3, 8, 8),),
            input_names=["image"],
            calibration=[(torch.from_numpy(IMAGES),)],
        )
        found[precision] = folder / f"{precision}.onnx"
        OpenVino().build(source, target(precision), found[precision])
    return found


def compiled(session: OpenVinoSession) -> Any:
    session.run([IMAGES])
    return session._request.get_compiled_model()  # what it really runs with


@pytest.mark.parametrize("content", ["empty", "junk", "half", "cut", "absent"])
def test_a_file_that_does_not_load_is_a_build_error(
    engines: dict[str, Path], tmp_path: Path, content: str
) -> None:
    """The file is named and what to do is said; nothing of OpenVINO's own gets out."""
    whole, path = engines["fp32"].read_bytes(), tmp_path / "bad.onnx"
    stored = {
        "empty": b"",
        "junk": b"no model",
        "half": whole[: len(whole) // 2],
        "cut": whole[:-1],
    }
    if content in stored:
        path.write_bytes(stored[content])
    with pytest.raises(BuildError) as caught:
        OpenVino().open(path, target())
    assert caught.value.where == str(path)
    assert caught.value.fix


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_of_the_target(engines: dict[str, Path], threads: int) -> None:
    """Read back from what was compiled, in every shape that it is compiled for; no core is kept."""
    session = OpenVino().open(engines["fp32"], target(threads=threads))
    for images in (IMAGES, IMAGES[:1]):
        session.run([images])
        model = session._request.get_compiled_model()
        assert model.get_property("INFERENCE_NUM_THREADS") == threads
        assert model.get_property("NUM_STREAMS") == 1
        assert model.get_property("ENABLE_CPU_PINNING") is False


def test_fp32_is_computed_in_f32_on_every_cpu(engines: dict[str, Path]) -> None:
    """Left alone OpenVINO takes bf16 where the CPU has it, which is a hundred times farther off."""
    session = OpenVino().open(engines["fp32"], target())
    hint = compiled(session).get_property("INFERENCE_PRECISION_HINT")
    assert hint.to_string() == "f32"
    with torch.no_grad():
        wanted = Net().eval()(torch.from_numpy(IMAGES)).numpy()
    (found,) = session.run([IMAGES])
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_another_precision_than_asked_for_is_refused(
    engines: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each of its hints that this CPU lacks, what OpenVINO would take without a word is told."""
    import openvino

    from reprune.runtimes.openvino import HINTS

    offered = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    lacking = [hint for hint, name in (("bf16", "BF16"), ("f16", "FP16")) if name not in offered]
    for hint in lacking:
        monkeypatch.setattr("reprune.runtimes.openvino.HINTS", {**HINTS, "fp32": hint})
        with pytest.raises(BuildError, match=f"would compute in b?f(32|16), not in {hint}"):
            OpenVino().open(engines["fp32"], target())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_operator_times_are_called_after_the_modules(
    engines: dict[str, Path], precision: Precision
) -> None:
    """Every layer with weights is there by its own name, the last one too; BatchNorm is folded."""
    times = OpenVino().operator_times(engines[precision], target(precision), [IMAGES], calls=10)
    layers = {time.operator: time for time in times if "_abcd_" not in time.operator}
    assert {"stem.0/Conv", "body/Conv", "head/Gemm"} <= set(layers)
    assert not any("BatchNorm" in time.operator or "BatchNorm" in time.type for time in times)
    assert [t.median_us for t in times] == sorted((t.median_us for t in times), reverse=True)
    assert sum(time.share for time in times) == pytest.approx(1.0, abs=1e-4)
    assert len({time.operator for time in times}) == len(times)
    assert times[0].median_us > 0
