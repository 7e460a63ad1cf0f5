"""What each block is worth: the loss on `tune` when that block alone is removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reprune.compress.architecture import apply
from reprune.compress.compensate import batch_norms, recalibrate
from reprune.compress.costs import block_key
from reprune.compress.equality import architecture_of
from reprune.compress.losses import first_batches, mean_loss
from reprune.compress.paired import BatchLosses, at_most, batch_losses, paired_increase
from reprune.compress.sensitivity import RUINED, Subject
from reprune.core import store
from reprune.core.artifacts import BlockSensitivity, Fact
from reprune.core.documents import decode_json
from reprune.core.errors import DocumentError

if TYPE_CHECKING:
    from torch import nn

    from reprune.compress.blocks import Block
    from reprune.core.params import PruneParams, SensitivityParams

PROGRESS_FILE = "block-sensitivity.json"


class Progress(Fact, kw_only=True):
    """Batch losses of the dense model, and without each block."""

    base: BatchLosses
    removed: dict[str, tuple[float, ...]] = {}


def measure_blocks(  # noqa: PLR0913  what `sensitivity.measure` takes, and the blocks
    subject: Subject,
    blocks: Sequence[Block],
    params: SensitivityParams,
    prune: PruneParams,
    *,
    seed: int,
    work: Path,
    say: Callable[[str], None],
) -> tuple[BlockSensitivity, ...]:
    """Every block's loss increase, paired with the dense model's on the examples of `params`.

    BatchNorms are recalibrated where `prune` allows it and it lowers the calibration loss. What is
    finished is written to `work`; a run that was killed goes on from there with the same result.
    """
    if not blocks:
        return ()
    batches = list(at_most(subject.task, "tune", examples=params.examples, seed=seed))
    path = work / PROGRESS_FILE
    progress = _read(path) or Progress(
        base=batch_losses(subject.task, subject.module, batches, seed=seed)
    )
    most = RUINED * max(1.0, abs(progress.base.mean))
    for block in blocks:
        if block.name in progress.removed:
            continue
        found = batch_losses(
            subject.task, _without(subject, block, prune, seed), batches, seed=seed
        )
        losses = tuple(min(loss, most) if math.isfinite(loss) else most for loss in found.losses)
        progress = msgspec.structs.replace(
            progress, removed=progress.removed | {block.name: losses}
        )
        store.write_bytes(path, msgspec.json.encode(progress))
        after = BatchLosses(losses=losses, sizes=progress.base.sizes)
        say(f"sensitivity: without {block.name}, loss {progress.base.mean:.4f} -> {after.mean:.4f}")
    return tuple(_row(subject, block, progress) for block in blocks)


def _row(subject: Subject, block: Block, progress: Progress) -> BlockSensitivity:
    after = BatchLosses(losses=progress.removed[block.name], sizes=progress.base.sizes)
    increase, error = paired_increase(after, progress.base)
    cost = subject.cost({block_key(block.name): 0})
    return BlockSensitivity(
        block=block.name,
        loss_increase=increase,
        standard_error=error,
        macs=cost.macs,
        params=cost.params,
    )


def _without(subject: Subject, block: Block, prune: PruneParams, seed: int) -> nn.Module:
    """The model without the block, its BatchNorms renewed if that is allowed and better."""
    plain = apply(subject.module, architecture_of(subject.module, (), {}, [block]))
    if not prune.recalibrate or not batch_norms(plain):
        return plain
    batches = first_batches(subject.task, "calibration", examples=prune.examples, seed=seed)
    renewed = recalibrate(plain, batches)

    def loss(module: nn.Module) -> float:
        found = mean_loss(subject.task, module, batches, seed=seed)
        return found if math.isfinite(found) else math.inf

    return min((plain, renewed), key=loss)


def _read(path: Path) -> Progress | None:
    """What an earlier run finished; None if there is nothing that can be read: that costs only time."""
    try:
        return decode_json(path.read_bytes(), Progress, name=str(path))
    except (FileNotFoundError, DocumentError):
        return None
