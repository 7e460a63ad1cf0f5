"""Engines timed in turns with another one, for choosing between plans: no evidence. Imports no torch.

python -m reprune.measure.pairs SPEC.json OUT.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import isclose, isfinite
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

from reprune.core.artifacts import Fact
from reprune.core.children import answer, refuse_orphan
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.measure.calls import Shape, read_inputs, settled_clocks
from reprune.measure.quick import interleaved_ratio, median_call_ns
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


def whole_calls(engine: Path, other: Path, call: str, *, rounds: int, seed: int) -> Pair:
    """Two engines of one model's inputs, which lie in the file `call`, in interleaved blocks."""
    return Pair(
        how="blocks",
        engine=str(engine),
        other=str(other),
        inputs=call,
        other_inputs=call,
        rounds=rounds,
        seed=seed,
    )


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


class PairSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a child process is told; the pair's files are paths."""

    parent: int
    target: Target
    pair: Pair


def take_pair(target: Target, pair: Pair) -> PairTimes:
    """The pair's times. The caller holds the host's measurement lock. Raises BuildError for an engine that
    does not load or run, and for layers of a runtime that does not tell them.
    """
    return {"blocks": _blocks, "calls": _calls, "layers": _layers}[pair.how](target, pair)


def unlike(pairs: Sequence[Pair], found: Sequence[PairTimes]) -> str:
    """What of `found` is no answer to `pairs`, in words; "" where all is."""
    if len(found) != len(pairs):
        return f"{len(found)} answers to {len(pairs)} pairs"
    for pair, times in zip(pairs, found, strict=True):
        if not (isfinite(times.ratio) and times.ratio > 0.0):
            return "a pair without a ratio of times"
        if len(times.rounds) != (pair.rounds if pair.how == "layers" else 0):
            return "layers in other rounds than were asked for"
        wrong = _unlike_layers(pair, times) if times.rounds else ""
        if wrong:
            return wrong
    return ""


def _unlike_layers(pair: Pair, times: PairTimes) -> str:
    """Each engine's layers are the same in every round, each of them once, with times that make the ratio."""
    for engine in ([one.other for one in times.rounds], [one.engine for one in times.rounds]):
        names = [sorted(one.layer for one in layers) for layers in engine]
        if any(found != names[0] or len(set(found)) != len(found) for found in names):
            return "layers that differ between rounds, or are told twice"
        if not set(names[0]) <= {*pair.layers, ""}:
            return "times of layers that were not asked for"
        if not all(isfinite(one.us) and one.us >= 0.0 for layers in engine for one in layers):
            return "times of layers that are no times"
        if not all(sum(one.us for one in layers) > 0.0 for layers in engine):
            return "no layer that took any time"
    if not isclose(times.ratio, _ratio_of(times.rounds), rel_tol=1e-9):
        return "a ratio that is not that of its layers"
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
        sessions = [runtime.open(engine, target) for engine, _, _ in both]
        shapes = [(Shape(inputs=inputs, weight=1.0),) for _, inputs, _ in both]
        settled_clocks(list(zip(sessions, shapes, strict=True)))
        own, other = (
            median_call_ns(session, shape, calls)
            for session, shape, (_, _, calls) in zip(sessions, shapes, both, strict=True)
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
    if not all(
        sum(one.us for one in layers) for each in rounds for layers in (each.other, each.engine)
    ):
        raise BuildError(f"{target.runtime} tells of no layer that takes any time")
    return PairTimes(ratio=_ratio_of(rounds), rounds=tuple(rounds))


def _ratio_of(rounds: Sequence[LayerRound]) -> float:
    return median(
        sum(one.us for one in each.engine) / sum(one.us for one in each.other) for each in rounds
    )


def _take(spec: PairSpec) -> PairTimes:
    refuse_orphan(spec.parent)
    return take_pair(spec.target, spec.pair)


def main(arguments: Sequence[str]) -> int:
    """Takes the pair that SPEC.json names and writes its PairTimes to OUT.json."""
    return answer(arguments, PairSpec, _take)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
