"""The peer: torch-pruning 1.6.1 as its own examples use it, half the heads and 40 % of FFN by Taylor.

The settings that its silent mistakes ask for are here (each one costs the peer accuracy if left out):
all of q, k and v are named in `num_heads`, or no head is removed; `prune_head_dims=False`, or heads lose
channels and forward() dies; layers that write the residual stream are ignored, or the hidden width goes;
widths are rounded to 8, as 921 of 1,536 columns are slower than 920.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from benchmarks.sst2 import Sst2Task
from reprune.compress.losses import first_batches

HEADS_REMOVED, FFN_REMOVED, ROUND_TO = 0.5, 0.4, 8
BATCHES = 8


def stock_pruned(task: Sst2Task, dense: nn.Module, seed: int) -> nn.Module:
    """A pruned copy of `dense`, in eval mode; `dense` is not changed.

    Exits if torch-pruning did not remove what it was asked to.
    """
    import torch_pruning as tp

    module = copy.deepcopy(dense).eval()
    attention = [layer.attention.self for layer in module.bert.encoder.layer]
    heads = {
        part: layer.num_attention_heads
        for layer in attention
        for part in (layer.query, layer.key, layer.value)
    }
    ids, mask = task.example_inputs(1)
    pruner = tp.pruner.BasePruner(
        module,
        {"ids": ids, "mask": mask},
        importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=FFN_REMOVED,
        head_pruning_ratio=HEADS_REMOVED,
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        ignored_layers=_residual_writers(module),
        round_to=ROUND_TO,
    )
    _gradients(task, module, seed)
    pruner.step()
    module.zero_grad(set_to_none=True)
    _check(module, dense)
    return module.eval()


def _residual_writers(module: nn.Module) -> list[nn.Module]:
    written: list[nn.Module] = [module.bert.embeddings, module.head]
    for layer in module.bert.encoder.layer:
        written += [layer.attention.output.dense, layer.output.dense]
    return written


def _gradients(task: Sst2Task, module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    batches = first_batches(task, "train", examples=BATCHES * task.batch_size, seed=seed)
    with torch.enable_grad():
        for batch in batches:
            loss = task.loss(module, batch, generator)
            (loss / len(batches)).backward()


def _check(module: nn.Module, dense: nn.Module) -> None:
    pairs = zip(module.bert.encoder.layer, dense.bert.encoder.layer, strict=True)
    for number, (now, before) in enumerate(pairs):
        heads = (now.attention.self.query.out_features, before.attention.self.query.out_features)
        width = (now.intermediate.dense.out_features, before.intermediate.dense.out_features)
        asked = (heads[1] * (1 - HEADS_REMOVED), width[1] * (1 - FFN_REMOVED))
        if heads[0] != asked[0] or abs(width[0] - asked[1]) >= ROUND_TO:
            raise SystemExit(
                f"torch-pruning left {heads[0]} of {heads[1]} head channels and {width[0]} of "
                f"{width[1]} FFN columns in layer {number}"
            )
