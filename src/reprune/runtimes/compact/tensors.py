"""Quantised tensors: a small code for each weight, and the book that gives the codes their values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reprune.core.errors import CompressionError

MAX_CODES = 255
MAX_LEVEL = 127
EXPONENTS = range(-120, 121)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantised:
    """`codes` (uint8) has the tensor's shape; `book` (float32) holds the value of each code, and the
    value of code 0, a weight that is not there, is 0.
    """

    codes: NDArray[np.uint8]
    book: NDArray[np.float32]

    def values(self) -> NDArray[np.float32]:
        return self.book[self.codes]


# What a compact file holds: quantised tensors, and small ones as they are (float32 or int64).
Tensors: TypeAlias = Mapping[str, "Quantised | NDArray[Any]"]


@dataclass(frozen=True, kw_only=True)
class Levels:
    """A book in whole numbers: code c has the value levels[c] * 2**exponent, exactly."""

    levels: tuple[int, ...]
    exponent: int

    def book(self) -> NDArray[np.float32]:
        return np.ldexp(np.array(self.levels, dtype=np.float32), self.exponent).astype(np.float32)


def levels_of(book: NDArray[np.float32], largest: int) -> Levels | None:
    """The book as whole numbers of at most `largest` in size, or None where it is not of that form."""
    if not np.isfinite(book).all() or np.signbit(book[book == 0]).any():  # -0.0 is no whole number
        return None
    used = [math.frexp(float(value)) for value in book if value != 0.0]
    exponent = min((_lowest_bit(part, power) for part, power in used), default=0)
    if exponent not in EXPONENTS:
        return None
    levels = tuple(int(math.ldexp(float(value), -exponent)) for value in book)
    if max((abs(level) for level in levels), default=0) > largest:
        return None
    return Levels(levels=levels, exponent=exponent)


def _lowest_bit(part: float, power: int) -> int:
    """The power of two of the last one in the binary form of part * 2**power; a float32 has 24."""
    whole = int(math.ldexp(part, 24))
    return power - 24 + ((whole & -whole).bit_length() - 1)


def snapped(values: Sequence[float] | NDArray[Any], *, largest: int = MAX_LEVEL) -> Levels:
    """The nearest book in whole numbers: the largest value gets about `largest` levels.

    Code 0 is put in front of `values`; their order is kept. A value that would become 0 gets one level.
    """
    wanted = np.asarray(values, dtype=np.float64)
    top = float(np.abs(wanted).max(initial=0.0))
    if top == 0.0:
        return Levels(levels=(0, *(1 for _ in wanted)), exponent=0)
    exponent = max(math.ceil(math.log2(top / (largest + 0.5))), EXPONENTS[0])
    levels = np.rint(np.ldexp(wanted, -exponent)).astype(int)
    levels[levels == 0] = 1
    return Levels(levels=(0, *(int(level) for level in levels)), exponent=exponent)


def linear_levels(half: int, step: float) -> Levels:
    """-half ... -1, 1 ... half (in this order, after code 0) times a step near `step`, of 7 bits."""
    part, power = math.frexp(step)
    multiple = max(round(part * 128), 1)
    exponent = power - 7
    if multiple == 128:
        multiple, exponent = 64, exponent + 1
    order = [*range(-half, 0), *range(1, half + 1)]
    return Levels(levels=(0, *(multiple * place for place in order)), exponent=exponent)


def quantised(values: NDArray[Any], levels: Levels) -> Quantised:
    """Each non-zero value gets the code of the nearest entry of the book, each zero code 0.

    Raises CompressionError for values that are not finite or a book with too many entries.
    """
    if len(levels.levels) - 1 > MAX_CODES:
        raise CompressionError(f"a book has at most {MAX_CODES} values", where="compact")
    if not np.isfinite(values).all():
        raise CompressionError("cannot quantise values that are not finite", where="compact")
    book = levels.book()
    codes = np.zeros(values.shape, dtype=np.uint8)
    kept = values != 0
    if kept.any():
        if len(book) == 1:
            raise CompressionError("non-zero values need a book that is not empty", where="compact")
        codes[kept] = nearest_codes(values[kept].astype(np.float32), book)
    return Quantised(codes=codes, book=book)


def recoded(values: NDArray[Any]) -> Quantised:
    """A tensor that holds few values already, with the smallest book that gives them back exactly.

    Evenly spaced values get an evenly spaced book, which takes the fewest bytes. Raises
    CompressionError where there are more than 255 values besides 0, or values that are not finite.
    """
    exact = values.astype(np.float32) + np.float32(0)  # no -0.0
    if not np.isfinite(exact).all():
        raise CompressionError("cannot code values that are not finite", where="compact")
    found = np.unique(exact[exact != 0])
    if len(found) > MAX_CODES:
        raise CompressionError(
            f"the tensor holds {len(found)} values, a book at most {MAX_CODES}",
            where="compact",
            fix="quantise it first",
        )
    book = np.concatenate([np.zeros(1, np.float32), found])
    whole = levels_of(book, 1 << 15)
    # Beyond 127, whole numbers are held as evenly spaced ones alone: else the book would be floats.
    wide = whole is not None and max(abs(level) for level in whole.levels) > MAX_LEVEL
    if whole is not None and (len(found) > 3 or wide):
        multiple = math.gcd(*whole.levels)
        half = max(abs(level) for level in whole.levels) // multiple
        # A ladder's step takes a byte: a greater one becomes several rungs of a smaller one.
        finer = range(1, MAX_CODES // 2 // half + 1) if multiple >= 256 else ()
        rungs = next((n for n in finer if not multiple % n and multiple // n < 256), 1)
        multiple, half = multiple // rungs, half * rungs
        if multiple < 256 and half <= (MAX_CODES // 2 if wide else min(len(found), MAX_CODES // 2)):
            order = (0, *range(-half, 0), *range(1, half + 1))
            levels = tuple(multiple * place for place in order)
            book = Levels(levels=levels, exponent=whole.exponent).book()
    codes = np.zeros(exact.shape, dtype=np.uint8)
    if len(found):
        codes[exact != 0] = nearest_codes(exact[exact != 0], book)
    return Quantised(codes=codes, book=book)


def nearest_codes(values: NDArray[np.float32], book: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The code (1 and above) of the nearest value of the book; of two as near, the lower code's."""
    order = np.argsort(book[1:], kind="stable")
    ordered = book[1:][order].astype(np.float64)
    middles = (ordered[1:] + ordered[:-1]) / 2
    found: NDArray[np.uint8] = (order[np.searchsorted(middles, values, side="left")] + 1).astype(
        np.uint8
    )
    return found


def cluster(values: NDArray[Any], count: int, *, rounds: int = 50) -> NDArray[np.float64]:
    """At most `count` centres, ascending, of one-dimensional k-means (Lloyd), begun at the quantiles."""
    flat = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if not flat.size:
        return flat
    centres = np.unique(np.quantile(flat, (np.arange(count) + 0.5) / count))
    for _ in range(rounds):
        ends = np.searchsorted(flat, (centres[1:] + centres[:-1]) / 2, side="left")
        parts = [part for part in np.split(flat, ends) if part.size]
        moved = np.unique([part.mean() for part in parts])
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres
