"""The header of a compact file: names, shapes, code books, and small tensors as they are."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprune.core.errors import CompressionError, PayloadCorrupt
from reprune.runtimes.compact.tensors import (
    EXPONENTS,
    MAX_CODES,
    MAX_LEVEL,
    Levels,
    Quantised,
    levels_of,
)

MAX_ELEMENTS = 1 << 28
LEVELS, LINEAR, FLOATS, RAW_FLOAT32, RAW_INT64 = range(5)
_RAW: dict[int, np.dtype[Any]] = {RAW_FLOAT32: np.dtype("<f4"), RAW_INT64: np.dtype("<i8")}

# Endings that many names share take one byte each, from 0x80 on: never reorder, only append.
_ENDINGS = (
    ".weight",
    ".bias",
    ".running_mean",
    ".running_var",
    ".num_batches_tracked",
    "conv",
    "layer",
    "norm",
    "bn",
    "fc",
    "features",
    "classifier",
    "linear",
    "head",
)

# 2**(-n/8) in 16 bits, n = 0..7.
_EIGHTHS = (65536, 60097, 55109, 50535, 46341, 42495, 38968, 35734)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A tensor's line of the header. `density` says how full it is, see `start_of`; a tensor that is
    stored as it is has `raw` and an empty book.
    """

    name: str
    shape: tuple[int, ...]
    book: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))
    density: int = 0
    raw: NDArray[Any] | None = None

    @classmethod
    def of(cls, name: str, tensor: Quantised | NDArray[Any], *, plain: bool) -> Entry:
        """The line of a tensor. With `plain`, only what a decoder in integers can read.

        Raises CompressionError for what the format cannot hold.
        """
        if not isinstance(tensor, Quantised):
            return cls._of_raw(name, np.asarray(tensor), plain)
        codes, book = tensor.codes, tensor.book
        if codes.dtype != np.uint8 or book.dtype != np.float32 or book.ndim != 1:
            raise _refused(name, "codes must be uint8 and the book a row of float32")
        if not 1 <= len(book) <= MAX_CODES + 1 or book[0] != 0 or np.signbit(book[0]):
            raise _refused(name, f"a book has 1 to {MAX_CODES + 1} values, the first of them 0")
        if codes.size and codes.max() >= len(book):
            raise _refused(name, f"code {codes.max()} is not in a book of {len(book)}")
        if cells_of(codes.shape) > MAX_ELEMENTS:
            raise _refused(name, f"more than {MAX_ELEMENTS} weights")
        if plain and _whole(book) is None:
            raise _refused(
                name,
                f"an mcu file needs a book in whole numbers of at most {MAX_LEVEL}, or evenly spaced "
                "(tensors.snapped)",
            )
        kept = int(np.count_nonzero(codes))
        return cls(name=name, shape=codes.shape, book=book, density=_density(kept, codes.size))

    @classmethod
    def _of_raw(cls, name: str, tensor: NDArray[Any], plain: bool) -> Entry:
        if plain:
            raise _refused(name, "an mcu file holds quantised tensors only")
        if tensor.dtype not in _RAW.values():
            raise _refused(name, f"{tensor.dtype} is neither quantised nor float32 or int64")
        return cls(name=name, shape=tensor.shape, raw=tensor)


def cells_of(shape: Sequence[int]) -> int:
    """What a tensor costs to walk: a dimension of 0 does not make the others small."""
    return math.prod(max(size, 1) for size in shape)


