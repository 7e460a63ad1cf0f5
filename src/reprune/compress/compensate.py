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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
# Rows of the least-squares problem that are kept a layer, at least; and columns that still fit memory.
MIN_ROWS = 32_768
ROWS_PER_COLUMN = 8
MAX_COLUMNS = 8_192
POSITION_SEED = 0


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
    with torch.no_grad(), evaluating(dense):
        for name in _in_forward_order(result, examples[:1]):
            layer = result.get_submodule(name)
            if name in readers and (name, "in") in cut and can_fit(layer):
                _refit(dense, result, name, cut.get((name, "out")), examples, ridge=ridge)
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


def _in_forward_order(module: nn.Module, batches: Sequence[Batch]) -> list[str]:
    order: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, layer in module.named_modules()
    ]
    for batch in batches:
        module(*batch.inputs)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(order))


def _refit(
    dense: nn.Module,
    module: nn.Module,
    name: str,
    outputs: Sequence[int] | None,
    batches: Sequence[Batch],
    *,
    ridge: float,
) -> None:
    """Replaces weight and bias of the layer `name` of `module` by the solution of `compensate`."""
    layer = module.get_submodule(name)
    weight: Tensor = layer.weight  # type: ignore[assignment]  # Conv2d or Linear
    bias: Tensor | None = layer.bias  # type: ignore[assignment]  # as above
    now = _matrix(weight, bias)
    gram = torch.zeros(now.shape[0], now.shape[0], dtype=torch.float64)
    moment = torch.zeros_like(now)
    rows = 0
    for x, y in _pairs(dense, module, name, batches):
        target = y if outputs is None else y[:, list(outputs)]
        gram += x.T @ x
        moment += x.T @ target
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


def _pairs(
    dense: nn.Module, module: nn.Module, name: str, batches: Sequence[Batch]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch by batch, rows of the layer's inputs in `module` (a 1 appended for the bias) and of its
    outputs in `dense` at the same positions.
    """
    layer = module.get_submodule(name)
    generator = torch.Generator().manual_seed(POSITION_SEED)
    columns = _matrix(layer.weight, None).shape[0]  # type: ignore[arg-type]  # Conv2d or Linear
    examples = sum(len(batch) for batch in batches)
    budget = math.ceil(max(MIN_ROWS, ROWS_PER_COLUMN * columns) / examples)
    for batch in batches:
        x = _seen(module, name, batch, outputs=False)
        y = _seen(dense, name, batch, outputs=True)
        if isinstance(layer, nn.Conv2d):
            x, y = patches(layer, x, y, positions=budget, generator=generator)
        else:
            x, y = x.flatten(0, -2), y.flatten(0, -2)
        x, y = x.to("cpu", torch.float64), y.to("cpu", torch.float64)
        if layer.bias is not None:
            x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
        yield x, y


def _seen(module: nn.Module, name: str, batch: Batch, *, outputs: bool) -> Tensor:
    """What the layer `name` is given (or gives) at its first call on the batch; what comes after the
    layer is not run.
    """
    seen: list[Tensor] = []

    def keep_given(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.append((*given, *named.values())[0].detach().clone())
        raise _Seen

    def keep_made(_: nn.Module, __: object, made: Tensor) -> None:
        seen.append(made.detach().clone())
        raise _Seen

    layer = module.get_submodule(name)
    hook = (
        layer.register_forward_hook(keep_made)
        if outputs
        else layer.register_forward_pre_hook(keep_given, with_kwargs=True)
    )
    try:
        module(*batch.inputs)
    except _Seen:
        pass
    finally:
        hook.remove()
    return seen[0]


class _Seen(BaseException):
    """Ends a forward pass early; no `except Exception` of a user's forward() may catch it."""


def patches(
    layer: nn.Conv2d, x: Tensor, y: Tensor, *, positions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The receptive fields of up to `positions` places of `y`, the same places for every example.

    x: (N, C, H, W), y: (N, K, H', W') -> (N * P, C * kh * kw), (N * P, K).
    """
    height, width = y.shape[-2:]
    chosen = torch.randperm(height * width, generator=generator)[:positions].sort().values
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    top = torch.div(chosen, width, rounding_mode="floor") * layer.stride[0]
    left = chosen % width * layer.stride[1]
    rows = top[:, None] + torch.arange(layer.kernel_size[0]) * layer.dilation[0]
    columns = left[:, None] + torch.arange(layer.kernel_size[1]) * layer.dilation[1]
    fields = padded[:, :, rows[:, :, None], columns[:, None, :]]  # N, C, P, kh, kw
    return fields.movedim(2, 1).flatten(2).flatten(0, 1), y.flatten(2)[:, :, chosen].movedim(
        1, 2
    ).flatten(0, 1)
