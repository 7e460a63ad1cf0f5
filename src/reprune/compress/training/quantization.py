"""Integers while a model still computes in floats: what they will cost is seen, and trained against.

Weights are rounded channel by channel, symmetrically; what a layer is given as a whole, with a range
that calibration data shows (scheme of Jacob et al. 2018, arXiv:1712.05877, sections 2 and 3). Rounding
passes gradients on as if it were not there, clipping stops them (the straight-through estimator).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from reprune.core.errors import CompressionError, Diverged
from reprune.measure.outputs import evaluating
from reprune.task.protocol import Batch

# Values a layer that calibration looks at, and the ranges it weighs: from all of what was seen down.
MAX_VALUES = 65_536
SHRINK = tuple(1.0 - 0.02 * step for step in range(46))


@dataclass(kw_only=True)
class FakeQuantizer:
    """While attached, every convolution and linear layer of `module` computes with values that int
    of `bits` bits can hold. The module's parameters, buffers and state dict stay as they are.

    `ranges` maps a layer's name to what its input spans; an input without a range is not rounded.
    """

    module: nn.Module
    bits: int = 8
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    _handles: list[RemovableHandle] = field(default_factory=list)
    _seen: dict[str, list[Tensor]] | None = None

    def attach(self) -> FakeQuantizer:
        """Raises CompressionError where no layer can be quantised, a weight is parametrised, or a module
        multiplies with weights of its own whose rounding nobody would see (nn.MultiheadAttention).
        """
        layers = {
            name: layer
            for name, layer in self.module.named_modules()
            if isinstance(layer, _ConvNd | nn.Linear)
        }
        if not layers:
            raise CompressionError("the model has no convolution or linear layer to quantise")
        for name, module in self.module.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                raise CompressionError(
                    "it multiplies without calling layers: its weights cannot be trained for integers",
                    where=name,
                    fix="set distill.quantize to none, or write the attention with linear layers",
                )
        for name, layer in layers.items():
            if parametrize.is_parametrized(layer):
                raise CompressionError(
                    "its weight is parametrised, so that it cannot be trained for int8", where=name
                )
            before, after = self._hooks(name)
            self._handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(layer.register_forward_hook(after, always_call=True))
        return self

    def detach(self) -> None:
        """Afterwards the module computes in floats again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def calibrate(self, batches: Iterable[Batch]) -> int:
        """Chooses each layer's range from what it is given on `batches`; says how many examples ran.

        Of ranges from the whole span down to a tenth the one with the least squared error of rounding
        and clipping is taken, so that a few outliers do not take the resolution of all others.
        Raises Diverged for a layer that is given values which are not finite.
        """
        self._seen = {}
        examples = 0
        try:
            with evaluating(self.module):
                for batch in batches:
                    self.module(*batch.inputs)
                    examples += len(batch)
            self.ranges = {
                name: best_range(_finite(torch.cat(values), name), bits=self.bits)
                for name, values in self._seen.items()
            }
        finally:
            self._seen = None
        return examples

    def state(self) -> dict[str, Tensor]:
        return {name: torch.tensor(ends, dtype=torch.float64) for name, ends in self.ranges.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.ranges = {name: (float(ends[0]), float(ends[1])) for name, ends in state.items()}

    def _hooks(self, name: str) -> tuple[Callable[..., Any], Callable[..., None]]:
        def before(
            layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            given, *others = (*inputs, *named.values())  # all of these layers take it first
            if self._seen is not None:  # calibration looks at the floats
                self._seen.setdefault(name, []).append(_sample(given))
                return None
            # An instance's own attribute is found before the registered parameter, which stays put.
            layer.__dict__["weight"] = round_weight(layer, bits=self.bits)
            if name not in self.ranges:
                return None
            return (round_input(given, self.ranges[name], bits=self.bits), *others), {}

        def after(layer: nn.Module, _: object, __: object) -> None:
            layer.__dict__.pop("weight", None)

        return before, after


@contextmanager
def simulated(module: nn.Module, batches: Iterable[Batch], *, bits: int = 8) -> Iterator[None]:
    """Inside, `module` computes as in int of `bits` bits, its ranges calibrated on `batches`."""
    quantizer = FakeQuantizer(module=module, bits=bits).attach()
    try:
        quantizer.calibrate(batches)
        yield
    finally:
        quantizer.detach()


def round_weight(layer: nn.Module, *, bits: int) -> Tensor:
    """The layer's weight as symmetric integers of `bits` bits hold it, a scale an output channel."""
    weight: Tensor = layer._parameters["weight"]  # type: ignore[assignment]  # Conv or Linear
    axis = 1 if isinstance(layer, _ConvTransposeNd) else 0
    top = 2 ** (bits - 1) - 1
    largest = weight.detach().abs().movedim(axis, 0).flatten(1).amax(dim=1)
    scale = largest.float().clamp_min(torch.finfo(torch.float32).tiny * top) / top
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zeros, axis, -top, top)


def round_input(values: Tensor, ends: tuple[float, float], *, bits: int) -> Tensor:
    """`values` as unsigned integers of `bits` bits hold them between `ends`; clipped outside."""
    low, high = ends
    top = 2**bits - 1
    scale = max((high - low) / top, 1e-12)
    zero = min(max(round(-low / scale), 0), top)
    rounded = torch.fake_quantize_per_tensor_affine(values.float(), scale, zero, 0, top)
    return rounded.to(values.dtype)


def best_range(values: Tensor, *, bits: int) -> tuple[float, float]:
    """The range, 0 in it, that costs `values` the least squared error; the widest of equals."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    errors = [
        float((round_input(values, (low * s, high * s), bits=bits) - values).square().sum())
        for s in SHRINK
    ]
    share = SHRINK[errors.index(min(errors))]
    return low * share, high * share


def _finite(values: Tensor, name: str) -> Tensor:
    """`values`. Raises Diverged where one is not finite: no range holds them."""
    if not bool(values.isfinite().all()):
        raise Diverged(
            "it is given values that are not finite, so that they have no range of integers",
            where=name,
            fix="lower distill.learning_rate or lengthen distill.warmup_epochs; with fp16 try bf16 or no",
        )
    return values


def _sample(values: Tensor) -> Tensor:
    """At most so many values, spread evenly, and always the smallest and the largest."""
    flat = values.detach().float().flatten()
    step = max(1, len(flat) // MAX_VALUES)
    ends = torch.stack([flat.min(), flat.max()])
    return torch.cat([flat[::step], ends]).cpu()
