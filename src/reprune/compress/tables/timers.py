"""How a model's layers are timed on a target: inside the built model where the runtime tells, else alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from reprune.compress.tables.looking import Seen, Timer, by_the_clock, layers_to_time, seen_of
from reprune.measure.calls import write_inputs
from reprune.measure.pairs import Pair, PairTimes
from reprune.measure.timing_place import TimingPlace
from reprune.runtimes.base import LayerTime, LayerTimed, Source

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

# One session's calls in one round: so long, but at least and at most so many.
SESSION_SECONDS = 0.25
CALLS = (15, 150)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is built and timed, and `where`. `source` makes of a module what the target's engine is built
    from; `inputs` are those of one call; `dense_us` is about what a call of the dense model takes.
    """

    where: TimingPlace
    source: Callable[[nn.Module], Source]
    inputs: Sequence[Array]
    folder: Path
    rounds: int
    dense_us: float
    seed: int

    @property
    def calls(self) -> int:
        return min(max(int(SESSION_SECONDS * 1e6 / max(self.dense_us, 1.0)), CALLS[0]), CALLS[1])

    def path(self, name: str) -> Path:
        """Where the engine of that name is."""
        return self.folder / f"{name}{self.where.runtime.suffix}"

    def built(self, name: str, source: Source) -> Path:
        """The engine of `source`, in place of any of that name. Raises BuildError."""
        self.where.make({self.path(name): source})
        return self.path(name)

    def written(self, name: str, arrays: Sequence[Array]) -> str:
        """A file with the inputs of one call, in place of any of that name."""
        path = self.folder / f"{name}.npz"
        write_inputs(path, arrays)
        return str(path)

    def whole_calls(self, engine: Path, dense: Path) -> Pair:
        """What tells the ratio of whole calls."""
        inputs = self.written("call", self.inputs)
        return Pair(
            how="blocks",
            engine=str(engine),
            other=str(dense),
            inputs=inputs,
            other_inputs=inputs,
            rounds=2 * self.rounds + 1,
            seed=self.seed,
        )


def timer_for(place: Place, dense: nn.Module, engine: Path) -> Timer:
    """Times the layers inside the whole model if the runtime tells which operator is whose, else each
    layer's own engine. `engine` is the dense model's, built already.
    """
    if isinstance(place.where.runtime, LayerTimed):
        return InModel(place=place, dense=dense, engine=engine)
    return Alone(place=place, dense=dense, engine=engine)


@dataclass(frozen=True, kw_only=True)
class InModel:
    """One build a look: the runtime's own profile of the whole model, in turns with the dense one's."""

    place: Place
    dense: nn.Module
    engine: Path

    def look(self, module: nn.Module) -> Seen:
        """See Timer."""
        place, engine = self.place, self.engine
        if module is not self.dense:
            engine = place.built("cut", place.source(module))
        whole = place.whole_calls(engine, self.engine)
        layers = Pair(
            how="layers",
            engine=str(engine),
            other=str(self.engine),
            inputs=whole.inputs,
            other_inputs=whole.inputs,
            rounds=place.rounds,
            calls=place.calls,
            layers=tuple(layers_to_time(self.dense)),
        )
        asked = [layers] if engine == self.engine else [layers, whole]
        by_layer, *ratios = place.where.take(asked)
        rounds = [(one.other, one.engine) for one in by_layer.rounds]
        return by_the_clock(seen_of(rounds, _ratio(ratios)))


@dataclass(frozen=True, kw_only=True)
class Alone:
    """One build a layer and shape: the layer's own engine, called in turns with the dense model's.

    What lies between the layers is in no engine: the whole calls' constant takes it up. `known` is what a
    layer takes over a call of the dense model, by what was asked.
    """

    place: Place
    dense: nn.Module
    engine: Path
    known: dict[str, float] = field(default_factory=dict)

    def look(self, module: nn.Module) -> Seen:
        """See Timer. Layers of a shape that was timed before are not built again."""
        place, source = self.place, self.place.source(module)
        asked = {
            name: (f"{layer} on {[tuple(tensor.shape[1:]) for tensor in given]}", layer, given)
            for name, layer, given in _called(module, source.example_inputs)
        }
        new = {
            question: (layer, given)
            for question, layer, given in asked.values()
            if question not in self.known
        }
        engine = self.engine if module is self.dense else place.path("cut")
        layers = [
            (place.path(f"layer-{number}"), layer, given)
            for number, (layer, given) in enumerate(new.values())
        ]
        calibrated = bool(source.calibration)
        place.where.make(
            ({} if engine == self.engine else {engine: source})
            | {path: _source_of_layer(layer, given, calibrated) for path, layer, given in layers}
        )
        pairs = [self._pair(path, given) for path, _, given in layers]
        if engine != self.engine:
            pairs.append(place.whole_calls(engine, self.engine))
        found = place.where.take(pairs) if pairs else ()
        for question, taken in zip(new, found, strict=False):
            self.known[question] = taken.ratio
        times = [
            LayerTime(layer=name, us=self.known[question] * place.dense_us, kinds=())
            for name, (question, _, _) in asked.items()
        ]
        # Each layer's time is over the dense model's already: so is the dense sum, by what is known.
        dense = [LayerTime(layer="", us=place.dense_us, kinds=())]
        return seen_of([(dense, times)], _ratio(found[len(new) :]))

    def _pair(self, engine: Path, given: tuple[Tensor, ...]) -> Pair:
        """The layer's own engine beside the dense model's."""
        place = self.place
        batch = place.where.target.batch_size
        return Pair(
            how="calls",
            engine=str(engine),
            other=str(self.engine),
            inputs=place.written(engine.stem, [_of_batch(tensor, batch) for tensor in given]),
            other_inputs=place.written("call", place.inputs),
            rounds=place.rounds,
            calls=CALLS[1],
            other_calls=place.calls,
        )


def _source_of_layer(layer: nn.Module, given: tuple[Tensor, ...], calibrated: bool) -> Source:
    return Source(
        module=layer,
        example_inputs=given,
        input_names=[f"input_{number}" for number in range(len(given))],
        calibration=[given] if calibrated else (),
    )


def _ratio(found: Sequence[PairTimes]) -> float:
    """That of whole calls; 1 of the dense model beside itself, which nobody timed."""
    return found[0].ratio if found else 1.0


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
