"""Device jobs: over a pipe to a second environment, in a folder, and all that can go wrong with them."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reprune import __version__
from reprune.core.archive import pack, unpack
from reprune.core.documents import canonical
from reprune.core.errors import (
    ArtifactError,
    BuildError,
    ChainBroken,
    InputError,
    PayloadCorrupt,
    RepruneError,
)
from reprune.core.machine import this_machine
from reprune.core.params import BenchmarkParams, Target
from reprune.doors.cli import main
from reprune.judge.evidence import CONTROL
from reprune.measure.calls import Shape
from reprune.measure.device_call import Device, call, command_line
from reprune.measure.device_job import (
    JOB_FILE,
    DeviceJob,
    Starting,
    Timing,
    add_pass,
    add_shapes,
    block_plan,
    new_job,
    read_job,
    schedule,
    seal,
)
from reprune.measure.device_results import (
    RESULT_FILE,
    DeviceResult,
    Returned,
    read_arrays,
    read_result,
    read_result_starts,
    read_result_units,
    seal_result,
)
from reprune.measure.device_run import run_job
from reprune.runtimes.onnxruntime import OnnxRuntime
from tests.devices import local_device

ARMS = ("candidate", "dense")
FAST = BenchmarkParams(block_ms=1.0, discard_calls=1, warmup_seconds=0.0, units_per_process=2)


def batches(count: int = 2) -> list[tuple[np.ndarray]]:
    random = np.random.default_rng(5)
    return [(random.normal(size=(size, 64)).astype(np.float32),) for size in range(3, 3 + count)]


def make_job(
    folder: Path,
    engines: tuple[Path, Path],
    *,
    units: int = 3,
    starts: int = 1,
    valid_s: float = 600.0,
    runtime: str = "onnxruntime",
) -> DeviceJob:
    """Two arms of the fixture's engines, one pass of two batches, units and starts."""
    folder.mkdir(parents=True, exist_ok=True)
    job = new_job("jet", Target(runtime=runtime), hang_seconds=60, valid_s=valid_s)
    arms = {}
    for arm, engine in zip(ARMS, engines, strict=True):
        arms[arm] = f"engines/{arm}{engine.suffix}"
        (folder / "engines").mkdir(exist_ok=True)
        shutil.copyfile(engine, folder / arms[arm])
    shapes = [Shape(inputs=batches(1)[0], weight=1.0)]
    files = add_shapes(folder, "1", shapes)
    timing = Timing(
        batch_size=1,
        shapes=files,
        weights=(1.0,),
        plan=block_plan(FAST),
        pause_seconds=0.0,
        units=schedule((*ARMS, CONTROL), "seed", range(units), first_process=0, per_process=2),
    )
    starting = Starting(shapes=files, weights=(1.0,), turns=(ARMS,) * starts)
    return seal(
        folder,
        msgspec.structs.replace(
            job,
            arms=arms,
            bound=False,
            passes={"eval": add_pass(folder, "eval", batches())},
            timings=(timing,) if units else (),
            starting=starting if starts else None,
        ),
    )


def device(run: str, **changes: float) -> Device:
    return Device(name="jet", run=run, say=lambda _: None, **{"limit_s": 120.0, **changes})


@pytest.mark.slow
def test_a_job_goes_through_a_pipe_and_its_result_comes_back(
    small_and_big: tuple[Path, Path], tmp_path: Path
) -> None:
    """Outputs are the engines', units those of the schedule, and the machine is the device's, not ours."""
    source, out = tmp_path / "job", tmp_path / "out"
    out.mkdir()
    job = make_job(source, small_and_big)
    said: list[str] = []
    there = Device(name="jet", run=local_device(tmp_path / "jet"), limit_s=120, say=said.append)
    result = call(there, source, job, out)
    assert result.machine.instance != this_machine(1).instance
    assert result.machine.kind == this_machine(1).kind
    assert result.runtime_version == OnnxRuntime().version()
    for arm, engine in zip(ARMS, small_and_big, strict=True):
        session = OnnxRuntime().open(engine, Target())
        back = Returned(out, job.passes["eval"], result.outputs["eval"][arm])
        for inputs in batches():
            np.testing.assert_array_equal(back.run(inputs)[0], session.run(inputs)[0])
    units = read_result_units(out, result.units[0])
    assert [unit.index for unit in units] == [0, 1, 2]
    assert [unit.process for unit in units] == [0, 0, 1]
    assert all(set(unit.arms) == {*ARMS, CONTROL} for unit in units)
    assert all(arm.conditions for unit in units for arm in unit.arms.values())
    starts = read_result_starts(out, result)
    assert {arm: len(found) for arm, found in starts.items()} == {"candidate": 1, "dense": 1}
    assert any("3 of 3 units taken" in line for line in said)


