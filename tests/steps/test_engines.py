"""Engines from the cache are the very engines that would be built; a sidecar says where one may run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnx.numpy_helper
import pytest
import torch
from torch import nn

from reprune.core.artifacts import BuildFact, Cost, Parity
from reprune.core.documents import digest_of
from reprune.core.errors import BuildError, DocumentError
from reprune.core.params import BuildParams, Target
from reprune.core.store import file_digest
from reprune.runtimes import base
from reprune.runtimes.base import Source, get_runtime
from reprune.runtimes.onnxruntime import OnnxRuntime
from reprune.runtimes.sidecar import (
    Sidecar,
    open_engine,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from reprune.steps import engines
from reprune.steps.engines import Workshop, build_engine, source_digest, worst_parity
from reprune.steps.engines import made as made_or_found

TARGET = Target()


class Bundle:
    """What of an arm's bundle an engine is made of."""

    digest = digest_of("bundle")

    class manifest:  # noqa: N801
        surgery = None


class Model:
    """An arm: a module and the task that gives its inputs."""

    bundle = Bundle

    class loaded:  # noqa: N801
        module: nn.Module = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()

        class task:  # noqa: N801
            input_names = ("x",)

            @staticmethod
            def example_inputs(batch_size: int) -> tuple[torch.Tensor, ...]:
                return (torch.zeros(batch_size, 4),)


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    return tmp_path / "work"


def workshop(folder: Path, **changes: Any) -> Workshop:
    return Workshop(
        out=folder,
        task=Model.loaded.task,  # type: ignore[arg-type]
        batches=(),
        params=BuildParams(**changes),
        examples="sha256:0",
    )


def made(folder: Path, *, target: Target = TARGET, **changes: Any) -> tuple[Path, Sidecar]:
    shop = workshop(folder, **changes)
    folder.mkdir(exist_ok=True)
    path = folder / "dense.onnx"
    runtime = get_runtime(target.runtime)
    return path, made_or_found(path, Model, target, runtime, shop)  # type: ignore[arg-type]


def cached(work: Path) -> list[Path]:
    return sorted(work.glob("engines/*/*.onnx"))


@pytest.mark.slow
def test_the_cache_gives_what_was_built(tmp_path: Path, work: Path) -> None:
    """The same bytes, whether built or found; a file put in its place with its digest is what is found."""
    first, told = made(tmp_path / "a")
    again, told_again = made(tmp_path / "b")
    assert first.read_bytes() == again.read_bytes()
    assert told == told_again == read_sidecar(again)
    assert told.engine == file_digest(first)
    (kept,) = cached(work)
    kept.write_bytes(b"another engine")
    write_sidecar(kept, msgspec.structs.replace(told, engine=file_digest(kept)))
    third, _ = made(tmp_path / "c")
    assert third.read_bytes() == b"another engine"
    fresh, _ = made(tmp_path / "d", cache=False)
    assert fresh.read_bytes() == first.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["engine", "sidecar", "no sidecar", "version"])
def test_what_is_damaged_in_the_cache_is_built_again(
    tmp_path: Path, work: Path, damage: str
) -> None:
    first, told = made(tmp_path / "a")
    (kept,) = cached(work)
    if damage == "engine":
        kept.write_bytes(first.read_bytes()[:-1])
    elif damage == "sidecar":
        sidecar_path(kept).write_text("{")
    elif damage == "no sidecar":
        sidecar_path(kept).unlink()
    else:
        write_sidecar(kept, msgspec.structs.replace(told, runtime_version="0"))
    again, told_again = made(tmp_path / "b")
    assert again.read_bytes() == first.read_bytes()
    assert told_again == told
    assert kept.read_bytes() == first.read_bytes()


def test_the_key_is_what_the_engine_is_made_of(tmp_path: Path, work: Path) -> None:
    """Threads and batch size are how it runs; the kept layers and the examples are what it is."""
    made(tmp_path / "a")
    made(tmp_path / "b", target=Target(threads=2, batch_size=8, throughput_batch_sizes=(4,)))
    assert len(cached(work)) == 1
    made(tmp_path / "c", target=Target(float_layers=("0",)))
    made(tmp_path / "d", calibration_examples=3)
    assert len(cached(work)) == 3


