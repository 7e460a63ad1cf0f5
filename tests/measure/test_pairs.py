"""Engines timed in pairs: in this process, in one of its own that may die, and on a device that may lie."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reprune.core.documents import canonical
from reprune.core.errors import BuildError, ChainBroken, RepruneError
from reprune.core.params import Target
from reprune.measure.calls import write_inputs
from reprune.measure.device_job import DeviceJob, new_job, seal
from reprune.measure.device_results import (
    RESULT_FILE,
    DeviceResult,
    read_result,
    read_result_pairs,
    seal_result,
)
from reprune.measure.device_run import run_job
from reprune.measure.pairs import Pair, PairTimes, take_pair, unlike
from reprune.measure.timing_place import here
from reprune.runtimes.onnxruntime import OnnxRuntime

LAYERS = ("0", "2", "4")
HOWS = ("blocks", "calls", "layers")


def pair(how: str, engine: object, other: object, inputs: object) -> Pair:
    return Pair(
        how=how,  # type: ignore[arg-type]
        engine=str(engine),
        other=str(other),
        inputs=str(inputs),
        other_inputs=str(inputs),
        rounds=3,
        calls=10,
        other_calls=10,
        layers=LAYERS if how == "layers" else (),
    )


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("call") / "inputs.npz"
    write_inputs(path, [np.zeros((1, 64), np.float32)])
    return path


@pytest.fixture(scope="module")
def done(
    small_and_big: tuple[Path, Path], call: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, DeviceJob]:
    """A job with a pair of each kind, and the folder of its result."""
    folder = tmp_path_factory.mktemp("pairs")
    source, out = folder / "job", folder / "out"
    (source / "engines").mkdir(parents=True)
    out.mkdir()
    for name, engine in zip(("small", "big"), small_and_big, strict=True):
        shutil.copyfile(engine, source / "engines" / f"{name}.onnx")
    shutil.copyfile(call, source / "call.npz")
    empty = new_job("jet", Target(), hang_seconds=60, valid_s=600)
    job = msgspec.structs.replace(
        empty,
        bound=False,
        arms={name: f"engines/{name}.onnx" for name in ("small", "big")},
        pairs=tuple(pair(how, "big", "small", "call.npz") for how in HOWS),
    )
    sealed = seal(source, job)
    run_job(source, out, say=lambda _: None)
    return out, sealed


@pytest.mark.slow
def test_every_kind_of_pair_tells_which_engine_is_slower(
    small_and_big: tuple[Path, Path], call: Path
) -> None:
    """One has sixty times as much to do; layers of both are told, the dense one's first."""
    small, big = small_and_big
    blocks, calls, layers = (take_pair(Target(), pair(how, big, small, call)) for how in HOWS)
    assert min(blocks.ratio, calls.ratio, layers.ratio) > 2
    assert (blocks.rounds, calls.rounds, len(layers.rounds)) == ((), (), 3)
    for each in layers.rounds:
        assert {one.layer for one in each.engine} <= {*LAYERS, ""}
        assert sum(one.us for one in each.engine) > sum(one.us for one in each.other)
    assert take_pair(Target(), pair("blocks", small, big, call)).ratio < 0.5


@pytest.mark.slow
def test_a_device_gives_back_what_was_asked(done: tuple[Path, DeviceJob]) -> None:
    """In the job's order; engines that only pairs run are opened by no other process."""
    out, job = done
    result = read_result(out, job, now=time.time())
    found = read_result_pairs(out, result)
    assert len(found) == 3
    assert min(one.ratio for one in found) > 2
    assert result.outputs == {}


def _nothing(found: list[Any]) -> None:
    found[0]["ratio"] = 0.0


def _negative(found: list[Any]) -> None:
    found[1]["ratio"] = -1.0


def _another_layer(found: list[Any]) -> None:
    found[2]["rounds"][0]["engine"][0]["layer"] = "nobody's"


def _backwards(found: list[Any]) -> None:
    found[2]["rounds"][0]["other"][0]["us"] = -1.0


