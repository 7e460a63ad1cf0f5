"""Which adapters were proven on this kind of machine, and proving one that was not.

A proof is a file of the work folder: losing it costs the few seconds of another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from reprune.core.documents import canonical, decode_json, read_bounded
from reprune.core.errors import BuildError, DocumentError, RepruneError
from reprune.core.machine import this_machine
from reprune.core.params import Target
from reprune.core.step import work_root
from reprune.core.store import write_bytes
from reprune.measure.accelerator import gpu_name
from reprune.measure.conformance import prove, prove_apart
from reprune.measure.promises import Conformance
from reprune.runtimes.base import get_runtime

SELFTEST_SECONDS = 600.0


def proof_path(runtime: str, version: str, *, kind: str = "") -> Path:
    """Where the selftests of that runtime on this kind of machine (or `kind`) are kept: of its library's
    version and of our adapter's revision.
    """
    kind = kind or this_machine(1).kind
    revision = get_runtime(runtime).capabilities.revision
    name = re.sub(r"[^\w.+-]", "_", f"{runtime}-{version}-r{revision}")
    return work_root() / "selftests" / kind.removeprefix("sha256:")[:32] / f"{name}.json"


def proof_of(target: Target, version: str) -> Conformance | None:
    """The stored selftest in the target's precision and on its device; None where there is none.

    A file that cannot be read counts as none.
    """
    try:
        raw = read_bounded(proof_path(target.runtime, version))
        stored = decode_json(raw, dict[str, Conformance], name="selftest")
    except (OSError, DocumentError):
        return None
    return stored.get(_key(target, _gpu(target)))


def selftest(target: Target, *, every: bool, apart: bool) -> Conformance:
    """Runs and stores the selftest: in every precision that the runtime offers, or the target's alone;
    `apart` in a process of its own. Raises as conformance.prove does.
    """
    runtime = get_runtime(target.runtime)
    precisions = runtime.capabilities.precisions if every else (target.precision,)
    if apart or runtime.capabilities.may_crash:
        found = prove_apart(target, precisions, seconds=SELFTEST_SECONDS)
    else:
        found = prove(target, precisions)
    store_proof(found, target)
    return found


def demand_proof(targets: Iterable[tuple[str, Target]], say: Callable[[str], None]) -> None:
    """Afterwards the adapter of each target that runs on this machine is proven here: an older selftest
    of the same runtime version and revision holds, a missing one is made now.

    Raises BuildError, naming the promise that was broken, for one that fails or cannot run.
    """
    seen: set[tuple[str, str]] = set()
    for name, target in targets:
        if target.run or (target.runtime, _key(target, "")) in seen:
            continue
        seen.add((target.runtime, _key(target, "")))
        found = _proof(name, target, say)
        if found.failures:
            broken = found.failures[0]
            raise BuildError(
                f"the adapter of {target.runtime} fails its selftest on this machine "
                f"({broken.precision}: {broken.name}): {broken.words}",
                where=f"params.yaml (targets.{name})",
                fix=f"see `reprune doctor --selftest {name}`; use another runtime or version",
            )


def _proof(name: str, target: Target, say: Callable[[str], None]) -> Conformance:
    try:
        known = proof_of(target, get_runtime(target.runtime).version())
        if known is not None:
            return known
        say(f"{target.runtime} {target.precision} is unproven on this kind of machine: selftest")
        found = selftest(target, every=False, apart=False)
    except RepruneError as error:
        raise BuildError(
            f"the adapter of {target.runtime} is unproven on this machine, and its selftest cannot run: "
            f"{error.what}",
            where=f"params.yaml (targets.{name})",
            fix=error.fix or f"see `reprune doctor --selftest {name}`",
        ) from error
    say(f"selftest of {target.runtime} {target.precision} took {found.seconds} s")
    return found


def store_proof(found: Conformance, target: Target) -> None:
    """Keeps what was found, for the kind of machine that it was found on."""
    path = proof_path(found.runtime, found.version, kind=found.machine.kind)
    try:
        stored = decode_json(read_bounded(path), dict[str, Conformance], name=str(path))
    except (OSError, DocumentError):
        stored = {}
    for precision in dict.fromkeys(check.precision for check in found.checks):
        one = msgspec.structs.replace(
            found, checks=tuple(check for check in found.checks if check.precision == precision)
        )
        stored[_key(target, found.machine.accelerator, precision)] = one
    write_bytes(path, canonical(stored) + b"\n")


def _gpu(target: Target) -> str:
    try:
        return gpu_name(get_runtime(target.runtime), target)
    except RepruneError:  # no such GPU, or no library that finds it: nothing was proven on it
        return ""


def _key(target: Target, gpu: str, precision: str = "") -> str:
    place = f"{target.device or 'its usual device'}{f' ({gpu})' if gpu else ''}"
    return f"{precision or target.precision} on {place}"
