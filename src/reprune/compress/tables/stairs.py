"""How many channels a step of a staircase is wide: seen on some layers, taken over to their like.

Kernels work on blocks of channels, the same for all layers of a type, whichever widths each was measured at.
Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

# By the layers' type, the width of a step along the inputs and along the outputs; 1: no steps are seen.
Stairs: TypeAlias = "Mapping[str, tuple[int, int]]"
Edge: TypeAlias = "Sequence[tuple[int, float]]"

FLAT = (1, 1)
STEPS = (8, 16, 32, 64, 128)
AWAY = (1, 2, 4, 8)
# A staircase is taken over once so many points between measured ones were seen, and it leaves less than this
# share of what straight lines miss them by: noise alone favours neither.
LEAST_SEEN, BETTER = 3, 0.5


def kind_of(question: str) -> str:
    """The type of the layers that ask it."""
    return question.partition(" ")[0]


def along(edge: Edge, length: int, step: int) -> float:
    """The time at `length`, from those measured along an edge (lengths rising): between two of them it rises
    in equal steps at multiples of `step`, or along a line where no such step lies between. Beyond the
    ends the end's.
    """
    places = [place for place, _ in edge]
    at = bisect_right(places, length)
    if at == 0:
        return edge[0][1]
    if at == len(edge):
        return edge[-1][1]
    (low, below), (high, above) = edge[at - 1], edge[at]
    return below + (above - below) * _share(low, high, length, step)


def _share(low: int, high: int, length: int, step: int) -> float:
    first, last = -(-low // step), -(-high // step)
    if step == 1 or first == last:
        return (length - low) / (high - low)
    return (-(-length // step) - first) / (last - first)


def steps_between(low: int, high: int, step: int) -> int:
    """How many stairs lie between two lengths, so far as the staircase is known; 0: it says nothing."""
    return -(-high // step) - -(-low // step) if step > 1 else 0


def stairs_of(edges: Mapping[str, tuple[Edge, Edge]]) -> dict[str, tuple[int, int]]:
    """By type of layer the widths of the steps, from what was measured along both edges of each question:
    each point is predicted from others on either side, by lines and by stairs.
    """
    by_kind: dict[str, list[tuple[Edge, Edge]]] = defaultdict(list)
    for question, found in edges.items():
        by_kind[kind_of(question)].append(found)
    seen = {
        kind: (_step([one[0] for one in found]), _step([one[1] for one in found]))
        for kind, found in by_kind.items()
    }
    return {kind: steps for kind, steps in sorted(seen.items()) if steps != FLAT}


def _step(edges: Sequence[Edge]) -> int:
    """The widest step that is clearly better than lines and no worse than any other; 1 for none."""
    # Neighbours at one, two, four, ... places on either side: near ones cannot tell steps of 16 from 32.
    inner = [
        (edge[at - away], edge[at], edge[at + away])
        for edge in edges
        for at in range(1, len(edge) - 1)
        for away in AWAY
        if away <= at < len(edge) - away
    ]
    if sum(max(0, len(edge) - 2) for edge in edges) < LEAST_SEEN:
        return 1
    least = min((high - low for edge in edges for (low, _), (high, _) in pairwise(edge)), default=1)
    missed = {step: _missed(inner, step) for step in (1, *(one for one in STEPS if one > least))}
    best = min(missed, key=lambda step: (missed[step], -step))
    return best if missed[best] < BETTER * missed[1] else 1


def _missed(
    inner: Sequence[tuple[tuple[int, float], tuple[int, float], tuple[int, float]]], step: int
) -> float:
    """The sum of what the points between are predicted wrong, each as a share of the times around it."""
    return sum(
        abs(along((low, high), middle[0], step) - middle[1]) / (max(low[1], high[1]) or 1.0)
        for low, middle, high in inner
    )
