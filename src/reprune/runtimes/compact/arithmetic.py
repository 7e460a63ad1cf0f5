"""Binary arithmetic coding in integers: the same bytes and the same bits on every machine.

The carry-less range coder of M. Mahoney (lpaq, 2007): an interval [low, high] of 32 bits is split in
proportion to the probability of a one; equal leading bytes are written out. Probabilities are of 16
bits, from 1 to 65,535.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

ONE = 1 << 16
_FULL = 0xFFFFFFFF

# Codes one bit under a probability of a one. An encoder is given the bit and returns it; a decoder
# ignores what it is given. One function for both keeps the two sides of a format in one piece of code.
CodeBit: TypeAlias = Callable[[int, int], int]


def _split(low: int, high: int, probability: int) -> int:
    width = high - low
    return low + (width >> 16) * probability + (((width & 0xFFFF) * probability) >> 16)


class Encoder:
    """Collects bits; `finish` gives the bytes, without trailing zeros: a decoder reads zeros past the end."""

    def __init__(self) -> None:
        self._low, self._high = 0, _FULL
        self._out = bytearray()

    def code(self, bit: int, probability: int) -> int:
        middle = _split(self._low, self._high, probability)
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) & 0xFF000000:
            self._out.append(self._high >> 24)
            self._low = (self._low << 8) & _FULL
            self._high = (self._high << 8) & _FULL | 0xFF
        return bit

    def finish(self) -> bytes:
        """The fewest bytes that name a point of the interval."""
        for count in range(5):
            unit = 1 << (32 - 8 * count)
            point = -(-self._low // unit) * unit
            if point <= self._high:
                tail = point.to_bytes(5, "big")[1 : 1 + count]
                return bytes(self._out + tail).rstrip(b"\0")
        raise AssertionError  # an interval of whole numbers holds one


class Decoder:
    """Gives back the bits of an Encoder for the same sequence of probabilities."""

    def __init__(self, data: bytes) -> None:
        self._data, self._next = data, 4
        self._low, self._high = 0, _FULL
        self._code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def code(self, _bit: int, probability: int) -> int:
        middle = _split(self._low, self._high, probability)
        bit = int(self._code <= middle)
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) & 0xFF000000:
            self._low = (self._low << 8) & _FULL
            self._high = (self._high << 8) & _FULL | 0xFF
            byte = self._data[self._next] if self._next < len(self._data) else 0
            self._code = (self._code << 8) & _FULL | byte
            self._next += 1
        return bit
