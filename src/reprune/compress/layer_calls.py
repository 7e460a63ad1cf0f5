"""The dense network's outputs and the cut network's inputs of layers, at the same places.

Layers are refitted one after the other, each on what the network gives it by then. What runs before a
layer is final by then and is not computed again: outputs of finished modules are kept, as far as memory
allows, and dense outputs are gathered for many layers in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from reprune.compress.layer_rows import (
    POSITION_SEED,
    batched,
    linear_rows,
    output_rows,
    places,
    row_weights,
    rows_an_example,
    squared_norms,
    usual_square,
)
from reprune.compress.replay import Timeline, replayed, size_of, watched
from reprune.task.protocol import Batch

# Dense outputs that are held at a time, and outputs of finished modules of the cut network.
TARGET_BYTES = 2**30
REPLAY_BYTES = 2**30


# Why a layer cannot be fitted: what it gave in one network has no counterpart in the other.
NOT_ALWAYS = "forward() does not call it for every batch"
OTHER_ROWS = "it is given other rows than in the dense network"


class NotCalled(Exception):
    """forward() does not call the layer for this batch."""


@dataclass
class Forwarded:
    """Counts the `examples` that networks were given: a pass that ends early as a whole one, passes of which
    each goes on where the one before ended as one together.
    """

    examples: int = 0


class Targets:
    """The dense network's rows of one layer, a batch each, and where they were taken.

    `places[i]` is None for a layer that is no convolution: all of its rows are there.
    """

    def __init__(self, layer: _ConvNd | nn.Linear, examples: int) -> None:
        self.rows: list[Tensor] = []
        self.places: list[Tensor | None] = []
        self.sizes: list[tuple[int, ...]] = []
        self._layer = layer
        self._generator = torch.Generator().manual_seed(POSITION_SEED)
        self._most = rows_an_example(layer, examples)
        self._usual: float | None = None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.rows))

    @property
    def batches(self) -> int:
        """For how many batches the layer was called."""
        return len(self.rows)

    def weights(self, place: int) -> Tensor:
        """What the rows of the batch `place` count, float64; all rows have been added."""
        if self._usual is None:
            self._usual = usual_square(torch.cat([squared_norms(rows) for rows in self.rows]))
        return row_weights(squared_norms(self.rows[place]), self._usual)

    def add(self, made: Tensor) -> None:
        """Takes up what the layer gave for the next batch."""
        made = made.detach()
        chosen = None
        if isinstance(self._layer, _ConvNd):
            made = batched(self._layer, made)
            chosen = places(made.shape[2:], self._most, self._generator)
            rows = output_rows(made, chosen.to(made.device))
        else:
            rows = linear_rows(made).clone()
        self.rows.append(rows.cpu())
        self.places.append(chosen)
        self.sizes.append(tuple(made.shape[2:]))


def dense_targets(
    dense: nn.Module, names: Sequence[str], batches: Sequence[Batch], forwarded: Forwarded
) -> Iterator[dict[str, Targets]]:
    """The targets of all layers of `names`, in that order, in portions that fit TARGET_BYTES.

    A layer that is called more than once counts with its first call. One pass a portion, after one over the
    first batch that shows their sizes; `forwarded` counts them.
    """
    left = list(names)
    if not left:
        return
    examples = sum(len(batch) for batch in batches)
    first = _portion(dense, left, batches[:1], examples)
    forwarded.examples += len(batches[0])
    scale = examples / max(1, len(batches[0]))
    while left:
        taken: list[str] = []
        total = 0.0
        for name in left:
            total += size_of(first[name].rows) * scale
            if taken and total > TARGET_BYTES:
                break
            taken.append(name)
        forwarded.examples += examples
        yield _portion(dense, taken, batches, examples)
        left = left[len(taken) :]


def _portion(
    dense: nn.Module, names: Sequence[str], batches: Sequence[Batch], examples: int
) -> dict[str, Targets]:
    layers: dict[str, Any] = {name: dense.get_submodule(name) for name in names}
    targets = {name: Targets(layer, examples) for name, layer in layers.items()}
    for batch in batches:
        waiting = set(names)

        def keep(name: str, made: Tensor, waiting: set[str] = waiting) -> None:
            if name in waiting:
                waiting.discard(name)
                targets[name].add(made)
            if not waiting:
                raise _Seen

        hooks = [
            layer.register_forward_hook(lambda _m, _g, made, name=name: keep(name, made))
            for name, layer in layers.items()
        ]
        _run_until_seen(dense, batch, hooks)
    return targets


class Inputs:
    """What the layers of a network are given, asked for in the order of the forward pass.

    The network may change between two questions, but only in layers that were asked about before and
    in what comes after them. Outputs of modules that have ended are kept for the batches that fit
    REPLAY_BYTES; a module that works in place runs again, since others may see its effect.
    """

    def __init__(
        self, module: nn.Module, when: Timeline, batches: Sequence[Batch], forwarded: Forwarded
    ) -> None:
        self._module, self._when, self._batches = module, when, batches
        self._forwarded = forwarded
        self._kept: list[dict[str, Any]] = [{} for _ in batches]
        # Whether the next pass goes on where the last one ended: never where something with weights is called
        # more than once, and so runs again.
        self._goes_on = [False for _ in batches]
        self._once = all(
            name in when.began
            for name, layer in module.named_modules()
            if any(True for _ in layer.parameters(recurse=False))
        )
        self._in_place = {
            name for name, layer in module.named_modules() if getattr(layer, "inplace", False)
        }

    def of(self, name: str) -> Iterator[Tensor]:
        """The first argument of the layer's first call, batch by batch; what comes after is not run."""
        wanted = set(self._when.before((name,))) - self._in_place
        used = sum(map(size_of, self._kept))
        for place, batch in enumerate(self._batches):
            kept = self._kept[place]
            new = wanted - set(kept) if used < REPLAY_BYTES else set()
            self._forwarded.examples += 0 if self._goes_on[place] else len(batch)
            with replayed(self._module, kept), watched(self._module, new) as seen:
                given = _given(self._module, name, batch)
            # A module that has ended since takes the place of its parts.
            after = {one: made for one, made in {**kept, **seen}.items() if one in wanted}
            if not new:
                after = kept
            used += size_of(after) - size_of(kept)
            self._kept[place] = after
            self._goes_on[place] = self._once and wanted <= after.keys()
            yield given


def _given(module: nn.Module, name: str, batch: Batch) -> Tensor:
    given, named = arguments(module, name, batch)
    first: Tensor = (*given, *named.values())[0]
    return first.detach().clone()


def arguments(module: nn.Module, name: str, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the layer `name` is called with first, by position and by name; what comes after is not run.

    Raises NotCalled.
    """
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((given, named))
        raise _Seen

    hook = module.get_submodule(name).register_forward_pre_hook(keep, with_kwargs=True)
    _run_until_seen(module, batch, [hook])
    if not seen:
        raise NotCalled(name)
    return seen[0]


def _run_until_seen(module: nn.Module, batch: Batch, hooks: Sequence[Any]) -> None:
    try:
        module(*batch.inputs)
    except _Seen:
        pass
    finally:
        for hook in hooks:
            hook.remove()


class _Seen(BaseException):
    """Ends a forward pass early; no `except Exception` of a user's forward() may catch it."""
