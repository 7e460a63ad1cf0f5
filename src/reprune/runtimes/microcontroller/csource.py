"""An engine as C99 source, and what it takes of flash and RAM."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from reprune.runtimes.compact.csource import c_sources as compact_sources
from reprune.runtimes.compact.csource import model_source, text_of
from reprune.runtimes.compact.header import read_header
from reprune.runtimes.compact.walk import matrix_of
from reprune.runtimes.microcontroller.engine import Sections, sections
from reprune.runtimes.microcontroller.graph import IN_EXP

# What the code takes at the most, compiled for size; about 10,000 on x86-64, not yet measured on a Cortex-M.
CODE_BOUND = 16_000
_COMPILERS = {
    "arm-none-eabi-gcc": ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "gcc": (),
}
_FLAGS = ("-std=c99", "-Os", "-ffunction-sections", "-c")
_CODE = ("reprune_compact", "reprune_infer")


@dataclass(frozen=True, kw_only=True)
class CodeSize:
    """Bytes of the decoder's and the operations' code and constants, and how they are known."""

    bytes: int
    how: str


def c_sources(data: bytes) -> dict[str, str]:
    """File names and their texts: the engine as a constant, and the code that runs it from there.

    Compile the three .c files as C99; reprune_infer.h shows the calls. Raises PayloadCorrupt for a file
    that is no engine for a microcontroller.
    """
    parts = sections(data)
    folder = files("reprune.runtimes.microcontroller") / "c"
    code = compact_sources(parts.coded)
    return {
        "reprune_model.h": _header(parts, len(data)),
        "reprune_model.c": model_source(data),
        **{name: text for name, text in code.items() if not name.startswith("reprune_model")},
        **{
            name: (folder / name).read_text(encoding="utf-8")
            for name in ("reprune_infer.h", "reprune_infer.c")
        },
    }


def write_sources(data: bytes, folder: Path) -> list[Path]:
    """Writes the sources of `c_sources` into `folder`, which is made; the files, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in c_sources(data).items():
        paths.append(folder / name)
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def ram_bytes(data: bytes) -> int:
    """Static memory of a reprune_machine, as 32-bit compilers lay it out; the stack is not in it."""
    parts = sections(data)
    limits = _limits(parts)
    rows, columns, values = limits["ROWS"], limits["COLUMNS"], limits["VALUES"]
    nodes = next(
        size for most, size in ((8, 8), (32, 32), (128, 128), (255, 256)) if values <= most
    )
    contexts = 4 * (24 + 12 + 3 * nodes)
    reader = 4 * 14 + 16 + 2 * (values + 1) + contexts + 3 * columns + (columns + 7) // 8
    return 4 * parts.graph.arena + (reader + 2 * ((rows + 7) // 8) + 8) // 4 * 4


def code_size(data: bytes) -> CodeSize:
    """Measured by compiling the code for a Cortex-M4, else for this machine, else its documented bound."""
    texts = tuple(sorted((n, t) for n, t in c_sources(data).items() if n != "reprune_model.c"))
    for compiler, machine in _COMPILERS.items():
        found = _measured(compiler, machine, texts) if shutil.which(compiler) else None
        if found is not None:
            where = "for a Cortex-M4" if machine else "for this machine"
            return CodeSize(bytes=found, how=f"measured with {compiler} -Os {where}")
    return CodeSize(bytes=CODE_BOUND, how="no C compiler here: the most that it takes")


@cache
def _measured(
    compiler: str, machine: tuple[str, ...], texts: tuple[tuple[str, str], ...]
) -> int | None:
    """Bytes of the loaded, read-only sections; None where it cannot be compiled or measured."""
    with tempfile.TemporaryDirectory(prefix="reprune-code-") as name:
        folder = Path(name)
        for file, text in texts:
            (folder / file).write_text(text, encoding="utf-8")
        sources = [f"{part}.c" for part in _CODE]
        size = compiler.removesuffix("gcc") + "size"
        try:
            subprocess.run(
                [compiler, *_FLAGS, *machine, *sources],
                cwd=folder, check=True, capture_output=True, timeout=60,
            )  # fmt: skip
            done = subprocess.run(
                [size, *(f"{part}.o" for part in _CODE)],
                cwd=folder, check=True, capture_output=True, timeout=60, text=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None
    # "text data bss ..." for each file: code and constants, then what is copied to RAM at the start.
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    return sum(int(row[0]) + int(row[1]) for row in rows)


def _limits(parts: Sections) -> dict[str, int]:
    entries, _ = read_header(parts.coded[:-4], 4)
    shapes = [matrix_of(entry.shape) for entry in entries]
    return {
        "ROWS": max((rows for rows, _ in shapes), default=1),
        "COLUMNS": max((columns for _, columns in shapes), default=1),
        "VALUES": max((len(entry.book) - 1 for entry in entries), default=1) or 1,
    }


def _header(parts: Sections, size: int) -> str:
    graph = parts.graph
    ports = [
        f"#define REPRUNE_{kind}_{place} {port.offset} /* {' x '.join(map(str, port.dims)) or '1'} */"
        for kind, found in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs))
        for place, port in enumerate(found)
    ]
    uses_exp = int(any(op.code in IN_EXP for op in graph.ops))
    return text_of(
        "REPRUNE_MODEL_H",
        [
            "#include <stdint.h>",
            *(f"#define REPRUNE_MAX_{name} {most}" for name, most in _limits(parts).items()),
            f"#define REPRUNE_ARENA {graph.arena}",
            f"#define REPRUNE_USES_EXP {uses_exp}",
            *ports,
            f"#define REPRUNE_MODEL_SIZE {size}",
            "extern const uint8_t reprune_model[REPRUNE_MODEL_SIZE];",
        ],
    )
