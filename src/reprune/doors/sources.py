"""`reprune sources`: a microcontroller's engine as C99 files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from reprune.core.errors import EXIT_DONE, InputError
from reprune.core.store import drafting
from reprune.doors.output import SourcesOutput
from reprune.doors.root import enter

Execute: TypeAlias = Callable[[argparse.Namespace], int]


def define_sources(parser: argparse.ArgumentParser) -> Execute:
    """`reprune sources`: the array for flash, its decoder and the operations."""
    parser.description = (
        "Writes an engine of the runtime `microcontroller` as C99 files: the array for flash, the decoder "
        "and the operations that the model needs. Compile the .c files together; reprune_infer.h shows the "
        "lines that call them. What the code takes is measured where a compiler is."
    )
    parser.add_argument("engine", metavar="ENGINE", type=Path, help="engines/<target>/<arm>.rpm")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="a new folder")

    def execute(parsed: argparse.Namespace) -> int:
        enter(parsed.root)
        output = _written(parsed.engine, parsed.out)
        if parsed.json:
            print(msgspec.json.encode(output).decode())
        else:
            print(
                f"{output.out}: {', '.join(output.files)}\n"
                f"{output.model_bytes:,} bytes of model, {output.code_bytes:,} of code "
                f"({output.code_measured}), {output.ram_bytes:,} of RAM without the stack",
                file=sys.stderr,
            )
        return EXIT_DONE

    return execute


def _written(engine: Path, out: Path) -> SourcesOutput:
    """Afterwards `out` holds every file, or is not there. Raises InputError where it is there already,
    BuildError for what is no engine of a microcontroller.
    """
    from reprune.core.params import Target
    from reprune.runtimes.base import get_runtime
    from reprune.runtimes.microcontroller.csource import code_size, ram_bytes, write_sources

    if out.exists():
        raise InputError("is there already", where=str(out), fix="name a new folder")
    get_runtime("microcontroller").open(engine, Target(runtime="microcontroller"))
    data = engine.read_bytes()
    code = code_size(data)
    with drafting(out) as draft:
        names = tuple(path.name for path in write_sources(data, draft))
        draft.rename(out)
    return SourcesOutput(
        out=str(out),
        files=names,
        model_bytes=len(data),
        code_bytes=code.bytes,
        code_measured=code.how,
        ram_bytes=ram_bytes(data),
    )
