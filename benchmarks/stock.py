"""The peer: torch-pruning as its documentation uses it, with its traps avoided so that it is at its best.

Ratios are torch-pruning's own: the share of channels that go, over all prunable layers. Only what it cuts
right is offered to it: of ResNet-20 the channels inside each block. Those of the residual stream pass option
A's padding, where it computes another network without a word.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.cifar_models import BasicBlock, ResNet20
from reprune.compress.losses import first_batches
from reprune.task.protocol import Task

METHODS = ("tp_uniform", "tp_global", "tp_taylor")
STEP = 8
ROUNDED = ("tp_global",)


def stock_resnet20(  # noqa: PLR0913  what is cut, how, and from which data
    dense: ResNet20,
    method: str,
    ratio: float,
    task: Task,
    *,
    examples: int,
    seed: int,
    step: int = STEP,
) -> ResNet20:
    """`dense` cut by torch-pruning: uniform magnitude, global magnitude in steps of `step`, or global Taylor
    (gradients over `examples` of calibration). `dense` is not changed.
    """
    import torch_pruning as tp

    model = copy.deepcopy(dense).eval()
    importance = (
        tp.importance.GroupTaylorImportance()
        if method == "tp_taylor"
        else tp.importance.GroupMagnitudeImportance(p=2)
    )
    pruner = tp.pruner.BasePruner(
        model,
        task.example_inputs(2),
        importance=importance,
        global_pruning=method != "tp_uniform",
        pruning_ratio=ratio,
        round_to=step if method in ROUNDED else None,
        ignored_layers=_ignored(model),
        # Its defaults are dicts shared by all pruners of a process, and it writes into them.
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    if method == "tp_taylor":
        _gradients(model, task, examples, seed)
    pruner.step()
    model.zero_grad(set_to_none=True)
    return _rebuilt(model)


def stock_global(dense: nn.Module, ratio: float, step: int = STEP) -> nn.Module:
    """`dense` cut by torch-pruning as its documentation does it: magnitude over all layers, in steps of
    `step`, the classifier left alone; `ratio` is the share of channels that go. `dense` is not changed.
    """
    import torch_pruning as tp

    model = copy.deepcopy(dense).eval()
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    pruner = tp.pruner.BasePruner(
        model,
        torch.zeros(2, 3, 32, 32),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        round_to=step,
        ignored_layers=linear,
        # Its defaults are dicts shared by all pruners of a process, and it writes into them.
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


def _ignored(model: nn.Module) -> list[nn.Module]:
    """Every layer with weights but the first convolution of each block."""
    inner = {block.conv1 for block in model.modules() if isinstance(block, BasicBlock)}
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer not in inner
    ]


def _gradients(model: nn.Module, task: Task, examples: int, seed: int) -> None:
    model.zero_grad()
    generator = torch.Generator().manual_seed(seed)
    for batch in first_batches(task, "calibration", examples=examples, seed=seed):
        task.loss(model, batch, generator).backward()  # type: ignore[no-untyped-call]


def _rebuilt(model: nn.Module) -> ResNet20:
    """A fresh network of the widths that were left, with the weights that were left."""
    fresh = ResNet20(widths_of(model))
    fresh.load_state_dict(model.state_dict())
    return fresh.eval()


def widths_of(model: nn.Module) -> tuple[int, ...]:
    """The channels inside each of the nine blocks; 0 for a block that is gone."""
    stages: Sequence[Any] = (model.layer1, model.layer2, model.layer3)
    blocks = [block for stage in stages for block in stage]
    return tuple(
        block.conv1.out_channels if isinstance(block, BasicBlock) else 0 for block in blocks
    )
