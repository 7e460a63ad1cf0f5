"""The judged examples in one fixed order, with their slices and sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from reprune.judge.bootstrap import Integers
from reprune.judge.evidence import QualityEvidence

# The places of some examples, rising: thousands of slices are no larger than their examples.
Members: TypeAlias = Integers

NEWER = "age=newer than the champion's evidence"


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Sorted by id, so that the order in which they were recorded changes nothing.

    `sources` numbers each example's source; `slices` maps "family=value" to who is in it. Where
    examples have times and the champion was judged on older ones, the newer are the slice NEWER.
    """

    count: int
    order: Integers
    sources: Integers | None
    slices: dict[str, Members]

    def column(self, values: Sequence[int]) -> Integers:
        return np.asarray(values, dtype=np.int64)[self.order]

    @property
    def units_in_all(self) -> int:
        return self.count if self.sources is None else int(self.sources.max()) + 1

    @property
    def rows(self) -> Integers:
        """The number of each example's unit: its source, or itself."""
        return np.arange(self.count, dtype=np.int64) if self.sources is None else self.sources

    def units(self, members: Members) -> int:
        """How many sources, or examples where none are declared, are among `members`."""
        return len(members) if self.sources is None else len(np.unique(self.sources[members]))


def read_examples(quality: QualityEvidence, champion_newest: str | None = None) -> Examples:
    """The examples of evidence that has no problems (see judge.checks).

    `champion_newest` is the latest time among the examples that the champion was judged on.
    """
    order = np.asarray(sorted(range(len(quality.ids)), key=quality.ids.__getitem__), dtype=np.int64)
    sources = None if quality.sources is None else _numbered(quality.sources)[order]
    slices: dict[str, Members] = {}
    for family in sorted(quality.slices):
        codes = _numbered(quality.slices[family])[order]
        places = np.argsort(codes, kind="stable")
        values = sorted(set(quality.slices[family]))
        ends = np.searchsorted(codes[places], np.arange(len(values) + 1))
        for value, start, end in zip(values, ends, ends[1:], strict=False):
            slices[f"{family}={value}"] = places[start:end]
    if quality.times is not None and champion_newest is not None:
        newer = np.asarray([time > champion_newest for time in quality.times], dtype=np.bool_)
        if newer.any():
            slices[NEWER] = np.flatnonzero(newer[order])
    return Examples(count=len(order), order=order, sources=sources, slices=slices)


def _numbered(names: Sequence[str]) -> Integers:
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    return np.asarray([places[name] for name in names], dtype=np.int64)
