"""How a model's layers are timed on a target: inside the built model where the runtime tells, else alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from msgspec import structs
from torch import Tensor, nn

from reprune.compress.tables.looking import Seen, Timer, by_the_clock, layers_to_time, seen_of
from reprune.measure.calls import write_inputs
from reprune.measure.pairs import Pair, whole_calls
from reprune.measure.timing_place import TimingPlace
from reprune.runtimes.base import LayerTime, LayerTimed, Source

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

# One session's calls in one round: so long, but at least and at most so many.
SESSION_SECONDS = 0.25
CALLS = (15, 150)
# What the inputs of layers that are timed together may take, on the disk and on their way to a device.
PORTION_BYTES = 2**29


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
        self.where.make({self.path(name): source}, self.where.target)
        return self.path(name)

    def written(self, name: str, arrays: Sequence[Array]) -> str:
        """A file with the inputs of one call, in place of any of that name."""
        path = self.folder / f"{name}.npz"
        write_inputs(path, arrays)
        return str(path)

    def pair(self, engine: Path, dense: Path, call: str) -> Pair:
        """What tells the ratio of whole calls; `call` is the file of one's inputs."""
        return whole_calls(engine, dense, call, rounds=2 * self.rounds + 1, seed=self.seed)


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
        call = place.written("call", place.inputs)
        layers = Pair(
            how="layers",
            engine=str(engine),
            other=str(self.engine),
            inputs=call,
            other_inputs=call,
            rounds=place.rounds,
            calls=place.calls,
            layers=tuple(layers_to_time(self.dense)),
        )
        whole = [] if engine == self.engine else [place.pair(engine, self.engine, call)]
        by_layer, *ratios = place.where.take([layers, *whole])
        rounds = [(one.other, one.engine) for one in by_layer.rounds]
        return by_the_clock(seen_of(rounds, ratios[0].ratio if ratios else 1.0))


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
        # Of the very inputs of a call: a layer's first dimension need not be the batch (windows, tokens).
        inputs = [torch.tensor(array) for array in place.inputs]
        asked = {
            name: (f"{layer} on {[tuple(tensor.shape) for tensor in given]}", layer, given)
            for name, layer, given in _called(module, inputs)
        }
        new = {q: (layer, given) for q, layer, given in asked.values() if q not in self.known}
        call = place.written("call", place.inputs)
        work = [] if module is self.dense else [self._whole(source, call)]
        work += [
            self._layer(f"layer-{number}", layer, given, source, call)
            for number, (layer, given) in enumerate(new.values())
        ]
        found = [times for portion in _portions(work) for times in self._taken(portion)]
        whole = 1.0 if module is self.dense else found.pop(0)
        self.known.update(zip(new, found, strict=True))
        times = [
            LayerTime(layer=name, us=self.known[question] * place.dense_us, kinds=())
            for name, (question, _, _) in asked.items()
        ]
        # Each layer's time is over the dense model's already: so is the dense sum, by what is known.
        dense = [LayerTime(layer="", us=place.dense_us, kinds=())]
        return seen_of([(dense, times)], whole)

    def _taken(self, portion: Sequence[_Asked]) -> list[float]:
        """The ratios; the layers' inputs are gone afterwards: there may be much of them."""
        place = self.place
        for rows in dict.fromkeys(one.rows for one in portion):
            sources = {one.engine: one.source for one in portion if one.rows == rows}
            place.where.make(sources, structs.replace(place.where.target, batch_size=rows))
        for one in portion:
            if one.inputs:
                write_inputs(Path(one.pair.inputs), one.inputs)
        try:
            return [times.ratio for times in place.where.take([one.pair for one in portion])]
        finally:
            for one in portion:
                if one.inputs:
                    Path(one.pair.inputs).unlink(missing_ok=True)

    def _whole(self, source: Source, call: str) -> _Asked:
        """The whole cut model beside the dense one."""
        engine = self.place.path("cut")
        return _Asked(
            engine=engine,
            source=source,
            pair=self.place.pair(engine, self.engine, call),
            rows=self.place.where.target.batch_size,
        )

    def _layer(  # the layer, what it is called with, and what that comes from
        self, name: str, layer: nn.Module, given: tuple[Tensor, ...], whole: Source, call: str
    ) -> _Asked:
        """The layer's own engine beside the dense model's."""
        place, engine = self.place, self.place.path(name)
        # A single example would be taken for a constant.
        example = tuple(one if len(one) > 1 else one.repeat_interleave(2, 0) for one in given)
        source = Source(
            module=layer,
            example_inputs=example,
            input_names=[f"input_{number}" for number in range(len(given))],
            calibration=[example] if whole.calibration else (),
        )
        pair = Pair(
            how="calls",
            engine=str(engine),
            other=str(self.engine),
            inputs=str(engine.with_suffix(".npz")),
            other_inputs=call,
            rounds=place.rounds,
            calls=CALLS[1],
            other_calls=place.calls,
        )
        inputs = tuple(tensor.cpu().numpy() for tensor in given)
        return _Asked(engine=engine, source=source, pair=pair, rows=len(given[0]), inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """An engine to be made of `source` for `rows` as its batch, and the pair that it is timed in, on `inputs`
    of its own if any.
    """

    engine: Path
    source: Source
    pair: Pair
    rows: int
    inputs: tuple[Array, ...] = ()


def _portions(work: Sequence[_Asked]) -> Iterator[list[_Asked]]:
    """In order, as many at once as have PORTION_BYTES of inputs, or one that has more."""
    portion: list[_Asked] = []
    total = 0
    for one in work:
        size = sum(array.nbytes for array in one.inputs)
        if portion and total + size > PORTION_BYTES:
            yield portion
            portion, total = [], 0
        portion.append(one)
        total += size
    if portion:
        yield portion


class Recurrent(nn.Module):
    """A recurrent layer as engines can be built of it: the batch is the first dimension of all there is."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """The outputs without the last states."""
        if self.layer.batch_first:
            outputs: Tensor = self.layer(x)[0]
            return outputs
        outputs = self.layer(x.transpose(0, 1))[0]
        return outputs.transpose(0, 1)


def alone(layer: nn.Module, given: Sequence[Tensor]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """What is built of the layer alone, and what that is called with where the layer is with `given`."""
    if not isinstance(layer, nn.RNNBase):
        return layer, tuple(given)
    turned = not layer.batch_first and given[0].dim() == 3
    return Recurrent(layer), (given[0].transpose(0, 1).contiguous() if turned else given[0],)


def _called(
    module: nn.Module, inputs: Sequence[Tensor]
) -> list[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """Every layer that makes channels and is called with tensors alone, equally long, with those of its
    first call. An engine has one batch: a recurrent layer that is given its first state is left out.
    """
    from reprune.compress.structure.groups import MAKERS
    from reprune.measure.outputs import evaluating

    found: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {}

    def noting(name: str) -> Any:
        def note(layer: nn.Module, args: tuple[Any, ...]) -> None:
            if not args or not all(isinstance(one, Tensor) and one.dim() for one in args):
                return
            if len({len(one) for one in args}) == 1:
                copies = [one.detach().clone() for one in args]
                found.setdefault(name, alone(layer, copies))

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
