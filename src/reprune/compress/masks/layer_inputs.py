"""What flows into a layer on calibration examples, summed up as X'X: all that Wanda and SparseGPT need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.rnn import pad_sequence

from reprune.core.errors import CompressionError
from reprune.measure.outputs import evaluating

if TYPE_CHECKING:
    from reprune.task.protocol import Batch

# Rows of X that are looked at a layer, at least; and columns whose X'X still fits memory.
MIN_ROWS = 32_768
ROWS_PER_COLUMN = 8
MAX_COLUMNS = 8_192
POSITION_SEED = 0
# The arguments of nn.MultiheadAttention that its in_proj_weight is multiplied with, in the weight's order.
ATTENDED = ("query", "key", "value")


def order_of_use(module: nn.Module, batches: Sequence[Batch]) -> list[str]:
    """The names of the layers in the order in which the first batch goes through them, each once."""
    order: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, layer in module.named_modules()
    ]
    try:
        with evaluating(module):
            for batch in batches[:1]:
                module(*batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))


@dataclass(frozen=True, kw_only=True)
class InputSums:
    """Of what a layer is given: X'X (`own`), and Z'X for what it was given in another model (`others`), None
    where that was no row for row the same. (groups, columns, columns) in float64: one matrix for each
    group of a convolution, else one; columns are in the order of `reconstruct.to_matrix`.
    """

    own: Tensor
    others: Tensor | None = None


def input_sums(module: nn.Module, name: str, batches: Sequence[Batch]) -> Tensor | None:
    """As input_products, X'X alone."""
    found = input_products(module, name, batches)
    return None if found is None else found.own


def input_products(
    module: nn.Module, name: str, batches: Sequence[Batch], other: nn.Module | None = None
) -> InputSums | None:
    """The sums of what the layer `name` is given while `module` and `other` run on `batches`, over all calls.

    Convolutions see at most a fixed number of positions an example, chosen by a fixed seed. Of an
    nn.MultiheadAttention they are what `weight_name` is multiplied with: queries, keys and values, one matrix
    each. None for a layer that is none of these, nor a linear layer, or that is never called. Raises
    CompressionError for one with more than 8,192 inputs, or where one is no finite number. The modules
    are left as they were.
    """
    layer = module.get_submodule(name)
    if isinstance(layer, _ConvTransposeNd) or not (
        isinstance(layer, _ConvNd | nn.Linear) or _is_attention(layer)
    ):
        return None
    columns = layer.get_parameter(weight_name(layer))[0].numel()
    if columns > MAX_COLUMNS:
        raise CompressionError(
            f"has {columns} inputs; the sums of at most {MAX_COLUMNS} fit memory",
            where=name,
            fix="mask it by magnitude or taylor (prune.criterion), or name it in the task's `keep`",
        )
    budget = math.ceil(max(MIN_ROWS, ROWS_PER_COLUMN * columns) / max(sum(map(len, batches)), 1))
    own = torch.zeros(_parts(layer), columns, columns, dtype=torch.float64)
    others = None if other is None else torch.zeros_like(own)
    called = False
    theirs = _calls(other, name, batches, budget) if other is not None else repeat([])
    for mine, seen in zip(_calls(module, name, batches, budget), theirs, strict=False):
        called = called or bool(mine)
        for x in mine:
            own.add_(torch.einsum("rpi,rpj->pij", x, x))
        if [x.shape for x in mine] != [z.shape for z in seen]:
            others = None
        if others is not None:
            for x, z in zip(mine, seen, strict=True):
                others.add_(torch.einsum("rpi,rpj->pij", z, x))
    if not bool(own.isfinite().all()):
        raise CompressionError(
            "on calibration examples it is given numbers that are not finite",
            where=name,
            fix="check the dense model and the split 'calibration' for NaN and infinity",
        )
    return InputSums(own=own, others=others) if called else None


def _calls(
    module: nn.Module, name: str, batches: Sequence[Batch], budget: int
) -> Iterator[list[Tensor]]:
    """What the layer is given in each of the batches, call by call: the same positions in any model."""
    layer = module.get_submodule(name)
    generator = torch.Generator().manual_seed(POSITION_SEED)
    given: list[Tensor] = []

    def add(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        if _is_attention(layer):
            given.append(_attended(args, named))
            return
        given.append(_rows(layer, (*args, *named.values())[0].detach(), budget, generator))

    for batch in batches:
        hook = layer.register_forward_pre_hook(add, with_kwargs=True)
        try:
            with evaluating(module):
                module(*batch.inputs)
        finally:
            hook.remove()
        yield given
        given.clear()


def weight_name(layer: nn.Module) -> str:
    """The parameter that is multiplied with what the layer is given."""
    return "in_proj_weight" if _is_attention(layer) else "weight"


def _is_attention(layer: nn.Module) -> bool:
    # Not one with a forward() of its own; and where keys have another size, there are three weights.
    return type(layer) is nn.MultiheadAttention and layer.in_proj_weight is not None


def _parts(layer: nn.Module) -> int:
    if _is_attention(layer):
        return len(ATTENDED)
    return layer.groups if isinstance(layer, _ConvNd) else 1


def _attended(args: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> Tensor:
    """As `_rows`, with a group each for queries, keys and values; rows of zeros where one has fewer."""
    given = dict(zip(ATTENDED, args, strict=False)) | dict(named)
    rows = [given[name].detach().to("cpu", torch.float64).flatten(0, -2) for name in ATTENDED]
    return pad_sequence(rows, batch_first=True).transpose(0, 1)


def _rows(layer: nn.Module, x: Tensor, budget: int, generator: torch.Generator) -> Tensor:
    """(rows, groups, columns), float64, on the CPU."""
    if isinstance(layer, _ConvNd):
        return patches(layer, x, budget, generator).to("cpu", torch.float64)
    return x.reshape(-1, 1, x.shape[-1]).to("cpu", torch.float64)


def patches(layer: _ConvNd, x: Tensor, budget: int, generator: torch.Generator) -> Tensor:
    """The receptive fields of up to `budget` positions, the same ones for every example.

    x is (N, C, *spatial), or (C, *spatial); the result is (N * positions, groups, kernel * C / groups),
    channels last.
    """
    nd = len(layer.kernel_size)
    if x.ndim == nd + 1:
        x = x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    fields = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    settings = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(settings):
        # (..., positions of this axis, ..., (size - 1) * dilation + 1), thinned to the kernel's own.
        fields = fields.unfold(2 + axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    places = fields.shape[2 : 2 + nd]
    chosen = torch.randperm(math.prod(places), generator=generator)[:budget].sort().values
    index = torch.unravel_index(chosen.to(x.device), places)
    at: tuple[slice | Tensor, ...] = (slice(None), slice(None), *index)
    found = fields[at].movedim(2, 1)  # N, P, C, *kernel
    found = found.reshape(*found.shape[:2], layer.groups, -1, *found.shape[3:])
    return found.movedim(3, -1).flatten(3).flatten(0, 1)
