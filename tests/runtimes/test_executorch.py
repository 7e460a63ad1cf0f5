"""ExecuTorch by XNNPACK: what is built runs, agrees with the module, and says what it does not do."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError
from reprune.core.params import Precision, Target
from reprune.runtimes.base import Quantising, Source, get_runtime
from reprune.runtimes.executorch import ExecuTorch

pytest.importorskip("executorch", reason="the extra `executorch` is not installed")

# The converter alone takes seconds to import, and a second or more for each model.
pytestmark = pytest.mark.slow
RUNTIME = ExecuTorch()


class Net(nn.Module):
    """Odd channel counts, a residual addition, and a median where one is asked for."""

    def __init__(self, *, median: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(7, 7, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(7, 5)
        self.median = median

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = x + self.block(x)
        if self.median:
            x = x.median(dim=3, keepdim=True).values
        return self.head(x.mean(dim=(2, 3)))


def source(module: nn.Module, **more: object) -> Source:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((34, 3, 8, 8), generator=generator)
    return Source(
        module=module.eval(),
        example_inputs=(images[:2],),
        input_names=("image",),
        calibration=[(images[2:18],), (images[18:],)],
        **more,  # type: ignore[arg-type]
    )


def images(count: int) -> np.ndarray:
    return torch.randn((count, 3, 8, 8), generator=torch.Generator().manual_seed(2)).numpy()


def answer(module: nn.Module, given: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(given)).numpy()


def target(precision: Precision = "fp32", **more: object) -> Target:
    return Target(runtime="executorch", precision=precision, **more)  # type: ignore[arg-type]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, BuildFact]]:
    """One small net in fp32, for one example at a time, and in int8, for three."""
    folder = tmp_path_factory.mktemp("engines")
    found = {}
    for precision, batch_size in (("fp32", 1), ("int8", 3)):
        path = folder / f"{precision}.pte"
        wanted = target(precision, batch_size=batch_size)  # type: ignore[arg-type]
        found[precision] = path, RUNTIME.build(source(Net()), wanted, path)
    return found


Built = dict[str, tuple[Path, BuildFact]]


def test_any_number_of_examples_runs_and_agrees(built: Built) -> None:
    module = Net()
    for precision, bound in (("fp32", 0.999999), ("int8", 0.99)):
        session = RUNTIME.open(built[precision][0], target())
        for count in (1, 2, 3, 7):
            found = session.run([images(count)])[0]
            assert found.shape == (count, 5)
            assert cosine(found, answer(module, images(count))) > bound


def test_int8_rounds(built: Built) -> None:
    float_one, whole_one = (RUNTIME.open(path, target()) for path, _ in built.values())
    assert np.abs(float_one.run([images(2)])[0] - whole_one.run([images(2)])[0]).max() > 1e-4


def test_what_xnnpack_does_not_run_is_counted_and_named(built: Built) -> None:
    fact = built["fp32"][1]
    assert fact.fallbacks == 1
    assert fact.notes == ("not run by XNNPACK but by ExecuTorch's own kernels: mean",)


def test_sessions_with_other_threads_live_side_by_side(built: Built) -> None:
    from executorch.extension.pybindings import portable_lib

    path, given = built["fp32"][0], [images(4)]
    one = RUNTIME.open(path, target(threads=1))
    expected = one.run(given)[0]
    two = RUNTIME.open(path, target(threads=2))
    for session, threads in ((two, 2), (one, 1), (two, 2), (one, 1)):
        assert np.array_equal(session.run(given)[0], expected)
        assert portable_lib._threadpool_get_thread_count() == threads


def test_inputs_of_another_shape_are_refused_in_words(built: Built) -> None:
    session = RUNTIME.open(built["fp32"][0], target())
    with pytest.raises(BuildError, match=r"it takes float32 \[3, 8, 8\] for each example"):
        session.run([images(2)[:, :2]])
    with pytest.raises(BuildError, match="this is float64"):
        session.run([images(2).astype("float64")])


def test_arrays_that_torch_cannot_share_are_copied(built: Built) -> None:
    session = RUNTIME.open(built["fp32"][0], target())
    given = images(1)
    expected = session.run([given])[0]
    given.flags.writeable = False
    assert np.array_equal(session.run([given])[0], expected)
    assert np.array_equal(session.run([np.asfortranarray(given)])[0], expected)


@pytest.mark.parametrize("damage", ["empty", "text", "half", "header"])
def test_a_corrupt_file_is_an_error_that_says_so(built: Built, tmp_path: Path, damage: str) -> None:
    whole = built["fp32"][0].read_bytes()
    content = {
        "empty": b"",
        "text": b"no program",
        "half": whole[: len(whole) // 2],
        "header": whole[:16] + b"\xff" * 48 + whole[64:],
    }[damage]
    path = tmp_path / "engine.pte"
    path.write_bytes(content)
    with pytest.raises(BuildError, match="ExecuTorch cannot load it") as caught:
        RUNTIME.open(path, target())
    assert caught.value.where == str(path)
    assert "build the engine again" in caught.value.fix


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="No such file"):
        RUNTIME.open(tmp_path / "none.pte", target())


def test_operators_are_timed(built: Built) -> None:
    found = RUNTIME.operator_times(built["fp32"][0], target(), [images(1)], 12)
    names = {one.type for one in found}
    assert "mean.out" in names
    assert any(name.startswith("Convolution (NHWC, F32)") for name in names)
    assert len({one.operator for one in found}) == len(found)
    assert sum(one.share for one in found) == pytest.approx(1.0, abs=1e-4)
    assert [one.median_us for one in found] == sorted(
        (one.median_us for one in found), reverse=True
    )


def test_the_same_module_gives_the_same_bytes_and_stays_as_it_was(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).train()
    before = copy.deepcopy(module.state_dict())
    inputs = torch.ones(2, 4)
    contents = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.pte"
        plain = Source(module=module, example_inputs=(inputs,), input_names=("x",))
        RUNTIME.build(plain, target(batch_size=2), path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert module.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert b"site-packages" not in contents[0]


def test_importing_the_module_loads_neither_torch_nor_the_runtime() -> None:
    script = (
        "import sys; from reprune.runtimes.base import get_runtime; get_runtime('executorch');"
        "print(sorted({'torch', 'torchao', 'executorch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_build_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain = Source(
        module=nn.Linear(4, 3).eval(), example_inputs=(torch.ones(2, 4),), input_names=("x",)
    )
    RUNTIME.build(plain, target(threads=2), tmp_path / "engine.pte")
    RUNTIME.open(tmp_path / "engine.pte", target(threads=1)).run([np.ones((1, 4), "float32")])
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_cannot_be_lowered_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"aten\.median\.dim cannot be exported to ExecuTorch"):
        RUNTIME.build(source(Net(median=True)), target(), tmp_path / "engine.pte")
    assert not list(tmp_path.iterdir())


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else -x


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.sum(dim=0)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.bfloat16()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Undecided(), "cannot be written as a graph: Could not guard on data-dependent"),
        (Mixed(), r"first dimension: \[\[3, 4\], \[4\]\] for 3 example"),
        (Half(), "a type that numpy does not know"),
    ],
)
def test_models_that_cannot_be_an_engine(tmp_path: Path, module: nn.Module, words: str) -> None:
    plain = Source(module=module, example_inputs=(torch.ones(2, 4),), input_names=("x",))
    with pytest.raises(BuildError, match=words):
        RUNTIME.build(plain, target(batch_size=3), tmp_path / "engine.pte")
    assert not list(tmp_path.iterdir())


def test_quantisable_layers_are_named_in_the_order_they_run() -> None:
    assert isinstance(get_runtime("executorch"), Quantising)
    assert RUNTIME.quantisable(source(Net()), target("int8")) == ("stem.0", "block.0", "head")


# Layers that the source names are read in the test of a model all in float as well.
@pytest.mark.parametrize("where", [pytest.param("source", marks=pytest.mark.deep), "target"])
def test_layers_stay_in_float_where_source_or_target_says_so(tmp_path: Path, where: str) -> None:
    named = {"float_layers": ("block.*", "head")}
    path = tmp_path / "engine.pte"
    fact = RUNTIME.build(
        source(Net(), **(named if where == "source" else {})),
        target("int8", **(named if where == "target" else {})),
        path,
    )
    assert fact.float_layers == ("block.0", "head")
    types = [one.type for one in RUNTIME.operator_times(path, target(), [images(1)], 5)]
    assert sum("QC8" in one for one in types) == 1
    assert sum("Convolution (NHWC, F32)" in one for one in types) == 1
    # The addition takes what a float layer gives.
    assert not any(one.startswith("Add") and "QS8" in one for one in types)


def test_a_model_all_in_float_is_the_module_again(tmp_path: Path) -> None:
    path = tmp_path / "engine.pte"
    RUNTIME.build(source(Net(), float_layers=("*",)), target("int8"), path)
    found = RUNTIME.open(path, target("int8")).run([images(3)])[0]
    assert np.abs(found - answer(Net(), images(3))).max() < 1e-5


@pytest.mark.parametrize(
    ("ranges", "least", "most", "within"),
    [
        ("minmax", -4.3, 300.0, 2.0),
        # A normal variable lies within 3.9 with a probability of 0.9999; a bin is 0.15 wide.
        ("percentile", -3.9, 3.9, 0.6),
        # 128 bins of 0.15 at least are kept: the whole normal variable, and little of what is beyond.
        ("entropy", -4.3, 20.0, 2.0),
    ],
)
def test_each_way_of_taking_ranges(ranges: str, least: float, most: float, within: float) -> None:
    """50,000 values of a standard normal variable, and one that went wild."""
    from reprune.runtimes.xnnpack_ranges import observer

    values = torch.randn(50_000, generator=torch.Generator().manual_seed(3))
    values[7] = 300.0
    observed = observer(ranges, eps=2**-12)(
        dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine
    )
    for part in values.split(10_000):
        observed(part)
    scale, zero = (float(found) for found in observed.calculate_qparams())
    assert scale * (-128 - zero) == pytest.approx(least, abs=within)
    assert scale * (127 - zero) == pytest.approx(most, abs=within)


def test_ranges_reach_the_engine(tmp_path: Path) -> None:
    wild = torch.from_numpy(images(256))
    wild[0, 0, 0, 0] = 300.0
    plain = source(nn.Conv2d(3, 4, 3))
    given = dataclasses.replace(plain, calibration=[(wild,)])
    module = plain.module
    errors = {}
    for ranges in ("minmax", "entropy"):
        path = tmp_path / f"{ranges}.pte"
        RUNTIME.build(given, target("int8", ranges=ranges, batch_size=64), path)
        found = RUNTIME.open(path, target("int8")).run([images(64)])[0]
        errors[ranges] = 1.0 - cosine(found, answer(module, images(64)))
    assert errors["entropy"] < 0.3 * errors["minmax"]


class Masked(nn.Module):
    """Positions by index arithmetic, and scores with a mask of the lowest float."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places = nn.Embedding(9, 4)
        self.given = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(torch.arange(x.shape[1]) + 2)
        given = self.given(x)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = given @ given.transpose(1, 2) + torch.where(later, torch.finfo().min, 0.0)
        return self.head(scores.softmax(dim=2) @ given) + given


