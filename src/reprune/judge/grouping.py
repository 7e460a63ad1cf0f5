"""Which slices are large enough to be judged on their own, and which are judged together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from reprune.core.policy import SliceRules
from reprune.judge.comparisons import MIN_UNITS
from reprune.judge.examples import Examples, Members

TOGETHER = "(small slices together)"


@dataclass(frozen=True, kw_only=True)
class Slices:
    """`judged` may hold TOGETHER, the union of the `small` ones."""

    judged: Mapping[str, Members]
    small: Mapping[str, Members]


def divide(
    examples: Examples, rules: SliceRules, defined: Callable[[Members], bool], *, resampled: bool
) -> Slices:
    """Every slice is in one of the two. `defined` says whether the metric of everybody that is compared with
    has a value on these examples, without which a slice is not judged. With sources, or by
    resamples, a slice also needs MIN_UNITS units: fewer are not trusted.
    """
    fewest = MIN_UNITS if resampled or examples.sources is not None else 1

    def usable(members: Members) -> bool:
        return (
            len(members) >= rules.min_examples
            and examples.units(members) >= fewest
            and defined(members)
        )

    judged = {label: members for label, members in examples.slices.items() if usable(members)}
    small = {label: m for label, m in examples.slices.items() if label not in judged}
    if small:
        union = np.unique(np.concatenate(list(small.values())))
        if usable(union):
            judged[TOGETHER] = union
    return Slices(judged=judged, small=small)