@pytest.mark.parametrize("runtime", ["torch", "torch-compiled", "onnxruntime"])
def test_threads_are_in_the_key_of_engines_that_are_compiled_for_them(
    tmp_path: Path, runtime: str
) -> None:
    """One of two threads, taken from the cache for a target of one, would run with two."""
    sources = {
        source_digest(
            Target(runtime=runtime, threads=threads), get_runtime(runtime), workshop(tmp_path)
        )
        for threads in (1, 2)
    }
    assert len(sources) == (2 if runtime == "torch-compiled" else 1)


@pytest.mark.parametrize(
    ("runtime", "package", "counts"),
    [
        ("onnxruntime", "torch", True),
        ("onnxruntime", "onnxscript", True),
        ("executorch", "torchao", True),
        ("litert", "ai_edge_quantizer", True),
        ("onnxruntime", "torchao", False),
    ],
)
def test_what_exports_and_converts_is_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, package: str, counts: bool
) -> None:
    """After an upgrade of one of them the cache would give one arm of before and build another of after."""
    found, real = set(), engines.version
    for number in ("1", "2"):
        monkeypatch.setattr(
            engines, "version", lambda name, n=number: n if name == package else real(name)
        )
        target = Target(runtime=runtime)
        found.add(source_digest(target, get_runtime(runtime), workshop(tmp_path)))
    assert len(found) == (2 if counts else 1)


def test_an_engine_of_older_code_of_ours_is_built_again(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime's revision is in the key and in the sidecar, whatever the library's version."""
    _, before = made(tmp_path / "a")
    can = OnnxRuntime.capabilities
    newer = msgspec.structs.replace(can, revision=can.revision + 1)
    monkeypatch.setattr(OnnxRuntime, "capabilities", newer)
    _, after = made(tmp_path / "b")
    assert len(cached(work)) == 2
    assert before.runtime_version == after.runtime_version
    assert before.source != after.source


def test_a_cache_in_the_way_costs_only_time(tmp_path: Path, work: Path) -> None:
    work.mkdir()
    (work / "engines").write_text("a file where the folder would be")
    path, told = made(tmp_path / "a")
    assert file_digest(path) == told.engine


def test_an_engine_of_another_machine_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is bound to, and its runtime's version: what it was built for, and what is here."""
    path, told = made(tmp_path / "a")
    inputs = [torch.ones(2, 4).numpy()]
    assert open_engine(path, TARGET).run(inputs)[0].shape == (2, 3)
    write_sidecar(path, msgspec.structs.replace(told, binding={"GPU": "H100", "driver": "570"}))
    monkeypatch.setattr(
        OnnxRuntime, "binding", lambda *_: {"GPU": "H200", "driver": "570", "OS": "Linux"}
    )
    with pytest.raises(BuildError) as caught:
        open_engine(path, TARGET)
    assert "built for the GPU H100, and here it is H200" in caught.value.what
    assert "built for the OS none, and here it is Linux" in caught.value.what
    assert "570" not in caught.value.what
    assert "machine that is to run it" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runtime_version": "0.1"}, "version of onnxruntime 0.1"),
        ({"precision": "int8"}, "precision int8, and here it is fp32"),
        ({"batch_size": 4}, "batch size 4, and here it is 1"),
        ({"device": "gpu:0"}, "device gpu:0"),
    ],
)
def test_an_engine_for_another_target_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path, told = made(tmp_path / "a")
    write_sidecar(path, msgspec.structs.replace(told, **change))
    with pytest.raises(BuildError, match=words):
        open_engine(path, TARGET)


def test_an_engine_without_its_sidecar_is_refused(tmp_path: Path) -> None:
    path, _ = made(tmp_path / "a")
    sidecar_path(path).unlink()
    with pytest.raises(BuildError, match="its sidecar is missing"):
        open_engine(path, TARGET)
    sidecar_path(path).write_text(json.dumps({"engine": 3}))
    with pytest.raises(DocumentError):
        open_engine(path, TARGET)


def test_a_sidecar_tells_no_clock_and_no_path(tmp_path: Path) -> None:
    """Two folders, one text: nothing of where or when is in it."""
    one, _ = made(tmp_path / "a", cache=False)
    other, _ = made(tmp_path / "somewhere-else", cache=False)
    assert sidecar_path(one).read_bytes() == sidecar_path(other).read_bytes()
    assert read_sidecar(one).built == BuildFact()
    assert Source(module=Model.loaded.module, example_inputs=(), input_names=()).sparsity == ""