@pytest.fixture(scope="module")
def done(
    small_and_big: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, DeviceJob]:
    """A job and its result, as they lie in folders."""
    folder = tmp_path_factory.mktemp("done")
    job = make_job(folder / "job", small_and_big, units=2, starts=0)
    (folder / "out").mkdir()
    run_job(folder / "job", folder / "out", say=lambda _: None)
    return folder / "job", folder / "out", job


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def resealed(folder: Path, **changes: Any) -> None:
    """What a careful forger leaves: other facts, every digest corrected."""
    value = json.loads((folder / RESULT_FILE).read_bytes()) | changes
    (folder / RESULT_FILE).unlink()
    seal_result(folder, msgspec.convert(value, DeviceResult))


def edit_units(folder: Path, change: Callable[[list[Any]], None]) -> None:
    path = folder / "units/0.json"
    units = json.loads(path.read_bytes())
    change(units)
    path.write_bytes(canonical(units))


@pytest.mark.slow
def test_what_was_edited_on_the_way_is_refused(
    done: tuple[Path, Path, DeviceJob], tmp_path: Path
) -> None:
    """An edited, missing or added file: the digests tell."""
    _, out, job = done
    assert read_result(out, job, now=time.time()).nonce == job.nonce
    edited = copied(out, tmp_path / "edited")
    edit_units(edited, lambda units: units[0]["arms"]["candidate"]["blocks_ns"][0].append(1))
    missing = copied(out, tmp_path / "missing")
    (missing / "outputs/eval/dense/000001.npz").unlink()
    added = copied(out, tmp_path / "added")
    (added / "more.txt").write_text("x")
    linked = copied(out, tmp_path / "linked")
    (linked / "units/0.json").unlink()
    (linked / "units/0.json").symlink_to(out / "units/0.json")
    whole = copied(out, tmp_path / "whole")
    (whole / RESULT_FILE).unlink()
    for folder in (edited, missing, added, linked, whole):
        with pytest.raises(PayloadCorrupt):
            read_result(folder, job, now=time.time())


def _swap(units: list[Any]) -> None:
    units[0], units[1] = units[1], units[0]


def _other_order(units: list[Any]) -> None:
    arms = units[0]["arms"]
    arms["candidate"]["order"], arms["dense"]["order"] = (
        arms["dense"]["order"],
        arms["candidate"]["order"],
    )


def _later(units: list[Any]) -> None:
    units[1]["started_s"] += 3600


def _faster_than_the_wall(units: list[Any]) -> None:
    units[0]["arms"]["dense"]["blocks_ns"][0][0] = 10**12


def _no_time(units: list[Any]) -> None:
    units[0]["arms"]["dense"]["blocks_ns"][1][0] = 0


def _no_call(units: list[Any]) -> None:
    units[1]["arms"]["candidate"]["blocks_ns"][0].clear()


def _without_control(units: list[Any]) -> None:
    for unit in units:
        del unit["arms"][CONTROL]


@pytest.mark.parametrize(
    "change",
    [
        _swap,
        _other_order,
        _later,
        _faster_than_the_wall,
        _no_time,
        _no_call,
        _without_control,
        list.pop,
    ],
)
def test_units_that_the_schedule_does_not_hold_are_refused_whatever_their_digests(
    done: tuple[Path, Path, DeviceJob], tmp_path: Path, change: Callable[[list[Any]], None]
) -> None:
    """Order, seeds, arms and times must be those of the job, even where every digest was corrected."""
    _, out, job = done
    forged = copied(out, tmp_path / "forged")
    edit_units(forged, change)
    resealed(forged)
    with pytest.raises(ChainBroken):
        read_result(forged, job, now=time.time())


