"""Many tensors as one file, each in its smallest form.

    4 bytes   "RPS" and the format, 1
    varint    how many tensors; of each:
        name      varint and as many bytes of UTF-8
        1 byte    its type (forms.DTYPES), 1 byte its form (forms.FORMS); for n:m a byte each n and m
        shape     varint dimensions, a varint each
        payload   varint and as many bytes
    4 bytes   CRC-32 of all before it, little endian

It can be read front to back without going back. Nothing is allocated that the file does not pay for but
the tensors themselves, which the reader bounds.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from reprune.core.errors import CompressionError, PayloadCorrupt, SchemaTooNew
from reprune.runtimes.sparse.forms import (
    DTYPES,
    FORMS,
    MAX_ELEMENTS,
    Stored,
    parts_of,
    restored,
    smallest,
    varints,
)

MAGIC, FORMAT = b"RPS", 1
MAX_DIMENSIONS = 8
_WHERE = "sparse file"
_FIX = "fetch or write the file again"


def write_tensors(tensors: Mapping[str, NDArray[Any]], *, pattern: str = "2:4") -> bytes:
    """The file; the same tensors give the same bytes. Raises CompressionError for what no form holds."""
    return write_stored({name: smallest(array, pattern) for name, array in tensors.items()})


def read_tensors(data: bytes, *, max_elements: int = MAX_ELEMENTS) -> dict[str, NDArray[Any]]:
    """Exactly the tensors that were written, in their order.

    Raises PayloadCorrupt for a file that is cut short, changed, none of ours or that holds more than
    `max_elements` in all; SchemaTooNew for a newer format.
    """
    return {name: restored(one) for name, one in read_stored(data, max_elements).items()}


def write_stored(tensors: Mapping[str, Stored]) -> bytes:
    """The file of tensors whose forms are chosen already."""
    out = bytearray(MAGIC + bytes([FORMAT]) + varints([len(tensors)]))
    for name, one in tensors.items():
        text = name.encode()
        out += varints([len(text)]) + text
        out += bytes([DTYPES.index(one.dtype), FORMS.index(one.form)])
        out += bytes(parts_of(one.pattern)) if one.form == "n:m" else b""
        if len(one.shape) > MAX_DIMENSIONS or math.prod(map(_at_least_1, one.shape)) > MAX_ELEMENTS:
            raise CompressionError(f"tensor '{name}' is too large", where=_WHERE)
        out += varints([len(one.shape), *one.shape, len(one.payload)]) + one.payload
    return bytes(out) + binascii.crc32(out).to_bytes(4, "little")


def read_stored(data: bytes, max_elements: int = MAX_ELEMENTS) -> dict[str, Stored]:
    """The tensors as they are stored. Raises as read_tensors."""
    if len(data) < 9 or data[:3] != MAGIC:
        raise _corrupt("not a file of sparse tensors")
    if binascii.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise _corrupt("its checksum is wrong")
    if data[3] != FORMAT:
        raise SchemaTooNew(
            f"sparse file of format {data[3]}, this version reads {FORMAT}",
            where=_WHERE,
            fix="upgrade reprune",
        )
    reader = _Reader(data[:-4], 4)
    found: dict[str, Stored] = {}
    left = max_elements
    for _ in range(reader.varint()):
        name, one = _read_one(reader)
        left -= math.prod(map(_at_least_1, one.shape))
        if left < 0:
            raise _corrupt(f"it holds more than {max_elements} elements")
        if name in found:
            raise _corrupt(f"tensor '{name}' stands in it twice")
        found[name] = one
    if reader.place != len(reader.content):
        raise _corrupt("bytes behind its last tensor")
    return found


def _read_one(reader: _Reader) -> tuple[str, Stored]:
    try:
        name = reader.take(reader.varint()).decode()
    except UnicodeDecodeError as error:
        raise _corrupt("a name is no UTF-8") from error
    dtype, form = reader.byte(), reader.byte()
    if dtype >= len(DTYPES) or form >= len(FORMS):
        raise _corrupt(f"tensor '{name}' is of type {dtype} in form {form}")
    pattern = f"{reader.byte()}:{reader.byte()}" if FORMS[form] == "n:m" else ""
    dimensions = reader.varint()
    if dimensions > MAX_DIMENSIONS:
        raise _corrupt(f"tensor '{name}' has {dimensions} dimensions")
    shape = tuple(reader.varint() for _ in range(dimensions))
    payload = reader.take(reader.varint())
    return name, Stored(
        form=FORMS[form], shape=shape, dtype=DTYPES[dtype], payload=payload, pattern=pattern
    )


@dataclass
class _Reader:
    content: bytes
    place: int

    def take(self, count: int) -> bytes:
        part = self.content[self.place : self.place + count]
        if len(part) != count:
            raise _corrupt("it ends too early")
        self.place += count
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        number = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise _corrupt("a number does not end")


def _at_least_1(side: int) -> int:
    return max(side, 1)


def _corrupt(what: str) -> PayloadCorrupt:
    return PayloadCorrupt(what, where=_WHERE, fix=_FIX)
