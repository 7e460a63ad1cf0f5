"""What NVIDIA's driver tells about a GPU while a block runs, through NVML (package nvidia-ml-py).

Written against the documented functions of NVML and tested on an object that has them. On hardware it
has been run: nothing so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from msgspec import structs

from reprune.core.errors import BuildError, MissingExtra
from reprune.core.machine import Machine, this_machine
from reprune.core.params import Target
from reprune.core.plugins import require
from reprune.judge.evidence import DeviceConditions
from reprune.runtimes.base import NvidiaRuntime, Runtime
from reprune.runtimes.jetson import is_jetson

DeviceReader: TypeAlias = Callable[[], DeviceConditions | None]

# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h, "NvmlClocksEventReasons"). The idle bit is left
# out: it is set whenever the driver is asked between two kernels.
REASONS = {
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
_IDLE = 0x001


@contextmanager
def watched_gpu(runtime: Runtime, target: Target) -> Iterator[DeviceReader | None]:
    """A function that reads the GPU of `target`'s sessions; None, and NVML untouched, where they use none.

    On a Jetson board, whose driver has no NVML or half of it, the function tells nothing, which the judge
    says; its power mode and clocks stand in what `build` found and in every unit. Elsewhere:
    Raises MissingExtra where a runtime uses a GPU and nvidia-ml-py is not installed, BuildError
    where the driver does not know the GPU: numbers of a GPU that nobody watched are no evidence.
    """
    uuid = runtime.gpu_uuid(target) if isinstance(runtime, NvidiaRuntime) else ""
    if not uuid:
        yield None
        return
    if is_jetson():
        yield lambda: None
        return
    nvml = require("pynvml", "nvidia")
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError as error:
        raise BuildError(
            f"the driver does not tell about the GPU {uuid}: {error}",
            fix="see whether `nvidia-smi -L` lists it in this container",
        ) from error
    try:
        yield lambda: read_device(nvml, handle)
    finally:
        nvml.nvmlShutdown()


def timing_machine(runtime: Runtime, target: Target, threads: int) -> Machine:
    """This machine, and the GPU of `target`'s sessions with its driver where they use one."""
    return structs.replace(this_machine(threads), accelerator=gpu_name(runtime, target))


def gpu_name(runtime: Runtime, target: Target) -> str:
    """The GPU of `target`'s sessions and its driver, by name; "" where they use none, or none is here: what
    is built ahead of time is timed elsewhere.

    Where NVML does not tell (a Jetson board, whose model is the CPU's name; no nvidia-ml-py), it is what
    the runtime's engines are bound to.
    """
    try:
        uuid = runtime.gpu_uuid(target) if isinstance(runtime, NvidiaRuntime) else ""
    except BuildError:
        return ""
    if not uuid:
        return ""
    try:
        nvml = require("pynvml", "nvidia")
    except MissingExtra:
        return _bound(runtime, target)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return _bound(runtime, target)
    try:
        name = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByUUID(uuid))
        return f"{_words(name)}, driver {_words(nvml.nvmlSystemGetDriverVersion())}"
    except nvml.NVMLError:
        return _bound(runtime, target)
    finally:
        nvml.nvmlShutdown()


def _words(told: str | bytes) -> str:
    """Bindings before 11.5 give bytes."""
    return told.decode() if isinstance(told, bytes) else told


def _bound(runtime: Runtime, target: Target) -> str:
    bound = (f"{name} {value}" for name, value in sorted(runtime.binding(target).items()))
    return f"a GPU ({', '.join(bound)})"


def read_device(nvml: Any, handle: Any) -> DeviceConditions | None:
    """The GPU now; None where the driver does not support one of the questions (some laptops, MIG).

    To be called while this process holds a context on the GPU. A container may see the numbers of
    foreign processes and not its own, so ourselves we are one of those listed, whatever the number.
    """
    try:
        running = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        return DeviceConditions(
            clock_mhz=int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            power_limit_w=nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000.0,
            throttle=throttle_names(_event_bits(nvml, handle)),
            other_processes=max(0, len(running) - 1),
        )
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return None
    except nvml.NVMLError as error:
        raise BuildError(f"the driver stopped telling about the GPU: {error}") from error


def throttle_names(bits: int) -> tuple[str, ...]:
    """The reasons in `bits` by name, one that a newer driver knows as its bit ("0x200")."""
    names = [name for bit, name in REASONS.items() if bits & bit]
    strange = bits & ~(_IDLE | sum(REASONS))
    names += [hex(1 << place) for place in range(strange.bit_length()) if strange >> place & 1]
    return tuple(names)


def _event_bits(nvml: Any, handle: Any) -> int:
    """Drivers before 535 know the same bits under the older name."""
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except (AttributeError, nvml.NVMLError_FunctionNotFound):
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
