"""Engines timed in turns with another one, for choosing between plans: no evidence. Imports no torch.

python -m reprune.measure.pairs SPEC.json OUT.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

from reprune.core.artifacts import Fact
from reprune.core.children import answer, refuse_orphan
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.measure.calls import read_inputs
from reprune.measure.quick import interleaved_ratio, time_call_us
from reprune.runtimes.base import LayerTime, LayerTimed, get_runtime


class Pair(Fact, kw_only=True):
    """`engine` beside `other`, each on the inputs in a file of `write_inputs`, `rounds` times each in turns.

    "blocks": whole calls in interleaved blocks of fresh sessions, orders by `seed` (measure.quick). "calls":
    the medians of `calls` and `other_calls` calls of fresh sessions; the inputs may differ. "layers": what
    each of `layers` takes in `calls` calls, by the runtime's own profile of either engine.
    """

    how: Literal["blocks", "calls", "layers"]
    engine: str
    other: str
    inputs: str
    other_inputs: str
    rounds: int
    seed: int = 0
    calls: int = 0
    other_calls: int = 0
    layers: tuple[str, ...] = ()


class LayerRound(Fact, kw_only=True):
    """The layers' times in both engines, one right after the other."""

    other: tuple[LayerTime, ...]
    engine: tuple[LayerTime, ...]


class PairTimes(Fact, kw_only=True):
    """`ratio` is time(engine) / time(other), the median over the rounds; of "layers" that of their sums,
    which the `rounds` tell apart.
    """

    ratio: float
    rounds: tuple[LayerRound, ...] = ()


class PairsSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a child process is told; the pairs' files are paths."""

    parent: int
    target: Target
    pairs: tuple[Pair, ...]


def take_pairs(target: Target, pairs: Sequence[Pair]) -> tuple[PairTimes, ...]:
    """The times of every pair, in order. The caller holds the host's measurement lock. Raises BuildError for
    an engine that does not load or run, and for layers of a runtime that does not tell them.
    """
    take = {"blocks": _blocks, "calls": _calls, "layers": _layers}
    return tuple(take[pair.how](target, pair) for pair in pairs)


def unlike(pairs: Sequence[Pair], found: Sequence[PairTimes]) -> str:
    """What of `found` is no answer to `pairs`, in words; "" where all is."""
    if len(found) != len(pairs):
        return f"{len(found)} answers to {len(pairs)} pairs"
    for pair, times in zip(pairs, found, strict=True):
        told = [one for each in times.rounds for one in (*each.other, *each.engine)]
        if not (isfinite(times.ratio) and times.ratio > 0.0):
            return "a pair without a ratio of times"
        if len(times.rounds) != (pair.rounds if pair.how == "layers" else 0):
            return "layers in other rounds than were asked for"
        if not all(one.layer in (*pair.layers, "") for one in told):
            return "times of layers that were not asked for"
        if not all(isfinite(one.us) and one.us >= 0.0 for one in told):
            return "times of layers that are no times"
    return ""


def _blocks(target: Target, pair: Pair) -> PairTimes:
    ratio = interleaved_ratio(
        get_runtime(target.runtime),
        Path(pair.engine),
        Path(pair.other),
        target,
        read_inputs(Path(pair.inputs)),
        rounds=pair.rounds,
        seed=pair.seed,
    )
    return PairTimes(ratio=ratio)


def _calls(target: Target, pair: Pair) -> PairTimes:
    runtime = get_runtime(target.runtime)
    both = [
        (Path(engine), read_inputs(Path(inputs)), calls)
        for engine, inputs, calls in (
            (pair.engine, pair.inputs, pair.calls),
            (pair.other, pair.other_inputs, pair.other_calls),
        )
    ]
    ratios = []
    for _ in range(pair.rounds):
        own, other = (
            time_call_us(runtime.open(engine, target), inputs, calls)
            for engine, inputs, calls in both
        )
        ratios.append(own / other)
    return PairTimes(ratio=median(ratios))


def _layers(target: Target, pair: Pair) -> PairTimes:
    runtime = get_runtime(target.runtime)
    if not isinstance(runtime, LayerTimed):
        raise BuildError(f"{target.runtime} does not tell its operators' layers")
    names = frozenset(pair.layers)
    rounds = []
    for _ in range(pair.rounds):
        other, own = (
            runtime.layer_times(Path(engine), target, read_inputs(Path(inputs)), pair.calls, names)
            for engine, inputs in ((pair.other, pair.other_inputs), (pair.engine, pair.inputs))
        )
        rounds.append(LayerRound(other=other, engine=own))
    ratios = [_summed(one.engine) / _summed(one.other) for one in rounds]
    return PairTimes(ratio=median(ratios), rounds=tuple(rounds))


def _summed(layers: Sequence[LayerTime]) -> float:
    """Never nothing: where no operator took a whole tick, a ratio of two nothings is 1."""
    return sum(one.us for one in layers) or 1.0


def _take_all(spec: PairsSpec) -> tuple[PairTimes, ...]:
    refuse_orphan(spec.parent)
    return take_pairs(spec.target, spec.pairs)


def main(arguments: Sequence[str]) -> int:
    """Takes what SPEC.json names and writes the PairTimes to OUT.json."""
    return answer(arguments, PairsSpec, _take_all)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
