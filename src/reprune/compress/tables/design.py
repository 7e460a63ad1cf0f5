"""At which widths to cut the whole model next, so that one build tells as much as it can about every layer.

Pure: what was measured in, widths out; the same in, the same out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from reprune.compress.tables.grid import Grid, grid_of, with_stairs
from reprune.compress.tables.sites import AxisParts, Lengths, Site
from reprune.compress.tables.stairs import steps_between

Rungs = Mapping[str, tuple[int, ...]]
Observed = Mapping[str, Mapping[Lengths, Sequence[float]]]

# A point is worth a build where not knowing it could put the model's time this share wrong.
TOLERANCE = 0.003
# What is still unknown of an interval between neighbours at most, in shares of their difference: a
# stair may lie anywhere in it, but rarely at its very end.
STAIR = 0.5
# The same where a staircase that other layers show says where the time rises: with one step in the interval
# by how much, too, with more of them not quite.
KNOWN_STEP, KNOWN_STEPS = 0.02, 0.1
# Points inside are nearly the product of the edges: this share of it is unknown.
INSIDE = 0.15


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A question at lengths that were not measured; `weight` is how much of the dense time hangs on it."""

    weight: float
    question: str
    lengths: Lengths
    widths: tuple[tuple[str, int], ...]


def observed_of(
    sites: Sequence[Site], looks: Iterable[tuple[Mapping[str, int], Mapping[str, float]]]
) -> dict[str, dict[Lengths, list[float]]]:
    """By question and lengths, what each look (widths; time by layer) says. Layers with equal questions
    are one.
    """
    found: dict[str, dict[Lengths, list[float]]] = defaultdict(lambda: defaultdict(list))
    for widths, times in looks:
        for site in sites:
            found[site.question][site.lengths(widths)].append(times.get(site.layer, 0.0))
    return {question: dict(points) for question, points in found.items()}


def next_widths(sites: Sequence[Site], rungs: Rungs, observed: Observed) -> dict[str, int] | None:
    """The widths of the next model to build, those that are not named whole; None where nothing that
    is left to measure matters (see TOLERANCE). `observed` holds every question at its full lengths.

    The weightiest wish goes first, and every other that its widths leave room for goes with it.
    """
    wishes = sorted(
        _wishes(sites, rungs, observed),
        key=lambda wish: (-wish.weight, wish.question, wish.lengths, wish.widths),
    )
    chosen: dict[str, int] = {}
    taken: set[tuple[str, Lengths]] = set()
    for wish in wishes:
        wanted = dict(wish.widths)
        if (wish.question, wish.lengths) in taken:
            continue
        if all(chosen.get(group, width) == width for group, width in wanted.items()):
            chosen |= wanted
            taken.add((wish.question, wish.lengths))
    return {name: width for name, width in chosen.items() if width != rungs[name][-1]} or None


def _wishes(sites: Sequence[Site], rungs: Rungs, observed: Observed) -> list[Wish]:
    asked = Counter(site.question for site in sites)
    grids = with_stairs(
        {
            site.question: grid_of(site.full, observed[site.question])
            for site in sites
            if site.question in observed
        }
    )
    total = sum(grids[site.question].points[site.full] for site in sites) or 1.0
    found: list[Wish] = []
    for site in sites:
        if not all(group in rungs for group in site.groups):
            continue
        share = asked[site.question] / total
        grid = grids[site.question]
        for axis, parts in enumerate((site.inputs, site.outputs)):
            found += _along_edge(site, parts, axis, rungs, grid, share)
        found += _inside(site, rungs, grid, share)
    return [wish for wish in found if wish.weight > TOLERANCE]


def _along_edge(  # one axis of one layer, and what is known of it
    site: Site, parts: AxisParts, axis: int, rungs: Rungs, grid: Grid, share: float
) -> list[Wish]:
    """The narrowest first; then the middle of whichever gap might hide the largest stair."""
    reachable = _reachable(parts, rungs)
    if len(reachable) < 2:
        return []
    edge = dict(grid.edge(axis))
    least = min(reachable)
    whole = {p.group: p.width for side in (site.inputs, site.outputs) for p in side.parts}
    corner = grid.points[site.full]

    def wish(length: int, us: float) -> Wish:
        lengths = (length, site.full[1]) if axis == 0 else (site.full[0], length)
        widths = whole | reachable[length]
        return Wish(
            weight=us * share,
            question=site.question,
            lengths=lengths,
            widths=tuple(sorted(widths.items())),
        )

    if least not in edge:
        return [wish(least, corner)]
    found = []
    for low, high in pairwise(sorted(edge)):
        between = [length for length in reachable if low < length < high]
        if between:
            middle = min(between, key=lambda length: (abs(2 * length - low - high), length))
            steps = steps_between(low, high, grid.steps[axis])
            unknown = {0: STAIR, 1: KNOWN_STEP}.get(steps, KNOWN_STEPS)
            found.append(wish(middle, unknown * abs(edge[high] - edge[low])))
    return found


def _inside(site: Site, rungs: Rungs, grid: Grid, share: float) -> list[Wish]:
    """The four points between the narrowest and the middle of both axes, once both edges are begun."""
    sides = [_reachable(parts, rungs) for parts in (site.inputs, site.outputs)]
    if any(len(side) < 2 for side in sides):
        return []
    picks = []
    for axis, side in enumerate(sides):
        cut = sorted(side)[:-1]
        if cut[0] not in dict(grid.edge(axis)):
            return []
        picks.append(sorted({cut[0], cut[len(cut) // 2]}))
    found = []
    for first in picks[0]:
        for second in picks[1]:
            if (first, second) in grid.points:
                continue
            widths = sides[0][first] | sides[1][second]
            found.append(
                Wish(
                    weight=INSIDE * grid((first, second)) * share,
                    question=site.question,
                    lengths=(first, second),
                    widths=tuple(sorted(widths.items())),
                )
            )
    return found


def _reachable(parts: AxisParts, rungs: Rungs) -> dict[int, dict[str, int]]:
    """Lengths of the axis to widths that give them: all of its groups at the same place of their rungs."""
    most = max((len(rungs[part.group]) for part in parts.parts), default=1)
    found = {}
    for place in range(most):
        widths = {
            part.group: rungs[part.group][
                -1 if most == 1 else round(place * (len(rungs[part.group]) - 1) / (most - 1))
            ]
            for part in parts.parts
        }
        found[parts.length(widths)] = widths
    return found
