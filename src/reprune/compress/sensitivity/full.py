"""Sensitivity in full: the loss on `tune` when each group alone is really cut, at every cut share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reprune.compress.paired import BatchLosses, at_most, batch_losses, paired_increase
from reprune.compress.sensitivity.cutting import CutTrial
from reprune.compress.sensitivity.observed import CutSeen, Observed
from reprune.compress.sensitivity.shards import ALL, agreed, all_cuts, mine
from reprune.compress.sensitivity.subject import (
    Measured,
    Removable,
    Subject,
    bounded,
    check_finite,
    keeps,
)
from reprune.compress.sensitivity.trials import block_unit
from reprune.core import store
from reprune.core.artifacts import BlockSensitivity, CutPoint, Fact, GroupSensitivity
from reprune.core.documents import decode_json
from reprune.core.errors import DocumentError

if TYPE_CHECKING:
    from torch import nn

    from reprune.compress.structure.groups import Group
    from reprune.core.params import PruneParams, SensitivityParams

PROGRESS_FILE = "sensitivity.json"


class Progress(Fact, kw_only=True):
    """What is done: batch losses of the dense model, and of each cut by "<group>@<keep>" (a block by
    its own name), with what each cost; `scores` is what the criterion did.
    """

    base: BatchLosses
    scores: int = 0
    cuts: dict[str, tuple[float, ...]] = {}
    costs: dict[str, int] = {}


def observe_all(  # noqa: PLR0913  what a measurement depends on, none of it a part of another
    subject: Subject,
    params: SensitivityParams,
    prune: PruneParams,
    *,
    seed: int,
    work: Path,
    say: Callable[[str], None],
    shard: tuple[int, int] = ALL,
) -> Observed:
    """Every group's losses at every cut of `params.cuts`, and every block's, each one measured.

    Each cut is made and repaired as `structured.cut` would for this group alone: the same scores,
    compensation and recalibration as `prune` allows them, whichever has the least calibration loss;
    only the proof that slicing is masking is left out (finding the groups has tried it). Losses are
    the task's own on at most `params.examples` examples of `tune`, paired with the dense model's
    batch by batch (`paired.paired_increase` says how the standard error is made).

    Shard i of n measures groups, then blocks, number i mod n, and the dense model. What is finished is
    written to `work` after each cut; a run that was killed goes on from there and gives the identical
    result. Raises CompressionError for a dense model whose loss is not finite.
    """
    batches = list(at_most(subject.task, "tune", examples=params.examples, seed=seed))
    path = work / PROGRESS_FILE
    progress = _read(path) or Progress(
        base=batch_losses(subject.task, subject.module, batches, seed=seed)
    )
    check_finite(progress.base.mean)
    trial = CutTrial(subject, prune, seed)
    wanted = _wanted(subject, params, trial, shard)
    if progress.cuts:
        say(f"sensitivity: {len(progress.cuts)} of {len(wanted)} cuts were already measured")
    for number, (key, (label, make)) in enumerate(wanted.items(), start=1):
        if key in progress.cuts:
            continue
        module = make()
        losses = bounded(batch_losses(subject.task, module, batches, seed=seed), progress.base.mean)
        progress = msgspec.structs.replace(
            progress,
            scores=progress.scores or trial.scored,
            cuts=progress.cuts | {key: losses.losses},
            costs=progress.costs | {key: trial.forwarded + losses.examples},
        )
        trial.forwarded = 0
        store.write_bytes(path, msgspec.json.encode(progress))
        say(
            f"sensitivity: {number} of {len(wanted)}: {label}, "
            f"loss {progress.base.mean:.4f} -> {losses.mean:.4f}"
        )
    return Observed(
        shard=shard[0],
        shards=shard[1],
        base=progress.base,
        fixed=progress.scores,
        cuts={
            key: CutSeen(slopes=(), losses=progress.cuts[key], costs=(progress.costs[key],))
            for key in wanted
        },
        joint={},
    )


def conclude_all(
    subject: Subject, params: SensitivityParams, parts: Sequence[Observed]
) -> Measured:
    """The sensitivity from all shards' parts, in any order: the very bits that one part of everything
    gives.

    Raises CompressionError for parts that are not those of one measurement.
    """
    base = agreed(parts)
    wanted = [key for unit in _units(subject, params) for key in unit]
    cuts = all_cuts(parts, wanted)
    # Only shards with a group have scored channels, all of them the same ones.
    scores = max(part.fixed for part in parts)
    return Measured(
        base_loss=base.mean,
        examples=base.examples,
        groups=tuple(
            GroupSensitivity(
                group=group.name,
                width=group.width,
                cuts=tuple(_points(subject, group, cuts, base, params)),
            )
            for group in subject.groups
        ),
        blocks=tuple(_block(block, cuts, base) for block in subject.blocks),
        cost=base.examples + round(scores + math.fsum(seen.cost for seen in cuts.values())),
    )


def _units(subject: Subject, params: SensitivityParams) -> list[list[str]]:
    """The keys of each group's cuts, then of each block's one."""
    groups = [
        [_key(group, keep) for keep in keeps(group.width, params.cuts)] for group in subject.groups
    ]
    return groups + [[block_unit(block)] for block in subject.blocks]


def _wanted(
    subject: Subject, params: SensitivityParams, trial: CutTrial, shard: tuple[int, int]
) -> dict[str, tuple[str, Callable[[], nn.Module]]]:
    """By key: how a cut is called, and what makes it."""
    found: dict[str, tuple[str, Callable[[], nn.Module]]] = {
        _key(group, keep): (
            f"{group.name} {group.width} -> {keep}",
            partial(trial.cut, {group.name: keep}),
        )
        for group in subject.groups
        for keep in keeps(group.width, params.cuts)
    }
    found |= {
        block_unit(block): (f"without {block.name}", partial(trial.without, block))
        for block in subject.blocks
    }
    return {key: found[key] for unit in mine(_units(subject, params), shard) for key in unit}


def _points(
    subject: Subject,
    group: Group,
    cuts: Mapping[str, CutSeen],
    base: BatchLosses,
    params: SensitivityParams,
) -> Iterator[CutPoint]:
    for keep in keeps(group.width, params.cuts):
        increase, error = _rise(cuts[_key(group, keep)], base)
        cost = subject.cost({group.name: keep})
        yield CutPoint(
            keep=keep,
            loss_increase=increase,
            standard_error=error,
            macs=cost.macs,
            params=cost.params,
        )


def _block(block: Removable, cuts: Mapping[str, CutSeen], base: BatchLosses) -> BlockSensitivity:
    increase, error = _rise(cuts[block_unit(block)], base)
    return BlockSensitivity(
        block=block.name,
        loss_increase=increase,
        standard_error=error,
        macs=block.cost.macs,
        params=block.cost.params,
    )


def _rise(seen: CutSeen, base: BatchLosses) -> tuple[float, float]:
    return paired_increase(BatchLosses(losses=seen.losses, sizes=base.sizes), base)


def _key(group: Group, keep: int) -> str:
    return f"{group.name}@{keep}"


def _read(path: Path) -> Progress | None:
    """What an earlier run finished; None if there is nothing that can be read: that costs only time."""
    try:
        return decode_json(path.read_bytes(), Progress, name=str(path))
    except (FileNotFoundError, DocumentError):
        return None
