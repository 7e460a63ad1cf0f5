"""Engines that only their device can make or run: prepared here, compiled, compared and timed there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core import store
from reprune.core.artifacts import Engines
from reprune.core.errors import BuildError, RepruneError
from reprune.core.machine import this_machine
from reprune.core.params import Target
from reprune.judge.evidence import decode_units
from reprune.runtimes.sidecar import open_engine, read_sidecar
from reprune.steps.remote_proof import selftest_there
from tests.devices import local_device
from tests.measure.test_measuring_steps import (
    PARAMS,
    POLICY,
    World,
    put_cut,
    put_data,
    put_dense,
    put_previous,
)

pytestmark = pytest.mark.slow

# An engine is the ONNX file behind the name of the machine that made it, and is run by ONNX Runtime.
RUNTIMES = '''
"""Two runtimes whose engines are of one machine: Board compiles there, Portable only runs there."""
import os, sys
from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError
from reprune.core.store import write_bytes
from reprune.runtimes.base import Capabilities
from reprune.runtimes.isolated import build_within


def here():
    return os.environ.get("REPRUNE_MACHINE_ID", "runner")


class Board:
    suffix = ".board"
    capabilities = Capabilities(precisions=("fp32", "int8"), extra="onnx", modules=("onnxruntime",),
                                sparsity=("unstructured",))

    def version(self):
        return "1 on " + here()

    def binding(self, target):
        return {"board": here()}

    def build(self, source, target, destination):
        raise NotImplementedError("this test compiles on the device alone")

    def prepare(self, source, target, folder):
        from reprune.runtimes.onnxruntime import OnnxRuntime
        OnnxRuntime().build(source, target, folder / "net.onnx")
        return BuildFact(notes=("prepared on " + here(),), details={"prepared": here()})

    def compile(self, folder, target, destination):
        if os.environ.get("HOME", "").endswith("/broken/home"):
            os.abort()
        write_bytes(destination, here().encode() + b"\\n" + (folder / "net.onnx").read_bytes())
        loaded = "with torch" if "torch" in sys.modules else "without torch"
        return BuildFact(fallbacks=1, notes=("compiled on " + here() + " " + loaded,))

    def open(self, engine, target):
        from reprune.runtimes.onnxruntime import OnnxRuntime
        if here() != "jet":
            raise BuildError("this machine is no board", where=str(engine), fix="use a board")
        made, _, content = engine.read_bytes().partition(b"\\n")
        if made != b"jet":
            raise BuildError("no engine of this board", where=str(engine), fix="build it again")
        plain = engine.with_name(engine.name + "." + str(os.getpid()) + ".onnx")
        plain.write_bytes(content)
        try:
            return OnnxRuntime().open(plain, target)
        finally:
            plain.unlink()


    def quantisable(self, source, target):
        from reprune.runtimes.onnxruntime import OnnxRuntime
        return OnnxRuntime().quantisable(source, target)


class Portable:
    suffix = ".portable"
    capabilities = Board.capabilities

    def version(self):
        return "1"

    def binding(self, target):
        return {}

    def build(self, source, target, destination):
        from reprune.runtimes.onnxruntime import OnnxRuntime
        return OnnxRuntime().build(source, target, destination)

    def cannot_run_here(self, target):
        return "" if here() == "jet" else "only a board runs it"

    def open(self, engine, target):
        from reprune.runtimes.onnxruntime import OnnxRuntime
        if self.cannot_run_here(target):
            raise BuildError(self.cannot_run_here(target), where=str(engine), fix="use a board")
        return OnnxRuntime().open(engine, target)
'''
INPUTS = {"candidate": "candidate", "dense": "dense", "previous": "none", "data": "data"}


class Boards:
    """A repository with a target of each of the two runtimes behind one device."""

    def __init__(self, root: Path) -> None:
        self.root, self.world = root, World(root)
        run = local_device(root / "jet", identity="jet")
        targets = {name: Target(runtime=name, run=run) for name in ("board", "portable")}
        self.params = msgspec.structs.replace(PARAMS, targets=targets)
        self.policy = msgspec.structs.replace(POLICY, targets=dict.fromkeys(targets, "required"))

    def with_targets(self, **targets: Target) -> Any:
        return msgspec.structs.replace(self.params, targets=targets)


def install(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Both runtimes, here and in every process that is begun, a device's too; here is no board."""
    site = root / "site"
    facts = site / "board_runtimes-1.dist-info"
    facts.mkdir(parents=True)
    (site / "board_runtimes.py").write_text(RUNTIMES)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: board-runtimes\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[reprune.runtimes]\nboard = board_runtimes:Board\nportable = board_runtimes:Portable\n"
    )
    # The device is started with this path too: the same package is installed at both ends.
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    patch.setenv("PYTHONPATH", os.pathsep.join(paths))
    patch.syspath_prepend(str(site))
    patch.delenv("REPRUNE_MACHINE_ID", raising=False)


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boards]:
    root = tmp_path_factory.mktemp("boards")
    with pytest.MonkeyPatch.context() as patch:
        install(root, patch)
        patch.setenv("REPRUNE_WORK", str(root / "work"))
        made = Boards(root)
        dense = put_dense(made.world, "dense")
        put_cut(made.world, "candidate", dense)
        put_previous(made.world, "none")
        put_data(made.world, "data", dense)
        made.world.step("build", "engines", params=made.params, **INPUTS)
        yield made


