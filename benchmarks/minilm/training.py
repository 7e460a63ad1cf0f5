"""Fine-tuning as people do it: AdamW, dropout, batches of equal length. The dense model and its control."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from benchmarks.sst2 import Sst2Task, to_device

RATE, HEAD_RATE, WEIGHT_DECAY, CLIP = 5e-5, 1e-3, 0.01, 1.0
WARM = 0.1


def fine_tuned(
    task: Sst2Task, module: nn.Module, *, epochs: int, seed: int, device: str
) -> nn.Module:
    """A copy of `module` after `epochs` over train, on the CPU in eval mode.

    AdamW at 5e-5 (the head at 1e-3), linear warm-up over a tenth of the steps and linear fall to 0.
    """
    module = copy.deepcopy(module).to(device).train()
    head = set(module.head.parameters())
    body = [parameter for parameter in module.parameters() if parameter not in head]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": RATE}, {"params": list(head), "lr": HEAD_RATE}],
        weight_decay=WEIGHT_DECAY,
    )
    steps = epochs * sum(1 for _ in task.batches("train", epoch=0, seed=seed))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share(step, steps))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(seed)
        total = torch.zeros((), device=device)
        for epoch in range(epochs):
            for batch in task.batches("train", epoch=epoch, seed=seed):
                loss = task.loss(module, to_device(batch, device), generator)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(module.parameters(), CLIP)
                optimizer.step()
                schedule.step()
                total += loss.detach()
    if not math.isfinite(float(total)):
        raise SystemExit(f"the loss of seed {seed} is not finite")
    return module.cpu().eval()


def share(step: int, steps: int) -> float:
    """The share of the learning rate at `step` of `steps`."""
    warm = max(1, round(WARM * steps))
    return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))
