"""Where the channels of a layer lie in its tensors: what slicing, masking, scoring and costs all read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Axis: TypeAlias = Literal["out", "in"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Position p of an axis of `size` lies at p, p + size, ... (`repeats` times) of `tensor`'s `dim`.

    `reads` marks the numbers with which a layer reads its own channels again (a recurrent layer).
    """

    tensor: str
    dim: int
    repeats: int = 1
    reads: bool = False


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where one axis of a layer lies. `size` is its length; the numbers in `attributes` must follow,
    at `per_position` times the positions that are left. `spans` is where each tensor is sliced.

    `tensors` are the spans of plain layers, by name; a recurrent layer's are in `gates`.
    """

    tensors: Mapping[str, int]
    attributes: tuple[str, ...]
    size: int
    per_position: int = 1
    gates: tuple[Span, ...] = ()

    @property
    def spans(self) -> tuple[Span, ...]:
        return (*(Span(tensor=name, dim=dim) for name, dim in self.tensors.items()), *self.gates)


def indices(span: Span, size: int, positions: Sequence[int]) -> Tensor:
    """Where the `positions` of an axis of `size` lie on the span's dimension, in the order given."""
    return torch.tensor(
        [repeat * size + position for repeat in range(span.repeats) for position in positions],
        dtype=torch.long,
    )


def by_position(values: Tensor, span: Span, size: int) -> Tensor:
    """`values` of `span`'s tensor as (size, numbers a position)."""
    rows = values.movedim(span.dim, 0).reshape(span.repeats, size, -1)
    return rows.transpose(0, 1).reshape(size, -1)


def grouped_layout(module: _ConvNd, axis: Axis) -> Layout | None:
    """The layout of a grouped convolution that is not depthwise; None where it is transposed.

    Every group must keep as many outputs as the others, else it is no convolution any more. The axis
    "in" has the places of one group's inputs: each stands for that place in every group, because the
    weight (out, in / groups, ...) holds them in one dimension. So the groups stay, and what writes
    and what reads the convolution can be cut by itself; cutting whole groups would tie the two.
    """
    if module.transposed:
        return None
    if axis == "out":
        return Layout(
            tensors={"weight": 0, "bias": 0},
            attributes=("out_channels",),
            size=module.out_channels,
        )
    return Layout(
        tensors={"weight": 1},
        attributes=("in_channels",),
        size=module.in_channels // module.groups,
        per_position=module.groups,
    )


def recurrent_layout(module: nn.RNNBase, axis: Axis) -> Layout | None:
    """The layout of an LSTM, GRU or plain RNN; None where its outputs are projected (`proj_size`).

    The axis "out" has the hidden units: a unit goes from every gate, layer and direction at once,
    because all of them have one hidden size. The axis "in" has what the first layer is given.
    """
    if getattr(module, "proj_size", 0):
        return None
    directions = ("", "_reverse") if module.bidirectional else ("",)
    if axis == "in":
        return Layout(
            tensors={},
            attributes=("input_size",),
            size=module.input_size,
            gates=tuple(Span(tensor=f"weight_ih_l0{end}", dim=1) for end in directions),
        )
    # 4 for an LSTM, 3 for a GRU, 1 for a plain RNN.
    gates = len(module.get_parameter("weight_hh_l0")) // module.hidden_size
    spans: list[Span] = []
    for layer in range(module.num_layers):
        for end in directions:
            spans += [
                Span(tensor=f"{kind}_l{layer}{end}", dim=0, repeats=gates)
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            spans.append(Span(tensor=f"weight_hh_l{layer}{end}", dim=1, reads=True))
            if layer > 0:
                spans.append(
                    Span(
                        tensor=f"weight_ih_l{layer}{end}",
                        dim=1,
                        repeats=len(directions),
                        reads=True,
                    )
                )
    return Layout(
        tensors={}, attributes=("hidden_size",), size=module.hidden_size, gates=tuple(spans)
    )
