"""Whatever a device gives back: it is refused in words, by a process that it cannot get out of.

Every folder is sealed as a careful forger would seal it: the digests are right, and the job is the one that
was sent.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from reprune import __version__
from reprune.core import store
from reprune.core.errors import BuildError, ChainBroken, PayloadCorrupt, RepruneError
from reprune.core.machine import Machine
from reprune.core.params import Target
from reprune.measure import foreign_results
from reprune.measure.device_job import (
    Arrays,
    DeviceJob,
    Starting,
    Timing,
    UnitAsked,
    job_digest,
    new_job,
)
from reprune.measure.device_results import DeviceResult, read_arrays, read_result, seal_result
from reprune.measure.foreign_arrays import check_npz, read_npz
from reprune.measure.unit import BlockPlan
from tests.hostile import corpus, fuzz, goods

DEEP = os.environ.get("REPRUNE_DEEP") == "1"
OUTPUTS, UNITS, STARTS = "outputs/eval/candidate/000000.npz", "units/0.json", "starts.json"
UNIT: dict[str, Any] = {
    "index": 0, "process": 0, "seed": 1, "load": 0.5,
    "arms": {"candidate": {"order": 0, "blocks_ns": [[5], [6]], "warmup_calls": 1}},
}  # fmt: skip
START = {"candidate": [{"load_ns": 1, "first_call_ns": 2, "peak_bytes": 3}]}
DEEP_JSON = b"[" * 100_000 + b"]" * 100_000


def make_job() -> DeviceJob:
    """One arm, one call of two examples, one unit and one start."""
    plan = BlockPlan(block_ms=1.0, min_calls=1, discard_calls=0, warmup_seconds=0.0)
    asked = UnitAsked(index=0, process=0, seed=1, created=("candidate",), blocks=("candidate",))
    return structs.replace(
        new_job("jet", Target(runtime="onnxruntime"), hang_seconds=60, valid_s=600),
        arms={"candidate": "engines/candidate.onnx"},
        passes={"eval": (Arrays(file="i.npz", content="sha256:" + "0" * 64, examples=2),)},
        timings=(
            Timing(
                batch_size=1, shapes=(), weights=(), plan=plan, pause_seconds=0.0, units=(asked,)
            ),
        ),
        starting=Starting(shapes=(), weights=(), turns=(("candidate",),)),
    )


def give_back(folder: Path, job: DeviceJob, **files: bytes) -> Path:
    """A result of the job, whole and honest but for the files that are given."""
    now = time.time()
    stream = io.BytesIO()
    np.savez(stream, np.ones((2, 3), np.float32))
    told = {
        OUTPUTS: stream.getvalue(),
        UNITS: json.dumps([{**UNIT, "started_s": now}]).encode(),
        STARTS: json.dumps(START).encode(),
    }
    for name, content in (told | files).items():
        store.write_bytes(folder / name, content)
    result = DeviceResult(
        nonce=job.nonce,
        job=job_digest(job),
        reprune=__version__,
        machine=Machine(instance="i", kind="k", cpu="c", logical_cpus=1, os="o"),
        python="3.11",
        runtime_version="1",
        binding={},
        began_s=now,
        ended_s=now,
        outputs={"eval": {"candidate": (OUTPUTS,)}},
        units=(UNITS,),
        starts=STARTS,
    )
    seal_result(folder, result)
    return folder


def arrays(canary: Path) -> dict[str, bytes]:
    """Outputs that are no outputs."""
    boom = io.BytesIO()
    np.savez(boom, np.array([corpus.Boom(canary)], dtype=object))
    named = {case: content for case, (_, content) in corpus.pickles(canary).items()}
    plain = goods.npz_files()[0]
    zeros = io.BytesIO()
    np.savez_compressed(zeros, np.zeros(2**25, np.uint8))

    def kind(descr: str, shape: str = "(2,)", data: bytes = bytes(64)) -> bytes:
        header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("arr_0.npy", raw)
        return packed.getvalue()

    return {
        **{f"a pickle: {case}": content for case, content in named.items()},
        **{f"an archive: {case}": content for case, content in corpus.archives().items()},
        "objects": boom.getvalue(),
        "a pickle in the array's place": _zipped({"arr_0.npy": pickle.dumps(corpus.Boom(canary))}),
        "times": kind("'<M8[s]'", data=bytes(16)),
        "texts": kind("'<U4'", data=bytes(32)),
        "records": kind("[('a', '<f4'), ('b', '<f4')]", data=bytes(16)),
        "records of objects": kind("[('a', '|O')]"),
        "a type of nothing": kind("'|V0'"),
        "a type of two gigabytes": kind("'|V2147483647'"),
        "a type that nests": kind("[" * 400 + "('a', '<f4')" + "]" * 400),
        "a shape of many": kind("'<f4'", f"({'1,' * 40})", bytes(4)),
        "a shape beyond all numbers": kind("'<f4'", f"({10**30},)"),
        "a shape of words": kind("'<f4'", "('2',)"),
        "a shape below none": kind("'<f4'", "(-1, -1)", bytes(4)),
        "less than it says": kind("'<f4'", "(9,)", bytes(8)),
        "more than it says": kind("'<f4'", "(1,)", bytes(8)),
        "another version": plain.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x07"),
        "another name": plain.replace(b"arr_0.npy", b"arr_1.npy"),
        "more than it packs": zeros.getvalue().replace(
            (2**25 + 128).to_bytes(4, "little"), (2**31).to_bytes(4, "little")
        ),
        "half": plain[: len(plain) // 2],
        "nothing": b"",
    }


def samples() -> dict[str, tuple[str, bytes]]:
    """Samples that are no samples: which file, and what is in it."""
    unit = json.dumps([{**UNIT, "started_s": 1.0}]).encode()
    return {
        "deep units": (UNITS, DEEP_JSON),
        "units of NaN": (UNITS, unit.replace(b"0.5", b"NaN")),
        "units beyond numbers": (UNITS, unit.replace(b"0.5", b"1e999")),
        "a time without end": (UNITS, unit.replace(b"[5]", b"[" + b"9" * 5000 + b"]")),
        "a key twice": (UNITS, unit.replace(b'"seed": 1', b'"seed": 1, "seed": 1')),
        "a field of its own": (UNITS, unit.replace(b'"seed": 1', b'"seed": 1, "boom": 1')),
        "no UTF-8": (UNITS, b"\xff\xfe"),
        "a pickle": (UNITS, pickle.dumps(UNIT)),
        "no units": (UNITS, b""),
        "deep starts": (STARTS, DEEP_JSON),
        "starts of words": (STARTS, b'{"candidate": "soon"}'),
    }


def _zipped(parts: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return stream.getvalue()


def refused(folder: Path, job: DeviceJob) -> str:
    """The words with which the result is refused; empty if it is taken."""
    try:
        read_result(folder, job, now=time.time())
    except RepruneError as error:
        return str(error)
    return ""


def test_an_honest_result_is_taken(tmp_path: Path) -> None:
    """With the outputs that it holds: what is refused below is refused for what is wrong with it."""
    job = make_job()
    folder = give_back(tmp_path / "out", job)
    assert refused(folder, job) == ""
    np.testing.assert_array_equal(read_arrays(folder / OUTPUTS)[0], np.ones((2, 3)))


@pytest.mark.parametrize(
    ("blocks", "least"), [([[5], [6]], 2), ([[5, 5], [6]], 2), ([[5]], 1), ([[5], [6], [7]], 1)]
)
def test_units_with_too_few_calls_or_blocks_are_refused(
    tmp_path: Path, blocks: list[list[int]], least: int
) -> None:
    """The plan of the job says how many there must be: fewer are another measurement than was asked."""
    job = make_job()
    (timing,) = job.timings
    timing = structs.replace(timing, plan=structs.replace(timing.plan, min_calls=least))
    job = structs.replace(job, timings=(timing,))
    arms = {"candidate": {**UNIT["arms"]["candidate"], "blocks_ns": blocks}}
    units = json.dumps([{**UNIT, "arms": arms, "started_s": time.time()}]).encode()
    give_back(tmp_path, job, **{UNITS: units})
    with pytest.raises(ChainBroken, match=f"two blocks of at least {least} calls"):
        read_result(tmp_path, job, now=time.time())


@pytest.mark.slow
def test_no_hostile_file_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in words, within time and memory; nothing runs. In a process each where it is deep, else the
    reader of that process reads them all here.
    """
    if not DEEP:
        monkeypatch.setattr("reprune.measure.device_results.check_apart", foreign_results.check)
    job, canary = make_job(), tmp_path / "canary"
    cases = {case: (OUTPUTS, content) for case, content in arrays(canary).items()} | samples()
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken, words = [], {}
    for number, (case, (name, content)) in enumerate(cases.items()):
        folder = give_back(tmp_path / str(number), job, **{name: content})
        words[case] = refused(folder, job)
        if not words[case]:
            taken.append(case)
    assert taken == []
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began.ru_utime
    assert spent < 10.0 * len(cases)
    assert not canary.exists()
    print(f"{len(cases)} hostile results refused")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["objects", "a type that nests", "deep units", "an archive: a bomb"]
)
def test_the_confined_reader_refuses_it_first(tmp_path: Path, case: str) -> None:
    """By the process itself: what is refused has not been parsed in this one."""
    known = {case: (OUTPUTS, content) for case, content in arrays(tmp_path / "canary").items()}
    name, content = (known | samples())[case]
    folder = give_back(tmp_path / "out", make_job(), **{name: content})
    with pytest.raises(RepruneError):
        foreign_results.check_apart(folder)
    assert not (tmp_path / "canary").exists()