def test_masks_and_positions_stay_as_they_are(tmp_path: Path) -> None:
    inputs = torch.randn((64, 7, 4), generator=torch.Generator().manual_seed(4))
    given = Source(
        module=Masked().eval(),
        example_inputs=(inputs[:2],),
        input_names=("x",),
        calibration=[(inputs,)],
    )
    path = tmp_path / "engine.pte"
    fact = RUNTIME.build(given, target("int8"), path)
    assert fact.details["quantised layers"] == "2 of 2"
    found = RUNTIME.open(path, target("int8")).run([inputs.numpy()])[0]
    assert cosine(found, answer(Masked(), inputs.numpy())) > 0.999


def test_a_pattern_that_fits_nothing_is_noted(tmp_path: Path) -> None:
    fact = RUNTIME.build(
        source(nn.Conv2d(3, 4, 3), float_layers=("no.such",)),
        target("int8"),
        tmp_path / "engine.pte",
    )
    assert fact.notes == ("'no.such' of float_layers fits no layer that would be quantised",)


def test_int8_without_calibration_is_refused(tmp_path: Path) -> None:
    plain = Source(
        module=Net().eval(), example_inputs=(torch.from_numpy(images(2)),), input_names=("image",)
    )
    with pytest.raises(BuildError, match="needs calibration examples"):
        RUNTIME.build(plain, target("int8"), tmp_path / "engine.pte")
