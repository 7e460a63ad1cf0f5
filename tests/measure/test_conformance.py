"""The selftest of adapters: what runs here keeps its promises, and one that breaks them is found."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from reprune.core.errors import BuildError, UnknownName
from reprune.core.params import Target
from reprune.measure.conformance import prove
from reprune.measure.promises import CAN_RUN
from reprune.runtimes.base import RUNTIMES, cannot_run_here, get_runtime
from reprune.runtimes.onnxruntime import OnnxRuntime, OnnxSession
from reprune.steps import proofs
from reprune.steps.proofs import demand_proof, proof_of, proof_path
from tests.litert_environment import converter_python

CONVERTED = ("litert", "edgetpu")


# TensorRT's libraries are on NVIDIA's own index alone: they are never there where CI runs.
INSTALLABLE = sorted(set(RUNTIMES) - {"tensorrt"})


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLABLE)
def test_every_runtime_that_runs_here_keeps_its_promises(name: str) -> None:
    """In every precision that this machine can run. What is not installed is skipped, but never in CI."""
    can = get_runtime(name).capabilities
    absent = [module for module in (*can.modules, *can.converter) if find_spec(module) is None]
    if absent and not os.environ.get("CI"):
        pytest.skip(f"{name} needs {', '.join(absent)}, not installed")
    target = Target(runtime=name, python=converter_python() if name in CONVERTED else "")
    found = prove(target)
    assert found.broken == ()
    # A refusal must not hide a broken adapter: on a CPU something of each runs, of the default all.
    runs_here = "cpu" in can.devices and not cannot_run_here(get_runtime(name), target)
    assert found.proven or not runs_here
    assert found.proven == tuple(sorted(can.precisions)) or name != "onnxruntime"


class Broken(OnnxRuntime):
    """ONNX Runtime, but for what a test breaks."""

    suffix = ".onnx"
    breaks = ""
    built = b""

    def build(self, source: Any, target: Target, destination: Path) -> Any:
        if self.breaks == "build":
            raise KeyError("aten::roll")
        if self.breaks == "cannot":
            raise BuildError("there is no such device here")
        destination.write_bytes(self.built)

    def open(self, engine: Path, target: Target) -> Any:
        if self.breaks == "damaged" and engine.stem == "damaged":
            return Silent()
        session = super().open(engine, target)
        return Wrong(session, self.breaks, target)


class Silent:
    def run(self, inputs: Any) -> list[Any]:
        return []


class Wrong:
    calls = 0

    def __init__(self, session: OnnxSession, breaks: str, target: Target) -> None:
        self.session, self.breaks, self.target = session, breaks, target

    def run(self, inputs: Any) -> list[Any]:
        Wrong.calls += 1
        if self.breaks == "misshapen" and inputs[0].shape[1] != 3:
            return []
        outputs = self.session.run(inputs)
        if self.breaks == "values":
            return [output[:, ::-1] for output in outputs]
        if self.breaks == "batch":
            return [output[:1] for output in outputs]
        if self.breaks == "shared":
            return [output + Wrong.calls * 1e-6 for output in outputs]
        if self.breaks == "threads" and self.target.threads == 2:
            return [-output for output in outputs]
        return outputs


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The small net's engine, exported once."""
    from reprune.measure.conformance import small_net, small_source

    path = tmp_path_factory.mktemp("built") / "net.onnx"
    OnnxRuntime().build(small_source(small_net()), Target(), path)
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("breaks", "broken"),
    [
        ("", set()),
        ("build", {"builds"}),
        ("cannot", {CAN_RUN}),
        ("values", {"agrees with the module at any batch size"}),
        ("batch", {"agrees with the module at any batch size"}),
        ("shared", {"sessions are independent"}),
        ("threads", {"runs with two threads"}),
        ("damaged", {"refuses a damaged file"}),
        ("misshapen", {"refuses inputs of another shape"}),
    ],
)
def test_a_broken_promise_is_named(
    monkeypatch: pytest.MonkeyPatch, built: bytes, breaks: str, broken: set[str]
) -> None:
    """Each way to be wrong fails its own check, and no other one."""
    monkeypatch.setattr(Broken, "breaks", breaks)
    monkeypatch.setattr(Broken, "built", built)
    monkeypatch.setattr("reprune.measure.conformance.get_runtime", lambda _: Broken())
    found = prove(Target(), ["fp32"])
    assert {check.name for check in found.failures} == broken
    assert bool(found.broken) is bool(broken - {CAN_RUN})
    assert found.proven == (() if broken else ("fp32",))


@pytest.mark.slow
def test_a_missing_proof_is_made_once_and_a_failed_one_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stored by machine kind, runtime and version; what failed stays failed, and is named."""
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path))
    said: list[str] = []
    version = OnnxRuntime().version()
    targets = [("a", Target()), ("b", Target(batch_size=4)), ("there", Target(run="x {args}"))]
    assert proof_of(Target(), version) is None
    demand_proof(targets, said.append)
    assert [line.partition(" took")[0] for line in said] == [
        "onnxruntime fp32 is unproven on this kind of machine: selftest",
        "selftest of onnxruntime fp32",
    ]
    found = proof_of(Target(), version)
    assert found is not None
    assert found.failures == ()
    assert proof_of(Target(), "another version") is None
    assert proof_of(Target(precision="int8"), version) is None
    with monkeypatch.context() as other_gpu:
        other_gpu.setattr(proofs, "gpu_name", lambda *_: "NVIDIA H200, driver 580.95")
        assert proof_of(Target(), version) is None
    demand_proof(targets, said.append)
    assert len(said) == 2
    path = proof_path("onnxruntime", version)
    assert path.is_relative_to(tmp_path / "selftests")
    path.write_bytes(path.read_bytes().replace(b'"ok":true', b'"ok":false', 1))
    with pytest.raises(BuildError, match=r"fails its selftest.*fp32: builds") as caught:
        demand_proof(targets, said.append)
    assert "reprune doctor --selftest a" in caught.value.fix
    with pytest.raises(BuildError, match="unproven on this machine, and its selftest cannot run"):
        demand_proof([("c", Target(runtime="nothing"))], said.append)


@pytest.mark.slow
def test_a_proof_of_older_code_of_ours_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's version may be the same: it is our adapter that is proven."""
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path))
    demand_proof([("a", Target())], lambda _: None)
    version = OnnxRuntime().version()
    assert proof_of(Target(), version) is not None
    can = OnnxRuntime.capabilities
    monkeypatch.setattr(
        OnnxRuntime, "capabilities", structs.replace(can, revision=can.revision + 1)
    )
    assert proof_of(Target(), version) is None


def test_a_runtime_that_is_not_there_is_no_finding() -> None:
    """An unknown name raises: there is nothing to prove."""
    with pytest.raises(UnknownName):
        prove(Target(runtime="nothing"))
