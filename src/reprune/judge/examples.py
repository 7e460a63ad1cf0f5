"""The judged examples in one fixed order, with their slices and sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reprune.judge.bootstrap import Integers, Mask
from reprune.judge.evidence import QualityEvidence


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Sorted by id, so that the order in which they were recorded changes nothing.

    `sources` numbers each example's source; `slices` maps "family=value" to who is in it.
    """

    count: int
    order: Integers
    sources: Integers | None
    slices: dict[str, Mask]

    def column(self, values: Sequence[int]) -> Integers:
        return np.asarray(values, dtype=np.int64)[self.order]

    def units(self, mask: Mask) -> int:
        """How many sources, or examples where none are declared, are among `mask`."""
        if self.sources is None:
            return int(np.count_nonzero(mask))
        return len(np.unique(self.sources[mask]))


def read_examples(quality: QualityEvidence) -> Examples:
    """The examples of evidence that has no problems (see judge.checks)."""
    order = np.asarray(sorted(range(len(quality.ids)), key=quality.ids.__getitem__), dtype=np.int64)
    sources = None if quality.sources is None else _numbered(quality.sources)[order]
    slices: dict[str, Mask] = {}
    for family in sorted(quality.slices):
        codes = _numbered(quality.slices[family])[order]
        for code, value in enumerate(sorted(set(quality.slices[family]))):
            slices[f"{family}={value}"] = codes == code
    return Examples(count=len(order), order=order, sources=sources, slices=slices)


def _numbered(names: Sequence[str]) -> Integers:
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    return np.asarray([places[name] for name in names], dtype=np.int64)
