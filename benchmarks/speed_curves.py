"""Curves of accuracy over speed, the dense model at their begin, straight between two points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import TypeAlias

# (speed, accuracy), the slowest first.
Curve: TypeAlias = "Sequence[tuple[float, float]]"


def fastest_at(points: Curve, wanted: float) -> float:
    """The greatest speed on the line through `points` whose accuracy is at least `wanted`; 1 if none is."""
    found = [1.0, *(speed for speed, accuracy in points if accuracy >= wanted)]
    for (slow, high), (fast, low) in pairwise(points):
        if high >= wanted > low:
            found.append(slow + (fast - slow) * (high - wanted) / (high - low))
    return max(found)


def above(line: Curve, point: tuple[float, float]) -> float | None:
    """By how much the line is above the point at its speed; None where it does not reach that far. A point
    that is slower than the whole line is held against its slow end, which is as fast at least.
    """
    speed, accuracy = point
    if speed < line[0][0]:
        return line[0][1] - accuracy
    for (slow, first), (fast, second) in pairwise(line):
        if slow <= speed <= fast:
            share = (speed - slow) / (fast - slow) if fast > slow else 0.0
            return first + share * (second - first) - accuracy
    return None


def within(line: Curve, rival: Curve) -> int:
    """How many of the rival's points after the dense one are as fast as some point of `line` after its dense
    one, and as slow as some: those that are held against points, not against the way to the first of them.
    """
    speeds = [speed for speed, _ in line[1:]]
    return sum(min(speeds) <= speed <= max(speeds) for speed, _ in rival[1:])


def gap(line: Curve, rival: Curve) -> float:
    """The mean by which `line` is above the rival's points after the dense one, of those within its reach."""
    found = [above(line, point) for point in rival[1:]]
    return fmean(value for value in found if value is not None)
