"""QNN's HTP, emulated: pruned models agree with their modules, all of them on the HTP or refused by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from reprune.core.errors import BuildError, MissingExtra
from reprune.core.params import Target
from reprune.core.policy import PARITY_BY_PRECISION
from reprune.runtimes import qnn as runtime
from reprune.runtimes.base import OperatorTimed, get_runtime
from reprune.runtimes.qnn import Qnn
from tests import zoo
from tests.runtimes.test_onnx_int8 import agreement, cosine, source_of

pytestmark = pytest.mark.slow

pytest.importorskip("onnxruntime_qnn")
INT8 = Target(runtime="qnn", precision="int8", batch_size=4)
SLOW = pytest.mark.slow


class Determinant(nn.Module):
    """Det is an operator of ONNX that the HTP has not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, image: Tensor) -> Tensor:
        found = self.conv(image)
        scale = torch.det(found[:, :3, :3, :3]).mean(dim=1, keepdim=True)
        return scale * self.head(found.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def odd() -> zoo.ZooModel:
    return zoo.pruned("odd-cnn")


@pytest.fixture(scope="module")
def engine(odd: zoo.ZooModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qnn") / "engine.onnx"
    Qnn().build(source_of(odd), INT8, path)
    return path


@pytest.mark.parametrize(
    "name",
    ["odd-cnn", pytest.param("residual", marks=SLOW), pytest.param("segmentation", marks=SLOW)],
)
def test_pruned_models_agree_with_their_modules(tmp_path: Path, name: str) -> None:
    """Within the bounds that the policy has for int8; every quantised layer is on the HTP."""
    model, path = zoo.pruned(name), tmp_path / "engine.onnx"
    adapter = get_runtime("qnn")
    fact = adapter.build(source_of(model), INT8, path)
    assert fact.notes == ()
    assert fact.float_layers == ()
    (found,) = adapter.open(path, INT8).run([tensor.numpy() for tensor in model.held])
    with torch.no_grad():
        expected = model.module(*model.held).numpy()
    bounds = PARITY_BY_PRECISION["int8"]
    assert cosine(found, expected) >= bounds.min_cosine
    assert agreement(found, expected) >= bounds.min_agreement


def test_an_engine_of_four_runs_any_number_of_examples(engine: Path, odd: zoo.ZooModel) -> None:
    """What is padded or split gives the rows that the whole gives; the file itself says four."""
    graph = onnx.load(engine).graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_value == 4
    session = Qnn().open(engine, INT8)
    assert session.batch_size == 4
    held = odd.held[0].numpy()
    (whole,) = session.run([held[:8]])
    for size in (1, 3, 5, 7):
        (some,) = session.run([held[:size]])
        np.testing.assert_array_equal(some, whole[:size])


def test_other_inputs_are_refused_with_what_the_engine_takes(engine: Path) -> None:
    session = Qnn().open(engine, INT8)
    for wrong in (np.zeros((4, 3, 16, 16), np.float32), np.zeros((4, 3, 32, 32), np.float64)):
        with pytest.raises(BuildError, match=r"it takes float32 \[3, 32, 32\]"):
            session.run([wrong])


def test_the_same_model_gives_the_same_bytes(
    engine: Path, odd: zoo.ZooModel, tmp_path: Path
) -> None:
    Qnn().build(source_of(odd), INT8, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == engine.read_bytes()


@SLOW
def test_the_first_layer_can_stay_in_float_but_not_one_after_an_int8_layer(
    tmp_path: Path, odd: zoo.ZooModel
) -> None:
    """What is refused names the int8 layer that would give floats."""
    source = source_of(odd, float_layers=("layers.0.0",))
    assert Qnn().quantisable(source, INT8) == ("layers.1.0", "layers.2.0", "layers.3.0", "head")
    fact = Qnn().build(source, INT8, tmp_path / "n.onnx")
    assert fact.float_layers == ("layers.0.0",)
    (found,) = Qnn().open(tmp_path / "n.onnx", INT8).run([odd.held[0].numpy()])
    with torch.no_grad():
        expected = odd.module(*odd.held).numpy()
    assert cosine(found, expected) >= PARITY_BY_PRECISION["int8"].min_cosine
    with pytest.raises(BuildError, match=r"\(layers\.0\.0/Conv\.weight") as caught:
        Qnn().build(source_of(odd, float_layers=("layers.1.0",)), INT8, tmp_path / "m.onnx")
    assert "take float_layers out" in caught.value.fix


def test_an_operator_that_the_htp_has_not_is_named_and_nothing_is_written(
    tmp_path: Path, odd: zoo.ZooModel
) -> None:
    path = tmp_path / "n.onnx"
    with pytest.raises(BuildError, match=r"HTP does not take Det \(\S+\)\n") as caught:
        Qnn().build(source_of(odd, module=Determinant().eval()), INT8, path)
    assert "move it out of the model" in caught.value.fix
    assert not path.exists()


@pytest.mark.parametrize("kept", [0, 40, 0.5])
def test_a_damaged_file_is_an_error_that_names_it(
    engine: Path, tmp_path: Path, kept: float
) -> None:
    content = engine.read_bytes()
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(BuildError) as caught:
        Qnn().open(path, INT8)
    assert caught.value.where == str(path)
    with pytest.raises(BuildError):
        Qnn().open(tmp_path / "nowhere.onnx", INT8)


def test_a_model_with_an_open_batch_is_no_engine(
    engine: Path, tmp_path: Path, odd: zoo.ZooModel
) -> None:
    """QNN prepares its graph for one size."""
    Path(tmp_path / "open.onnx").write_bytes(
        runtime.int8_onnx(source_of(odd), INT8, runtime.QNN)[0]
    )
    with pytest.raises(BuildError):
        Qnn().open(tmp_path / "open.onnx", INT8)


def test_without_the_package_the_line_that_installs_it_is_told(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime._provider.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    with pytest.raises(MissingExtra) as caught:
        Qnn().open(engine, INT8)
    assert "reprune[qnn]" in caught.value.fix


def test_what_emulation_takes_is_never_told(engine: Path) -> None:
    can = Qnn().capabilities
    assert not can.latency
    assert not can.dynamic_batch
    assert not isinstance(Qnn(), OperatorTimed)
    assert Qnn().binding(INT8) == {}
