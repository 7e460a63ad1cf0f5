"""`reprune doctor`: what this machine can build and measure, what is missing, what would spoil it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from reprune.core.artifacts import Fact
from reprune.core.errors import RepruneError
from reprune.core.machine import Machine, this_machine
from reprune.core.params import PARAMS_FILE, Params, Target, read_params
from reprune.core.policy import POLICY_FILE, Policy, read_policy
from reprune.core.step import work_root
from reprune.runtimes.base import RUNTIMES, Capabilities, get_runtime

Status: TypeAlias = Literal["ok", "unproven", "missing", "cannot run"]

ASK_SECONDS = 60.0
LOW_DISK_BYTES = 2 * 2**30
GOOD_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
_CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class RuntimeHealth(Fact, kw_only=True):
    """`proven` are the precisions whose selftest passed on this kind of machine with this version."""

    name: str
    status: Status
    version: str
    words: str
    fix: str
    converter: Status
    proven: tuple[str, ...]
    can: Capabilities | None


class TargetHealth(Fact, kw_only=True):
    """`place` is how the target's device is reached."""

    name: str
    runtime: str
    required: bool
    place: Literal["here", "run", "kit"]
    status: Status
    words: str
    fix: str


class MachineHealth(Fact, kw_only=True):
    """`None` is what the machine does not tell. `doubts` say what would make measurements here bad."""

    machine: Machine
    disk_free_bytes: int
    load: float
    governor: str | None
    clock: str | None
    waits_told: bool
    steal_told: bool
    cpu_quota: str | None
    compiler: str | None
    gpus: tuple[str, ...]
    doubts: tuple[str, ...]


class Diagnosis(Fact, kw_only=True):
    """`usable` is False if a required target cannot be built or measured."""

    usable: bool
    machine: MachineHealth
    runtimes: tuple[RuntimeHealth, ...]
    targets: tuple[TargetHealth, ...]


def diagnose(root: Path) -> Diagnosis:
    """Looks at this machine, every runtime that is registered, and the targets of `root`'s params.yaml, if
    it has one. Nothing is changed. Raises DocumentError for a params.yaml or policy.yaml that is wrong.
    """
    params = read_params(root / PARAMS_FILE) if (root / PARAMS_FILE).exists() else None
    policy = read_policy(root / POLICY_FILE) if (root / POLICY_FILE).exists() else None
    runtimes = tuple(_runtime(name) for name in runtime_names())
    by_name = {runtime.name: runtime for runtime in runtimes}
    targets = tuple(
        _target(name, target, by_name, policy)
        for name, target in sorted((params.targets if params else {}).items())
    )
    bad = [t for t in targets if t.required and t.status in ("missing", "cannot run")]
    return Diagnosis(usable=not bad, machine=_machine(params), runtimes=runtimes, targets=targets)


def runtime_names() -> list[str]:
    """Ours, and those that other packages register."""
    return sorted({*RUNTIMES, *(point.name for point in entry_points(group="reprune.runtimes"))})


def target_named(root: Path, name: str) -> Target:
    """The target `name` of params.yaml; else a plain target of the runtime called so. Raises UnknownName."""
    path = root / PARAMS_FILE
    if path.exists() and name in (targets := read_params(path).targets):
        return targets[name]
    get_runtime(name)
    return Target(runtime=name)


def _required(name: str, policy: Policy | None) -> bool:
    return policy is None or policy.targets.get(name) == "required"


