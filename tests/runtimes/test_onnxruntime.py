"""ONNX Runtime engines: built the same twice, loaded without torch, timed operator by operator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from reprune.core.errors import BuildError, UnknownName
from reprune.core.params import Target
from reprune.runtimes.base import Source, get_runtime
from reprune.runtimes.onnxruntime import OnnxRuntime

TARGET = Target()


def small_net() -> nn.Module:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    net[1].running_mean.copy_(torch.linspace(-0.2, 0.2, 8))
    return net.eval()


class Two(nn.Module):
    """Two inputs, a dictionary of outputs whose keys are not in alphabetical order."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)

    def forward(self, image: Tensor, ids: Tensor) -> dict[str, Tensor]:
        hidden = self.first(image)
        return {"b": hidden + ids[:, None], "a": hidden * 2.0}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "net.onnx"
    OnnxRuntime().build(
        Source(
            module=small_net(), example_inputs=(torch.randn(1, 3, 8, 8),), input_names=["image"]
        ),
        TARGET,
        path,
    )
    return path


@pytest.mark.slow
def test_an_engine_computes_what_the_module_computes_at_any_batch_size(engine: Path) -> None:
    """The built engine agrees with the module for one example and for several."""
    session = OnnxRuntime().open(engine, TARGET)
    for batch in (1, 2, 7):
        inputs = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
        (output,) = session.run([inputs.numpy()])
        assert output.shape == (batch, 5)
        np.testing.assert_allclose(output, small_net()(inputs).detach().numpy(), atol=1e-5)


@pytest.mark.slow
def test_building_twice_gives_the_same_bytes_even_in_another_process(
    engine: Path, tmp_path: Path
) -> None:
    """Neither the order of a hash table nor an earlier build shows in the file."""
    again = tmp_path / "again.onnx"
    OnnxRuntime().build(
        Source(
            module=small_net(), example_inputs=(torch.randn(4, 3, 8, 8),), input_names=["image"]
        ),
        TARGET,
        again,
    )
    assert again.read_bytes() == engine.read_bytes()
    other = tmp_path / "other.onnx"
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch, pathlib, test_onnxruntime as t\n"
        "inputs = (torch.randn(1, 3, 8, 8),)\n"
        "source = t.Source(module=t.small_net(), example_inputs=inputs, input_names=['image'])\n"
        "t.OnnxRuntime().build(source, t.TARGET,"
        f" pathlib.Path({str(other)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**_environment(), "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert other.read_bytes() == engine.read_bytes()
    assert done.stderr == ""
    assert done.stdout == ""


def test_the_file_names_no_path_and_has_the_dynamic_batch(engine: Path) -> None:
    """Stack traces are stripped, weights are inside, and only the batch is symbolic."""
    raw = engine.read_bytes()
    assert b"site-packages" not in raw
    assert str(Path(__file__).parent).encode() not in raw
    proto = onnx.load_from_string(raw)
    (given,) = proto.graph.input
    assert given.name == "image"
    dims = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert dims == ["batch", 3, 8, 8]
    assert all(not t.external_data for t in proto.graph.initializer)
    assert {o.version for o in proto.opset_import if o.domain == ""} == {20}


