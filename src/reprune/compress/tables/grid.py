"""The time of one layer at any lengths of its axes, from those at which it was measured.

Time falls in stairs along each axis (kernels work on blocks of channels), and hardly otherwise than as
the product of both: so both axes are measured in full along the dense model's edge, and a few points
inside say how far the product of the two is off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from reprune.compress.tables.sites import Lengths
from reprune.compress.tables.stairs import FLAT, along, kind_of, stairs_of

# Below it a time is the clock's noise, and a ratio of two such times means nothing.
LEAST_US = 0.05


@dataclass(frozen=True, kw_only=True)
class Grid:
    """`points` are measured microseconds; `full` is among them. `steps` are how wide the stairs are along
    each axis (see stairs), 1 where none are known.
    """

    full: Lengths
    points: Mapping[Lengths, float]
    steps: tuple[int, int] = FLAT

    def __call__(self, lengths: Lengths) -> float:
        """Microseconds at these lengths: as measured at a measured point; between those along an edge
        in known stairs, else linear; inside the product of both edges over the corner, corrected as the
        nearest measured points inside say. Beyond the smallest measured length the smallest one's.
        """
        if lengths in self.points:
            return self.points[lengths]
        return self._product(lengths) * self._correction(lengths)

    def edge(self, axis: int) -> tuple[tuple[int, float], ...]:
        """(length, us) along an axis with the other one whole, lengths rising."""
        other = 1 - axis
        return tuple(
            sorted(
                (point[axis], us)
                for point, us in self.points.items()
                if point[other] == self.full[other]
            )
        )

    def inner(self) -> dict[Lengths, float]:
        """What was measured with neither axis whole, over the product of the edges."""
        return {
            point: max(us, LEAST_US) / max(self._product(point), LEAST_US)
            for point, us in self.points.items()
            if point[0] != self.full[0] and point[1] != self.full[1]
        }

    def _product(self, lengths: Lengths) -> float:
        corner = max(self.points[self.full], LEAST_US)
        first, second = (along(self.edge(axis), lengths[axis], self.steps[axis]) for axis in (0, 1))
        return first * second / corner

    def _correction(self, lengths: Lengths) -> float:
        """1 along the edges; inside the mean of the logarithms around, the nearer the heavier."""
        if lengths[0] == self.full[0] or lengths[1] == self.full[1]:
            return 1.0
        inner = self.inner()
        if not inner:
            return 1.0
        total = weights = 0.0
        edges = [(lengths[0], self.full[1]), (self.full[0], lengths[1])]
        for point, ratio in [*inner.items(), *((edge, 1.0) for edge in edges)]:
            gap = sum(
                ((a - b) / full) ** 2 for a, b, full in zip(lengths, point, self.full, strict=True)
            )
            weight = 1.0 / (gap + 1e-9)
            total += weight * math.log(ratio)
            weights += weight
        return math.exp(total / weights)


def grid_of(full: Lengths, observed: Mapping[Lengths, Sequence[float]]) -> Grid:
    """The grid of the medians of what was observed at each point."""
    return Grid(full=full, points={point: median(found) for point, found in observed.items()})


def with_stairs(grids: Mapping[str, Grid]) -> dict[str, Grid]:
    """The grids, by question, with the stairs that some of them show in all of their like."""
    seen = stairs_of({name: (grid.edge(0), grid.edge(1)) for name, grid in grids.items()})
    return {
        name: replace(grid, steps=seen.get(kind_of(name), FLAT)) for name, grid in grids.items()
    }
