"""Least squares for LSTM, GRU and RNN layers: units that are left, refitted to what they were given in full.

A gate of a recurrent layer is a linear map of what it reads and of the units one step before, and then a
function of that sum alone (of two sums, in a GRU's new state). So each is refitted like a Linear: its sums
in the dense network are the targets, what the cut network reads and the dense network's states of the
units that are left are the inputs. Its own states would move with the weights that are sought.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from reprune.compress.layer_calls import NOT_ALWAYS, OTHER_ROWS, NotCalled, arguments
from reprune.compress.layer_rows import row_weights, squared_norms, usual_square
from reprune.compress.least_squares import Problem
from reprune.compress.structure.layouts import Span, indices
from reprune.task.protocol import Batch

DIRECTIONS = ("", "_reverse")
KINDS = (nn.LSTM, nn.GRU, nn.RNN)

# One value a step, (sequences that have got that far, numbers).
Steps: TypeAlias = Sequence[Tensor]


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a recurrent layer is called with: the longest sequences first, and the states each begins with,
    (layers times directions, sequences, units); a layer without cells has zeros there.
    """

    steps: Steps
    hidden: Tensor
    cell: Tensor


@dataclass(frozen=True, kw_only=True)
class Way:
    """One direction of one of the stacked layers, all steps below each other, (R, ...): what it reads, the
    units one step before, and what each of the two adds to the gates' sums. `made` are the units by step.
    """

    read: Tensor
    state: Tensor
    from_read: Tensor
    from_state: Tensor
    made: Steps


def unrolls(layer: nn.RNNBase) -> bool:
    """Whether `unrolled` is what the layer does: a subclass with a forward() of its own may do anything."""
    own = "forward" in vars(layer) or layer.proj_size > 0
    return not own and type(layer).forward in {kind.forward for kind in KINDS}


def widest(layer: nn.RNNBase) -> int:
    """The inputs of its largest problem: what one of the stacked layers reads, and its units."""
    above = len(_ways(layer)) * layer.hidden_size if layer.num_layers > 1 else 0
    return max(layer.input_size, above) + layer.hidden_size


def problems_together(layer: nn.RNNBase) -> int:
    """How many problems, each of `widest` inputs at most, are summed up at a time."""
    return len(_ways(layer)) * (2 if isinstance(layer, nn.GRU) else 1)


def refit_recurrent(
    dense: nn.Module,
    cut_module: nn.Module,
    name: str,
    batches: Sequence[Batch],
    kept: Sequence[int] | None,
    *,
    ridge: float,
) -> str:
    """Replaces weights and biases of the layer `name` of `cut_module`, which has the units `kept` of the
    dense one's (None: all of them), by the least-squares solution of `compensate`; says why, where it
    does not. Every stacked layer takes a pass of both networks, since each reads what the one below it gives
    when refitted. What cannot be solved stays, and what can is replaced.
    """
    full, layer = recurrent_layer(dense, name), recurrent_layer(cut_module, name)
    units = list(range(full.hidden_size) if kept is None else kept)
    faults: list[str] = []
    parts = 0
    for number in range(full.num_layers):
        fits = [_Fit(layer, f"_l{number}{end}", units, full.hidden_size) for end in _ways(full)]
        for batch in batches:
            try:
                wanted = call_of(full, *arguments(dense, name, batch))
                given = call_of(layer, *arguments(cut_module, name, batch))
            except NotCalled:
                return NOT_ALWAYS
            if [len(step) for step in wanted.steps] != [len(step) for step in given.steps]:
                return OTHER_ROWS
            asked, found = unrolled(full, wanted, number + 1), unrolled(layer, given, number + 1)
            for fit, target, now in zip(fits, asked[-1], found[-1], strict=True):
                fit.add(target, now.read)
        parts += sum(fit.count for fit in fits)
        faults += [fault for fit in fits for fault in fit.solve(ridge)]
    if not faults:
        return ""
    return faults[0] + (f" (in {len(faults)} of {parts} parts)" if parts > 1 else "")


