"""Runs a .tflite once, in a process of its own, because LiteRT may end the process that runs it:

python -m reprune.runtimes.litert_check SPEC.json ANSWER.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.numpy import load_file

from reprune.core.artifacts import Fact
from reprune.core.children import answer
from reprune.runtimes.litert_session import LiteRtSession, load


class CheckSpec(Fact, kw_only=True):
    """`inputs` is a .safetensors of arrays "0", "1", ..., one an input; `name` is the engine's in errors."""

    engine: str
    name: str
    inputs: str


class Checked(Fact, kw_only=True):
    """The shapes of what came out."""

    outputs: tuple[tuple[int, ...], ...]


def check(spec: CheckSpec) -> Checked:
    """Runs the engine once. Raises BuildError for a file that LiteRT cannot load."""
    arrays = load_file(spec.inputs)
    inputs = [arrays[str(place)] for place in range(len(arrays))]
    session = LiteRtSession(load(Path(spec.engine).read_bytes(), 1, where=spec.name))
    return Checked(outputs=tuple(output.shape for output in session.run(inputs)))


if __name__ == "__main__":
    sys.exit(answer(sys.argv[1:], CheckSpec, check))
