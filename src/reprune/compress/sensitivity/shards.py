"""A measurement in parts: which part does what, and whether parts belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from reprune.compress.paired import BatchLosses
    from reprune.compress.sensitivity.observed import CutSeen, Observed

T = TypeVar("T")

# The only shard of one: everything.
ALL = (0, 1)


def mine(units: Sequence[T], shard: tuple[int, int]) -> Sequence[T]:
    """Shard i of n of `units`: number i, i + n, ...; none where there are fewer than that."""
    index, count = shard
    return units[index::count]


def agreed(parts: Sequence[Observed]) -> BatchLosses:
    """The dense model's losses that all parts saw. Raises CompressionError unless they are all parts of
    one measurement, each once.
    """
    if not parts:
        raise CompressionError("no shard was given", where="sensitivity", fix="give every shard")
    counts = sorted({part.shards for part in parts})
    if len(counts) > 1:
        raise CompressionError(
            f"shards of {' and of '.join(map(str, counts))} do not fit together",
            where="sensitivity",
            fix="give every shard of one run, once",
        )
    given = [part.shard for part in parts]
    missing = sorted(set(range(counts[0])) - set(given))
    twice = sorted({number for number in given if given.count(number) > 1})
    if missing or twice:
        wrong = [
            f"{_list(numbers)} {what}"
            for numbers, what in ((missing, "missing"), (twice, "given more than once"))
            if numbers
        ]
        raise CompressionError(
            f"the shards are not all of {counts[0]}: {'; '.join(wrong)}",
            where="sensitivity",
            fix="give every shard, once",
        )
    if any(part.base != parts[0].base for part in parts):
        raise CompressionError(
            "the shards are not of one measurement: their losses of the dense model differ",
            where="sensitivity",
            fix="run every shard again with the same model, task, params and seed, on machines of one kind",
        )
    return parts[0].base


def all_cuts(parts: Sequence[Observed], wanted: Iterable[str]) -> dict[str, CutSeen]:
    """What was seen of every cut of `wanted`, in that order. Raises CompressionError where one is missing."""
    found = {key: seen for part in parts for key, seen in part.cuts.items()}
    keys = list(wanted)
    missing = [key for key in keys if key not in found or not found[key].losses]
    if missing:
        raise CompressionError(
            f"{len(missing)} cuts were not measured, {missing[0]} for one",
            where="sensitivity",
            fix="run every shard again",
        )
    return {key: found[key] for key in keys}


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
