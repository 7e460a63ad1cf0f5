"""The order in which a tensor's codes are written, and what is known when each bit comes.

A tensor is a matrix: its first dimension by all others. Flags say which rows and columns hold
anything; then, row by row, each cell that can hold something says whether it does and, if so, which
value of the book it has. The same walk encodes and decodes: a model is given the bit and gives it back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

UNKNOWN = 2  # a hint that says nothing
Rows = list[list[int]]


class BitModel(Protocol):
    def code(self, bit: int, contexts: Sequence[int]) -> int:
        """Codes the bit, or decodes and returns it."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """One model for each kind of bit. `mixed` ones read all contexts, the others only the first."""

    flag: BitModel
    cell: BitModel
    value: BitModel
    mixed: bool


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What both sides know of a tensor before its first bit.

    `width` is the row length of the picture that a matrix row is, or 0; `values` how many the book has.
    `row_hints` and `column_hints` say which are likely to hold something: 0, 1 or UNKNOWN.
    """

    rows: int
    columns: int
    width: int
    values: int
    row_hints: Sequence[int]
    column_hints: Sequence[int]


def matrix_of(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the tensor as a matrix."""
    return (shape[0] if shape else 1), math.prod(shape[1:])


def width_of(shape: Sequence[int]) -> int:
    """How wide the picture in each matrix row is: a kernel's width; a square for a square number."""
    if len(shape) > 2:
        return shape[-1]
    columns = math.prod(shape[1:])
    root = math.isqrt(columns)
    return root if root * root == columns and root >= 4 else 0


def walk(codes: Rows, frame: Frame, models: Models) -> list[int]:
    """Codes every cell of `codes`, in place when decoding; gives the flags of the rows that hold anything."""
    rows = [int(any(row)) for row in codes]
    live_rows = _flags(models, rows, frame.row_hints, kind=0, width=0)
    columns = [int(any(row[place] for row in codes)) for place in range(frame.columns)]
    live_columns = _flags(models, columns, frame.column_hints, kind=1, width=frame.width)
    grid = _Grid(
        width=frame.width,
        depth=max(frame.values - 1, 0).bit_length(),
        places=[place for place, live in enumerate(live_columns) if live],
        counts=[0] * (frame.columns + 1),
        last=[0] * frame.columns,
    )
    for row, live in zip(codes, live_rows, strict=True):
        if live and grid.places:
            _walk_row(row, grid, models)
            grid.done += 1
    return live_rows


FLAG_CONTEXTS = (2, 24)  # contexts mixed, and how many numbers the first one takes


def _flags(
    models: Models, flags: list[int], hints: Sequence[int], *, kind: int, width: int
) -> list[int]:
    out: list[int] = []
    for place, flag in enumerate(flags):
        before = out[place - 1] if place else 1
        above = out[place - width] if 0 < width <= place else before
        context = ((kind * 3 + hints[place]) * 2 + before) * 2 + above
        out.append(models.flag.code(flag, (context, kind * 3 + hints[place])))
    return out


@dataclass(kw_only=True)
class _Grid:
    """`counts` and `last` are by column: how many values so far, and the code of the last one.

    `places` are the columns that hold something, `done` the rows walked. `counts` ends in a spare zero,
    so that both neighbours of every column exist.
    """

    width: int
    depth: int
    places: list[int]
    counts: list[int]
    last: list[int]
    done: int = 0


@dataclass(kw_only=True)
class _Along:
    """A row under way: `held` values in `seen` places, the last with code `before`."""

    held: int = 0
    seen: int = 0
    before: int = 0
    near: list[int] = field(default_factory=list)


def _walk_row(row: list[int], grid: _Grid, models: Models) -> None:
    along = _Along()
    final = grid.places[-1]
    contexts: Callable[[int, _Grid, _Along], Sequence[int]] = (
        _mixed_cell if models.mixed else _plain_cell
    )
    for place in grid.places:
        along.near = _near(row, place, grid.width)
        code = row[place]
        certain = place == final and not along.held  # a live row holds something
        if certain or models.cell.code(int(code > 0), contexts(place, grid, along)):
            code = _walk_value(max(code - 1, 0), place, grid, along, models) + 1
            row[place] = grid.last[place] = along.before = code
            grid.counts[place] += 1
            along.held += 1
        along.seen += 1


def _near(row: list[int], place: int, width: int) -> list[int]:
    """Codes of the neighbours that came before, in the row's picture: left, up, up left, up right, two
    to the left, two up; 0 where there is none.
    """
    column = place % width if width else place
    top = place >= width > 0
    return [
        row[place - 1] if column > 0 else 0,
        row[place - width] if top else 0,
        row[place - width - 1] if top and column > 0 else 0,
        row[place - width + 1] if top and column < width - 1 else 0,
        row[place - 2] if column > 1 else 0,
        row[place - 2 * width] if width and place >= 2 * width else 0,
    ]


CELL_CONTEXTS = (5, 3 * 4)


def _mixed_cell(place: int, grid: _Grid, along: _Along) -> Sequence[int]:
    counts, near = grid.counts, along.near
    own = bucket(counts[place])
    around = counts[place - 1] + counts[place + 1]
    if grid.width:
        around += counts[place - grid.width] if place >= grid.width else 0
        around += counts[min(place + grid.width, len(counts) - 1)]
    shape = sum((code > 0) << bit for bit, code in enumerate(near))
    progress = along.seen * 16 // len(grid.places)
    return (
        0,
        bucket(along.held) * 16 + progress,
        shape,
        (shape & 3) * 16 + own,
        own * 16 + bucket(around),
    )


def _plain_cell(place: int, grid: _Grid, along: _Along) -> Sequence[int]:
    near = min(sum(code > 0 for code in along.near[:4]), 2)
    return (near * 4 + share(grid.counts[place], grid.done),)


def share(count: int, of: int) -> int:
    """A quarter of the logarithmic scale from 1/64 to 1/8, as the C decoder has it."""
    return min(((count * 64 + 64) // (of + 16)).bit_length(), 4) - 1 if count else 0


def bucket(count: int) -> int:
    """0, 1, 2, 3, 4-5, 6-8, 9-13, 14-23, 24 and more."""
    if count < 4:
        return count
    for place, end in enumerate((6, 9, 14, 24), start=4):
        if count < end:
            return place
    return 8


VALUE_CONTEXTS = (4, 3 * 256)


def _walk_value(value: int, place: int, grid: _Grid, along: _Along, models: Models) -> int:
    """The value's bits, the highest first, each in the context of those before it."""
    node, depth = 1, grid.depth
    left, up, _, _, second, _ = along.near
    near = left or up or second
    side = 0 if not near else 1 + (((near - 1) << 1) >> depth)  # which half of the book
    for shift in range(depth - 1, -1, -1):
        contexts: Sequence[int] = (side * 256 + node,)
        if models.mixed:
            last, before = grid.last[place], along.before
            contexts = (node, near * 256 + node, last * 256 + node, before * 256 + node)
        node = node * 2 + models.value.code((value >> shift) & 1, contexts)
    return node - (1 << depth)
