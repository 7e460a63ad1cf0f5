"""Where each buffer lies in the arena: no two that are in use at one time share a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Life:
    """A buffer of `size` floats, written first in step `first` and read last in step `last`."""

    size: int
    first: int
    last: int


def offsets(lives: Sequence[Life]) -> tuple[list[int], int]:
    """An offset for each, and how many floats the arena takes.

    Greedy by size, as in Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
    Inference", arXiv:2001.03288, section 5.2: the largest first, each in the lowest gap that is free
    for as long as it lives.
    """
    order = sorted(range(len(lives)), key=lambda place: (-lives[place].size, place))
    found = [0] * len(lives)
    placed: list[int] = []
    for place in order:
        mine = lives[place]
        busy = sorted(
            (found[other], found[other] + lives[other].size)
            for other in placed
            if lives[other].first <= mine.last and mine.first <= lives[other].last
        )
        start = 0
        for begin, end in busy:
            if begin - start >= mine.size:
                break
            start = max(start, end)
        found[place] = start
        placed.append(place)
    ends = (found[place] + lives[place].size for place in range(len(lives)))
    return found, max(ends, default=0)
