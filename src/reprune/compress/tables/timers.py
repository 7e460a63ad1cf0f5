"""How a model's layers are timed on a target: inside the built model where the runtime tells, else alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from reprune.compress.tables.looking import Seen, Timer, by_the_clock, layers_to_time, seen_of
from reprune.core.params import BuildParams, Target
from reprune.measure.hostlock import host_lock
from reprune.measure.quick import quick_ratio, time_call_us
from reprune.runtimes.base import LayerTime, LayerTimed, Runtime, Source
from reprune.runtimes.isolated import build_within

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

# One session's calls in one round: so long, but at least and at most so many.
SESSION_SECONDS = 0.25
CALLS = (15, 150)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where engines are built and timed. `source` makes of a module what the target's engine is built from;
    `inputs` are those of one call; `dense_us` is about what a call of the dense model takes.
    """

    runtime: Runtime
    target: Target
    source: Callable[[nn.Module], Source]
    inputs: Sequence[Array]
    folder: Path
    rounds: int
    dense_us: float
    seed: int

    @property
    def calls(self) -> int:
        return min(max(int(SESSION_SECONDS * 1e6 / max(self.dense_us, 1.0)), CALLS[0]), CALLS[1])

    def built(self, name: str, source: Source) -> Path:
        """The engine of `source`, in place of any of that name. Raises BuildError."""
        engine = self.folder / f"{name}{self.runtime.suffix}"
        build_within(self.runtime, source, self.target, engine, seconds=BuildParams().max_seconds)
        return engine

    def ratio(self, engine: Path, dense: Path) -> float:
        return quick_ratio(
            self.runtime,
            engine,
            dense,
            self.target,
            self.inputs,
            rounds=2 * self.rounds + 1,
            seed=self.seed,
        )


def timer_for(place: Place, dense: nn.Module, engine: Path) -> Timer:
    """Times the layers inside the whole model if the runtime tells which operator is whose, else each
    layer's own engine. `engine` is the dense model's, built already.
    """
    if isinstance(place.runtime, LayerTimed):
        return InModel(place=place, dense=dense, engine=engine)
    return Alone(place=place, dense=dense, engine=engine)


@dataclass(frozen=True, kw_only=True)
class InModel:
    """One build a look: the runtime's own profile of the whole model, in turns with the dense one's."""

    place: Place
    dense: nn.Module
    engine: Path

    def look(self, module: nn.Module) -> Seen:
        """See Timer. Waits for the host's measurement lock."""
        place = self.place
        runtime = place.runtime
        if not isinstance(runtime, LayerTimed):
            raise TypeError(f"{place.target.runtime} does not tell its operators' layers")
        engine = self.engine
        if module is not self.dense:
            engine = place.built("cut", place.source(module))
        layers = frozenset(layers_to_time(self.dense))
        rounds = []
        with host_lock():
            for _ in range(place.rounds):
                both = [
                    runtime.layer_times(one, place.target, place.inputs, place.calls, layers)
                    for one in (self.engine, engine)
                ]
                rounds.append((both[0], both[1]))
        whole = 1.0 if engine == self.engine else place.ratio(engine, self.engine)
        return by_the_clock(seen_of(rounds, whole))


@dataclass(frozen=True, kw_only=True)
class Alone:
    """One build a layer and shape: the layer's own engine, called in turns with the dense model's.

    What lies between the layers is in no engine: the whole calls' constant takes it up.
    """

    place: Place
    dense: nn.Module
    engine: Path
    known: dict[str, float] = field(default_factory=dict)

    def look(self, module: nn.Module) -> Seen:
        """See Timer. Layers of a shape that was timed before are not built again."""
        place = self.place
        engine = self.engine
        if module is not self.dense:
            engine = place.built("cut", place.source(module))
        times = [
            LayerTime(layer=name, us=self._us(layer, given), kinds=())
            for name, layer, given in _called(module, place.source(module).example_inputs)
        ]
        whole = 1.0 if engine == self.engine else place.ratio(engine, self.engine)
        # Each layer's time is over the dense model's already: so is the dense sum, by what is known.
        dense = [LayerTime(layer="", us=place.dense_us, kinds=())]
        return seen_of([(dense, times)], whole)

    def _us(self, layer: nn.Module, given: tuple[Tensor, ...]) -> float:
        """What a call of the layer takes where the dense model takes its `dense_us`."""
        place = self.place
        question = f"{layer} on {[tuple(tensor.shape[1:]) for tensor in given]}"
        if question not in self.known:
            batch = place.target.batch_size
            inputs = [_of_batch(tensor, batch) for tensor in given]
            names = [f"input_{number}" for number in range(len(given))]
            engine = place.built(
                "layer",
                Source(
                    module=layer,
                    example_inputs=given,
                    input_names=names,
                    calibration=[given] if place.source(self.dense).calibration else (),
                ),
            )
            ratios = []
            with host_lock():
                for _ in range(place.rounds):
                    own, whole = (
                        time_call_us(place.runtime.open(path, place.target), arrays, calls)
                        for path, arrays, calls in (
                            (engine, inputs, CALLS[1]),
                            (self.engine, place.inputs, place.calls),
                        )
                    )
                    ratios.append(own / whole)
            self.known[question] = float(np.median(ratios)) * place.dense_us
        return self.known[question]


def _called(
    module: nn.Module, inputs: Sequence[Tensor]
) -> list[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """Every layer that makes channels and is called with tensors alone, with those of its first call."""
    from reprune.compress.structure.groups import MAKERS
    from reprune.measure.outputs import evaluating

    found: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {}

    def noting(name: str) -> Any:
        def note(layer: nn.Module, args: tuple[Any, ...]) -> None:
            if args and all(isinstance(one, Tensor) for one in args):
                found.setdefault(name, (layer, tuple(one.detach().clone() for one in args)))

        return note

    hooks = [
        layer.register_forward_pre_hook(noting(name))
        for name, layer in module.named_modules()
        if isinstance(layer, MAKERS)
    ]
    try:
        with evaluating(module):
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [(name, layer, given) for name, (layer, given) in found.items()]


def _of_batch(tensor: Tensor, batch: int) -> Array:
    times = -(-batch // len(tensor))
    array: Array = tensor.repeat(times, *[1] * (tensor.dim() - 1))[:batch].cpu().numpy()
    return array
