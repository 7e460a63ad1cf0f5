"""torch as a runtime, eager and compiled: any batch size, the target's threads, and no pickles."""

from __future__ import annotations

import copy
import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reprune.core.errors import BuildError
from reprune.core.params import Precision, Target
from reprune.runtimes.base import DeviceTimed, NvidiaRuntime, Runtime, Source, get_runtime
from reprune.runtimes.pytorch import CpuSession, Loaded
from tests import models

EAGER, COMPILED = "torch", "torch-compiled"
# What an export writes as another operator than the module ran.
NOT_BITWISE = ("built-in-attention",)
FIXED_BATCH = ("vit-fixed",)


def source(module: nn.Module, inputs: tuple[Tensor, ...]) -> Source:
    names = [f"input{place}" for place in range(len(inputs))]
    return Source(module=module, example_inputs=inputs, input_names=names)


def arrays(inputs: Sequence[Tensor]) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in inputs]


def answer(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    with torch.inference_mode():
        found = module(*inputs)
    found = list(found.values()) if isinstance(found, dict) else found
    return [x.numpy() for x in (found if isinstance(found, list | tuple) else [found])]


def built(name: str, runtime: str, folder: Path) -> Path:
    path = folder / f"{name}.pt2"
    get_runtime(runtime).build(
        source(models.build(name), models.inputs(name, 2)), Target(runtime=runtime), path
    )
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """As many as the sessions have: sums in another order differ in their last bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("two-input", EAGER, tmp_path_factory.mktemp("eager"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("two-input", COMPILED, tmp_path_factory.mktemp("compiled"))


@pytest.mark.slow
def test_outputs_are_the_modules_own_for_any_number_of_examples(eager: Path) -> None:
    module = models.build("two-input")
    session = get_runtime(EAGER).open(eager, Target(runtime=EAGER))
    for count in (1, 2, 5):
        inputs = models.inputs("two-input", count, seed=count)
        for mine, its in zip(session.run(arrays(inputs)), answer(module, inputs), strict=True):
            assert mine.shape == its.shape
            assert np.abs(mine - its).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*models.MODELS} - {*FIXED_BATCH}))
def test_functions_that_are_called_directly_are_the_very_same(name: str, tmp_path: Path) -> None:
    session = get_runtime(EAGER).open(built(name, EAGER, tmp_path), Target(runtime=EAGER))
    inputs = models.inputs(name, 3, seed=1)
    for mine, its in zip(
        session.run(arrays(inputs)), answer(models.build(name), inputs), strict=True
    ):
        if name in NOT_BITWISE:
            assert np.abs(mine - its).max() < 1e-5
        else:
            assert np.array_equal(mine, its)


def test_the_same_module_gives_the_same_bytes_and_stays_as_it_was(
    eager: Path, tmp_path: Path
) -> None:
    module = models.build("two-input").train()
    before = copy.deepcopy(module.state_dict())
    path = tmp_path / "again.pt2"
    get_runtime(EAGER).build(
        source(module, models.inputs("two-input", 2)), Target(runtime=EAGER), path
    )
    assert path.read_bytes() == eager.read_bytes()
    assert b"site-packages" not in path.read_bytes()
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_compiled_is_for_the_targets_threads(tmp_path: Path, threads: int) -> None:
    """Not for those of the process that builds: they are in the code, and no session can set them."""
    torch.set_num_threads(2)
    path, target = tmp_path / "net.pt2", Target(runtime=COMPILED, threads=threads)
    net = nn.Sequential(nn.GELU(), nn.LayerNorm(4096)).eval()
    get_runtime(COMPILED).build(source(net, (torch.randn(2, 64, 4096),)), target, path)
    with zipfile.ZipFile(path) as archive:
        code = "".join(
            archive.read(name).decode() for name in archive.namelist() if name.endswith(".cpp")
        )
    found = {int(count) for count in re.findall(r"num_threads\((\d+)\)", code)}
    assert found == ({threads} if threads > 1 else set())


def test_a_session_runs_with_its_threads_and_leaves_the_process_its_own() -> None:
    seen: list[int] = []

    def call(x: Tensor) -> list[Tensor]:
        seen.append(torch.get_num_threads())
        return [x]

    def fails(x: Tensor) -> list[Tensor]:
        raise RuntimeError("no kernel")

    before = torch.get_num_threads()
    signatures = [(np.dtype("float32"), (3,))]
    given = [np.ones((2, 3), "float32")]
    for threads in (1, 2, 1):
        CpuSession(Loaded(call=call, signatures=signatures), threads).run(given)
    assert seen == [1, 2, 1]
    with pytest.raises(BuildError, match="no kernel"):
        CpuSession(Loaded(call=fails, signatures=signatures), before + 1).run(given)
    assert torch.get_num_threads() == before


def test_inputs_of_other_shapes_or_types_are_refused(eager: Path) -> None:
    session = get_runtime(EAGER).open(eager, Target(runtime=EAGER))
    image, vector = arrays(models.inputs("two-input", 2))
    words = r"takes float32 \[3, 8, 8\] and float32 \[4\] for each example"
    for wrong in ([image], [image[:, :, :4], vector], [image.astype("float64"), vector]):
        with pytest.raises(BuildError, match=words):
            session.run(wrong)
    image.flags.writeable = False
    assert session.run([image, vector])[0].shape == (2, models.CLASSES)


@pytest.mark.parametrize("runtime", [EAGER, COMPILED])
@pytest.mark.parametrize("damage", ["empty", "text", "half"])
def test_a_corrupt_file_is_an_error_that_says_so(
    eager: Path, tmp_path: Path, runtime: str, damage: str
) -> None:
    whole = eager.read_bytes()
    path = tmp_path / "engine.pt2"
    path.write_bytes({"empty": b"", "text": b"none", "half": whole[: len(whole) // 2]}[damage])
    with pytest.raises(BuildError, match="torch cannot load it") as caught:
        get_runtime(runtime).open(path, Target(runtime=runtime))
    assert caught.value.where == str(path)


def test_an_engine_of_the_other_runtime_is_refused(eager: Path) -> None:
    with pytest.raises(BuildError, match="torch cannot load it"):
        get_runtime(COMPILED).open(eager, Target(runtime=COMPILED))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


@pytest.mark.parametrize("place", ["examples", "weight"])
def test_a_pickle_in_the_file_is_refused_and_not_executed(
    eager: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    stream = io.BytesIO()
    torch.save(Evil(), stream)
    path = tmp_path / "engine.pt2"
    with zipfile.ZipFile(eager) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if place == "examples" and "sample_inputs" in entry.filename:
                content = stream.getvalue()
            if place == "weight" and entry.filename.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            if place == "weight" and "/weights/weight_" in entry.filename:
                content = stream.getvalue()
            new.writestr(entry, content)
    with pytest.raises(BuildError, match="holds a pickle"):
        get_runtime(EAGER).open(path, Target(runtime=EAGER))
    assert "executed" not in capsys.readouterr().out


def test_models_that_cannot_be_an_engine(tmp_path: Path) -> None:
    class Undecided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    class OneSize(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 2, 2)

    for module, words in (
        (Undecided(), "cannot be exported to a torch program: Could not guard"),
        (OneSize(), "fixes its batch size"),
    ):
        with pytest.raises(BuildError, match=words):
            get_runtime(EAGER).build(
                source(module, (torch.ones(2, 4),)), Target(runtime=EAGER), tmp_path / "engine.pt2"
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("runtime", [EAGER, COMPILED])
def test_what_the_cpu_does_not_do_is_refused(runtime: str, tmp_path: Path) -> None:
    wanted = Target(runtime=runtime, precision="fp16")
    with pytest.raises(BuildError, match=f"{runtime} does not build fp16 for the CPU"):
        get_runtime(runtime).build(
            source(nn.Linear(4, 3), (torch.ones(2, 4),)), wanted, tmp_path / "engine.pt2"
        )


def test_without_a_compiler_nothing_is_compiled_and_it_says_why(tmp_path: Path) -> None:
    import torch._inductor.config as inductor
    import torch._inductor.cpp_builder as builder

    builder.cpp_compiler_search.cache_clear()
    # Not monkeypatch: undone, it would delete the setting for whatever is compiled next.
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(BuildError, match=r"needs a C\+\+ compiler to build"),
    ):
        get_runtime(COMPILED).build(
            source(nn.Linear(4, 3), (torch.ones(2, 4),)),
            Target(runtime=COMPILED),
            tmp_path / "engine.pt2",
        )
    builder.cpp_compiler_search.cache_clear()
    assert not list(tmp_path.iterdir())


def test_bindings_say_what_an_engine_is_bound_to() -> None:
    assert get_runtime(EAGER).binding(Target(runtime=EAGER)) == {"torch": torch.__version__}
    assert get_runtime(COMPILED).binding(Target(runtime=COMPILED)) == {
        "torch": torch.__version__,
        "CPU's instructions": torch.backends.cpu.get_cpu_capability(),
    }
    for runtime in (get_runtime(EAGER), get_runtime(COMPILED)):
        assert isinstance(runtime, NvidiaRuntime)
        assert runtime.gpu_uuid(Target()) == ""


def test_importing_the_module_loads_no_torch() -> None:
    script = (
        "import sys; from reprune.runtimes.base import get_runtime; get_runtime('torch');"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_compiled_code_agrees_for_any_number_of_examples(
    compiled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = models.build("two-input")
    session = get_runtime(COMPILED).open(compiled, Target(runtime=COMPILED))
    for count in (1, 2, 5):
        inputs = models.inputs("two-input", count, seed=count)
        for mine, its in zip(session.run(arrays(inputs)), answer(module, inputs), strict=True):
            assert np.abs(mine - its).max() < 1e-5
    assert not isinstance(session, DeviceTimed)
    with pytest.raises(BuildError, match=r"takes float32 \[3, 8, 8\]"):
        session.run([array[:, :2] for array in arrays(models.inputs("two-input", 2))])
    assert capfd.readouterr() == ("", "")


# --- on a GPU --------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
GRAPH_CLOCK = "CUDA events around a captured graph, without copies"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("runtime", [EAGER, COMPILED])
def test_a_gpu_that_is_not_there_is_named(runtime: str, tmp_path: Path) -> None:
    wanted = Target(runtime=runtime, device="gpu:1", precision="fp16")
    with pytest.raises(BuildError, match="the target wants the GPU 1, and torch sees none"):
        get_runtime(runtime).build(
            source(nn.Linear(4, 3), (torch.ones(2, 4),)), wanted, tmp_path / "engine.pt2"
        )
    with pytest.raises(BuildError, match="torch sees none"):
        get_runtime(runtime).open(tmp_path / "engine.pt2", wanted)


def on_gpu(runtime: str, precision: Precision, folder: Path) -> tuple[Runtime, Path, Target]:
    wanted = Target(runtime=runtime, precision=precision, device="gpu", batch_size=2)
    path = folder / "engine.pt2"
    found = get_runtime(runtime)
    found.build(source(models.build("resnet-a"), models.inputs("resnet-a", 2)), wanted, path)
    return found, path, wanted


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("runtime", [EAGER, COMPILED])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("fp16", 5e-2), ("bf16", 0.5)])
def test_gpu_outputs_agree_in_every_precision(
    runtime: str, precision: Precision, bound: float, tmp_path: Path
) -> None:
    found, path, wanted = on_gpu(runtime, precision, tmp_path)
    session = found.open(path, wanted)
    for count in (1, 2, 5):
        inputs = models.inputs("resnet-a", count, seed=count)
        (mine,) = session.run(arrays(inputs))
        (its,) = answer(models.build("resnet-a"), inputs)
        assert mine.dtype == np.float32
        assert np.abs(mine - its).max() < bound * max(1.0, np.abs(its).max())


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("runtime", [EAGER, COMPILED])
def test_gpu_calls_are_timed_around_a_captured_graph(runtime: str, tmp_path: Path) -> None:
    found, path, wanted = on_gpu(runtime, "fp32", tmp_path)
    session = found.open(path, wanted)
    assert isinstance(session, DeviceTimed)
    assert session.clock == GRAPH_CLOCK
    inputs = models.inputs("resnet-a", 2, seed=4)
    taken = session.call_ns(arrays(inputs), 30)
    assert len(taken) == 30
    assert all(1_000 < ns < 1_000_000_000 for ns in taken)
    # What the graph computed is what `run` computes.
    captured = session._captured[tuple(tuple(tensor.shape) for tensor in inputs)]  # type: ignore[attr-defined]
    (its,) = answer(models.build("resnet-a"), inputs)
    assert np.abs(captured.outputs[0].cpu().numpy() - its).max() < 1e-3


@pytest.mark.gpu
@needs_gpu
def test_what_cannot_be_captured_is_timed_by_another_clock() -> None:
    from reprune.runtimes.pytorch_gpu import CALL_CLOCK, open_gpu

    def synchronises(x: Tensor) -> list[Tensor]:
        return [x * float(x.sum().item())]

    loaded = Loaded(call=synchronises, signatures=[(np.dtype("float32"), (3,))])
    session = open_gpu(loaded, 2, "cuda:0")
    assert session.clock == CALL_CLOCK
    assert len(session.call_ns([np.ones((2, 3), "float32")], 7)) == 7
    assert session.run([np.ones((2, 3), "float32")])[0].tolist() == [[6.0] * 3] * 2


@pytest.mark.gpu
@needs_gpu
def test_the_gpu_is_named_as_the_driver_names_it(tmp_path: Path) -> None:
    found = get_runtime(EAGER)
    assert isinstance(found, NvidiaRuntime)
    uuid = found.gpu_uuid(Target(runtime=EAGER, device="gpu"))
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    assert uuid in listed.stdout
    assert not torch.backends.cudnn.allow_tf32
    binding = get_runtime(COMPILED).binding(Target(runtime=COMPILED, device="gpu"))
    assert binding["GPU"] == torch.cuda.get_device_name(0)
