"""What the driver tells of the simulated GPU: quiet unless a test makes trouble."""

# ruff: noqa: N802  # the names are NVML's
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from trouble import trouble

UUID = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):  # noqa: N801
    pass


class NVMLError_FunctionNotFound(NVMLError):  # noqa: N801
    pass


def nvmlInit() -> None:
    pass


def nvmlShutdown() -> None:
    pass


def nvmlSystemGetDriverVersion() -> str:
    return "580.95"


def nvmlDeviceGetName(handle: str) -> str:
    return "NVIDIA A10"


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    if uuid != UUID:
        raise NVMLError("Not Found")
    return uuid


def nvmlDeviceGetComputeRunningProcesses(handle: str) -> list[Any]:
    return [SimpleNamespace(pid=pid) for pid in range(1 + trouble("others", 0))]


def nvmlDeviceGetClockInfo(handle: str, kind: int) -> int:
    if trouble("lost", False):
        raise NVMLError("GPU is lost")
    return {NVML_CLOCK_SM: 1410, NVML_CLOCK_MEM: 1215}[kind]


def nvmlDeviceGetEnforcedPowerLimit(handle: str) -> int:
    return 250_000


def nvmlDeviceGetCurrentClocksEventReasons(handle: str) -> int:
    return int(trouble("reasons", 0))
