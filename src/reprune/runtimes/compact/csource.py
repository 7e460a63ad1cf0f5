"""A compact `mcu` file as C source: the model as a constant, and a decoder in integers without malloc."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from reprune.core.errors import InputError
from reprune.runtimes.compact.container import checked
from reprune.runtimes.compact.header import read_header
from reprune.runtimes.compact.walk import matrix_of

_DECODER = ("reprune_compact.h", "reprune_compact.c")


def c_sources(data: bytes) -> dict[str, str]:
    """File names and their texts: the decoder, and the model with the sizes that the decoder needs.

    Compile both .c files as C99; see reprune_compact.h for the calls. Raises InputError for a file of
    another coding than `mcu`, PayloadCorrupt for one that was changed.
    """
    content = checked(data)
    if content[3] != 2:
        raise InputError(
            "only an mcu file can be decoded in integers",
            where="compact file",
            fix="encode it with coding='mcu'",
        )
    entries, _ = read_header(content, 4)
    shapes = [matrix_of(entry.shape) for entry in entries]
    limits = {
        "ROWS": max((rows for rows, _ in shapes), default=1),
        "COLUMNS": max((columns for _, columns in shapes), default=1),
        "VALUES": max((len(entry.book) - 1 for entry in entries), default=1),
    }
    folder = files("reprune.runtimes.compact") / "c"
    return {
        "reprune_model.h": _model_header(limits, len(data)),
        "reprune_model.c": model_source(data),
        **{name: (folder / name).read_text(encoding="utf-8") for name in _DECODER},
    }


def _model_header(limits: dict[str, int], size: int) -> str:
    return text_of(
        "REPRUNE_MODEL_H",
        [
            "#include <stdint.h>",
            *(f"#define REPRUNE_MAX_{name} {max(limit, 1)}" for name, limit in limits.items()),
            f"#define REPRUNE_MODEL_SIZE {size}",
            "extern const uint8_t reprune_model[REPRUNE_MODEL_SIZE];",
        ],
    )


def text_of(guard: str, lines: Sequence[str]) -> str:
    """A header of these lines that may be included twice."""
    return "\n".join([f"#ifndef {guard}", f"#define {guard}", *lines, "#endif", ""])


def model_source(data: bytes) -> str:
    """The bytes as the constant that the generated header declares."""
    rows = [data[place : place + 16] for place in range(0, len(data), 16)]
    body = ",\n".join("    " + ", ".join(f"0x{byte:02x}" for byte in row) for row in rows)
    return (
        '#include "reprune_model.h"\n'
        f"const uint8_t reprune_model[REPRUNE_MODEL_SIZE] = {{\n{body}\n}};\n"
    )
