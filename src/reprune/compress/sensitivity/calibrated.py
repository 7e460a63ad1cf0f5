"""Sensitivity from estimates and few evaluations, for about a tenth of what measuring costs.

One pass over calibration examples gives the closed-form repair of every cut; one forward and backward
pass over examples of `tune` gives the first-order change of the loss under every repaired cut. Then
cuts are really made and evaluated, batch by batch, from cached activations, each time the one whose
next batch tells most about its group. `merge` fits all cuts together.

Shards measure the groups number i mod n each; merged they give the bits that one run gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reprune.compress.importance import channel_scores, lowest_removed
from reprune.compress.losses import Counting
from reprune.compress.paired import at_most
from reprune.compress.replay import timeline
from reprune.compress.sensitivity.evidence import Trace, next_cut
from reprune.compress.sensitivity.joint import random_plans
from reprune.compress.sensitivity.moments import input_moments, readers, refits
from reprune.compress.sensitivity.observed import CutSeen, JointSeen, Observed, Saved
from reprune.compress.sensitivity.pieces import pieces
from reprune.compress.sensitivity.shards import ALL, mine
from reprune.compress.sensitivity.slopes import Slopes, slopes
from reprune.compress.sensitivity.spending import (
    CALIBRATION_PIECE,
    JOINT_PLANS,
    PIECE,
    Fixed,
    Sizes,
    sizes,
)
from reprune.compress.sensitivity.subject import Subject, check_finite, keeps
from reprune.compress.sensitivity.trials import Trials
from reprune.core import store
from reprune.core.documents import decode_json
from reprune.core.errors import DocumentError

if TYPE_CHECKING:
    from torch import Tensor

    from reprune.core.params import PruneParams, SensitivityParams
    from reprune.task.protocol import Batch, Split, Task

SAVED_FILE = "calibrated.json"
# One example to see in which order modules run, one to count what they cost.
STRUCTURE = 2
# Evaluations between two writes to disk: what a kill may cost.
SAVE_EVERY = 16


def observe(  # noqa: PLR0913  what a measurement depends on, none of it a part of another
    subject: Subject,
    params: SensitivityParams,
    prune: PruneParams,
    *,
    seed: int,
    work: Path,
    say: Callable[[str], None],
    shard: tuple[int, int] = ALL,
) -> Observed:
    """What shard i of n sees: groups, then blocks, number i mod n, and every n-th joint plan.

    What is evaluated is kept in `work`, a few evaluations at a time; a run that was killed goes on
    from there and gives the identical result. Raises CompressionError for a dense model whose loss is
    not finite.
    """
    bench = _prepare(subject, params, prune, seed)
    path = work / SAVED_FILE
    saved = _read(path, shard)
    if saved.cuts:
        say(f"sensitivity: {len(saved.cuts)} cuts were already looked at")

    unsaved = 0

    def save(key: str, seen: CutSeen | JointSeen, *, every: int = SAVE_EVERY) -> None:
        nonlocal saved, unsaved
        saved = (
            msgspec.structs.replace(saved, cuts=saved.cuts | {key: seen})
            if isinstance(seen, CutSeen)
            else msgspec.structs.replace(saved, joint=saved.joint | {key: seen})
        )
        unsaved += 1
        if unsaved >= every:
            store.write_bytes(path, msgspec.json.encode(saved))
            unsaved = 0

    index, count = shard
    wanted = mine(bench.trials.units(), shard)
    cuts: dict[str, CutSeen] = {}
    for unit in wanted:
        found = _look(bench, unit, saved.cuts, save, params.precision)
        cuts |= found
        if unsaved:
            store.write_bytes(path, msgspec.json.encode(saved))
            unsaved = 0
        pieces_seen = sum(len(seen.losses) for seen in found.values())
        say(f"sensitivity: {unit}: {len(found)} cuts from {pieces_seen} batches")
    joint: dict[str, JointSeen] = {}
    for number in range(index, JOINT_PLANS if subject.groups else 0, count):
        key = str(number)
        if key not in saved.joint:
            save(key, bench.joint(number, params, seed), every=1)
        joint[key] = saved.joint[key]
    return Observed(
        shard=index,
        shards=count,
        base=bench.slopes.losses,
        fixed=bench.fixed,
        cuts=cuts,
        joint=joint,
    )


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """All that is the same for every cut: the passes that have been made, and how to make a trial."""

    subject: Subject
    trials: Trials
    slopes: Slopes
    sizes: Sizes
    fixed: float

    def budget(self, unit: str) -> float:
        """What the unit may spend. Units' variances add up: each gets of what is free in proportion to
        the square root of an evaluation's price (Neyman's allocation, with equal variances).
        """
        roots = {name: math.sqrt(self.trials.share(name)) for name in self.trials.units()}
        part = roots[unit] / math.fsum(roots.values()) if any(roots.values()) else 0.0
        return self.sizes.direct[unit] + part * self.sizes.free

    def joint(self, number: int, params: SensitivityParams, seed: int) -> JointSeen:
        groups = self.subject.groups
        plans = random_plans(
            {group.name: group.width for group in groups},
            {group.name: min(keeps(group.width, params.cuts)) for group in groups},
            self.subject.cost,
            count=JOINT_PLANS,
            fraction=params.joint_fraction,
            seed=seed,
        )
        return self.trials.joint(plans[number], self.sizes.joint)


def _prepare(subject: Subject, params: SensitivityParams, prune: PruneParams, seed: int) -> _Bench:
    drawn = Counting(subject.task)
    scores = channel_scores(drawn, subject.module, subject.groups, prune, seed)
    tune = _pieces(subject.task, "tune", params.examples, PIECE, seed)
    parts, calibration = parts_of(subject, params, prune, seed, 3 * drawn.examples, tune)
    tune = tune[: parts.slopes]
    kept = {
        f"{group.name}@{keep}": {group.name: lowest_removed(scores[group.name], keep)}
        for group in subject.groups
        for keep in keeps(group.width, params.cuts)
    }
    trials = trials_of(
        subject,
        prune=prune,
        seed=seed,
        scores=scores,
        kept=kept,
        tune=tune,
        calibration=calibration,
    )
    made = trials.refits
    found = slopes(subject.task, subject.module, made, tune, seed=seed, keep=trials.cached_names())
    check_finite(found.losses.mean)
    trials.take(found)
    read = prune.compensate and any(readers(group) for group in subject.groups)
    forwarded = sum(len(batch) for batch in calibration) if read else 0
    cost = 3 * drawn.examples + STRUCTURE + forwarded + 3 * found.losses.examples
    return _Bench(subject=subject, trials=trials, slopes=found, sizes=parts, fixed=float(cost))


def parts_of(
    subject: Subject,
    params: SensitivityParams,
    prune: PruneParams,
    seed: int,
    scored: int,
    tune: Sequence[Batch],
) -> tuple[Sizes, list[Batch]]:
    """How the budget is spent where the scores took `scored` examples, and what is calibrated from."""
    calibration = _pieces(subject.task, "calibration", prune.examples, CALIBRATION_PIECE, seed)
    known = Fixed(
        scores=scored + STRUCTURE,
        piece=max(len(batch) for batch in tune),
        calibration=max(len(batch) for batch in calibration),
    )
    parts = sizes(subject, params, prune, known)
    return parts, list(_within(calibration, parts.calibration))


def trials_of(  # noqa: PLR0913  what a trial is made of, none of it a part of another
    subject: Subject,
    *,
    prune: PruneParams,
    seed: int,
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Mapping[str, tuple[int, ...]]],
    tune: Sequence[Batch],
    calibration: Sequence[Batch],
) -> Trials:
    """Trials of the cuts `kept`, with the moments that their repairs need."""
    groups = [
        group for group in subject.groups if any(group.name in each for each in kept.values())
    ]
    names = list(dict.fromkeys(name for group in groups for name in readers(group)))
    moments = (
        input_moments(subject.module, names, calibration) if prune.compensate and names else {}
    )
    return Trials(
        subject=subject,
        prune=prune,
        seed=seed,
        tune=tune,
        calibration=calibration,
        scores=scores,
        kept=kept,
        refits={
            key: refits(subject.module, subject.groups, channels, moments, prune.ridge)
            for key, channels in kept.items()
        },
        moments=moments,
        times=timeline(subject.module, tuple(tensor[:1] for tensor in tune[0].inputs)),
    )


def _look(
    bench: _Bench,
    unit: str,
    saved: Mapping[str, CutSeen],
    save: Callable[[str, CutSeen], None],
    precision: float,
) -> dict[str, CutSeen]:
    """The unit's cuts, measured until they are precise enough or the unit's budget is spent."""
    trials = bench.trials
    budget = bench.budget(unit)
    keys = trials.keys(unit)
    found = {key: CutSeen(slopes=bench.slopes.changes.get(key, ()), losses=()) for key in keys}
    while True:
        base = bench.slopes.losses.losses
        traces = [
            Trace(
                rises=tuple(new - old for new, old in zip(seen.losses, base, strict=False)),
                slopes=seen.slopes,
            )
            for seen in found.values()
        ]
        number = next_cut(traces, pieces=len(trials.tune), precision=precision)
        if number is None:
            return found
        key, before = keys[number], found[keys[number]]
        spent = math.fsum(seen.cost for seen in found.values())
        if before.losses and spent + trials.price(unit, len(before.losses)) > budget:
            return found
        known = saved.get(key)
        done = len(before.losses)
        if known is not None and len(known.losses) > done:
            found[key] = msgspec.structs.replace(
                known,
                losses=known.losses[: done + 1],
                moves=known.moves[: done + 1],
                costs=known.costs[: done + 1],
            )
        else:
            found[key] = trials.evaluate(unit, key, before)
            save(key, found[key])


def _pieces(task: Task, split: Split, examples: int, size: int, seed: int) -> list[Batch]:
    return list(pieces(list(at_most(task, split, examples=examples, seed=seed)), size))


def _within(batches: Sequence[Batch], examples: int) -> Iterator[Batch]:
    """The first of `batches` of at most `examples` examples together, at least one."""
    seen = 0
    for batch in batches:
        seen += len(batch)
        if seen > examples and seen > len(batch):
            return
        yield batch


def _read(path: Path, shard: tuple[int, int]) -> Saved:
    """What an earlier run of the same shard finished; nothing where it cannot be read."""
    nothing = Saved(shard=shard, cuts={}, joint={})
    try:
        found = decode_json(path.read_bytes(), Saved, name=str(path))
    except (FileNotFoundError, DocumentError):
        return nothing
    return found if found.shard == shard else nothing