def test_a_result_of_another_job_or_version_or_with_a_wrong_clock_is_refused(
    done: tuple[Path, Path, DeviceJob], small_and_big: tuple[Path, Path], tmp_path: Path
) -> None:
    """Replayed for another job, made by another Reprune, dated wrongly: words that say which."""
    _, out, job = done
    other = make_job(tmp_path / "other", small_and_big, units=2, starts=0)
    with pytest.raises(ChainBroken, match="another job"):
        read_result(out, other, now=time.time())
    engines = (small_and_big[1], small_and_big[0])
    swapped = make_job(tmp_path / "swapped", engines, units=2, starts=0)
    same_nonce = msgspec.structs.replace(swapped, nonce=job.nonce)
    with pytest.raises(ChainBroken, match="another job"):
        read_result(out, same_nonce, now=time.time())
    old = copied(out, tmp_path / "old")
    value = json.loads((old / RESULT_FILE).read_bytes())
    (old / RESULT_FILE).write_bytes(canonical(value | {"reprune": "0.0.1"}))
    with pytest.raises(BuildError, match=r"runs Reprune 0\.0\.1"):
        read_result(old, job, now=time.time())
    skewed = copied(out, tmp_path / "skewed")
    resealed(skewed, began_s=job.created_s - 90_000, ended_s=job.created_s - 89_000)
    with pytest.raises(BuildError, match="clocks is off"):
        read_result(skewed, job, now=time.time())
    more = copied(out, tmp_path / "more")
    resealed(more, units=[])
    with pytest.raises(ChainBroken, match="units"):
        read_result(more, job, now=time.time())


def test_a_job_is_refused_on_the_device_when_it_is_old_changed_or_of_another_version(
    done: tuple[Path, Path, DeviceJob], tmp_path: Path
) -> None:
    """Nothing is run of what was not sealed, and nothing after its time."""
    source, _, job = done
    with pytest.raises(BuildError, match="expired"):
        read_job(source, now=job.expires_s + 1)
    changed = copied(source, tmp_path / "changed")
    (changed / "engines/dense.onnx").write_bytes(b"x")
    with pytest.raises(PayloadCorrupt, match="digest differs"):
        read_job(changed)
    newer = copied(source, tmp_path / "newer")
    value = json.loads((newer / JOB_FILE).read_bytes())
    (newer / JOB_FILE).write_bytes(canonical(value | {"reprune": "99.0", "unheard": 1}))
    with pytest.raises(
        BuildError, match=r"written by Reprune 99\.0.*this is " + __version__
    ) as caught:
        read_job(newer)
    assert "reprune==99.0" in caught.value.fix


def test_outputs_are_given_back_only_for_the_inputs_that_went_out(
    done: tuple[Path, Path, DeviceJob], tmp_path: Path
) -> None:
    """Another order, other inputs, one batch more, or rows that are missing."""
    _, out, job = done
    result = read_result(out, job, now=time.time())
    calls, files = job.passes["eval"], result.outputs["eval"]["dense"]
    first, second = batches()
    with pytest.raises(ChainBroken, match="other inputs"):
        Returned(out, calls, files).run(second)
    session = Returned(out, calls, files)
    session.run(first)
    session.run(second)
    with pytest.raises(ChainBroken, match="fewer batches"):
        session.run(first)
    short = copied(out, tmp_path / "short")
    np.savez(short / files[0], np.zeros((1, 4), np.float32))
    with pytest.raises(PayloadCorrupt, match="for 3 examples"):
        Returned(short, calls, files).run(first)
    (short / files[0]).write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(PayloadCorrupt):
        read_arrays(short / files[0])