def _runtime(name: str) -> RuntimeHealth:
    try:
        can = get_runtime(name).capabilities
    except Exception as error:  # noqa: BLE001 - a package of anybody: that it does not import is the finding
        return _unusable(name, "cannot run", f"its adapter does not load: {error}")
    absent = [module for module in can.modules if not _installed(module)]
    converter: Status = "ok" if all(map(_installed, can.converter)) else "missing"
    fix = f"pip install 'reprune[{can.extra}]'"
    if absent:
        words = f"not installed: {', '.join(absent)}"
        return RuntimeHealth(
            name=name, status="missing", version="", words=words, fix=fix, converter=converter,
            proven=(), can=can,
        )  # fmt: skip
    version, why = _version(name)
    if not version:
        return msgspec.structs.replace(_unusable(name, "cannot run", why), can=can)
    proven = _proven(name, version, can)
    words = (
        "" if can.latency else "for correctness only: what it takes here says nothing of the device"
    )
    if converter != "ok":
        words = f"runs engines, and cannot build: not installed: {', '.join(can.converter)}"
    return RuntimeHealth(
        name=name,
        status="ok" if proven else "unproven",
        version=version,
        words=words,
        fix=fix if converter != "ok" else "" if proven else f"reprune doctor --selftest {name}",
        converter=converter,
        proven=proven,
        can=can,
    )


def _unusable(name: str, status: Status, words: str) -> RuntimeHealth:
    return RuntimeHealth(
        name=name, status=status, version="", words=words, fix="", converter="missing", proven=(),
        can=None,
    )  # fmt: skip


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(name: str) -> tuple[str, str]:
    """The runtime's version, or why it does not tell: asked in a process of its own, as it may crash."""
    from reprune.core.children import ask
    from reprune.measure.presence import PresenceSpec, Present

    import_folder = work_root() / "doctor"
    try:
        import_folder.mkdir(parents=True, exist_ok=True)
        found = ask(
            "reprune.measure.presence",
            PresenceSpec(runtime=name),
            Present,
            import_folder / f"{name}-{os.getpid()}",
            threads=1,
            hang_seconds=ASK_SECONDS,
            doing=f"asking {name} for its version",
        )
    except (RepruneError, OSError) as error:
        return "", str(error).partition("\n")[0]
    finally:
        for file in import_folder.glob(f"{name}-{os.getpid()}.*"):
            file.unlink(missing_ok=True)
    return found.version, ""


def _proven(name: str, version: str, can: Capabilities) -> tuple[str, ...]:
    from reprune.steps.proofs import proof_of

    found = []
    for precision in can.precisions:
        proof = proof_of(Target(runtime=name, precision=precision), version)
        if proof is not None and not proof.failures:
            found.append(precision)
    return tuple(found)


def _target(
    name: str, target: Target, runtimes: Mapping[str, RuntimeHealth], policy: Policy | None
) -> TargetHealth:
    place: Literal["here", "run", "kit"] = "run" if target.run else "kit" if target.kit else "here"
    status, words, fix = _ability(name, target, runtimes, policy)
    return TargetHealth(
        name=name,
        runtime=target.runtime,
        required=_required(name, policy),
        place=place,
        status=status,
        words=words,
        fix=fix,
    )


def _ability(
    name: str, target: Target, runtimes: Mapping[str, RuntimeHealth], policy: Policy | None
) -> tuple[Status, str, str]:
    """Whether the target can be built here and measured where it runs."""
    for trouble in _troubles(name, target, runtimes, policy):
        return trouble
    if target.run:
        return _called(name, target)
    if target.precision not in runtimes[target.runtime].proven:
        return "unproven", "build runs its selftest", f"reprune doctor --selftest {name}"
    return "ok", "measured by a kit" if target.kit else "", ""


def _troubles(
    name: str, target: Target, runtimes: Mapping[str, RuntimeHealth], policy: Policy | None
) -> Iterator[tuple[Status, str, str]]:
    from reprune.steps.looking import check_reach, required_here
    from reprune.steps.target_demands import refuse_untimed

    runtime = runtimes.get(target.runtime)
    if runtime is None:
        words = f"there is no runtime '{target.runtime}'"
        yield "cannot run", words, f"use one of: {', '.join(runtimes)}"
        return
    can = runtime.can
    if can is None:
        yield "cannot run", runtime.words, runtime.fix
        return
    if target.precision not in can.precisions:
        yield "cannot run", f"{target.runtime} has no {target.precision}", "change its precision"
    if target.device and target.device.partition(":")[0] not in can.devices:
        yield "cannot run", f"{target.runtime} has no device {target.device}", "change its device"
    try:
        check_reach({name: target})
        if policy is not None:
            refuse_untimed(required_here({name: target}, policy), policy)
    except RepruneError as error:
        yield "cannot run", error.what, error.fix
    lacking = _converter_lacks(target, can)
    if lacking:
        fix = f"pip install 'reprune[{can.extra}]'"
        yield "missing", f"cannot be built: not installed: {lacking}", fix
    if not target.run and runtime.status in ("missing", "cannot run"):
        yield runtime.status, runtime.words, runtime.fix


