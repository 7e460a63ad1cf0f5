"""Which machine this is: `instance` binds samples to one box, `kind` keys tables that hold for its like."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import msgspec

from reprune.core.documents import digest_of


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two machines of one `kind` may share latency tables; only one `instance` may share samples."""

    instance: str
    kind: str
    cpu: str
    logical_cpus: int
    os: str
    accelerator: str = ""


def this_machine(threads: int) -> Machine:
    """The machine that this process runs on, measured with `threads` threads.

    `instance` is a digest (no host name leaves the box): of the machine id and of the CPU set that
    this process may use, so that two containers pinned to different cores do not share samples.
    """
    cpu = _cpu_model()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    system = f"{platform.system()} {platform.machine()}"
    kind = digest_of([cpu, system, cpus, threads])
    instance = digest_of([_machine_id(), kind])
    return Machine(instance=instance, kind=kind, cpu=cpu, logical_cpus=cpus, os=system)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _machine_id() -> str:
    override = os.environ.get("REPRUNE_MACHINE_ID")
    if override:
        return override
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text:
            return text
    return hashlib.sha256(platform.node().encode()).hexdigest()