class Random(OnnxRuntime):
    """Builds ONNX files of which no two are alike, as a builder that times its kernels does."""

    builds = 0

    def build(self, source: Source, target: Target, destination: Path) -> BuildFact:
        super().build(source, target, destination)
        Random.builds += 1
        proto = onnx.load(destination)
        proto.doc_string = f"build {Random.builds}, float: {','.join(source.float_layers)}"
        destination.write_bytes(proto.SerializeToString())
        return BuildFact(float_layers=("0",) if Random.builds == 1 else source.float_layers)


def test_a_target_that_is_rebuilt_has_new_builds_every_time(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of their own with sidecars, from the same source and float layers, none of them remembered."""
    monkeypatch.setattr(base, "RUNTIMES", {**base.RUNTIMES, "random": f"{__name__}:Random"})
    monkeypatch.setattr(Random, "builds", 0)
    monkeypatch.setattr(engines, "_parity", lambda key, path, *_: told_parity(path))
    target = Target(runtime="random", rebuilt=True)
    shop = Workshop(
        out=tmp_path,
        task=Model.loaded.task,  # type: ignore[arg-type]
        batches=(),
        params=BuildParams(builds=4),
        examples="sha256:0",
    )
    monkeypatch.setattr(Bundle.manifest, "payload", {"weights.safetensors": ""}, raising=False)
    monkeypatch.setattr(Model, "cost", Cost(params=1, macs=1, bytes=1), raising=False)
    fact = build_engine("dense", Model, "edge", target, shop)  # type: ignore[arg-type]
    files = (fact.file, *(fact.copies or ()))
    assert files == (
        "engines/edge/dense.onnx",
        *(f"engines/edge/dense-{n}.onnx" for n in (1, 2, 3)),
    )
    sidecars = [read_sidecar(tmp_path / file) for file in files]
    assert [one.engine for one in sidecars] == [file_digest(tmp_path / file) for file in files]
    assert len({one.engine for one in sidecars}) == 4
    assert {one.built.float_layers for one in sidecars} == {("0",)}
    for file in files[1:]:
        assert "float: 0" in onnx.load(tmp_path / file).doc_string
        open_engine(tmp_path / file, target)
    assert not list(work.glob("engines/*"))
    # The fourth build is the worst of them.
    assert fact.parity == told_parity(tmp_path / files[3])


def told_parity(path: Path) -> Parity:
    far = float(path.stem.rpartition("-")[2]) if "-" in path.stem else 0.0
    return Parity(examples=8, max_abs=far, cosine=1 - far / 100, agreement=1 - far / 10)


def test_the_worst_parity_is_the_worst_of_each_figure() -> None:
    """Of different builds, where one has the largest difference and another the least cosine."""
    one = Parity(examples=8, max_abs=0.5, cosine=0.99, agreement=1.0)
    other = Parity(examples=8, max_abs=0.1, cosine=0.95, agreement=0.9)
    worst = Parity(examples=8, max_abs=0.5, cosine=0.95, agreement=0.9)
    assert worst_parity([one, other]) == worst_parity([other, one]) == worst


def test_layers_are_named_only_where_the_file_differs(tmp_path: Path) -> None:
    """A file that was changed names its layer; one that is only rounded when it is opened names none."""
    path, _ = made(tmp_path)
    far = Parity(examples=8, max_abs=9.0, cosine=0.1, agreement=0.1)
    shop = Workshop(
        out=tmp_path, task=Model.loaded.task, batches=(), params=BuildParams(), examples=""
    )  # type: ignore[arg-type]
    # Calibration inputs are not needed in fp32; zeros would hide a weight, so a bias is changed.
    target = Target(runtime="openvino")
    assert engines._worst_layers(path, far, Model, target, shop) == ()  # type: ignore[arg-type]
    model = onnx.load_model(str(path))
    (bias,) = [one for one in model.graph.initializer if one.name.endswith("0.bias")]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    path.write_bytes(model.SerializeToString())
    (worst,) = engines._worst_layers(path, far, Model, target, shop)  # type: ignore[arg-type]
    assert worst.layer == "0"
    assert worst.relative > 0.1
