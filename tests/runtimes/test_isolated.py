"""A compiler that crashes, hangs, is killed or refuses: a clear error each, and never half an engine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError, RepruneError
from reprune.core.params import Target
from reprune.runtimes.isolated import compile_isolated

PROBE = '''
"""A runtime that does to itself what the file `does.json` says."""
import ctypes, json, os, signal, sys, time
from pathlib import Path
from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError


class Plain:
    suffix = ".probe"


class Probe(Plain):
    def prepare(self, source, target, folder):
        return BuildFact()

    def compile(self, folder, target, destination):
        does = json.loads((folder / "does.json").read_text())
        if does.get("half"):
            destination.write_bytes(b"half of it")
        if does.get("how") == "segfault":
            ctypes.string_at(0)
        if does.get("how") == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if does.get("how") == "hangs":
            time.sleep(600)
        if does.get("how") == "refuses":
            raise BuildError("the layer conv7 has no kernel", fix="leave conv7 in float")
        if does.get("how") == "raises":
            raise ValueError("nobody expected this")
        if does.get("how") != "nothing":
            destination.write_bytes(b"whole" + os.environ["OMP_NUM_THREADS"].encode())
        print("noise that nobody asked for")
        return BuildFact(fallbacks=3, notes=("torch" if "torch" in sys.modules else "no torch",))
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as `prepare` leaves it, with the probe installed for this process and its children."""
    site = tmp_path / "site"
    facts = site / "compiling_probe-1.dist-info"
    facts.mkdir(parents=True)
    (site / "compiling_probe.py").write_text(PROBE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: compiling-probe\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[reprune.runtimes]\nprobe = compiling_probe:Probe\nplain = compiling_probe:Plain\n"
    )
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    return prepared


def compiled(
    folder: Path, *, seconds: float = 60.0, runtime: str = "probe", **does: object
) -> Path:
    (folder / "does.json").write_text(json.dumps(does))
    destination = folder.parent / "engines" / "candidate.probe"
    fact = compile_isolated(
        Target(runtime=runtime, threads=2), folder, destination, seconds=seconds
    )
    assert fact == BuildFact(fallbacks=3, notes=("no torch",))
    return destination


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder.parent / "engines").iterdir())


def test_the_engine_and_what_the_build_found_come_back(folder: Path) -> None:
    assert compiled(folder).read_bytes() == b"whole2"
    assert left_behind(folder) == ["candidate.probe"]


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("segfault", RepruneError, "compiling an engine of probe was killed by signal 11"),
        ("killed", RepruneError, "was killed by signal 9"),
        ("refuses", BuildError, "the layer conv7 has no kernel"),
        ("raises", RepruneError, "nobody expected this"),
    ],
)
def test_what_goes_wrong_is_said_and_leaves_nothing(
    folder: Path, how: str, kind: type[RepruneError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        compiled(folder, how=how, half=True)
    assert left_behind(folder) == []


@pytest.mark.slow
def test_a_compiler_that_hangs_is_stopped(folder: Path) -> None:
    with pytest.raises(RepruneError, match="did not end within 2 s"):
        compiled(folder, how="hangs", half=True, seconds=2.0)
    assert left_behind(folder) == []


def test_an_engine_that_was_there_stays_when_the_new_one_fails(folder: Path) -> None:
    before = compiled(folder)
    with pytest.raises(BuildError, match="conv7"):
        compiled(folder, how="refuses", half=True)
    assert before.read_bytes() == b"whole2"


def test_a_compiler_that_leaves_nothing_is_no_success(folder: Path) -> None:
    with pytest.raises(RepruneError, match="said that it built an engine, and there is none"):
        compiled(folder, how="nothing")
    assert left_behind(folder) == []


def test_a_runtime_that_compiles_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(BuildError, match="does not compile its engines in a process of their own"):
        compiled(folder, runtime="plain")


def test_an_interpreter_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(BuildError, match="no-such-python"):
        compile_isolated(
            Target(runtime="probe", python="/no-such-python"),
            folder,
            folder.parent / "engines" / "candidate.probe",
            seconds=10.0,
        )