def _no_layer(found: list[Any]) -> None:
    for each in found[2]["rounds"]:
        each["engine"] = []


def _a_layer_less(found: list[Any]) -> None:
    found[2]["rounds"][1]["engine"].pop()


def _a_layer_twice(found: list[Any]) -> None:
    for each in found[2]["rounds"]:
        each["engine"].append(each["engine"][0])


def _another_ratio(found: list[Any]) -> None:
    found[2]["ratio"] *= 2.0


def _no_time_at_all(found: list[Any]) -> None:
    for one in found[2]["rounds"][0]["other"]:
        one["us"] = 0.0


def _one_round_more(found: list[Any]) -> None:
    found[2]["rounds"].append(found[2]["rounds"][0])


def _layers_unasked(found: list[Any]) -> None:
    found[0]["rounds"] = found[2]["rounds"]


@pytest.mark.parametrize(
    "change",
    [
        _nothing,
        _negative,
        _another_layer,
        _no_layer,
        _a_layer_less,
        _a_layer_twice,
        _another_ratio,
        _no_time_at_all,
        _backwards,
        _one_round_more,
        _layers_unasked,
        list.pop,
    ],
)
def test_times_that_are_no_answer_are_refused_whatever_their_digests(
    done: tuple[Path, DeviceJob], tmp_path: Path, change: Callable[[list[Any]], None]
) -> None:
    out, job = done
    forged = tmp_path / "forged"
    shutil.copytree(out, forged)
    found = json.loads((forged / "pairs.json").read_bytes())
    change(found)
    (forged / "pairs.json").write_bytes(canonical(found))
    value = json.loads((forged / RESULT_FILE).read_bytes())
    (forged / RESULT_FILE).unlink()
    seal_result(forged, msgspec.convert(value, DeviceResult))
    with pytest.raises(ChainBroken, match="times that the job asked for"):
        read_result(forged, job, now=time.time())


def test_a_result_without_its_pairs_is_refused(
    done: tuple[Path, DeviceJob], tmp_path: Path
) -> None:
    out, job = done
    forged = tmp_path / "forged"
    shutil.copytree(out, forged)
    value = json.loads((forged / RESULT_FILE).read_bytes()) | {"pairs": ""}
    (forged / "pairs.json").unlink()
    (forged / RESULT_FILE).unlink()
    seal_result(forged, msgspec.convert(value, DeviceResult))
    with pytest.raises(ChainBroken, match="pairs differ"):
        read_result(forged, job, now=time.time())


@pytest.mark.parametrize("ratio", [math.nan, math.inf])
def test_what_is_no_number_is_no_ratio(ratio: float) -> None:
    asked = [pair("blocks", "a", "b", "c")]
    assert unlike(asked, [PairTimes(ratio=ratio)]) == "a pair without a ratio of times"
    assert unlike(asked, [PairTimes(ratio=1.0)]) == ""


@pytest.mark.slow
def test_a_runtime_that_may_crash_is_timed_in_a_process_of_its_own(
    small_and_big: tuple[Path, Path],
    call: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same times come from there; what it dies of ends no step; an engine that does not load is said."""
    risky = msgspec.structs.replace(OnnxRuntime.capabilities, may_crash=True)
    monkeypatch.setattr(OnnxRuntime, "capabilities", risky)
    monkeypatch.setattr(OnnxRuntime, "open", None)
    place = here(Target(), 1)
    small, big = small_and_big
    assert not place.inside
    assert place.take([pair("blocks", big, small, call)])[0].ratio > 2
    (tmp_path / "none.onnx").write_bytes(b"x")
    with pytest.raises(BuildError, match="measuring is not possible"):
        place.take([pair("blocks", tmp_path / "none.onnx", small, call)])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'reprune.measure.pairs' in ' '.join(sys.orig_argv): os.kill(os.getpid(), 11)\n"
    )
    with pytest.raises(RepruneError, match="killed by signal 11"):
        place.take([pair("blocks", big, small, call)])