@pytest.mark.slow
def test_several_inputs_and_a_dictionary_of_outputs_keep_their_order(tmp_path: Path) -> None:
    """Inputs are positional and outputs come as the module returns them."""
    torch.manual_seed(0)
    net = Two().eval()
    inputs = (torch.randn(2, 4), torch.tensor([1.0, 2.0]))
    path = tmp_path / "two.onnx"
    OnnxRuntime().build(
        Source(module=net, example_inputs=inputs, input_names=["image", "ids"]), TARGET, path
    )
    first, second = OnnxRuntime().open(path, TARGET).run([x.numpy() for x in inputs])
    expected = net(*inputs)
    np.testing.assert_allclose(first, expected["b"].detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(second, expected["a"].detach().numpy(), atol=1e-6)


@pytest.mark.slow
def test_building_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    """A module in training mode is still in training mode, with the same tensors."""
    net = small_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    OnnxRuntime().build(
        Source(module=net, example_inputs=(torch.randn(2, 3, 8, 8),), input_names=["x"]),
        TARGET,
        tmp_path / "n.onnx",
    )
    assert net.training
    assert net[1].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Applied(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator, no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: torch.linalg.inv(x @ x.transpose(1, 2)), "aten.linalg_inv_ex"),
        (lambda x: x if x.sum() > 0 else -x, "cannot be exported"),
        (lambda x: x + torch.ones(2, 3, 4), "fixes its batch size"),
        (lambda x: x.reshape(2, -1), "batch as its first dimension"),
        (lambda x: x.sum(), "batch as its first dimension"),
    ],
    ids=["operator", "control flow", "fixed batch", "mixed batch", "no batch"],
)
def test_what_cannot_be_built_says_why_and_what_to_do(
    tmp_path: Path, function: object, words: str
) -> None:
    """The operator, or what ties the model to one batch size, is named; nothing is left behind."""
    path = tmp_path / "n.onnx"
    with pytest.raises(BuildError) as caught:
        OnnxRuntime().build(
            Source(
                module=Applied(function).eval(),
                example_inputs=(torch.randn(2, 3, 4),),
                input_names=["x"],
            ),
            TARGET,
            path,
        )
    assert words in caught.value.what
    assert caught.value.fix
    assert not path.exists()


def test_names_and_inputs_must_agree(tmp_path: Path) -> None:
    """A name too few is the task's mistake, and said so."""
    with pytest.raises(BuildError, match="names 0 inputs and gives 1"):
        OnnxRuntime().build(
            Source(module=small_net(), example_inputs=(torch.randn(1, 3, 8, 8),), input_names=[]),
            TARGET,
            tmp_path / "n",
        )


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "junk", "absent"])
def test_a_file_that_does_not_load_is_a_build_error(tmp_path: Path, content: bytes | None) -> None:
    """The path is named, and no exception of the runtime's own gets out."""
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BuildError) as caught:
        OnnxRuntime().open(path, TARGET)
    assert caught.value.where == str(path)


def test_inputs_of_the_wrong_type_are_refused(engine: Path) -> None:
    """A float64 array is an error with words, not a crash."""
    session = OnnxRuntime().open(engine, TARGET)
    with pytest.raises(BuildError, match="does not run on these inputs"):
        session.run([np.zeros((1, 3, 8, 8))])
    with pytest.raises(BuildError, match="does not run on these inputs"):
        session.run([])


def test_operator_times_are_of_the_fused_graph_and_their_shares_sum_to_one(engine: Path) -> None:
    """Every operator of the optimised graph is there once, slowest first; BatchNorm is folded."""
    inputs = [np.zeros((64, 3, 8, 8), dtype=np.float32)]
    times = OnnxRuntime().operator_times(engine, TARGET, inputs, calls=20)
    types = [time.type for time in times]
    assert "Conv" in types or "FusedConv" in types
    assert "BatchNormalization" not in types
    assert "Relu" not in types
    assert [t.median_us for t in times] == sorted((t.median_us for t in times), reverse=True)
    assert sum(time.share for time in times) == pytest.approx(1.0, abs=1e-4)
    assert times[0].median_us > 0
    assert len({time.operator for time in times}) == len(times)


def test_opening_and_running_an_engine_loads_no_torch(engine: Path) -> None:
    """The process that measures holds the runtime and nothing else."""
    code = (
        "import sys, pathlib, numpy as np\n"
        "from reprune.runtimes.base import get_runtime\n"
        "from reprune.core.params import Target\n"
        f"s = get_runtime('onnxruntime').open(pathlib.Path({str(engine)!r}), Target())\n"
        "s.run([np.zeros((1, 3, 8, 8), dtype=np.float32)])\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=_environment(), check=False)
    assert done.returncode == 0


def test_an_unknown_runtime_names_the_known_ones() -> None:
    """A typo is answered with what there is."""
    with pytest.raises(UnknownName, match="onnxruntime"):
        get_runtime("onnxruntme")


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)
