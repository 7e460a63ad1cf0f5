"""Engines from the cache are the very engines that would be built; a sidecar says where one may run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from reprune.core.artifacts import BuildFact
from reprune.core.documents import digest_of
from reprune.core.errors import BuildError, DocumentError
from reprune.core.params import BuildParams, Target
from reprune.core.store import file_digest
from reprune.runtimes.base import Source, get_runtime
from reprune.runtimes.onnxruntime import OnnxRuntime
from reprune.runtimes.sidecar import (
    Sidecar,
    open_engine,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from reprune.steps.engines import Workshop, _made

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


def made(folder: Path, *, target: Target = TARGET, **changes: Any) -> tuple[Path, Sidecar]:
    shop = Workshop(
        out=folder,
        task=Model.loaded.task,  # type: ignore[arg-type]
        batches=(),
        params=BuildParams(**changes),
        examples="sha256:0",
    )
    folder.mkdir(exist_ok=True)
    path = folder / "dense.onnx"
    runtime = get_runtime(target.runtime)
    return path, _made(path, Model, target, runtime, shop)  # type: ignore[arg-type]


def cached(work: Path) -> list[Path]:
    return sorted(work.glob("engines/*/*.onnx"))


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
