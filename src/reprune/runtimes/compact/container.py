"""The compact model file: header, code books, shapes, coded weights and a checksum in one piece.

    4 bytes   "RPC" and the format: 1 mixed contexts ("dense-entropy"), 2 plain contexts ("mcu")
    header    number of tensors; of each its name, shape and book (all counts as LEB128 varints)
    coded     every quantised tensor's codes, in order, as one arithmetic-coded stream
    4 bytes   CRC-32 of all before it, little endian

The same tensors give the same bytes. Only numpy and the standard library are needed to read it.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reprune.core.errors import PayloadCorrupt, SchemaTooNew
from reprune.runtimes.compact.arithmetic import CodeBit, Decoder, Encoder
from reprune.runtimes.compact.header import (
    MAX_ELEMENTS,
    Entry,
    cells_of,
    read_header,
    start_of,
    write_header,
)
from reprune.runtimes.compact.mixing import MixedModel, PlainModel
from reprune.runtimes.compact.tensors import Quantised, Tensors
from reprune.runtimes.compact.walk import (
    CELL_CONTEXTS,
    FLAG_CONTEXTS,
    UNKNOWN,
    VALUE_CONTEXTS,
    Frame,
    Models,
    matrix_of,
    walk,
    width_of,
)

Coding = Literal["dense-entropy", "mcu"]
MAGIC = b"RPC"
_NUMBERS: dict[Coding, int] = {"dense-entropy": 1, "mcu": 2}
_FIX = "fetch or write the file again"


def encode(tensors: Tensors, *, coding: Coding = "dense-entropy") -> bytes:
    """The file. `mcu` can be decoded in integers, with a few kilobytes of memory; every tensor must
    then be quantised with a book in whole numbers (tensors.Levels).

    Raises CompressionError for a tensor that the format cannot hold.
    """
    entries = [Entry.of(name, tensor, plain=coding == "mcu") for name, tensor in tensors.items()]
    encoder = Encoder()
    stream = _Stream(coder=encoder.code, mixed=coding == "dense-entropy")
    for entry, tensor in zip(entries, tensors.values(), strict=True):
        if isinstance(tensor, Quantised):
            stream.code(entry, tensor.codes.reshape(matrix_of(entry.shape)).tolist())
    content = MAGIC + bytes([_NUMBERS[coding]]) + write_header(entries) + encoder.finish()
    return content + binascii.crc32(content).to_bytes(4, "little")


def decode(data: bytes, *, max_elements: int = MAX_ELEMENTS) -> dict[str, Quantised | NDArray[Any]]:
    """Exactly the tensors that were encoded, in their order.

    A few bytes may stand for many zeros: `max_elements` bounds the memory and the time that a file of
    unknown hands can take. Raises PayloadCorrupt for a file that is cut short, changed, none of ours
    or that holds more than that in all, SchemaTooNew for a coding that this version does not know.
    """
    content = checked(data)
    if content[3] not in _NUMBERS.values():
        raise SchemaTooNew(
            f"compact file of format {content[3]}, this version reads 1 and 2",
            where="compact file",
            fix="upgrade reprune",
        )
    entries, place = read_header(content, 4)
    if sum(cells_of(entry.shape) for entry in entries) > max_elements:
        raise PayloadCorrupt(
            f"it holds more than {max_elements} elements", where="compact file", fix=_FIX
        )
    stream = _Stream(coder=Decoder(content[place:]).code, mixed=content[3] == 1)
    found: dict[str, Quantised | NDArray[Any]] = {}
    for entry in entries:
        if entry.raw is not None:
            found[entry.name] = entry.raw
            continue
        rows, columns = matrix_of(entry.shape)
        codes = [[0] * columns for _ in range(rows)]
        stream.code(entry, codes)
        # Of a damaged file a code may be 256, which no byte holds.
        whole = np.array(codes, dtype=np.int16).reshape(entry.shape)
        if whole.size and whole.max() >= len(entry.book):
            raise PayloadCorrupt("a code is not in its book", where="compact file", fix=_FIX)
        found[entry.name] = Quantised(codes=whole.astype(np.uint8), book=entry.book)
    return found


def checked(data: bytes) -> bytes:
    """The file without its checksum, once that is right. Raises PayloadCorrupt."""
    if len(data) < 9 or data[:3] != MAGIC:
        raise PayloadCorrupt("not a compact model file", where="compact file", fix=_FIX)
    content, crc = data[:-4], int.from_bytes(data[-4:], "little")
    if binascii.crc32(content) != crc:
        raise PayloadCorrupt(
            f"its checksum is {binascii.crc32(content):08x}, the file says {crc:08x}",
            where="compact file",
            fix=_FIX,
        )
    return content


@dataclass(kw_only=True)
class _Stream:
    """Codes tensor after tensor; which rows of the last ones were empty hints at what is empty next."""

    coder: CodeBit
    mixed: bool
    live: Sequence[int] = ()
    fed: Sequence[int] = ()

    def code(self, entry: Entry, codes: list[list[int]]) -> None:
        rows, columns = matrix_of(entry.shape)
        frame = Frame(
            rows=rows,
            columns=columns,
            width=width_of(entry.shape),
            values=len(entry.book) - 1,
            row_hints=self.live if len(self.live) == rows else [UNKNOWN] * rows,
            column_hints=_spread(self.fed, columns),
        )
        self.live = walk(codes, frame, self._models(entry))
        if columns > 1:
            self.fed = self.live

    def _models(self, entry: Entry) -> Models:
        def model(form: tuple[int, int], start: int) -> MixedModel | PlainModel:
            if self.mixed:
                return MixedModel(self.coder, contexts=form[0], start=start)
            return PlainModel(self.coder, contexts=form[1], start=start)

        half = 1 << 15
        return Models(
            flag=model(FLAG_CONTEXTS, half),
            cell=model(CELL_CONTEXTS, start_of(entry.density)),
            value=model(VALUE_CONTEXTS, half),
            mixed=self.mixed,
        )


def _spread(fed: Sequence[int], columns: int) -> Sequence[int]:
    """The flags of the rows before, each for the columns that it feeds."""
    if not fed or not columns or columns % len(fed):
        return [UNKNOWN] * columns
    share = columns // len(fed)
    return [fed[place // share] for place in range(columns)]