def test_what_kills_the_reader_does_not_kill_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that is out of time ends with it, and the words say what it was at."""
    folder = give_back(tmp_path / "out", make_job())
    monkeypatch.setattr(foreign_results, "_MEMORY_BYTES", 1)
    with pytest.raises(PayloadCorrupt, match=r"memory|ended with"):
        foreign_results.check_apart(folder)


@pytest.mark.parametrize("how", ["pipe", "link", "linked folder", "many", "large"])
def test_a_folder_that_is_no_result_is_not_even_copied(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by what its directory says, before a byte of it is read."""
    job = make_job()
    folder = give_back(tmp_path / "out", job)
    if how == "pipe":
        os.mkfifo(folder / "outputs" / "pipe")
    elif how == "link":
        (folder / "outputs" / "link").symlink_to("/etc/passwd")
    elif how == "linked folder":
        (folder / "outputs" / "link").symlink_to("/etc", target_is_directory=True)
    elif how == "many":
        monkeypatch.setattr(foreign_results, "MAX_FILES", 3)
    else:
        with (folder / "outputs" / "large").open("wb") as stream:
            stream.truncate(9 * 2**30)
    with pytest.raises(PayloadCorrupt, match=r"plain file|more than"):
        foreign_results.weigh(folder)
    assert refused(folder, job)


def test_law_what_is_checked_is_what_is_read(tmp_path: Path) -> None:
    """Of honest arrays and mutants of them: the reader takes exactly what the check let through."""
    path, seeds = tmp_path / "a.npz", goods.npz_files()
    told = []
    for number in range(5_000 if DEEP else 300):
        path.write_bytes(seeds[number] if number < len(seeds) else fuzz.mutant(seeds, number, 1))
        checked = _takes(lambda: check_npz(path, max_bytes=2**28))
        read = _takes(lambda: sum(each.nbytes for each in read_npz(path, max_bytes=2**28)))
        told.append((checked, read))
    assert [each for each in told if each[0] != each[1]] == []
    assert all(found is not None for found, _ in told[: len(seeds)])


def _takes(read: Callable[[], int]) -> int | None:
    try:
        return read()
    except BuildError:
        return None
