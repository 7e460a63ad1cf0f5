"""Arithmetic that gives the same digits on every machine: rounding, and solving by halving."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

SIGNIFICANT = 9


def rounded(value: float) -> float:
    """`value` to 9 significant digits, never minus zero.

    Libraries differ in the last bits of a logarithm; what is compared or written went through here.
    """
    return float(f"{value:.{SIGNIFICANT}g}") + 0.0


def halve(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where `holds`, true towards `low` and false towards `high`, stops being true.

    Neither end is evaluated. The answer is exact to the last bit that halving can tell apart.
    """
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        if holds(middle):
            low = middle
        else:
            high = middle


def seed_number(seed: str) -> int:
    """128 bits out of a digest's text. Equal texts give equal numbers, on every machine."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "big")