def answering(folder: Path, script: str) -> Device:
    """A device whose program does what the Python `script` says."""
    path = folder / "answers.py"
    path.write_text(f"import os, signal, sys, time\n{script}\n")
    return device(f"{sys.executable} {path} {{args}}", silent_s=1.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ("sys.stdin.buffer.read(); sys.exit(127)", RepruneError, "exit code 127"),
        ("print('no such host', file=sys.stderr); sys.exit(255)", RepruneError, "no such host"),
        (
            "sys.stdin.buffer.read(10); os.kill(os.getpid(), signal.SIGKILL)",
            RepruneError,
            "signal 9",
        ),
        ("print('error: no memory', file=sys.stderr); sys.exit(2)", BuildError, "no memory"),
        ("sys.stdin.buffer.read(); print('Welcome!' * 99)", RepruneError, "begins with 'Welcome!"),
        ("sys.stdin.buffer.read()", RepruneError, "no result"),
        ("time.sleep(60)", RepruneError, "said nothing for 2 s"),
        (
            "os.write(1, b'x'); os.write(1, b'y' * 600); time.sleep(60)",
            RepruneError,
            "said nothing",
        ),
    ],
    ids=["absent", "unreachable", "dies", "refuses", "banner", "silent end", "hangs", "half"],
)
def test_a_device_that_fails_is_a_clear_error(
    done: tuple[Path, Path, DeviceJob],
    tmp_path: Path,
    script: str,
    kind: type[RepruneError],
    words: str,
) -> None:
    """Whatever it does instead of an answer: one error with its words, soon, and of the right kind."""
    source, _, job = done
    out = tmp_path / "out"
    out.mkdir()
    begin = time.monotonic()
    with pytest.raises(kind, match=words) as caught:
        call(answering(tmp_path, script), source, job, out)
    assert time.monotonic() - begin < 30
    assert isinstance(caught.value, InputError) is (kind is BuildError)


def test_a_device_that_answers_with_somebody_elses_result_is_refused(
    done: tuple[Path, Path, DeviceJob], small_and_big: tuple[Path, Path], tmp_path: Path
) -> None:
    """A replay over the pipe: whole, well-formed, and not the answer to this job."""
    _, out, _ = done
    with (tmp_path / "old.tar").open("wb") as stream:
        pack(out, stream)
    script = (
        f"sys.stdin.buffer.read(); os.write(1, open({str(tmp_path / 'old.tar')!r}, 'rb').read())"
    )
    job = make_job(tmp_path / "new", small_and_big, units=2, starts=0)
    back = tmp_path / "back"
    back.mkdir()
    with pytest.raises(ChainBroken, match=r"device of 'jet' is refused.*another job"):
        call(answering(tmp_path, script), tmp_path / "new", job, back)


@pytest.mark.slow
def test_the_time_limit_ends_what_the_device_started(
    done: tuple[Path, Path, DeviceJob], tmp_path: Path
) -> None:
    """A device that keeps talking is stopped all the same, and its children with it."""
    source, _, job = done
    alive = tmp_path / "alive"
    beat = (
        f"import time, pathlib\nwhile True: pathlib.Path({str(alive)!r}).touch(); time.sleep(.05)"
    )
    script = (
        f"import subprocess\nsubprocess.Popen([sys.executable, '-c', {beat!r}])\n"
        "while True: print('working', file=sys.stderr, flush=True); time.sleep(.1)"
    )
    there = answering(tmp_path, script)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(RepruneError, match="did not end within 2 s"):
        call(Device(name="jet", run=there.run, limit_s=2, say=lambda _: None), source, job, out)
    assert alive.exists()
    time.sleep(0.3)
    alive.unlink()
    time.sleep(0.3)
    assert not alive.exists()


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("ssh jetson reprune", "exactly once"),
        ("{args} {args}", "exactly once"),
        ("{args}", "names no command"),
        ("ssh 'jetson {args}", "split into words"),
        ("/nowhere/at/all {args}", "cannot be started"),
    ],
)
def test_a_command_that_is_none_is_refused(
    done: tuple[Path, Path, DeviceJob], tmp_path: Path, run: str, words: str
) -> None:
    source, _, job = done
    with pytest.raises(InputError, match=words):
        call(device(run), source, job, tmp_path)


def test_no_shell_reads_the_command() -> None:
    """Words are split as a shell would, and nothing in them is expanded."""
    assert command_line("ssh 'my jet' reprune {args}") == [
        "ssh",
        "my jet",
        "reprune",
        "device-run",
        "-",
    ]
    assert command_line("docker exec -i x sh -c 'reprune {args}; $HOME'")[-1] == (
        "reprune device-run -; $HOME"
    )


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return io.BytesIO(stream.getvalue())


