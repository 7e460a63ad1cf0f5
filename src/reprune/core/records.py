"""The record columns that need an agreement between who writes them (tasks) and who reads them (judge).

Every column holds one int64 an example. What is not a count is stored in whole numbers of a named
grain: a score, a confidence or a value within a declared range is a whole number of millionths (SCALE).
What an example has several of (detections, boxes) gets a fixed number of columns, `detection_000`,
`detection_001`, ..., as many for every batch and every model; NOTHING stands where an example has fewer.
"""

from __future__ import annotations

SCALE = 1_000_000
NOTHING = -1
DETECTIONS = "detection_"
BOXES = "box_"
MOST_CLASSES = 1_000_000
# Columns of measured values, and by how much two of them may differ and still be the same answer: a hundredth
# of the declared range, of a confidence, of a score.
MEASURED = ("predicted", "confidence", "score")
ALIKE = SCALE // 100
_STEP = SCALE + 1

MOST_PACKED = 2 * MOST_CLASSES * _STEP - 1
_ANY = 2**62

# The smallest and largest number of each column that a built-in metric reads.
_RANGES: dict[str, tuple[int, int]] = {
    "correct": (0, 1),
    "numerator": (0, _ANY),
    "denominator": (0, _ANY),
    "intersection": (0, _ANY),
    "union": (0, _ANY),
    "answer": (0, _ANY),
    "actual": (0, _ANY),
    "score": (-_ANY, _ANY),
    "label": (0, 1),
    "confidence": (0, SCALE),
    "target": (0, SCALE),
    "predicted": (-SCALE, 2 * SCALE),
}


def range_of(column: str) -> tuple[int, int] | None:
    """What the numbers of a column must lie between; None for a column that no built-in metric reads."""
    if column.startswith(DETECTIONS):
        return NOTHING, MOST_PACKED
    if column.startswith(BOXES):
        return NOTHING, MOST_CLASSES - 1
    return _RANGES.get(column)


def pack_detection(kind: int, score: int, matched: bool) -> int:
    """A detection as one number: its class, its score in millionths, and whether it met a box.

    Raises ValueError for a class outside 0..MOST_CLASSES - 1 or a score outside 0..SCALE.
    """
    if not 0 <= kind < MOST_CLASSES or not 0 <= score <= SCALE:
        raise ValueError(f"no detection: class {kind}, score {score}")
    return 2 * (kind * _STEP + score) + int(matched)


def unpack_detection(packed: int) -> tuple[int, int, bool]:
    """Class, score and whether it matched; the inverse of `pack_detection`."""
    return packed // 2 // _STEP, packed // 2 % _STEP, packed % 2 == 1


def column_names(prefix: str, count: int) -> list[str]:
    """The names of `count` columns; sorted as texts they keep their order."""
    return [f"{prefix}{place:03d}" for place in range(count)]