def recurrent_layer(module: nn.Module, name: str) -> nn.RNNBase:
    """The layer `name`, which is known to be recurrent."""
    layer = module.get_submodule(name)
    if not isinstance(layer, nn.RNNBase):
        raise TypeError(f"{name} is no recurrent layer")
    return layer


def _ways(layer: nn.RNNBase) -> tuple[str, ...]:
    return DIRECTIONS if layer.bidirectional else DIRECTIONS[:1]


class _Fit:
    """The problems of one direction of one stacked layer: LSTM and RNN have one; a GRU's new state takes
    what it reads and what it was by functions of their own.
    """

    def __init__(self, layer: nn.RNNBase, suffix: str, units: Sequence[int], full: int) -> None:
        self.weights = [getattr(layer, f"weight_{side}{suffix}") for side in ("ih", "hh")]
        self.biases = [getattr(layer, f"bias_{side}{suffix}", None) for side in ("ih", "hh")]
        gates = len(self.weights[1]) // layer.hidden_size
        self.rows = indices(Span(tensor="", dim=0, repeats=gates), full, units)
        self.units = list(units)
        # The gates' numbers that are functions of one sum.
        self.joint = len(units) * (gates - isinstance(layer, nn.GRU))
        together = torch.cat([weight[: self.joint] for weight in self.weights], dim=1)
        self.both = Problem(together, _part(self.biases[0], slice(0, self.joint)))
        self.apart = [
            Problem(weight[self.joint :], _part(bias, slice(self.joint, None)))
            for weight, bias in zip(self.weights, self.biases, strict=True)
            if isinstance(layer, nn.GRU)
        ]
        self.usual = 0.0

    @property
    def count(self) -> int:
        """How many problems there are."""
        return 1 + len(self.apart)

    def add(self, target: Way, read: Tensor) -> None:
        """Takes up a batch: what the dense layer did, and what the cut one reads."""
        sides = [_plain(side)[:, self.rows] for side in (target.from_read, target.from_state)]
        inputs = [_plain(read), _plain(target.state)[:, self.units]]
        squares = squared_norms(sides[0] + sides[1])
        self.usual = self.usual or usual_square(squares)
        roots = row_weights(squares, self.usual).sqrt()[:, None]
        wanted = (sides[0] + sides[1])[:, : self.joint]
        if self.biases[1] is not None:
            wanted = wanted - _plain(self.biases[1][: self.joint])
        self.both.add(torch.cat(inputs, dim=1), wanted, roots)
        for problem, x, y in zip(self.apart, inputs, sides, strict=False):
            problem.add(x, y[:, self.joint :], roots)

    def solve(self, ridge: float) -> list[str]:
        """Replaces what the problems give; the reasons of those without a solution."""
        faults = [fault for problem in (self.both, *self.apart) if (fault := problem.solve(ridge))]
        at = 0
        for weight in self.weights:
            weight[: self.joint].copy_(self.both.weight[:, at : at + weight.shape[1]])
            at += weight.shape[1]
        return faults


def _plain(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float64)


def _part(bias: Tensor | None, rows: slice) -> Tensor | None:
    return None if bias is None else bias[rows]


