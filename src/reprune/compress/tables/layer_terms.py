"""A whole model's latency as a sum of small tables over the groups' widths, for whoever plans."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING

from reprune.compress.planning.members import belongs
from reprune.compress.planning.terms import Rungs, Term, Terms, merged
from reprune.compress.tables.grid import Grid
from reprune.compress.tables.sites import Site
from reprune.compress.tables.table import (
    TABLES_FILE,
    OperatorTable,
    read_tables,
)
from reprune.core.artifacts import block_key
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from reprune.core.artifacts import Profile
    from reprune.core.store import Artifact

# A table with more entries is written as tables over pairs of its options.
MOST_ENTRIES = 20_000

# One layer's time, by the widths of its options in order.
Time = Callable[[tuple[int, ...]], float]


def table_of(profile: Artifact[Profile], target: str) -> OperatorTable:
    """The target's table. Raises CompressionError where the profile holds none."""
    found = (
        read_tables(profile.file(TABLES_FILE)) if TABLES_FILE in profile.manifest.payload else ()
    )
    for table in found:
        if table.target == target:
            return table
    raise CompressionError(
        f"the profile holds no latency table of target '{target}'",
        where=str(profile.path),
        fix="set profile.tables in params.yaml, and run `reprune profile` where that target is timed",
    )


def terms_of(table: OperatorTable, rungs: Rungs) -> Terms:
    """The latency in microseconds of the dense model cut to any `rungs`, as the table has it. Rungs may hold
    blocks by `artifacts.block_key`. A group without rungs is whole.

    Raises CompressionError for rungs of other groups or widths.
    """
    _refuse_strange(table, rungs)
    grids = table.grids()
    terms = [
        term
        for site in table.sites
        for term in _site_terms(site, grids[site.question], table.factor, rungs)
    ]
    return merged(table.constant_us, terms, rungs)


def time_below(table: OperatorTable, part: str) -> float:
    """What the layers of the module `part`, which may be one itself, take in the dense model, in
    microseconds; what a whole call takes beside its layers is no part's.
    """
    grids = table.grids()
    inside = (site for site in table.sites if belongs(site.layer, part))
    return table.factor * math.fsum(grids[site.question](site.full) for site in inside)


def options_of(site: Site, rungs: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The options among `rungs` that the layer's time depends on."""
    block = block_key(site.block) if site.block else ""
    return (*(g for g in site.groups if g in rungs), *((block,) if block in rungs else ()))


def _site_terms(site: Site, grid: Grid, factor: float, rungs: Rungs) -> list[Term]:
    options = options_of(site, rungs)
    block = block_key(site.block)

    def time(widths: tuple[int, ...]) -> float:
        at = dict(zip(options, widths, strict=True))
        return 0.0 if at.get(block, 1) == 0 else factor * grid(site.lengths(at))

    if math.prod(len(rungs[name]) for name in options) <= MOST_ENTRIES:
        keys = product(*(rungs[name] for name in options))
        return [Term(options=options, values={key: time(key) for key in keys})]
    return _in_pairs(options, time, rungs)


def _in_pairs(options: tuple[str, ...], time: Time, rungs: Rungs) -> list[Term]:
    """The sum over pairs, single options and the full widths that is right wherever at most two options
    are not whole (the expansion of a function about a point, cut after its second order).
    """
    full = tuple(rungs[name][-1] for name in options)
    count = len(options)

    def term(places: tuple[int, ...], weight: int) -> Term:
        names = tuple(options[place] for place in places)
        values = {}
        for key in product(*(rungs[name] for name in names)):
            at = list(full)
            for place, width in zip(places, key, strict=True):
                at[place] = width
            values[key] = weight * time(tuple(at))
        return Term(options=names, values=values)

    return [
        *(term(pair, 1) for pair in combinations(range(count), 2)),
        *(term((place,), 2 - count) for place in range(count) if count != 2),
        term((), (count - 1) * (count - 2) // 2),
    ]


def _refuse_strange(table: OperatorTable, rungs: Rungs) -> None:
    """Raises CompressionError for what the table says nothing about: it would be silently wrong there. What
    it knows to be the model's, and no timed layer depends on, costs nothing, as its notes say.
    """
    widths = table.widths | {
        part.group: part.width
        for site in table.sites
        for axis in (site.inputs, site.outputs)
        for part in axis.parts
    }
    inside = {site.block for site in table.sites if site.block}
    blocks = {block_key(name) for name in inside.union(table.blocks)}
    where = f"latency table of target '{table.target}'"
    for name, found in rungs.items():
        if name in blocks:
            continue
        if name not in widths or found[-1] != widths[name]:
            raise CompressionError(
                f"it knows {name} with {widths[name]} channels, the model has {found[-1]}"
                if name in widths
                else f"it says nothing about {name}",
                where=where,
                fix="run `reprune profile` on this model",
            )
        step = table.steps.get(name, 1)
        odd = [width for width in found[:-1] if width % step]
        if odd:
            raise CompressionError(
                f"{name} was timed at multiples of {step} channels, not at {odd[0]}",
                where=where,
                fix="set plan.round_to to a multiple of profile.tables.step",
            )
