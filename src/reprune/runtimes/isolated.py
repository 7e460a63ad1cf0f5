"""The part of a build that may crash or hang, in a process of its own with a time limit. Imports no torch.

A compiler of a runtime can fall over its driver (TensorRT without one ends in a segmentation fault) or
never end. Then there is an error, and no half engine that somebody could take for a whole one.

    python -m reprune.runtimes.isolated SPEC.json ANSWER.json
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from reprune.core.artifacts import BuildFact
from reprune.core.children import answer, ask
from reprune.core.errors import BuildError, RepruneError
from reprune.core.params import Target
from reprune.core.store import disk_errors
from reprune.runtimes.base import Compiling, Runtime, Source, get_runtime


class CompileSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the child is told: what `prepare` left in `folder` becomes the engine `destination`."""

    target: Target
    folder: str
    destination: str


def compile_isolated(
    target: Target, folder: Path, destination: Path, *, seconds: float
) -> BuildFact:
    """What Compiling.compile does, in a fresh process that is stopped after `seconds`.

    The process is run by Target.python where that is named. Afterwards the engine lies at
    `destination`, whole; or nothing there has changed, whatever became of the process. Raises
    BuildError with the runtime's own words where it said why it cannot, and RepruneError where it
    crashed, was killed, hung, or ended without an engine.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    # Beside the engine, so that one rename makes it appear.
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".building-") as aside:
        made = Path(aside, destination.name)
        fact = ask(
            "reprune.runtimes.isolated",
            CompileSpec(
                target=target, folder=str(folder.resolve()), destination=str(made.resolve())
            ),
            BuildFact,
            Path(aside, "compile"),
            threads=target.threads,
            hang_seconds=seconds,
            doing=f"compiling an engine of {target.runtime}",
            python=target.python,
        )
        if not made.is_file() or not made.stat().st_size:
            raise RepruneError(
                f"{target.runtime} said that it built an engine, and there is none",
                where=str(destination),
                fix="run the step again; if it happens again, see what the runtime logs",
            )
        with disk_errors(destination):
            made.replace(destination)
    return fact


def build_within(
    runtime: Runtime, source: Source, target: Target, destination: Path, *, seconds: float
) -> BuildFact:
    """As Runtime.build. What must be compiled is, in a process of its own that is stopped after `seconds`.

    What `prepare` and `compile` found are put together. Raises as build and compile_isolated.
    """
    if not isinstance(runtime, Compiling):
        return runtime.build(source, target, destination)
    with tempfile.TemporaryDirectory(prefix="reprune-prepared-") as folder:
        prepared = runtime.prepare(source, target, Path(folder))
        compiled = compile_isolated(target, Path(folder), destination, seconds=seconds)
    return together(prepared, compiled)


def together(prepared: BuildFact, compiled: BuildFact) -> BuildFact:
    """What `prepare` and `compile` found, as one."""
    return BuildFact(
        float_layers=prepared.float_layers + compiled.float_layers,
        sparsity=compiled.sparsity or prepared.sparsity,
        fallbacks=prepared.fallbacks + compiled.fallbacks,
        notes=prepared.notes + compiled.notes,
        details=prepared.details | compiled.details,
    )


def _compile(spec: CompileSpec) -> BuildFact:
    runtime = get_runtime(spec.target.runtime)
    if not isinstance(runtime, Compiling):
        raise BuildError(
            f"{spec.target.runtime} does not compile its engines in a process of their own",
            fix="use its `build`",
        )
    return runtime.compile(Path(spec.folder), spec.target, Path(spec.destination))


def main(arguments: Sequence[str]) -> int:
    """Compiles what SPEC.json names and writes the BuildFact to ANSWER.json."""
    return answer(arguments, CompileSpec, _compile)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
