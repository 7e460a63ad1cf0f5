"""`reprune doctor`: what it says of runtimes, targets and the machine, and its exit code."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core.machine import this_machine
from reprune.core.params import Params
from reprune.doors.cli import main
from reprune.doors.output import DoctorOutput
from reprune.runtimes.base import RUNTIMES
from reprune.steps.doctor import _doubts, _machine, diagnose, runtime_names
from tests.devices import SRC, local_device

PARAMS = "schema: 1\nname: digits\ntask: task.digits:DigitsTask\ntargets:\n"
POLICY = "schema: 1\nsize: {vs_parent: {max_ratio: 0.9}}\ntargets:\n"
SPEED = POLICY.replace("size", "latency")


def write(root: Path, policy: str = POLICY, /, **targets: tuple[str, str]) -> None:
    """Two files: each target's text, and whether it is required."""
    lines = [f"  {name}: {text}\n" for name, (text, _) in targets.items()]
    (root / "params.yaml").write_text(PARAMS + "".join(lines))
    rules = [f"  {name}: {how}\n" for name, (_, how) in targets.items()]
    (root / "policy.yaml").write_text(policy + "".join(rules))


@pytest.fixture(autouse=True)
def _work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    # A relative path in it would mean another place for the processes that are started from there.
    paths = [str(SRC), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(Path(p).resolve()) for p in paths))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def one_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks ONNX Runtime alone for its version; a process for each is started by the test of runtimes."""
    monkeypatch.setattr("reprune.steps.doctor.runtime_names", lambda: ["onnxruntime"])


def test_each_target_is_told_apart(
    tmp_path: Path, probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs, what is unproven, what nobody offers, and the command that fixes it."""
    write(
        tmp_path,
        good=("{runtime: onnxruntime}", "required"),
        kit=("{runtime: onnxruntime, kit: true}", "required"),
        palette=("{runtime: onnxruntime, precision: palette4}", "advisory"),
        dla=("{runtime: onnxruntime, device: 'dla:0'}", "advisory"),
        typo=("{runtime: onxruntime}", "advisory"),
        both=("{runtime: onnxruntime, kit: true, run: 'ssh x reprune {args}'}", "advisory"),
        python=("{runtime: onnxruntime, python: /no/python}", "advisory"),
    )
    assert {"onnxruntime", "probe", *RUNTIMES} == set(runtime_names())
    monkeypatch.setattr("reprune.steps.doctor.runtime_names", lambda: ["onnxruntime", "probe"])
    found = diagnose(tmp_path)
    assert found.usable
    targets = {target.name: target for target in found.targets}
    assert targets["good"].status == targets["kit"].status == "unproven"
    assert targets["good"].fix == "reprune doctor --selftest good"
    assert targets["kit"].place == "kit"
    for name, words in {
        "palette": "has no palette4",
        "dla": "no device dla:0",
        "typo": "no runtime 'onxruntime'",
        "both": "both `run` and `kit`",
    }.items():
        assert targets[name].status == "cannot run"
        assert words in targets[name].words
    assert targets["python"].status == "missing"
    assert "pip install 'reprune[onnx]'" in targets["python"].fix
    runtimes = {runtime.name: runtime for runtime in found.runtimes}
    assert runtimes["onnxruntime"].version
    # The probe of another package offers no capabilities: that is said, and nothing breaks.
    assert runtimes["probe"].status == "cannot run"


@pytest.mark.slow
def test_a_required_target_that_cannot_be_built_is_exit_2(
    tmp_path: Path, one_runtime: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, good=("{}", "required"), bad=("{runtime: nothing}", "required"))
    assert main(["doctor", "--json"]) == 2
    output = msgspec.json.decode(capsys.readouterr().out, type=DoctorOutput)
    assert output.ok is False
    write(tmp_path, good=("{}", "required"), bad=("{runtime: nothing}", "advisory"))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "there is no runtime 'nothing'" in text
    assert "onnxruntime" in text


@pytest.mark.slow
def test_speed_that_is_demanded_of_an_emulation_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As benchmark would say after the training; not of one that decides nothing."""
    names = ["microcontroller", "onnxruntime"]
    monkeypatch.setattr("reprune.steps.doctor.runtime_names", lambda: names)
    for how, usable in (("required", False), ("advisory", True)):
        write(tmp_path, SPEED, cpu=("{}", "required"), mcu=("{runtime: microcontroller}", how))
        found = diagnose(tmp_path)
        assert found.usable == usable
        assert ("demands speed of 'mcu'" in found.targets[1].words) != usable


@pytest.mark.slow
def test_without_a_repository_the_runtimes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["diagnosis"]
    assert found["targets"] == []
    told = {runtime["name"]: runtime for runtime in found["runtimes"]}
    assert set(told) == set(RUNTIMES)
    assert all(runtime["version"] or runtime["words"] for runtime in told.values())
    assert found["machine"]["disk_free_bytes"] > 0


@pytest.mark.slow
def test_a_device_is_asked_and_proven_where_it_is(
    tmp_path: Path, one_runtime: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The device answers for itself; its selftest is kept for its kind of machine."""
    run = local_device(tmp_path / "jet")
    write(
        tmp_path,
        jet=(f'{{run: "{run}"}}', "required"),
        gone=(f"{{run: \"{sys.executable} -c 'exit(255)' {{args}}\"}}", "advisory"),
    )
    found = {target.name: target for target in diagnose(tmp_path).targets}
    assert found["jet"].status == "ok"
    assert found["jet"].place == "run"
    assert found["gone"].status == "cannot run"
    assert main(["doctor", "--selftest", "jet", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert Path(output["kept"]).is_file()
    names = {check["name"] for check in output["selftest"]["checks"]}
    assert names == {"builds", "agrees with the module, and is timed", "refuses a damaged file"}


def test_the_machine_has_the_name_that_samples_have() -> None:
    """What the promoter's configuration is to list is what `benchmark` will write, whatever `threads` is."""
    params = Params(name="digits", task="task.digits:DigitsTask", threads=3)
    assert _machine(params).machine == this_machine(3)
    assert _machine(params).machine.instance != this_machine(1).instance


def test_what_spoils_a_measurement_is_said() -> None:
    """A quiet machine has nothing against it; each fault gives its own sentence."""
    here = _machine(None)
    quiet = msgspec.structs.replace(
        here, load=0.0, governor="performance", clock="tsc", waits_told=True, steal_told=True,
        cpu_quota=None, disk_free_bytes=2**40, machine=msgspec.structs.replace(here.machine, logical_cpus=8),
    )  # fmt: skip
    assert list(_doubts(quiet, 1)) == []
    for change, word in (
        ({"governor": "powersave"}, "governor"),
        ({"load": 7.5}, "load"),
        ({"waits_told": False}, "schedstat"),
        ({"steal_told": False}, "hypervisor"),
        ({"clock": "hpet"}, "clock source"),
        ({"cpu_quota": "100000 100000"}, "quota"),
        ({"disk_free_bytes": 10}, "free"),
    ):
        (doubt,) = _doubts(msgspec.structs.replace(quiet, **change), 1)
        assert word in doubt
    assert "none is left" in next(iter(_doubts(quiet, 8)))