def _converter_lacks(target: Target, can: Capabilities) -> str:
    """The converter's modules that are not there, in the environment of target.python if it has one."""
    if not target.python:
        return ", ".join(module for module in can.converter if not _installed(module))
    script = (
        "import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])"
    )
    return _output([target.python, "-c", script, *can.converter], missing=target.python)


def _called(name: str, target: Target) -> tuple[Status, str, str]:
    """What the device answers to a job that asks for nothing."""
    from reprune.measure.device_call import Device, calling
    from reprune.measure.device_job import PIPE_VALID_S, new_job, seal

    device = Device(name=name, run=target.run, limit_s=ASK_SECONDS, say=lambda _: None)
    job = new_job(name, target, hang_seconds=ASK_SECONDS, valid_s=PIPE_VALID_S)
    try:
        with calling(device, lambda folder: seal(folder, job)) as called:
            found = called.result
    except RepruneError as error:
        return "cannot run", error.what, error.fix
    words = f"{target.runtime} {found.runtime_version} on {found.machine.cpu}"
    return "ok", f"{words}; each build compares every engine there", ""


def _machine(params: Params | None) -> MachineHealth:
    from reprune.measure.conditions import read_ticks, read_waits

    threads = max([1, *(t.threads for t in (params.targets if params else {}).values())])
    quota = _read(_QUOTA)
    health = MachineHealth(
        # As the steps name it there: `threads` is a part of the instance.
        machine=this_machine(params.threads if params else 1),
        disk_free_bytes=_free(work_root()),
        load=round(os.getloadavg()[0], 2),
        governor=_read(_CPU),
        clock=_read(_CLOCK),
        waits_told=read_waits() is not None,
        steal_told=read_ticks() is not None,
        cpu_quota=None if quota is None or quota.startswith("max") else quota,
        compiler=next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None),
        gpus=tuple(_output(["nvidia-smi", "-L"]).splitlines()),
        doubts=(),
    )
    return msgspec.structs.replace(health, doubts=tuple(_doubts(health, threads)))


def _doubts(health: MachineHealth, threads: int) -> Iterator[str]:
    """Whole sentences: what is wrong, and what to do."""
    cpus = health.machine.logical_cpus
    if health.governor not in (None, "performance"):
        yield (
            f"The frequency governor is '{health.governor}': clocks change while engines are timed. "
            "Set it to performance (cpupower frequency-set -g performance)."
        )
    if health.load > cpus / 2:
        yield f"The load is {health.load} on {cpus} cores: others run here. Measure when it is quiet."
    if not health.waits_told:
        yield "The kernel does not tell how long threads wait for a core (schedstat): the guard is blind."
    if not health.steal_told:
        yield "The kernel does not tell the time that a hypervisor took (/proc/stat)."
    if health.clock is not None and health.clock not in GOOD_CLOCKS:
        yield f"The clock source is '{health.clock}', which is slow to read: short calls look longer."
    if threads >= cpus:
        yield f"A target uses {threads} threads of {cpus} cores: none is left for anything else."
    if health.cpu_quota is not None:
        yield f"This container has a CPU quota ({health.cpu_quota}): it is stopped in the middle of calls."
    if health.disk_free_bytes < LOW_DISK_BYTES:
        yield f"Only {health.disk_free_bytes // 2**20} MiB are free for the work folder."


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _output(command: Sequence[str], *, missing: str = "") -> str:
    """What a command prints; `missing` where it cannot be started or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return missing
    return done.stdout.strip() if done.returncode == 0 else missing
