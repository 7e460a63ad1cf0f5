"""What the weights of each tensor are worth: the loss on `tune` when that tensor alone is masked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reprune.compress.compensate import batch_norms, recalibrate
from reprune.compress.losses import first_batches
from reprune.compress.masks.choosing import apply_masks, choose_masks, plan_counts, zeros_for
from reprune.compress.masks.reconstruct import METHODS, reconstruct
from reprune.compress.masks.scores import IN_TRAINING, magnitude, weight_scores
from reprune.compress.paired import BatchLosses, at_most, batch_losses, paired_increase
from reprune.compress.planning.curves import Curve, fit_curve
from reprune.compress.sensitivity.observed import CutSeen, Observed
from reprune.compress.sensitivity.shards import ALL, agreed, all_cuts, mine
from reprune.compress.sensitivity.subject import check_finite
from reprune.core import store
from reprune.core.artifacts import CutPoint, Fact, TensorSensitivity
from reprune.core.documents import decode_json
from reprune.core.errors import CompressionError, DocumentError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.compress.masks.maskable import Weights
    from reprune.core.params import PruneParams
    from reprune.task.protocol import Batch, Task

PROGRESS_FILE = "mask-sensitivity.json"

# Kept weights that are measured, in multiples of the share that is to be kept of all.
KEPT_MULTIPLES = (4.0, 2.0, 1.0, 0.5, 0.25)

# BatchNorm statistics are renewed on so many examples, as for cuts (compress.sensitivity.trials).
RECALIBRATION = 64

# A mask that ruins the model: this many times the dense loss (at least 1), as for cuts
# (compress.sensitivity.measure).
RUINED = 1000.0


@dataclass(frozen=True, kw_only=True)
class MaskSubject:
    """The model that is measured, its weights that may be masked, and how they would be."""

    task: Task
    module: nn.Module
    weights: Weights
    prune: PruneParams
    seed: int


@dataclass(frozen=True, kw_only=True)
class MeasuredTensors:
    """`base_loss` is the dense model's on the same `examples` of `tune`; `cost` counts the examples
    forwarded for the table.
    """

    base_loss: float
    examples: int
    tensors: tuple[TensorSensitivity, ...]
    cost: int


class MaskProgress(Fact, kw_only=True):
    """What is done: batch losses of the dense model, and of each mask by "<tensor>@<zeros>"."""

    base: BatchLosses
    masked: dict[str, tuple[float, ...]] = {}


def shares_for(sparsity: float) -> tuple[float, ...]:
    """The shares that are measured for a wanted `sparsity` of all, rising: around it, and both ways."""
    kept = 1.0 - sparsity
    return tuple(1.0 - kept * multiple for multiple in KEPT_MULTIPLES if kept * multiple < 1.0)


def measure_tensors(
    subject: MaskSubject,
    shares: Sequence[float],
    *,
    examples: int,
    work: Path,
    say: Callable[[str], None],
) -> MeasuredTensors:
    """Each tensor's rise in loss at each of `shares`, masked alone as the subject's `prune` says.

    As `look_at_tensors` sees it. Raises CompressionError for a dense model whose loss is not finite.
    """
    seen = look_at_tensors(subject, shares, examples=examples, work=work, say=say)
    return conclude_tensors(subject, shares, [seen])


def look_at_tensors(
    subject: MaskSubject,
    shares: Sequence[float],
    *,
    examples: int,
    work: Path,
    say: Callable[[str], None],
    shard: tuple[int, int] = ALL,
) -> Observed:
    """The losses of shard i of n: tensors number i mod n, each masked alone at each of `shares`.

    Criteria that need a training are stood in for by magnitude. Losses are the task's own on at most
    `examples` examples of `tune`, paired with the dense model's batch by batch; with `prune.recalibrate`
    the lower of those with the BatchNorm statistics as they are and with fresh ones counts, for
    pruning keeps what is better too. What is finished is
    written to `work`; a run that was killed goes on from there and gives the identical result. Raises
    CompressionError for a dense model whose loss is not finite.
    """
    task, module, seed = subject.task, subject.module, subject.seed
    batches = list(at_most(task, "tune", examples=examples, seed=seed))
    path = work / PROGRESS_FILE
    progress = _read(path) or MaskProgress(base=batch_losses(task, module, batches, seed=seed))
    check_finite(progress.base.mean)
    trial = _MaskTrial(subject)
    most = RUINED * max(1.0, abs(progress.base.mean))
    wanted = [
        (name, zeros)
        for name in mine(subject.weights.names, shard)
        for zeros in _zeros(subject, name, shares)
    ]
    for number, (name, zeros) in enumerate(wanted, start=1):
        key = _key(name, zeros)
        if key in progress.masked:
            continue
        found = trial.losses(trial.masked(name, zeros), batches)
        losses = tuple(min(x, most) if math.isfinite(x) else most for x in found.losses)
        progress = msgspec.structs.replace(progress, masked=progress.masked | {key: losses})
        store.write_bytes(path, msgspec.json.encode(progress))
        say(f"sensitivity: {number} of {len(wanted)}: {name}, {zeros} weights masked")
    cost = float(trial.cost(progress.base.examples))
    keys = [_key(name, zeros) for name, zeros in wanted]
    return Observed(
        shard=shard[0],
        shards=shard[1],
        base=progress.base,
        fixed=0.0,
        cuts={key: CutSeen(slopes=(), losses=progress.masked[key], costs=(cost,)) for key in keys},
        joint={},
    )


def conclude_tensors(
    subject: MaskSubject, shares: Sequence[float], parts: Sequence[Observed]
) -> MeasuredTensors:
    """What `measure_tensors` gives, to the bit, from the parts of all its shards, in any order.

    Raises CompressionError for parts that are not those of one measurement.
    """
    base = agreed(parts)
    names = subject.weights.names
    keys = [_key(name, zeros) for name in names for zeros in _zeros(subject, name, shares)]
    seen = all_cuts(parts, keys)
    return MeasuredTensors(
        base_loss=base.mean,
        examples=base.examples,
        tensors=tuple(_table(subject, name, shares, seen, base) for name in names),
        cost=base.examples + round(math.fsum(one.cost for one in seen.values())),
    )


def fit_tensors(table: Sequence[TensorSensitivity]) -> dict[str, Curve]:
    """A curve a tensor over how many of its weights are kept: isotonic, 0 for all of them."""
    return {
        item.tensor: fit_curve(
            item.size,
            [
                CutPoint(
                    keep=item.size - zeros_for(item.size, share),
                    loss_increase=rise,
                    standard_error=error,
                    macs=0,
                    params=0,
                )
                for share, rise, error in zip(
                    item.shares, item.loss_increases, item.standard_errors, strict=True
                )
            ],
        )
        for item in table
    }


def allocate_zeros(curves: Mapping[str, Curve], total: int) -> dict[str, int]:
    """Zeros of each tensor, `total` in all, with the least sum of their predicted rises.

    Each curve is taken as its lower convex hull, which makes giving the next zeros to the flattest
    piece the exact optimum. No tensor goes beyond the deepest mask that was measured of it. Raises
    CompressionError where that is not enough.
    """
    pieces = [
        (slope, order, start, stop, name)
        for order, (name, curve) in enumerate(curves.items())
        for slope, start, stop in _pieces(curve)
    ]
    zeros = dict.fromkeys(curves, 0)
    left = total
    for _, _, start, stop, name in sorted(pieces):
        taken = min(stop - start, left)
        zeros[name] += taken
        left -= taken
    if left:
        raise CompressionError(
            f"{total} weights cannot be masked within what was measured: {left} are over",
            where="plan.sparsity",
            fix="run `sensitivity` again for this plan.sparsity",
        )
    return zeros


@dataclass
class _MaskTrial:
    """Masks one tensor at a time, by one set of scores, made when needed."""

    subject: MaskSubject
    _scores: dict[str, Tensor] = field(default_factory=dict)
    _calibration: list[Batch] = field(default_factory=list)
    _statistics: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.subject.prune.recalibrate and batch_norms(self.subject.module):
            self._statistics = list(
                at_most(
                    self.subject.task,
                    "calibration",
                    examples=RECALIBRATION,
                    seed=self.subject.seed,
                )
            )

    def losses(self, module: nn.Module, batches: Sequence[Batch]) -> BatchLosses:
        """Of `module`, or of it with fresh BatchNorm statistics where their mean is lower."""
        task, seed = self.subject.task, self.subject.seed
        found = batch_losses(task, module, batches, seed=seed)
        if not self._statistics:
            return found
        fresh = batch_losses(task, recalibrate(module, self._statistics), batches, seed=seed)
        return fresh if fresh.mean < found.mean or not math.isfinite(found.mean) else found

    def cost(self, examples: int) -> int:
        """Examples forwarded for one mask that is judged on `examples`."""
        if not self._statistics:
            return examples
        return 2 * examples + sum(len(batch) for batch in self._statistics)

    def masked(self, name: str, zeros: int) -> nn.Module:
        """The model with only `zeros` weights of `name` masked."""
        task, module = self.subject.task, self.subject.module
        prune, seed = self.subject.prune, self.subject.seed
        plan = plan_counts({name: self.subject.weights.shapes[name]}, {name: zeros})
        for method in METHODS:
            if prune.criterion == method:
                self._calibration = self._calibration or first_batches(
                    task, "calibration", examples=prune.examples, seed=seed
                )
                return reconstruct(module, self._calibration, plan, method).module
        if not self._scores:
            names = self.subject.weights.names
            self._scores = (
                magnitude(module, names)
                if prune.criterion in IN_TRAINING
                else weight_scores(task, module, names, prune, seed)
            )
        return apply_masks(module, choose_masks({name: self._scores[name]}, plan))


def _zeros(subject: MaskSubject, name: str, shares: Sequence[float]) -> tuple[int, ...]:
    """The counts that are measured of a tensor, rising: at least one weight stays."""
    size = subject.weights.shapes[name].numel()
    return tuple(sorted({min(zeros_for(size, share), size - 1) for share in shares} - {0}))


def _table(
    subject: MaskSubject,
    name: str,
    shares: Sequence[float],
    seen: Mapping[str, CutSeen],
    base: BatchLosses,
) -> TensorSensitivity:
    size = subject.weights.shapes[name].numel()
    counts = _zeros(subject, name, shares)
    rises = [
        paired_increase(BatchLosses(losses=seen[_key(name, zeros)].losses, sizes=base.sizes), base)
        for zeros in counts
    ]
    return TensorSensitivity(
        tensor=name,
        size=size,
        shares=tuple(zeros / size for zeros in counts),
        loss_increases=tuple(rise for rise, _ in rises),
        standard_errors=tuple(error for _, error in rises),
    )


def _key(name: str, zeros: int) -> str:
    return f"{name}@{zeros}"


def _pieces(curve: Curve) -> list[tuple[float, int, int]]:
    """(slope, first, last) zeros of the lower convex hull of the curve over zeros, slopes rising."""
    size = curve.keeps[-1]
    points = [
        (size - keep, rise)
        for keep, rise in sorted(zip(curve.keeps, curve.increases, strict=True), reverse=True)
    ]
    hull: list[tuple[int, float]] = []
    for x, y in points:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    return [(_slope(a, b), a[0], b[0]) for a, b in pairwise(hull)]


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _read(path: Path) -> MaskProgress | None:
    """What an earlier run finished; None if there is nothing that can be read: that costs only time."""
    try:
        return decode_json(path.read_bytes(), MaskProgress, name=str(path))
    except (FileNotFoundError, DocumentError):
        return None
