"""Repairs that need no training: least-squares weights for the readers of cut channels, and BN statistics.

Compensation solves, for each layer that lost inputs, for the weights that bring its outputs nearest to
the dense network's: targets from the dense network, inputs from the network as already cut and
compensated before it ("asymmetric", as in He et al., arXiv:1707.06168, and Frantar et al.,
arXiv:2208.11580). It decides how good a one-shot cut is; after recovery training it is worth little.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reprune.compress.layer_rows import Inputs, Targets, dense_targets, input_rows
from reprune.compress.replay import forward_order
from reprune.compress.structure.architecture import Architecture
from reprune.compress.structure.groups import Group
from reprune.measure.outputs import evaluating
from reprune.task.protocol import Batch

# A fit may lean on inputs that hardly ever vary by giving them huge weights: the calibration loss falls a
# little, and one such weight takes the resolution of every other when the layer is stored in integers.
# 4 is what a removed channel three times as large as its kept twin can ask for.
MAX_GROWTH = 4.0
# How often the penalty is raised tenfold before the layer is left as it is.
RAISES = 6
# Columns of the least-squares problem that still fit memory.
MAX_COLUMNS = 8_192


def compensate(
    dense: nn.Module,
    cut_module: nn.Module,
    architecture: Architecture,
    groups: Iterable[Group],
    batches: Iterable[Batch],
    ridge: float,
) -> nn.Module:
    """A copy of `cut_module` whose readers of cut channels are refitted to the dense network's outputs.

    For each such Conv2d or Linear, in the order of the forward pass, weights W and bias minimise
    mean |x W - y|^2 + ridge * s * |W - W_now|^2, where s is the mean square of x: with few or
    uninformative examples the weights stay as they are. The ridge of a layer is raised tenfold until no
    weight is more than 4 times as large as the layer's largest was. Sums are float64. Convolutions see
    at most a fixed number of positions, chosen by a fixed seed. Layers of other kinds, with more than
    8,192 inputs, or whose inputs are all zero stay as they are. Neither argument is changed.
    """
    result = copy.deepcopy(cut_module).eval()
    examples = list(batches)
    readers = {member.module for group in groups for member in group.members if member.axis == "in"}
    cut = {(item.module, item.axis): item.keep for item in architecture.cuts}
    order, when = forward_order(result, examples[0].inputs)
    wanted = [
        name
        for name in order
        if name in readers and (name, "in") in cut and can_fit(result.get_submodule(name))
    ]
    inputs = Inputs(result, when, examples)
    with torch.no_grad(), evaluating(dense):
        for portion in dense_targets(dense, wanted, examples):
            for name, targets in portion.items():
                outputs = cut.get((name, "out"))
                _refit(result.get_submodule(name), inputs.of(name), targets, outputs, ridge=ridge)
    return result


def recalibrate(module: nn.Module, batches: Iterable[Batch]) -> nn.Module:
    """A copy of `module` in eval mode whose BatchNorms hold the plain average of the batches' statistics.

    Only running means and variances differ. Batches of one example are left out: they have no
    variance. Other layers (dropout) stay in eval mode meanwhile.
    """
    result = copy.deepcopy(module)
    renew_statistics(result, batches)
    return result


def renew_statistics(module: nn.Module, batches: Iterable[Batch]) -> None:
    """Does in place what `recalibrate` does to a copy: `module` is in eval mode afterwards."""
    module.eval()
    norms = batch_norms(module)
    usable = [batch for batch in batches if len(batch) > 1]
    if not usable:
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


def can_fit(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        columns = layer.in_channels * math.prod(layer.kernel_size)
        return layer.groups == 1 and columns <= MAX_COLUMNS
    return isinstance(layer, nn.Linear) and layer.in_features <= MAX_COLUMNS


def _refit(
    layer: nn.Module,
    inputs: Iterator[Tensor],
    targets: Targets,
    outputs: Sequence[int] | None,
    *,
    ridge: float,
) -> None:
    """Replaces the layer's weight and bias by the solution of `compensate`."""
    weight: Tensor = layer.weight  # type: ignore[assignment]  # Conv2d or Linear
    bias: Tensor | None = layer.bias  # type: ignore[assignment]  # as above
    now = _matrix(weight, bias)
    gram = torch.zeros(now.shape[0], now.shape[0], dtype=torch.float64)
    moment = torch.zeros_like(now)
    rows = 0
    for place, given in enumerate(inputs):
        x = _rows(layer, given, targets.widths[place], targets.places[place])
        y = targets.rows[place].to(torch.float64)
        gram += x.T @ x
        moment += x.T @ (y if outputs is None else y[:, list(outputs)])
        rows += len(x)
    columns = now.shape[0] - (bias is not None)
    scale = float(gram.diagonal()[:columns].mean()) / max(rows, 1)
    if not math.isfinite(scale) or scale <= 0.0:
        return
    # The bias has no penalty to speak of: it is what a removed channel's mean turns into.
    penalty = torch.full((now.shape[0],), ridge * scale, dtype=torch.float64)
    penalty[columns:] *= 1e-6
    fitted = fit_within(gram / rows, (moment - gram @ now) / rows, now, penalty, columns)
    if fitted is not None:
        weight.copy_(fitted.T[:, :columns].reshape(weight.shape))
        if bias is not None:
            bias.copy_(fitted.T[:, columns])


def fit_within(
    gram: Tensor, residual: Tensor, now: Tensor, penalty: Tensor, columns: int
) -> Tensor | None:
    """The ridge solution around `now` with the least penalty, of tenfold steps, under which the first
    `columns` rows stay within MAX_GROWTH of the largest there; None where there is none.
    """
    limit = MAX_GROWTH * float(now[:columns].abs().max())
    for raised in range(RAISES + 1):
        system = gram + torch.diag(penalty * 10.0**raised)
        step, singular = torch.linalg.solve_ex(system, residual)
        if int(singular) or not bool(step.isfinite().all()):
            continue
        fitted: Tensor = now + step
        if float(fitted[:columns].abs().max()) <= limit:
            return fitted
    return None


def _matrix(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Weights as columns of (inputs, outputs), the bias as the last row, float64."""
    rows = weight.detach().flatten(1).to(device="cpu", dtype=torch.float64).T
    if bias is None:
        return rows.contiguous()
    return torch.cat([rows, bias.detach().to(device="cpu", dtype=torch.float64)[None]])


def _rows(layer: nn.Module, given: Tensor, width: int, chosen: Tensor | None) -> Tensor:
    """Rows of the layer's inputs, a 1 appended for the bias, float64."""
    if chosen is not None and isinstance(layer, nn.Conv2d):
        x = input_rows(layer, given, width, chosen)
    else:
        x = given.flatten(0, -2)
    x = x.to("cpu", torch.float64)
    if layer.bias is None:
        return x
    return torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
