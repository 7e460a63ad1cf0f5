"""`reprune doctor`: what this machine can build and measure, and the command that fixes what it cannot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from reprune.core.errors import EXIT_DONE, EXIT_INPUT
from reprune.doors.root import enter

if TYPE_CHECKING:
    from reprune.measure.promises import Conformance
    from reprune.steps.doctor import Diagnosis

Execute: TypeAlias = Callable[[argparse.Namespace], int]


def define_doctor(parser: argparse.ArgumentParser) -> Execute:
    """`reprune doctor`: exit 0 unless a required target cannot be built or measured."""
    parser.description = (
        "Says what this machine can build and measure: each runtime, each target of params.yaml, and what "
        "would spoil measurements here. Exits with 2 if a required target cannot be built or measured."
    )
    parser.add_argument(
        "--selftest",
        metavar="TARGET",
        help="prove the adapter of this target (or runtime) on this machine, in every precision",
    )

    def execute(parsed: argparse.Namespace) -> int:
        enter(parsed.root)
        if parsed.selftest:
            return _selftest(parsed.selftest, as_json=parsed.json)
        from reprune.steps.doctor import diagnose

        found = diagnose(Path.cwd())
        if parsed.json:
            from reprune.doors.output import DoctorOutput

            print(msgspec.json.encode(DoctorOutput(ok=found.usable, diagnosis=found)).decode())
        else:
            _show(found)
        return EXIT_DONE if found.usable else EXIT_INPUT

    return execute


def _selftest(name: str, *, as_json: bool) -> int:
    from reprune.doors.output import SelftestOutput
    from reprune.steps.doctor import target_named
    from reprune.steps.proofs import proof_path, selftest
    from reprune.steps.remote_proof import selftest_there

    target = target_named(Path.cwd(), name)
    there = bool(target.run)
    found = (
        selftest_there(name, target, say=_say)
        if there
        else selftest(target, every=True, apart=True)
    )
    if as_json:
        kept = proof_path(found.runtime, found.version, kind=found.machine.kind)
        output = SelftestOutput(ok=not found.failures, selftest=found, kept=str(kept))
        print(msgspec.json.encode(output).decode())
    else:
        _show_checks(found)
    return EXIT_INPUT if found.failures else EXIT_DONE


def _show(found: Diagnosis) -> None:
    machine = found.machine
    print(f"{machine.machine.cpu}, {machine.machine.logical_cpus} cores, {machine.machine.os}")
    print(
        f"  free for work: {machine.disk_free_bytes // 2**20} MiB; load {machine.load}; governor "
        f"{machine.governor or 'not told'}; clock {machine.clock or 'not told'}; compiler "
        f"{machine.compiler or 'none'}; GPUs: {', '.join(machine.gpus) or 'none'}"
    )
    for doubt in machine.doubts:
        print(f"  ! {doubt}")
    print("\nruntimes")
    for runtime in found.runtimes:
        offers = ", ".join(runtime.can.precisions) if runtime.can else ""
        _line(runtime.status, f"{runtime.name} {runtime.version}".strip(), offers)
        _more(runtime.words, runtime.fix)
    if found.targets:
        print("\ntargets")
    for target in found.targets:
        kind = "required" if target.required else "advisory"
        _line(target.status, target.name, f"{target.runtime}, {target.place}, {kind}")
        _more(target.words, target.fix)


def _show_checks(found: Conformance) -> None:
    print(f"{found.runtime} {found.version} on {found.machine.cpu}")
    for check in found.checks:
        _line("ok" if check.ok else "FAILED", f"{check.precision}: {check.name}", check.words)
    print(f"{len(found.checks)} promises, {len(found.failures)} broken, {found.seconds} s")


def _line(status: str, name: str, words: str) -> None:
    print(f"  {status:10}  {name}" + (f"  ({words})" if words else ""))


def _more(words: str, fix: str) -> None:
    for text in (words, f"To fix: {fix}" if fix else ""):
        if text:
            print(f"              {text}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
