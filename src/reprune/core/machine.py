"""Which machine this is: `instance` binds samples to one box, `kind` keys tables that hold for its like."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import msgspec

from reprune.core.documents import digest_of

# What a board says that it is ("Raspberry Pi 5 Model B Rev 1.0"), on Linux that boots by a device tree.
BOARD_FILES = ("/proc/device-tree/model", "/sys/firmware/devicetree/base/model")


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two machines of one `kind` may share latency tables; only one `instance` may share samples.

    `accelerator` is the GPU with its driver, where it is known that engines run on one.
    """

    instance: str
    kind: str
    cpu: str
    logical_cpus: int
    os: str
    accelerator: str = ""

    @property
    def timed_kind(self) -> str:
        """What keys times of engines that run here: `kind`, and the accelerator if there is one."""
        return digest_of([self.kind, self.accelerator]) if self.accelerator else self.kind


def this_machine(threads: int) -> Machine:
    """The machine that this process runs on, measured with `threads` threads.

    `instance` is a digest (no host name leaves the box): of the machine id and of `kind`, with it of how
    many CPUs this process may use. Which CPUs these are is not in it: steps of one run are often given
    others of the same machine (pods with CPUs of their own).
    """
    cpu = _cpu_model()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    system = f"{platform.system()} {platform.machine()}"
    kind = digest_of([cpu, system, cpus, threads])
    instance = digest_of([_machine_id(), kind])
    return Machine(instance=instance, kind=kind, cpu=cpu, logical_cpus=cpus, os=system)


def cpu_name(cpuinfo: str, board: str, brand: str) -> str:
    """The CPU by what Linux says in /proc/cpuinfo, by the board's model and by macOS's brand string, each
    "" where there is none; "" where none of them says it.

    ARM's numbers of the cores stand beside the board: Linux on 64-bit ARM has no name for them, and on
    32-bit one that all share.
    """
    cores = []
    for core in re.split(r"\n\s*\n", cpuinfo):
        told: dict[str, str] = dict(
            re.findall(r"^([^:\n]+?)[ \t]*:[ \t]*(.*?)[ \t]*$", core, re.MULTILINE)
        )
        if "CPU implementer" in told:
            maker, part, variant, revision = (
                told.get(f"CPU {name}", "?")
                for name in ("implementer", "part", "variant", "revision")
            )
            cores.append(f"ARM {maker}:{part} {variant} r{revision}")
        elif "model name" in told:
            return told["model name"]
    named = [name for name in (board.rstrip("\0").strip(), brand.strip()) if name]
    return ", ".join([*named, *dict.fromkeys(cores)])


def _cpu_model() -> str:
    brand = ""
    if platform.system() == "Darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        with suppress(OSError, subprocess.SubprocessError):
            brand = subprocess.run(
                asked, capture_output=True, check=False, text=True, timeout=10
            ).stdout
    board = next((text for text in map(_text, BOARD_FILES) if text), "")
    found = cpu_name(_text("/proc/cpuinfo"), board, brand)
    return found or platform.processor() or platform.machine()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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
