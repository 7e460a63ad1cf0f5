"""Forms of a tensor with zeros, bit for bit: where its values are, then the values.

    dense     every element
    zeros     run lengths: zeros, values, zeros, values ...
    bitmask   one bit an element
    delta     the gap before each value in k bits, as in S. Han et al., "Deep Compression",
              arXiv:1510.00149, section 2; all ones say: that many zeros and no value yet
    n:m       n values of every m neighbours along dimension 1, and the place of each of them in its
              group, as sparse tensor cores read it (2 bits for each value of 2:4)

An element is a zero if all its bits are: -0.0 and NaN with any payload are values and come back exactly.
Everything is little endian; bits are counted from the lowest. Only numpy is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprune.core.errors import CompressionError, PayloadCorrupt

Array = NDArray[Any]
Bits = NDArray[np.uint8]

FORMS = ("dense", "zeros", "bitmask", "delta", "n:m")
MAX_ELEMENTS = 1 << 28
# By the number that stands for each in a file: never reorder, only append.
DTYPES: tuple[np.dtype[Any], ...] = tuple(
    np.dtype(name) for name in ("<f4", "<f2", "i1", "<i8", "<f8", "u1", "<i4")
)
_PATTERN = re.compile(r"([1-9]\d?):([1-9]\d?)")
_MAX_GAP_BITS = 16
_WHERE = "sparse storage"


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """A tensor in one of FORMS; `pattern` ("2:4") is that of the form n:m, else empty."""

    form: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    payload: bytes
    pattern: str = ""


def stored(tensor: Array, form: str, pattern: str = "2:4") -> Stored:
    """The tensor in that form; the same tensor gives the same bytes.

    Raises CompressionError for a type that is not in DTYPES, an unknown form, and a tensor in which a
    group of m holds more than n values or whose dimension 1 is no multiple of m.
    """
    array = np.asarray(tensor)
    if array.dtype.newbyteorder("<") not in DTYPES:
        raise CompressionError(f"{array.dtype} has no sparse form", where=_WHERE)
    if form not in FORMS:
        raise CompressionError(
            f"there is no form '{form}'", where=_WHERE, fix=f"use one of: {', '.join(FORMS)}"
        )
    dtype = array.dtype.newbyteorder("<")
    if form == "n:m":
        n, m = parts_of(pattern)
        payload = _pack_groups(_words(_grouped(array, m).astype(dtype)).reshape(-1, m), n)
        return Stored(
            form=form, shape=array.shape, dtype=dtype, payload=payload, pattern=f"{n}:{m}"
        )
    payload = _PACK[form](_words(array.astype(dtype)).ravel())
    return Stored(form=form, shape=array.shape, dtype=dtype, payload=payload)


def restored(stored: Stored) -> Array:
    """Exactly the tensor that was stored. Raises PayloadCorrupt for a payload that is not of that form."""
    size = math.prod(stored.shape)
    if math.prod(max(side, 1) for side in stored.shape) > MAX_ELEMENTS:
        raise _corrupt(f"a tensor of more than {MAX_ELEMENTS} elements")
    words = np.dtype(f"<u{stored.dtype.itemsize}")
    source = _Source(np.frombuffer(stored.payload, dtype=np.uint8))
    if stored.form == "n:m":
        found = _unpack_groups(source, stored, words)
    elif stored.form in _UNPACK:
        found = _UNPACK[stored.form](source, size, words).reshape(stored.shape)
    else:
        raise _corrupt(f"form '{stored.form}'")
    source.refuse_rest()
    return np.ascontiguousarray(found).view(stored.dtype).reshape(stored.shape)


def sizes(tensor: Array, pattern: str = "2:4") -> dict[str, int]:
    """The bytes of the tensor in each form that holds it."""
    return {form: len(one.payload) for form, one in _all(tensor, pattern).items()}


def smallest(tensor: Array, pattern: str = "2:4") -> Stored:
    """The tensor in the form of the fewest bytes; of two as small, the one that stands first in FORMS."""
    found = _all(tensor, pattern)
    return min(found.values(), key=lambda one: (len(one.payload), FORMS.index(one.form)))


def parts_of(pattern: str) -> tuple[int, int]:
    """N and m. Raises CompressionError for what is no pattern of 1 <= n < m <= 64."""
    found = _PATTERN.fullmatch(pattern)
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= n < m <= 64:
        raise CompressionError(
            f"'{pattern}' is no pattern", where=_WHERE, fix="write n:m, such as 2:4"
        )
    return n, m


def _all(tensor: Array, pattern: str) -> Mapping[str, Stored]:
    found = {form: stored(tensor, form) for form in FORMS if form != "n:m"}
    try:
        found["n:m"] = stored(tensor, "n:m", pattern)
    except CompressionError:
        parts_of(pattern)  # what is no pattern at all is refused, not passed over
    return found


def _words(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"<u{array.dtype.itemsize}").reshape(array.shape)


def _pack_dense(words: Array) -> bytes:
    return bytes(words)


def _unpack_dense(source: _Source, size: int, words: np.dtype[Any]) -> Array:
    return source.values(size, words)


def _pack_runs(words: Array) -> bytes:
    held = words != 0
    # Where runs of values begin and where they end.
    ends = np.flatnonzero(np.diff(np.concatenate([[False], held, [False]]).astype(np.int8)))
    starts, stops = ends[::2], ends[1::2]
    before = np.concatenate([[0], stops[:-1]]) if len(starts) else starts
    lengths = np.stack([starts - before, stops - starts], axis=1).ravel()
    return varints([len(starts)]) + varints(lengths) + bytes(words[held])


def _unpack_runs(source: _Source, size: int, words: np.dtype[Any]) -> Array:
    runs = source.varint()
    lengths = source.varints(2 * runs)
    if runs and (lengths > size).any():
        raise _corrupt("a run is longer than the tensor")
    ends = np.cumsum(lengths)
    if runs and int(ends[-1]) > size:
        raise _corrupt("its runs are longer than the tensor")
    marks = np.zeros(size + 1, dtype=np.int64)
    np.add.at(marks, ends[::2], 1)
    np.add.at(marks, ends[1::2], -1)
    return _placed(source, np.cumsum(marks[:size]) > 0, words)


def _pack_mask(words: Array) -> bytes:
    held = words != 0
    return np.packbits(held, bitorder="little").tobytes() + bytes(words[held])


def _unpack_mask(source: _Source, size: int, words: np.dtype[Any]) -> Array:
    return _placed(source, source.bits(size).astype(bool), words)


def _pack_gaps(words: Array) -> bytes:
    places = np.flatnonzero(words)
    gaps = np.diff(places, prepend=-1) - 1
    symbols = {
        bits: len(gaps) + int((gaps // ((1 << bits) - 1)).sum())
        for bits in range(1, _MAX_GAP_BITS + 1)
    }
    bits = min(symbols, key=lambda bits: (symbols[bits] * bits, bits))
    skip = (1 << bits) - 1
    codes = np.full(symbols[bits], skip, dtype=np.int64)
    codes[np.cumsum(gaps // skip + 1) - 1] = gaps % skip
    packed = np.packbits((codes[:, None] >> np.arange(bits)) & 1, bitorder="little")
    return bytes([bits]) + varints([len(codes)]) + packed.tobytes() + words[places].tobytes()


def _unpack_gaps(source: _Source, size: int, words: np.dtype[Any]) -> Array:
    bits, count = source.byte(), source.varint()
    if not 1 <= bits <= _MAX_GAP_BITS:
        raise _corrupt(f"gaps of {bits} bits")
    codes = source.numbers(count, bits)
    is_value = codes < (1 << bits) - 1
    ends = np.cumsum(codes + is_value)
    if count and (int(ends[-1]) > size or not is_value[-1]):
        raise _corrupt("its gaps reach beyond the tensor")
    held = np.zeros(size, dtype=bool)
    held[ends[is_value] - 1] = True
    return _placed(source, held, words)


def _grouped(array: Array, m: int) -> Array:
    if array.ndim < 2 or array.shape[1] % m:
        raise CompressionError(
            f"dimension 1 of {list(array.shape)} is no multiple of {m}",
            where=_WHERE,
            fix="store it in another form",
        )
    return np.moveaxis(array, 1, -1)


def _pack_groups(groups: Array, n: int) -> bytes:
    held = groups != 0
    most = int(held.sum(axis=1).max(initial=0))
    if most > n:
        raise CompressionError(
            f"a group of {groups.shape[1]} holds {most} values, not at most {n}",
            where=_WHERE,
            fix="store it in another form",
        )
    # The values' places, then, where there are fewer than n, the first free ones; in ascending order.
    chosen = np.sort(np.argsort(~held, axis=1, kind="stable")[:, :n], axis=1)
    width = (groups.shape[1] - 1).bit_length()
    packed = np.packbits((chosen.reshape(-1, 1) >> np.arange(width)) & 1, bitorder="little")
    return packed.tobytes() + np.take_along_axis(groups, chosen, axis=1).tobytes()


def _unpack_groups(source: _Source, stored: Stored, words: np.dtype[Any]) -> Array:
    try:
        n, m = parts_of(stored.pattern)
    except CompressionError as error:
        raise _corrupt(error.what) from error
    shape = stored.shape
    if len(shape) < 2 or shape[1] % m:
        raise _corrupt(f"{stored.pattern} in the shape {list(shape)}")
    count = math.prod(shape) // m
    chosen = source.numbers(count * n, (m - 1).bit_length()).reshape(count, n)
    if (chosen >= m).any() or (np.diff(chosen, axis=1) <= 0).any():
        raise _corrupt(f"places that are not those of {stored.pattern}")
    groups = np.zeros((count, m), dtype=words)
    np.put_along_axis(groups, chosen, source.values(count * n, words).reshape(count, n), axis=1)
    return np.moveaxis(groups.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


_PACK: dict[str, Callable[[Array], bytes]] = {
    "dense": _pack_dense,
    "zeros": _pack_runs,
    "bitmask": _pack_mask,
    "delta": _pack_gaps,
}
_UNPACK: dict[str, Callable[[_Source, int, np.dtype[Any]], Array]] = {
    "dense": _unpack_dense,
    "zeros": _unpack_runs,
    "bitmask": _unpack_mask,
    "delta": _unpack_gaps,
}


def _placed(source: _Source, held: NDArray[np.bool_], words: np.dtype[Any]) -> Array:
    found = np.zeros(len(held), dtype=words)
    found[held] = source.values(int(held.sum()), words)
    return found


def varints(numbers: Array | list[int]) -> bytes:
    """Each number in groups of 7 bits, the lowest first; a group with the eighth bit is not the last."""
    whole = np.asarray(numbers, dtype=np.int64)
    groups = np.stack([(whole >> (7 * place)) & 0x7F for place in range(5)], axis=-1)
    # How many groups each needs: up to its last that is not 0, at least one.
    needed = np.maximum(((groups != 0) * np.arange(1, 6)).max(axis=-1), 1)
    used = np.arange(5) < needed[:, None]
    more = np.arange(5) < needed[:, None] - 1
    return bytes((groups | (more << 7))[used].astype(np.uint8))


@dataclass
class _Source:
    """A payload that is read from its beginning; what it does not hold is an error."""

    content: Bits
    place: int = 0

    def take(self, count: int) -> Bits:
        part = self.content[self.place : self.place + count]
        if len(part) != count:
            raise _corrupt("it ends too early")
        self.place += count
        return part

    def byte(self) -> int:
        return int(self.take(1)[0])

    def varint(self) -> int:
        return int(self.varints(1)[0])

    def varints(self, count: int) -> NDArray[np.int64]:
        rest = self.content[self.place : self.place + 5 * count]
        ends = np.flatnonzero(rest < 0x80)[:count]
        lengths = np.diff(ends, prepend=-1)
        if len(ends) != count or (count and lengths.max() > 5):
            raise _corrupt("a number does not end")
        part = self.take(int(lengths.sum()))
        owner = np.repeat(np.arange(count), lengths)
        digit = np.arange(len(part)) - np.repeat(ends - lengths + 1, lengths)
        numbers = np.zeros(count, dtype=np.int64)
        np.add.at(numbers, owner, (part & 0x7F).astype(np.int64) << (7 * digit))
        return numbers

    def bits(self, count: int) -> Bits:
        packed = self.take((count + 7) // 8)
        whole = np.unpackbits(packed, bitorder="little")
        if whole[count:].any():
            raise _corrupt("bits behind its last place")
        return whole[:count]

    def numbers(self, count: int, bits: int) -> NDArray[np.int64]:
        each = self.bits(count * bits).reshape(count, bits).astype(np.int64)
        found: NDArray[np.int64] = (each << np.arange(bits)).sum(axis=1)
        return found

    def values(self, count: int, words: np.dtype[Any]) -> Array:
        return self.take(count * words.itemsize).view(words)

    def refuse_rest(self) -> None:
        if self.place != len(self.content):
            raise _corrupt("bytes behind its last value")


def _corrupt(what: str) -> PayloadCorrupt:
    return PayloadCorrupt(
        f"a stored tensor does not decode: {what}",
        where=_WHERE,
        fix="fetch or write the file again",
    )
