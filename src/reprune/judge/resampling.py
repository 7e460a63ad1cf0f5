"""All resampled sums and statistics of a judgement, by one matrix of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from reprune.judge.binary import sums_by_source
from reprune.judge.bootstrap import Floats, Integers, resampled, resampled_sums
from reprune.judge.examples import Examples, Members
from reprune.judge.metrics import Columns, Metric
from reprune.judge.studentised import (
    MOST_SOURCES,
    Influences,
    Studentised,
    influences,
    ratio_influence,
    statistic_influence,
)
from reprune.judge.weighted import Weighted

Group: TypeAlias = tuple[str, str]  # metric and slice
Place: TypeAlias = tuple[Group, str]  # ... and arm key
Pair: TypeAlias = tuple[Group, str, str]  # ... and the arm keys of baseline and candidate


@dataclass(frozen=True, kw_only=True)
class Records:
    """Every arm's records, by metric and arm key: `parts` of binary and ratio metrics (a row a column),
    `tables` of statistics and of what their columns are.
    """

    examples: Examples
    metrics: Mapping[str, Metric]
    parts: Mapping[tuple[str, str], Integers]
    tables: Mapping[tuple[str, str], Columns]

    def keys(self, metric: str) -> list[str]:
        """The arm keys that have this metric's records."""
        return [key for name, key in self.tables if name == metric]

    def columns(self, group: Group, members: Members, key: str) -> dict[str, Integers]:
        return {name: rows[..., members] for name, rows in self.tables[group[0], key].items()}

    def prepared(self, group: Group, members: Members, key: str) -> Weighted:
        """The group's statistic as a function of the units' weights."""
        statistic = self.metrics[group[0]].statistic
        if statistic is None:
            raise TypeError(f"{group[0]} is no statistic")
        return statistic(self.columns(group, members, key), self.examples.rows[members])

    def value(self, group: Group, members: Members, key: str) -> float:
        """The statistic over the group; NaN where it is not defined."""
        if len(members) == 0:
            return float("nan")
        units = np.ones((self.examples.units_in_all, 1), dtype=np.float64)
        return float(self.prepared(group, members, key)(units)[0])


@dataclass(frozen=True, kw_only=True)
class Resamples:
    """`sums` holds (RESAMPLES, 2) of a ratio metric, `values` (RESAMPLES,) of a statistic, for each judged
    group and arm; `studentised` each pair of arms over few sources.
    """

    sums: Mapping[Place, Integers]
    values: Mapping[Place, Floats]
    studentised: Mapping[Pair, Studentised]


def resample(
    records: Records,
    groups: Mapping[Group, Members],
    pairs: Sequence[tuple[str, str]],
    seed: str,
) -> Resamples:
    """Resamples what is not 0/1. What is drawn is a source, or an example where none are declared."""
    blocks = dict(_blocks(records, groups))
    statistics = {
        (group, key): records.prepared(group, members, key)
        for group, members in groups.items()
        for key in records.keys(group[0])
        if records.metrics[group[0]].form == "statistic"
    }
    if not blocks and not statistics:
        return Resamples(sums={}, values={}, studentised={})
    units = records.examples.units_in_all
    sums, values = resampled(list(blocks.values()), list(statistics.values()), units, seed)
    return Resamples(
        sums=dict(zip(blocks, sums, strict=True)),
        values=dict(zip(statistics, values, strict=True)),
        studentised=_studentised(_Influencing(records, groups, blocks, statistics), pairs, seed),
    )


def _blocks(records: Records, groups: Mapping[Group, Members]) -> Iterator[tuple[Place, Integers]]:
    """Numerators and denominators of each ratio metric, a row a unit."""
    sources = records.examples.sources
    for group, members in groups.items():
        if records.metrics[group[0]].form == "ratio":
            for key in records.keys(group[0]):
                parts = records.parts[group[0], key]
                block = np.zeros((parts.shape[1], 2), dtype=np.int64)
                block[members] = parts[:, members].T
                yield (group, key), block if sources is None else sums_by_source(block, sources)


@dataclass(frozen=True)
class _Influencing:
    """What the sources' influences are computed from."""

    records: Records
    groups: Mapping[Group, Members]
    blocks: Mapping[Place, Integers]
    statistics: Mapping[Place, Weighted]

    def of(self, place: Place) -> Floats | None:
        """Each source's influence on an arm's goodness; None where one decides whether there is any."""
        higher = self.records.metrics[place[0][0]].higher_is_better
        if place in self.blocks:
            found = ratio_influence(*self.blocks[place].T)
        else:
            members = np.unique(self.records.examples.rows[self.groups[place[0]]])
            units = self.records.examples.units_in_all
            found = statistic_influence(self.statistics[place], members, units)
        if np.isnan(found).any():
            return None
        return found if higher else -found


def _studentised(
    of: _Influencing, pairs: Sequence[tuple[str, str]], seed: str
) -> dict[Pair, Studentised]:
    """Empty where no sources are declared, or so many that nothing is gained by it."""
    examples = of.records.examples
    if examples.sources is None or examples.units_in_all > MOST_SOURCES:
        return {}
    single = {place: of.of(place) for place in (*of.blocks, *of.statistics)}
    found: dict[Pair, Influences] = {}
    for group in of.groups:
        for base, mine in pairs:
            one, two = single.get((group, base)), single.get((group, mine))
            if one is not None and two is not None:
                found[group, base, mine] = influences(one, two)
    if not found:
        return {}
    sums = resampled_sums([one.block for one in found.values()], seed)
    return {
        pair: one.studentised(drawn) for (pair, one), drawn in zip(found.items(), sums, strict=True)
    }