def _member(name: str, content: bytes = b"x", **facts: Any) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for fact, value in facts.items():
        setattr(member, fact, value)
    return member, content


@pytest.mark.parametrize(
    "members",
    [
        [_member("../up")],
        [_member("a/../../up")],
        [_member("/tmp/absolute-path-of-a-test")],
        [_member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
        [_member("link", b"", type=tarfile.SYMTYPE, linkname=".."), _member("link/up")],
        [_member("a"), _member("hard", b"", type=tarfile.LNKTYPE, linkname="a")],
        [_member("fifo", b"", type=tarfile.FIFOTYPE)],
        [_member("twice"), _member("twice", b"y")],
        [_member("large", b"x" * 5000)],
    ],
    ids=["up", "up inside", "absolute", "link", "through a link", "hard", "fifo", "twice", "large"],
)
def test_no_archive_reaches_outside_its_folder(members: list[Any], tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ArtifactError):
        unpack(_tar(*members), inside, max_bytes=4000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside"]


def test_an_archive_that_ends_too_early_is_no_archive(tmp_path: Path) -> None:
    whole = _tar(_member("a", b"x" * 3000)).getvalue()
    for place, size in enumerate((0, 300, 512, 2000)):
        folder = tmp_path / str(place)
        folder.mkdir()
        with pytest.raises(ArtifactError):
            unpack(io.BytesIO(whole[:size]), folder)


def test_packing_and_unpacking_is_identity(tmp_path: Path) -> None:
    """The same bytes come out, and the same stream for the same files."""
    source, back = tmp_path / "a", tmp_path / "b"
    (source / "deep" / "er").mkdir(parents=True)
    back.mkdir()
    (source / "empty").write_bytes(b"")
    (source / "deep" / "er" / "x.bin").write_bytes(bytes(range(256)) * 20)
    one, other = io.BytesIO(), io.BytesIO()
    pack(source, one)
    pack(source, other)
    assert one.getvalue() == other.getvalue()
    unpack(io.BytesIO(one.getvalue()), back)
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    assert all((back / file).read_bytes() == (source / file).read_bytes() for file in files)
    (source / "link").symlink_to("empty")
    with pytest.raises(ArtifactError, match="links"):
        pack(source, io.BytesIO())


@pytest.mark.slow
def test_a_job_in_a_folder_runs_from_the_command_line(
    small_and_big: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`reprune device-run DIR --out RESULT`: what a device with Reprune does with a kit."""
    job = make_job(tmp_path / "job", small_and_big, units=0, starts=0)
    words = ["device-run", str(tmp_path / "job"), "--out", str(tmp_path / "result"), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["nonce"] == job.nonce
    assert read_result(tmp_path / "result", job, now=time.time()).nonce == job.nonce
    assert main(words) == 2
    assert "there already" in json.loads(capsys.readouterr().out)["what"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job", "result"]


@pytest.mark.slow
def test_an_engine_that_does_not_load_there_is_told_in_the_devices_words(
    small_and_big: tuple[Path, Path], tmp_path: Path
) -> None:
    """A corrupt engine crosses the pipe as an error that names it, and no result."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    job = make_job(tmp_path / "job", (small_and_big[0], broken), units=0, starts=0)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BuildError, match="ONNX Runtime cannot load it"):
        call(device(local_device(tmp_path / "jet")), tmp_path / "job", job, out)
    assert not list(out.rglob("*"))


def test_a_job_that_is_too_large_is_said_at_once(
    small_and_big: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device waits for no rest of it, and the words are not those of a device that hangs."""
    source, out = tmp_path / "job", tmp_path / "out"
    out.mkdir()
    job = make_job(source, small_and_big)
    monkeypatch.setattr("reprune.core.archive.MAX_FILES", 2)
    with pytest.raises(RepruneError, match=r"the job for the device of 'jet' cannot be sent: it"):
        call(device(local_device(tmp_path / "jet"), limit_s=60.0), source, job, out)
