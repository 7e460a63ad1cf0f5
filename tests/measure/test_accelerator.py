"""Reading a GPU through an object with NVML's functions; no GPU is needed, and none was used."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from reprune.core.errors import BuildError, MissingExtra
from reprune.core.machine import this_machine
from reprune.core.params import Target
from reprune.judge.evidence import DeviceConditions
from reprune.measure import accelerator
from reprune.measure.accelerator import (
    gpu_name,
    read_device,
    throttle_names,
    timing_machine,
    watched_gpu,
)


class NVMLError(Exception):
    pass


class NotSupported(NVMLError):
    pass


class FunctionNotFound(NVMLError):
    pass


class Nvml:
    """The functions and names of nvidia-ml-py that are used, for one GPU."""

    NVMLError, NVMLError_NotSupported, NVMLError_FunctionNotFound = (
        NVMLError,
        NotSupported,
        FunctionNotFound,
    )
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, *, bits: int = 0, pids: tuple[int, ...] = (1,), fails: Any = None) -> None:
        self.bits, self.pids, self.fails, self.open = bits, pids, fails, 0

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's own names, here and below
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-1":
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetName(self, _: str) -> bytes:  # noqa: N802
        return b"NVIDIA H200"

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.95"

    def nvmlDeviceGetComputeRunningProcesses(self, _: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.pids]

    def nvmlDeviceGetClockInfo(self, _: str, kind: int) -> int:  # noqa: N802
        return {1: 1410, 2: 1215}[kind]

    def nvmlDeviceGetEnforcedPowerLimit(self, _: str) -> int:  # noqa: N802
        if self.fails is not None:
            raise self.fails
        return 250_000

    def nvmlDeviceGetCurrentClocksEventReasons(self, _: str) -> int:  # noqa: N802
        return self.bits


class Older(Nvml):
    """A driver that knows the bits under their older name only."""

    def nvmlDeviceGetCurrentClocksEventReasons(self, _: str) -> int:  # noqa: N802
        raise FunctionNotFound("Function Not Found")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: str) -> int:  # noqa: N802
        return self.bits


def gpu_runtime(uuid: str) -> Any:
    return SimpleNamespace(gpu_uuid=lambda _: uuid)


@pytest.mark.parametrize("kind", [Nvml, Older])
def test_a_gpu_is_read_in_whole(kind: type[Nvml]) -> None:
    """Clocks, limit in watts, reasons by name, and the processes beside our own."""
    found = read_device(kind(bits=0x1 | 0x4 | 0x40, pids=(1, 5, 5, 9)), "GPU-1")
    assert found == DeviceConditions(
        clock_mhz=1410,
        memory_clock_mhz=1215,
        power_limit_w=250.0,
        throttle=("sw_power_cap", "hw_thermal_slowdown"),
        other_processes=2,
    )


def test_a_reason_that_nobody_knows_is_named_by_its_bit() -> None:
    """A newer driver's reason must not vanish; being idle is no reason."""
    assert throttle_names(0x001) == ()
    assert throttle_names(0x208) == ("hw_slowdown", "0x200")


def test_what_the_driver_does_not_support_is_unknown_and_a_lost_gpu_an_error() -> None:
    """Unknown is None for the judge to say so; a GPU that went away makes no evidence at all."""
    assert read_device(Nvml(fails=NotSupported("Not Supported")), "GPU-1") is None
    with pytest.raises(BuildError, match="GPU is lost"):
        read_device(Nvml(fails=NVMLError("GPU is lost")), "GPU-1")


def test_a_gpu_is_watched_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML is opened for a runtime that uses a GPU, asked for that very GPU, and closed."""
    nvml = Nvml(pids=())
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with watched_gpu(gpu_runtime("GPU-1"), Target()) as read:
        assert nvml.open == 1
        assert read is not None
        found = read()
        assert found is not None
        assert found.other_processes == 0
    assert nvml.open == 0
    with pytest.raises(BuildError, match="GPU-2"), watched_gpu(gpu_runtime("GPU-2"), Target()):
        pass


def test_a_gpu_that_cannot_be_watched_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the line that installs it is named."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with (
        pytest.raises(MissingExtra, match="pynvml") as caught,
        watched_gpu(gpu_runtime("GPU-1"), Target()),
    ):
        pass
    assert "reprune[nvidia]" in caught.value.fix


def test_a_jetson_is_measured_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver has none: what is not told is unknown, and the benchmark goes on."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(accelerator, "is_jetson", lambda: True)
    with watched_gpu(gpu_runtime("GPU-1"), Target()) as read:
        assert read is not None
        assert read() is None
    with watched_gpu(gpu_runtime(""), Target()) as read:
        assert read is None


def test_nothing_is_loaded_for_a_target_without_a_gpu() -> None:
    """The CPU's runtime opens no NVML, even where it is installed."""
    code = (
        "import sys\n"
        "from reprune.core.params import Target\n"
        "from reprune.measure.accelerator import watched_gpu\n"
        "from reprune.runtimes.base import get_runtime\n"
        "with watched_gpu(get_runtime('onnxruntime'), Target()) as read:\n"
        "    sys.exit(read is not None or 'pynvml' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_times_of_a_gpu_are_keyed_by_it_and_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """One box has two GPUs over its life: what was timed on one says nothing about the other."""
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = timing_machine(gpu_runtime("GPU-1"), Target(), 1)
    plain = this_machine(1)
    assert found.accelerator == "NVIDIA H200, driver 580.95"
    assert (found.kind, found.instance) == (plain.kind, plain.instance)
    assert found.timed_kind != plain.timed_kind == plain.kind
    newer = replace(found, accelerator="NVIDIA H200, driver 590.1")
    assert newer.timed_kind != found.timed_kind
    assert nvml.open == 0


def test_a_target_on_the_cpu_has_no_gpu_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier tables of such targets stay valid: NVML is not even asked for."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for runtime in (gpu_runtime(""), SimpleNamespace()):
        assert timing_machine(runtime, Target(), 1) == this_machine(1)


def test_a_gpu_that_nvml_does_not_tell_of_is_named_by_its_binding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the package, and where the driver knows no such GPU."""
    runtime = SimpleNamespace(gpu_uuid=lambda _: "GPU-2", binding=lambda _: {"GPU": "Orin"})
    for nvml in (None, Nvml()):
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        assert gpu_name(runtime, Target()) == "a GPU (GPU Orin)"
