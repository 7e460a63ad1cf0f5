"""What stands for a recurrent layer while couplings are traced.

torch-pruning follows neither a GRU nor both directions of an LSTM, and knows nothing of final states.
A linear layer with the same inputs, outputs and states is followed exactly; which units of it are one
unit of the real layer is known from its shape (see `layouts.recurrent_layout`). Whether the cut is
right is not taken from here: `groups.survey` tries it on the real layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from reprune.compress.structure.layouts import recurrent_layout

# What forward() may read of a recurrent layer.
NUMBERS = (
    "mode",
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "proj_size",
)

State = Tensor | tuple[Tensor, Tensor]


class Final(nn.LayerNorm):
    """Stands on one direction's final state, so that torch-pruning knows how wide that is; it counts
    what comes out of a stack otherwise only where a layer made it.
    """


class StandIn(nn.Module):
    """Called and read like the recurrent `layer`, with no memory. `units` makes all its outputs."""

    num_layers: int
    hidden_size: int
    batch_first: bool

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        for name in NUMBERS:
            setattr(self, name, getattr(layer, name))
        self.directions = 2 if layer.bidirectional else 1
        self.has_cell = isinstance(layer, nn.LSTM)
        weight = layer.get_parameter("weight_hh_l0")
        self.units = nn.Linear(
            layer.input_size,
            self.directions * layer.hidden_size,
            device=weight.device,
            dtype=weight.dtype,
        )
        self.finals = nn.ModuleList(
            Final(layer.hidden_size, device=weight.device, dtype=weight.dtype)
            for _ in range(self.directions)
        )

    def forward(
        self,
        input: Tensor | PackedSequence,  # torch's own name: forward() may use it
        hx: State | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        given = input
        values: Tensor = self.units(given.data if isinstance(given, PackedSequence) else given)
        # What makes the first state has the same units.
        for start in (hx,) if isinstance(hx, Tensor) else (hx or ()):
            values = values + self._wide(start)
        if isinstance(given, PackedSequence):
            # Without slices: torch-pruning takes one of the first dimension for one of channels.
            last = values.mean(0) + values.new_zeros(int(given.batch_sizes[0]), 1)
        else:
            last = values.select(1 if values.ndim == 3 and self.batch_first else 0, -1)
        # With sizes, which torch-pruning reads; of chunk() it guesses them from what comes behind.
        ends = last.split_with_sizes([self.hidden_size] * self.directions, dim=last.ndim - 1)
        hidden = torch.stack([final(end) for final, end in zip(self.finals, ends, strict=True)])
        hidden = hidden.repeat(self.num_layers, *(1 for _ in last.shape))
        made = given._replace(data=values) if isinstance(given, PackedSequence) else values
        return made, ((hidden, hidden) if self.has_cell else hidden)

    def flatten_parameters(self) -> None:
        """Nothing: there is no memory to be laid out."""

    def _wide(self, start: Tensor) -> Tensor:
        """The last layer's state, both directions side by side, to be added to all outputs."""
        ways = [start.select(0, -1 - way) for way in reversed(range(self.directions))]
        wide = torch.cat(ways, dim=-1) if self.directions == 2 else ways[0]
        return wide.sum(0, keepdim=True) if wide.ndim == 2 else wide


def with_stand_ins(module: nn.Module) -> nn.Module:
    """`module` itself, its recurrent layers replaced as far as they can be cut. Give it a copy."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.RNNBase) and recurrent_layout(layer, "out") is not None:
            if not name:
                return StandIn(layer)
            module.set_submodule(name, StandIn(layer))
    return module


def traced_layer(model: nn.Module, name: str) -> nn.Module:
    """The layer that stands in the traced `model` for the layer `name` of the real one."""
    layer = model.get_submodule(name)
    return layer.units if isinstance(layer, StandIn) else layer


def real_names(model: nn.Module) -> dict[nn.Linear, str]:
    """The traced layers of stand-ins to the names of what they stand for."""
    return {
        layer.units: name for name, layer in model.named_modules() if isinstance(layer, StandIn)
    }
