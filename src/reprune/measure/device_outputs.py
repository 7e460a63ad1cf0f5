"""One engine over many inputs, in a process of its own: it may crash. Imports no torch.

python -m reprune.measure.device_outputs SPEC.json OUT.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from reprune.core.children import answer, refuse_orphan
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.store import disk_errors
from reprune.measure.calls import read_inputs, write_inputs
from reprune.runtimes.base import get_runtime
from reprune.runtimes.sidecar import open_engine


class OutputsSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`outputs` are written for `inputs`, one for one. With `bound` the sidecar is asked first."""

    parent: int
    target: Target
    engine: str
    bound: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    most_bytes: int


def take_outputs(spec: OutputsSpec) -> int:
    """Opens the engine, runs it on every input and writes what it gives; the bytes written.

    Raises BuildError for an engine that does not load or run, and as soon as the outputs together
    are larger than `most_bytes`.
    """
    refuse_orphan(spec.parent)
    engine = Path(spec.engine)
    if spec.bound:
        session = open_engine(engine, spec.target)
    else:
        session = get_runtime(spec.target.runtime).open(engine, spec.target)
    written = 0
    for given, wanted in zip(spec.inputs, spec.outputs, strict=True):
        outputs = session.run(read_inputs(Path(given)))
        written += sum(output.nbytes for output in outputs)
        if written > spec.most_bytes:
            raise BuildError(
                f"the outputs are larger than the {spec.most_bytes} bytes that a result may hold",
                where=str(engine.name),
                fix="judge this target on fewer examples, or let the model return less",
            )
        with disk_errors(Path(wanted)):
            Path(wanted).parent.mkdir(parents=True, exist_ok=True)
            write_inputs(Path(wanted), outputs)
    return written


def main(arguments: Sequence[str]) -> int:
    """Does what SPEC.json says and writes the number of bytes to OUT.json."""
    return answer(arguments, OutputsSpec, take_outputs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
