"""Repairs that need no training: least-squares weights for the readers of cut channels, and BN statistics.

Compensation solves, for each layer that lost inputs, for the weights that bring its outputs nearest to
the dense network's: targets from the dense network, inputs from the network as already cut and
compensated before it ("asymmetric", as in He et al., arXiv:1707.06168, and Frantar et al.,
arXiv:2208.11580). It decides how good a one-shot cut is; after recovery training it is worth little.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from reprune.compress.layer_calls import (
    NOT_ALWAYS,
    OTHER_ROWS,
    Forwarded,
    Inputs,
    NotCalled,
    Targets,
    dense_targets,
)
from reprune.compress.layer_rows import columns_of, input_rows, linear_rows
from reprune.compress.least_squares import Problem
from reprune.compress.recurrent_fit import problems_together, refit_recurrent, unrolls, widest
from reprune.compress.replay import Timeline, forward_order
from reprune.compress.structure.architecture import Architecture
from reprune.compress.structure.groups import Group
from reprune.measure.outputs import evaluating
from reprune.task.protocol import Batch

# What the least-squares problem of one layer may take: the sums of every group, and two more matrices
# of that size to solve one. Without groups and in float64 that are 13,376 inputs and a bias.
FIT_BYTES = 4 * 2**30
# A layer that lost no input is refitted only from so many rows an input: least squares follow the noise of
# fewer, and nothing is lost that would have to be made up for.
ROWS_TO_FOLLOW = 4


@dataclass(frozen=True, kw_only=True)
class Compensated:
    """The refitted network. `attempted` are the layers whose problems were set up; `unfitted` names the
    readers of cut channels that kept their weights, or a part of them, and `left` the layers behind them that
    were to be refitted too, each with the reason. `forwarded` examples went through either network, at most.
    """

    module: nn.Module
    attempted: tuple[str, ...]
    unfitted: Mapping[str, str]
    left: Mapping[str, str]
    forwarded: int


def compensate(
    dense: nn.Module,
    cut_module: nn.Module,
    architecture: Architecture,
    groups: Iterable[Group],
    batches: Iterable[Batch],
    ridge: float,
) -> nn.Module:
    """The network of `compensated`."""
    return compensated(dense, cut_module, architecture, groups, batches, ridge).module


def compensated(  # noqa: PLR0913  what a fit depends on, none of it a part of another
    dense: nn.Module,
    cut_module: nn.Module,
    architecture: Architecture,
    groups: Iterable[Group],
    batches: Iterable[Batch],
    ridge: float,
    *,
    onwards: bool = False,
) -> Compensated:
    """A copy of `cut_module` whose readers of cut channels are refitted to the dense network's outputs; with
    `onwards`, so are the linear layers and convolutions that run after the first change, behind a removed
    block too: what they are given is another.

    For each such convolution (transposed ones too) or Linear, in the order of the forward pass, weights W
    and bias minimise mean |x W - y|^2 + ridge * s * |W - W_now|^2, where s is the mean square of x: with
    few or uninformative examples the weights stay as they are. Rows of the mean whose y is an outlier count
    less (`layer_rows.row_weights`). Each group of a grouped convolution is a
    problem of its own. The ridge is raised tenfold until no weight is more than 4 times as large as the
    largest there was. Sums are float64. Convolutions see at most a fixed number of positions, chosen by a
    fixed seed. The sums in the gates of recurrent layers are fitted likewise (`recurrent_fit`).

    Layers whose problem does not fit FIT_BYTES, whose inputs are all zero, or which the cut network gives
    other rows than the dense one stay as they are. So do layers that lost nothing themselves and are
    frozen, called twice, share their weights, or see fewer than four rows an input. Neither argument is
    changed.
    """
    result = copy.deepcopy(cut_module).eval()
    examples = list(batches)
    cut = {(item.module, item.axis): item.keep for item in architecture.cuts}
    lost = _lost_inputs(result, architecture, groups)
    order, when = forward_order(result, examples[0].inputs)
    forwarded = Forwarded(len(examples[0]))
    unfitted = _static_reasons(result, lost, order)
    behind = _behind(dense, result, architecture, order, when) if onwards else {}
    left = {name: why for name, why in behind.items() if why and name not in lost}
    wanted = [n for n in order if n not in unfitted | left and (n in lost or n in behind)]
    inputs = Inputs(result, when, examples, forwarded)
    attempted = []
    with torch.no_grad(), evaluating(dense):
        for name, targets in _with_targets(dense, wanted, examples, forwarded):
            layer, outputs = result.get_submodule(name), cut.get((name, "out"))
            if isinstance(layer, nn.RNNBase):
                attempted.append(name)
                forwarded.examples += 2 * layer.num_layers * sum(map(len, examples))
                fault = refit_recurrent(dense, result, name, examples, outputs, ridge=ridge)
            elif targets is None or not _is_linear(layer):
                raise RuntimeError(f"{name} is no layer that can be fitted")
            elif targets.batches < len(examples):
                fault = NOT_ALWAYS
            elif name not in lost and targets.count < ROWS_TO_FOLLOW * columns_of(layer):
                fault = f"it sees fewer than {ROWS_TO_FOLLOW} rows an input"
            else:
                attempted.append(name)
                fault = _refit(layer, inputs.of(name), targets, outputs, ridge=ridge)
            if fault:
                (unfitted if name in lost else left)[name] = fault
    return Compensated(
        module=result,
        attempted=tuple(attempted),
        unfitted=unfitted,
        left=left,
        forwarded=forwarded.examples,
    )


def _lost_inputs(
    module: nn.Module, architecture: Architecture, groups: Iterable[Group]
) -> list[str]:
    """The readers of cut channels, as the architecture orders them. A recurrent layer reads its own units."""
    readers = {member.module for group in groups for member in group.members if member.axis == "in"}
    return list(
        dict.fromkeys(
            item.module
            for item in architecture.cuts
            if isinstance(module.get_submodule(item.module), nn.RNNBase)
            or (item.axis == "in" and item.module in readers)
        )
    )


def _behind(
    dense: nn.Module,
    module: nn.Module,
    architecture: Architecture,
    order: Sequence[str],
    when: Timeline,
) -> dict[str, str]:
    """The layers with weights to fit that run after the first change: why each is left if it lost nothing
    itself; empty where it is refitted.
    """
    changed = {item.module for item in architecture.cuts}
    changed |= {removal.module for removal in architecture.removed}
    first = next((place for place, name in enumerate(order) if name in changed), len(order))
    known = {name for name, _ in dense.named_modules()}
    owners = Counter(id(one) for _, one in module.named_parameters(remove_duplicate=False))
    found = {}
    for name in order[first:]:
        layer = module.get_submodule(name)
        if name in known and (_is_linear(layer) or isinstance(layer, nn.RNNBase)):
            again = "" if name in when.began else "it is called more than once"
            found[name] = again or _why_left(layer, owners)
    return found


def _why_left(layer: nn.Module, owners: Mapping[int, int]) -> str:
    """Why a layer that lost nothing keeps its weights: they are not its own to change, or not to fit."""
    if isinstance(layer, nn.RNNBase):
        return "a recurrent layer is refitted where it lost inputs or units"
    if "weight" not in layer._parameters:
        return "its weights are made by a parametrisation"
    if not all(one.requires_grad for one in layer.parameters()):
        return "it is frozen"
    if any(owners[id(one)] > 1 for one in layer.parameters()):
        return "it shares its weights"
    return unfit(layer)


def _with_targets(
    dense: nn.Module, names: Sequence[str], batches: Sequence[Batch], forwarded: Forwarded
) -> Iterator[tuple[str, Targets | None]]:
    """The layers in order, with the dense network's rows of those whose outputs are their sums."""
    for recurrent, run in groupby(
        names, lambda name: isinstance(dense.get_submodule(name), nn.RNNBase)
    ):
        if recurrent:
            yield from ((name, None) for name in run)
        else:
            for portion in dense_targets(dense, list(run), batches, forwarded):
                yield from portion.items()