def call_of(layer: nn.RNNBase, given: Sequence[Any], named: Mapping[str, Any]) -> Call:
    """The call with these arguments, whichever way the layer takes sequences."""
    called = dict(zip(("input", "hx"), given, strict=False)) | dict(named)
    read, start = called["input"], called.get("hx")
    order = None
    if isinstance(read, PackedSequence):
        steps: Steps = torch.split(read.data, read.batch_sizes.tolist())
        order = read.sorted_indices
    else:
        wide = read if read.dim() == 3 else read.unsqueeze(0 if layer.batch_first else 1)
        steps = wide.unbind(1 if layer.batch_first else 0)
    # Under autocast the layer casts what it is given, which may be of another type than its weights.
    kind = layer.get_parameter("weight_hh_l0").dtype
    steps = [step.to(kind) for step in steps]
    states = [start] if isinstance(start, Tensor) else list(start or ())
    states = [state.to(kind) for state in states]
    states = [state if state.dim() == 3 else state.unsqueeze(1) for state in states]
    if order is not None:
        states = [state.index_select(1, order) for state in states]
    count = layer.num_layers * len(_ways(layer))
    zeros = steps[0].new_zeros(count, len(steps[0]), layer.hidden_size)
    hidden, cell = (*states, zeros, zeros)[:2]
    return Call(steps=steps, hidden=hidden, cell=cell)


def unrolled(layer: nn.RNNBase, call: Call, stacked: int | None = None) -> list[list[Way]]:
    """What the layer does in eval mode, step by step: the directions of all or its first `stacked` layers."""
    found: list[list[Way]] = []
    steps, ends = call.steps, _ways(layer)
    for number in range(layer.num_layers if stacked is None else stacked):
        ways = []
        for way, end in enumerate(ends):
            at = number * len(ends) + way
            ways.append(_way(layer, f"_l{number}{end}", steps, call.hidden[at], call.cell[at]))
        found.append(ways)
        steps = [torch.cat(made, dim=1) for made in zip(*(way.made for way in ways), strict=True)]
    return found


def _way(layer: nn.RNNBase, suffix: str, steps: Steps, hidden: Tensor, cell: Tensor) -> Way:
    """One direction; sequences end, or begin where it runs backwards, when their steps do."""
    weights = {side: getattr(layer, f"weight_{side}{suffix}") for side in ("ih", "hh")}
    biases = {side: getattr(layer, f"bias_{side}{suffix}", None) for side in ("ih", "hh")}
    states, inner, made = [], [], []
    outer = [nn.functional.linear(step, weights["ih"], biases["ih"]) for step in steps]
    backwards = suffix.endswith(DIRECTIONS[1])
    now_hidden, now_cell = hidden[:0], cell[:0]
    for number in reversed(range(len(steps))) if backwards else range(len(steps)):
        # Those that have ended are last, those that begin come after those that run.
        running = len(steps[number])
        now_hidden = torch.cat([now_hidden[:running], hidden[len(now_hidden) : running]])
        now_cell = torch.cat([now_cell[:running], cell[len(now_cell) : running]])
        states.append(now_hidden)
        inner.append(nn.functional.linear(now_hidden, weights["hh"], biases["hh"]))
        now_hidden, now_cell = _step(layer, outer[number], inner[-1], now_hidden, now_cell)
        made.append(now_hidden)
    if backwards:
        states, inner, made = states[::-1], inner[::-1], made[::-1]
    return Way(
        read=torch.cat(list(steps)),
        state=torch.cat(states),
        from_read=torch.cat(outer),
        from_state=torch.cat(inner),
        made=made,
    )


def _step(
    layer: nn.RNNBase, outer: Tensor, inner: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """The units and cells after one step (the formulas of the layers' own documentation)."""
    if isinstance(layer, nn.LSTM):
        enter, forget, new, out = (outer + inner).chunk(4, dim=1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        return out.sigmoid() * cell.tanh(), cell
    if isinstance(layer, nn.GRU):
        reads, read_new = outer.tensor_split((2 * hidden.shape[1],), dim=1)
        was, was_new = inner.tensor_split((2 * hidden.shape[1],), dim=1)
        reset, keep = (reads + was).sigmoid().chunk(2, dim=1)
        new = (read_new + reset * was_new).tanh()
        return (1.0 - keep) * new + keep * hidden, cell
    total = outer + inner
    return (total.relu() if layer.mode == "RNN_RELU" else total.tanh()), cell