def test_what_was_compiled_there_is_bound_to_it(boards: Boards) -> None:
    """Both halves of the build are told, the engine's bytes are the device's, and here it is refused."""
    engines = store.read(boards.world.path("engines"), Engines)
    assert {(fact.target, fact.arm) for fact in engines.manifest.engines} == {
        (target, arm) for target in ("board", "portable") for arm in ("candidate", "dense")
    }
    for fact in engines.manifest.engines:
        assert fact.machine
        assert fact.machine.instance != this_machine(1).instance
        assert fact.parity.agreement == 1.0
        assert fact.parity.max_abs < 1e-4
        path = engines.file(fact.file)
        sidecar = read_sidecar(path)
        assert sidecar.engine == engines.manifest.payload[fact.file]
        if fact.target == "board":
            assert path.read_bytes().startswith(b"jet\n")
            assert fact.built
            assert fact.built.notes == ("prepared on runner", "compiled on jet without torch")
            assert fact.built.details == {"prepared": "runner"}
            assert fact.built.fallbacks == 1
            assert fact.runtime_version == sidecar.runtime_version == "1 on jet"
            assert sidecar.binding == {"board": "jet"}
            with pytest.raises(BuildError, match=r"may not run here.*board jet, and here"):
                open_engine(path, Target(runtime="board"))
    files = {fact.file for fact in engines.manifest.engines}
    assert set(engines.manifest.payload) == files | {f"{file}.json" for file in files}


def test_what_a_quantised_one_loses_is_told_by_its_own_answers(boards: Boards) -> None:
    """On `tune`, which the device is asked about in the same call."""
    run = boards.params.targets["board"].run
    params = boards.with_targets(int8=Target(runtime="board", run=run, precision="int8"))
    boards.world.step("build", "held", params=params, **INPUTS)
    for fact in store.read(boards.world.path("held"), Engines).manifest.engines:
        assert fact.built
        (told,) = [note for note in fact.built.notes if "examples of tune" in note]
        assert "answered rightly" in told


@pytest.mark.deep
def test_they_are_measured_there(boards: Boards) -> None:
    """Units, starts and records of both targets come from the device, in one look."""
    made = boards.world.benchmark(previous="none", params=boards.params, policy=boards.policy)
    engines = store.read(boards.world.path("engines"), Engines)
    (machine,) = {fact.machine for fact in engines.manifest.engines}
    for samples in made.manifest.targets:
        assert samples.machine == machine
        units = decode_units(made.file(samples.file).read_bytes())
        assert len(units) == samples.units > 0
        assert {"candidate", "dense"} <= set(units[0].arms)


def test_what_only_runs_there_is_refused_here(boards: Boards) -> None:
    """Without `run` a build says so before it makes anything."""
    here = boards.with_targets(portable=Target(runtime="portable"))
    with pytest.raises(BuildError, match="only a board runs it"):
        boards.world.step("build", "here", params=here, **INPUTS)
    assert not boards.world.path("here").exists()


def test_a_compiler_that_crashes_there_is_an_error_here(boards: Boards) -> None:
    """It says what was killed, and leaves no engines."""
    run = local_device(boards.root / "broken", identity="jet")
    params = boards.with_targets(board=Target(runtime="board", run=run))
    with pytest.raises(RepruneError, match="compiling an engine of board was killed by signal 6"):
        boards.world.step("build", "crashed", params=params, **INPUTS)
    assert not boards.world.path("crashed").exists()


@pytest.mark.deep
def test_its_adapter_is_proven_there(boards: Boards) -> None:
    """`doctor --selftest` compiles and compares on the device."""
    found = selftest_there("board", boards.params.targets["board"], say=lambda _: None)
    assert found.failures == ()
    assert found.machine.instance != this_machine(1).instance
    assert any("prepared here, compiled there" in check.words for check in found.checks)
