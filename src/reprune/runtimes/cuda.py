"""The CUDA devices of this machine, asked for before anything that would crash without one. No torch.

Written against cuda-python 12 and 13 (`cuda.bindings.runtime`). Without a driver it has been run; on
hardware it has been run: nothing so far.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from reprune.core.errors import BuildError
from reprune.core.plugins import require

EXTRA = "tensorrt"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device as CUDA numbers it. `uuid` is how the driver names it ("GPU-..."), `driver` its version."""

    index: int
    name: str
    uuid: str
    compute_capability: str
    driver: str


def cudart() -> Any:
    """The CUDA runtime's bindings. Raises MissingExtra."""
    return require("cuda.bindings.runtime", EXTRA)


def checked(answer: tuple[Any, ...]) -> Any:
    """What a CUDA call gave: one value, a tuple of several, or None. Raises BuildError for its error."""
    error, *values = answer
    if int(error) != 0:
        raise BuildError(
            f"CUDA failed: {getattr(error, 'name', error)} ({int(error)})",
            fix="see `nvidia-smi` for memory and driver errors; run the step again",
        )
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def gpu_count() -> int:
    """How many devices CUDA offers to this process; 0 without a driver. Creates no context."""
    try:
        error, count = cudart().cudaGetDeviceCount()
    except RuntimeError:  # the loader of the driver's library says no in words of its own
        return 0
    return int(count) if int(error) == 0 and count else 0


def find_gpu(device: str) -> Gpu:
    """The device that a target's `device` names: "gpu:1" the second, "gpu", "dla:0" and "" the first.

    Raises BuildError where there is none: without a device TensorRT's own objects crash when they
    are touched, so nothing of it may be created before this.
    """
    kind, _, number = device.partition(":")
    index = int(number) if number and kind == "gpu" else 0
    count = gpu_count()
    if count == 0:
        raise BuildError(
            "there is no CUDA device here: the NVIDIA driver is missing, or shows none to this process",
            fix="run this step on the machine with the GPU (`run` of the target); in a container, pass "
            "the GPU in (docker run --gpus all) and see whether nvidia-smi lists it",
        )
    if index >= count:
        raise BuildError(
            f"there is no CUDA device {index}; this process sees {count}",
            where="params.yaml (device of the target)",
            fix=f"use gpu:0 to gpu:{count - 1}, or widen CUDA_VISIBLE_DEVICES",
        )
    properties = checked(cudart().cudaGetDeviceProperties(index))
    return Gpu(
        index=index,
        name=_text(properties.name),
        uuid=_uuid(bytes(properties.uuid.bytes)),
        compute_capability=f"{properties.major}.{properties.minor}",
        driver=_driver(),
    )


def _driver() -> str:
    """The driver's own version where NVML tells it, else the newest CUDA that it speaks."""
    newest = f"CUDA {checked(cudart().cudaDriverGetVersion())}"
    try:
        nvml = require("pynvml", EXTRA)
        nvml.nvmlInit()
    except Exception:  # noqa: BLE001  # NVML is absent on Jetson; its errors have no base to import
        return newest
    try:
        return f"{_text(nvml.nvmlSystemGetDriverVersion())} ({newest})"
    finally:
        nvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
    return re.sub(r"[\x00\s]+", " ", text).strip()


def _uuid(raw: bytes) -> str:
    text = raw.hex()
    parts = (text[:8], text[8:12], text[12:16], text[16:20], text[20:32])
    return f"GPU-{'-'.join(parts)}"