def start_of(density: int) -> int:
    """The probability (16 bits) that a cell holds something: 2**(-density / 8)."""
    return min(max(_EIGHTHS[density % 8] >> (density // 8), 32), 65536 - 32)


def _density(kept: int, size: int) -> int:
    return 127 if not kept else min(round(8 * math.log2(size / kept)), 127)


def write_header(entries: Sequence[Entry]) -> bytes:
    out = bytearray(_varint(len(entries)))
    for entry in entries:
        name = _short(entry.name)
        out += _varint(len(name)) + name + _varint(len(entry.shape))
        for size in entry.shape:
            out += _varint(size)
        out += _raw_bytes(entry.raw) if entry.raw is not None else _book_bytes(entry)
    return bytes(out)


def read_header(content: bytes, place: int) -> tuple[list[Entry], int]:
    """The lines and where the header ends. Raises PayloadCorrupt where they make no sense."""
    reader = _Reader(content, place)
    try:
        return [_read_entry(reader) for _ in range(reader.varint())], reader.place
    except (IndexError, ValueError, struct.error) as error:
        raise PayloadCorrupt(
            f"its header does not decode: {error}", where="compact file", fix="write it again"
        ) from error


def _read_entry(reader: _Reader) -> Entry:
    name = _long(reader.take(reader.varint()))
    shape = tuple(reader.varint() for _ in range(reader.varint()))
    if cells_of(shape) > MAX_ELEMENTS:
        raise ValueError(f"tensor '{name}' has more than {MAX_ELEMENTS} weights")
    kind = reader.byte()
    if kind in _RAW:
        dtype = _RAW[kind]
        whole = np.frombuffer(reader.take(math.prod(shape) * dtype.itemsize), dtype=dtype)
        return Entry(
            name=name, shape=shape, raw=whole.reshape(shape).astype(dtype.newbyteorder("="))
        )
    density = reader.byte()
    return Entry(name=name, shape=shape, book=_read_book(kind, reader), density=density)


def _raw_bytes(raw: NDArray[Any]) -> bytes:
    kind = RAW_FLOAT32 if raw.dtype == np.float32 else RAW_INT64
    return bytes([kind]) + raw.astype(_RAW[kind]).tobytes()


def _book_bytes(entry: Entry) -> bytes:
    """kind, density, number of values; then the book in the shortest form that gives it back exactly."""
    count = len(entry.book) - 1
    whole = _whole(entry.book)
    if whole is None:
        return bytes([FLOATS, entry.density, count]) + entry.book[1:].astype("<f4").tobytes()
    multiple = _multiple(whole)
    if multiple is not None:
        return struct.pack("<BBBBb", LINEAR, entry.density, count, multiple, whole.exponent)
    levels = struct.pack(f"<b{count}b", whole.exponent, *whole.levels[1:])
    return bytes([LEVELS, entry.density, count]) + levels


def _whole(book: NDArray[np.float32]) -> Levels | None:
    """The book as whole numbers where one of the two forms of whole numbers holds it, else None."""
    wide = levels_of(book, 1 << 15)
    return wide if wide and _multiple(wide) is not None else levels_of(book, MAX_LEVEL)


def _read_book(kind: int, reader: _Reader) -> NDArray[np.float32]:
    count = reader.byte()
    if kind == LINEAR:
        multiple, exponent = reader.byte(), reader.signed(1)[0]
        return _book_of(_ladder(count, multiple), exponent)
    if kind == LEVELS:
        exponent = reader.signed(1)[0]
        return _book_of((0, *reader.signed(count)), exponent)
    if kind == FLOATS:
        values = np.frombuffer(reader.take(4 * count), dtype="<f4").astype(np.float32)
        return np.concatenate([np.zeros(1, np.float32), values])
    raise ValueError(f"book of kind {kind}")


def _book_of(levels: tuple[int, ...], exponent: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        book = Levels(levels=levels, exponent=exponent).book()
    if exponent not in EXPONENTS or not np.isfinite(book).all():
        raise ValueError(f"a book of {levels[-1]} times 2**{exponent}")
    return book


def _multiple(levels: Levels) -> int | None:
    """The m with which the levels are -h m ... -m, m ... h m, in this order, else None."""
    count = len(levels.levels) - 1
    multiple = levels.levels[-1] // (count // 2) if count and count % 2 == 0 else 0
    fits = 0 < multiple < 256 and levels.levels == _ladder(count, multiple)
    return multiple if fits else None


def _ladder(count: int, multiple: int) -> tuple[int, ...]:
    half = count // 2
    return (0, *(multiple * place for place in (*range(-half, 0), *range(1, half + 1))))


def _short(name: str) -> bytes:
    out, place = bytearray(), 0
    while place < len(name):
        for number, ending in enumerate(_ENDINGS):
            if name.startswith(ending, place):
                out.append(0x80 + number)
                place += len(ending)
                break
        else:
            letter = ord(name[place])
            if not 0 < letter < 0x80:
                raise _refused(name, "a compact file holds names in ASCII only")
            out.append(letter)
            place += 1
    return bytes(out)


def _long(name: bytes) -> str:
    return "".join(chr(byte) if byte < 0x80 else _ENDINGS[byte - 0x80] for byte in name)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@dataclass
class _Reader:
    content: bytes
    place: int

    def take(self, count: int) -> bytes:
        part = self.content[self.place : self.place + count]
        if len(part) != count:
            raise ValueError("it ends too early")
        self.place += count
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def signed(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}b", self.take(count))

    def varint(self) -> int:
        number, shift = 0, 0
        while True:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7


def _refused(name: str, why: str) -> CompressionError:
    return CompressionError(f"tensor '{name}': {why}", where="compact")
