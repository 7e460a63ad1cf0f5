"""What each group of channels is worth: the loss on `tune` when that group alone is cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reprune.compress.architecture import apply
from reprune.compress.compensate import batch_norms, compensate, recalibrate
from reprune.compress.equality import architecture_of
from reprune.compress.importance import channel_scores, lowest_removed
from reprune.compress.losses import first_batches, mean_loss
from reprune.compress.paired import BatchLosses, at_most, batch_losses, paired_increase
from reprune.core import store
from reprune.core.artifacts import CutPoint, Fact, GroupSensitivity
from reprune.core.documents import decode_json
from reprune.core.errors import CompressionError, DocumentError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.compress.costs import CostModel
    from reprune.compress.groups import Group
    from reprune.core.params import PruneParams, SensitivityParams
    from reprune.task.protocol import Batch, Task

PROGRESS_FILE = "sensitivity.json"

# A cut that ruins the model may have a loss that is huge or no number at all, which no file of ours
# holds: this many times the dense loss (at least 1) stands for "ruined".
RUINED = 1000.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that is measured, its groups, and what it costs at any widths."""

    task: Task
    module: nn.Module
    groups: tuple[Group, ...]
    cost: CostModel


@dataclass(frozen=True, kw_only=True)
class Measured:
    """`base_loss` is the dense model's mean on the same `examples` of `tune`."""

    base_loss: float
    examples: int
    groups: tuple[GroupSensitivity, ...]


class Progress(Fact, kw_only=True):
    """What is done: batch losses of the dense model, and of each cut by "<group>@<keep>"."""

    base: BatchLosses
    cuts: dict[str, tuple[float, ...]] = {}


def measure(
    subject: Subject,
    params: SensitivityParams,
    prune: PruneParams,
    *,
    seed: int,
    work: Path,
    say: Callable[[str], None],
) -> Measured:
    """Every group's loss increase at every cut of `params.cuts`.

    Each cut is made and repaired as `structured.cut` would for this group alone: the same scores,
    compensation and recalibration as `prune` allows them, whichever has the least calibration loss;
    only the proof that slicing is masking is left out (finding the groups has tried it). Losses are
    the task's own on at most `params.examples` examples of `tune`, paired with the dense model's
    batch by batch (`paired.paired_increase` says how the standard error is made).

    What is finished is written to `work` after each cut; a run that was killed goes on from there and
    gives the identical result. Raises CompressionError for a dense model whose loss is not finite.
    """
    batches = list(at_most(subject.task, "tune", examples=params.examples, seed=seed))
    path = work / PROGRESS_FILE
    progress = _read(path) or Progress(
        base=batch_losses(subject.task, subject.module, batches, seed=seed)
    )
    _check_finite(progress.base.mean)
    trial = _Trial(subject, prune, seed)
    wanted = [(group, keep) for group in subject.groups for keep in keeps(group.width, params.cuts)]
    if progress.cuts:
        say(f"sensitivity: {len(progress.cuts)} of {len(wanted)} cuts were already measured")
    for number, (group, keep) in enumerate(wanted, start=1):
        if _key(group, keep) in progress.cuts:
            continue
        losses = _bounded(
            batch_losses(subject.task, trial.cut(group, keep), batches, seed=seed),
            RUINED * max(1.0, abs(progress.base.mean)),
        )
        progress = msgspec.structs.replace(
            progress, cuts=progress.cuts | {_key(group, keep): losses.losses}
        )
        store.write_bytes(path, msgspec.json.encode(progress))
        say(
            f"sensitivity: {number} of {len(wanted)}: {group.name} {group.width} -> {keep}, "
            f"loss {progress.base.mean:.4f} -> {losses.mean:.4f}"
        )
    return Measured(
        base_loss=progress.base.mean,
        examples=progress.base.examples,
        groups=tuple(
            GroupSensitivity(
                group=group.name,
                width=group.width,
                cuts=tuple(_points(subject, group, progress, params)),
            )
            for group in subject.groups
        ),
    )


def keeps(width: int, cuts: Sequence[float]) -> tuple[int, ...]:
    """The widths that removing each share of `cuts` leaves, falling: at least 1, fewer than all."""
    return tuple(
        sorted({max(1, round(width * (1.0 - cut))) for cut in cuts} - {width}, reverse=True)
    )


@dataclass
class _Trial:
    """Cuts one group at a time, from one set of scores and calibration examples, made when needed."""

    subject: Subject
    prune: PruneParams
    seed: int
    _scores: dict[str, Tensor] = field(default_factory=dict)
    _calibration: list[Batch] = field(default_factory=list)

    def cut(self, group: Group, keep: int) -> nn.Module:
        """The model with only `group` cut, repaired without training."""
        task, module, prune = self.subject.task, self.subject.module, self.prune
        if not self._calibration:
            self._calibration = first_batches(
                task, "calibration", examples=prune.examples, seed=self.seed
            )
            self._scores = channel_scores(task, module, self.subject.groups, prune, self.seed)
        kept = {group.name: lowest_removed(self._scores[group.name], keep)}
        architecture = architecture_of(module, [group], kept)
        sliced = apply(module, architecture)
        candidates = [sliced]
        if prune.compensate:
            candidates.append(
                compensate(module, sliced, architecture, [group], self._calibration, prune.ridge)
            )
        if prune.recalibrate and batch_norms(sliced):
            candidates.append(recalibrate(sliced, self._calibration))
        return min(candidates, key=self._calibration_loss) if len(candidates) > 1 else sliced

    def _calibration_loss(self, module: nn.Module) -> float:
        loss = mean_loss(self.subject.task, module, self._calibration, seed=self.seed)
        return loss if math.isfinite(loss) else math.inf


def _points(
    subject: Subject, group: Group, progress: Progress, params: SensitivityParams
) -> Iterator[CutPoint]:
    for keep in keeps(group.width, params.cuts):
        after = BatchLosses(losses=progress.cuts[_key(group, keep)], sizes=progress.base.sizes)
        increase, error = paired_increase(after, progress.base)
        cost = subject.cost({group.name: keep})
        yield CutPoint(
            keep=keep,
            loss_increase=increase,
            standard_error=error,
            macs=cost.macs,
            params=cost.params,
        )


def _bounded(measured: BatchLosses, most: float) -> BatchLosses:
    losses = tuple(min(loss, most) if math.isfinite(loss) else most for loss in measured.losses)
    return BatchLosses(losses=losses, sizes=measured.sizes)


def _key(group: Group, keep: int) -> str:
    return f"{group.name}@{keep}"


def _read(path: Path) -> Progress | None:
    """What an earlier run finished; None if there is nothing that can be read: that costs only time."""
    try:
        return decode_json(path.read_bytes(), Progress, name=str(path))
    except (FileNotFoundError, DocumentError):
        return None


def _check_finite(loss: float) -> None:
    if not math.isfinite(loss):
        raise CompressionError(
            f"the dense model's loss on tune is {loss}",
            where="sensitivity",
            fix="check the dense version: its weights, or the task's loss, are broken",
        )