def _static_reasons(module: nn.Module, lost: Sequence[str], order: Sequence[str]) -> dict[str, str]:
    """Of the layers that lost inputs, those of which it is known before anything runs that they cannot
    be refitted.
    """
    reasons = {}
    for name in lost:
        called = "" if name in order else "forward() does not call it"
        reasons[name] = unfit(module.get_submodule(name)) or called
    return {name: reason for name, reason in reasons.items() if reason}


def recalibrate(module: nn.Module, batches: Iterable[Batch]) -> nn.Module:
    """A copy of `module` in eval mode whose BatchNorms hold the plain average of the batches' statistics.

    Only running means and variances differ. Batches of one example are left out: they have no
    variance. Other layers (dropout) stay in eval mode meanwhile.
    """
    result = copy.deepcopy(module)
    renew_statistics(result, batches)
    return result


def renew_statistics(
    module: nn.Module, batches: Iterable[Batch], only: Sequence[_BatchNorm] | None = None
) -> None:
    """Does in place what `recalibrate` does to a copy, to all BatchNorms or to `only` some: `module` is in
    eval mode afterwards.
    """
    module.eval()
    norms = batch_norms(module) if only is None else only
    usable = [batch for batch in batches if len(batch) > 1]
    if not usable or not norms:
        return
    before = [(norm, norm.momentum, _count(norm)) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
        norm.train()
    with torch.no_grad():
        for batch in usable:
            module(*batch.inputs)
    for norm, momentum, tracked in before:
        norm.momentum = momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(tracked)
    module.eval()


def _count(norm: _BatchNorm) -> int:
    return 0 if norm.num_batches_tracked is None else int(norm.num_batches_tracked)


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The layers whose statistics `recalibrate` replaces."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    ]


def _is_linear(layer: nn.Module) -> TypeGuard[_ConvNd | nn.Linear]:
    return isinstance(layer, _ConvNd | nn.Linear)


def unfit(layer: nn.Module) -> str:
    """Why `compensate` leaves a layer of this kind and size as it is; empty where it refits it."""
    if isinstance(layer, nn.RNNBase) and unrolls(layer):
        columns, sums = widest(layer), problems_together(layer)
    elif _is_linear(layer):
        columns, sums = columns_of(layer), layer.groups if isinstance(layer, _ConvNd) else 1
    else:
        return f"no least squares for {type(layer).__name__}"
    if isinstance(layer, _ConvNd) and layer.transposed and layer.groups > 1:
        return "no least squares for grouped transposed convolutions"
    size = 8 * (sums + 2) * (columns + 1) ** 2
    if size > FIT_BYTES:
        return (
            f"least squares over its {columns} inputs would take {size / 2**30:.1f} GiB, "
            f"{FIT_BYTES / 2**30:g} GiB are allowed"
        )
    return ""


def _refit(
    layer: _ConvNd | nn.Linear,
    inputs: Iterator[Tensor],
    targets: Targets,
    outputs: Sequence[int] | None,
    *,
    ridge: float,
) -> str:
    """Replaces the layer's weight and bias by the solution of `compensate`; says why, where it does not."""
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    transposed = isinstance(layer, _ConvNd) and layer.transposed
    filters = layer.weight.movedim(0, 1) if transposed else layer.weight
    biases = [None] * groups if layer.bias is None else layer.bias.chunk(groups)
    problems = [
        Problem(weight, bias) for weight, bias in zip(filters.chunk(groups), biases, strict=True)
    ]
    try:
        for place, given in enumerate(inputs):
            x = _rows(layer, given, targets.sizes[place], targets.places[place])
            y = targets.rows[place].to(torch.float64)
            if len(x) != len(y):
                return OTHER_ROWS
            if outputs is not None:
                y = y[:, list(outputs)]
            roots = targets.weights(place).sqrt()[:, None]
            parts = zip(problems, x.chunk(groups, dim=1), y.chunk(groups, dim=1), strict=True)
            for problem, read, wanted in parts:
                problem.add(read, wanted, roots)
    except NotCalled:
        return NOT_ALWAYS
    faults = [fault for problem in problems if (fault := problem.solve(ridge))]
    if not faults:
        return ""
    return faults[0] if groups == 1 else f"{faults[0]} (in {len(faults)} of {groups} groups)"


def _rows(
    layer: _ConvNd | nn.Linear, given: Tensor, size: Sequence[int], chosen: Tensor | None
) -> Tensor:
    """Rows of the layer's inputs, float64."""
    if chosen is not None and isinstance(layer, _ConvNd):
        x = input_rows(layer, given, size, chosen)
    else:
        x = linear_rows(given)
    return x.to("cpu", torch.float64)
