"""A process's share of a batch, and whether shares make up the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reprune.compress.paired import SEED_STRIDE, seeded
from reprune.core.errors import CompressionError, InputError, TaskError
from reprune.measure.outputs import evaluating

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reprune.compress.training.crew import Crew
    from reprune.compress.training.pupil import Pupil
    from reprune.compress.training.shaping import Shaper
    from reprune.core.params import DistillParams
    from reprune.task.protocol import Batch

# Float rounding stays far below this; a loss that is no mean over examples is far above it.
SHARES_RTOL = {"no": 1e-3, "fp16": 2e-2, "bf16": 5e-2}
PROBED_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class Part:
    """`weight` is the share of the whole batch's examples. A batch of fewer examples than processes
    leaves some with nothing: they run its first example with weight 0, so that all take the same steps.
    """

    batch: Batch
    weight: float

    def summed(self, crew: Crew, loss: Tensor, ran: int) -> tuple[float, int]:
        """The whole batch's loss, and how many examples the teacher ran for it."""
        own = float(loss.detach())
        if not crew.together:
            return own, ran
        value, examples = crew.sums([self.weight * own, float(ran) if self.weight else 0.0])
        return value, round(examples)


def share_of(batch: Batch, crew: Crew) -> Part:
    """This process's share: consecutive examples, sizes differing by at most one.

    Raises TaskError for targets that nobody can tell apart by example.
    """
    if not crew.together:
        return Part(batch=batch, weight=1.0)
    count = len(batch)
    start, stop = (count * rank // crew.world for rank in (crew.rank, crew.rank + 1))
    weight = (stop - start) / count
    if start == stop:
        start, stop = 0, 1
    return Part(batch=_slice(batch, start, stop), weight=weight)


def check_crew(params: DistillParams, shapers: Sequence[Shaper]) -> None:
    """Raises InputError for what several processes could only do differently from one."""
    refused = ""
    if params.balance:
        refused = "distill.balance looks at the sizes of a whole batch's losses"
    elif params.features > 0.0 and params.feature_distance == "normalized":
        refused = (
            "distill.feature_distance 'normalized' divides by what a whole batch's features are"
        )
    for shaper in shapers:
        if not getattr(shaper, "replicated", False):
            refused = f"{type(shaper).__name__} is not made for it"
    if refused:
        raise InputError(
            f"cannot train in several processes: {refused}",
            where="params.yaml (distill.processes)",
            fix="set distill.processes to 1, or do without it (feature_distance: mse is fine)",
        )


def check_shares(pupil: Pupil, batches: Iterable[Batch]) -> int:
    """Whether the mean over shares is the loss of the whole batch, tried on some batches; returns how
    many examples the models ran for that.

    Raises CompressionError where it is not: several processes would learn something else than one.
    """
    crew, spent = pupil.lesson.crew, 0
    tolerance = SHARES_RTOL[pupil.params.precision]
    for number, batch in enumerate(batches):
        whole, ran = _loss(pupil, batch, number)
        spent += len(batch) + ran
        together = 0.0
        for rank in range(crew.world):
            part = share_of(batch, replace(crew, rank=rank))
            if part.weight:
                loss, ran = _loss(pupil, part.batch, number)
                together += part.weight * loss
                spent += len(part.batch) + ran
        if not math.isclose(whole, together, rel_tol=tolerance, abs_tol=tolerance * 1e-2):
            raise CompressionError(
                f"the loss of {len(batch)} examples is {whole:.6g}, but {together:.6g} as the mean of "
                f"{crew.world} shares of them",
                where="distill.processes",
                fix="set distill.processes to 1: this loss is no mean over examples, or draws random "
                "numbers",
            )
    return spent


def _loss(pupil: Pupil, batch: Batch, number: int) -> tuple[float, int]:
    seed = pupil.seed * SEED_STRIDE + number
    generator = torch.Generator().manual_seed(seed)
    student, calm = pupil.student, pupil.accelerator.autocast
    with evaluating(student), torch.no_grad(), seeded(seed, student), calm():
        loss, ran = pupil.teaching.loss(student, batch, generator)
    return float(loss), ran


def _slice(batch: Batch, start: int, stop: int) -> Batch:
    rows = slice(start, stop)
    return replace(
        batch,
        inputs=tuple(tensor[rows] for tensor in batch.inputs),
        targets=_targets(batch.targets, rows, len(batch)),
        ids=list(batch.ids)[rows],
        slices={family: list(values)[rows] for family, values in batch.slices.items()},
        source=None if batch.source is None else list(batch.source)[rows],
        time=None if batch.time is None else list(batch.time)[rows],
        labels=None if batch.labels is None else list(batch.labels)[rows],
    )


def _targets(targets: Any, rows: slice, count: int) -> Any:
    """A tensor or a list has a row for each example; a tuple or a mapping is made of such."""
    if targets is None:
        return None
    if isinstance(targets, Mapping):
        return {name: _targets(value, rows, count) for name, value in targets.items()}
    if isinstance(targets, tuple):
        return tuple(_targets(value, rows, count) for value in targets)
    if isinstance(targets, Tensor | list) and _length(targets) == count:
        return targets[rows]
    raise TaskError(
        f"the targets of {count} examples hold a {type(targets).__name__} that is not one row an "
        "example, so that processes cannot share them",
        where="batches()",
        fix="give tensors or lists with a row for each example (in tuples or mappings where there are "
        "several), or set distill.processes to 1",
    )


def _length(values: Tensor | list[Any]) -> int:
    return len(values) if isinstance(values, list) or values.dim() else -1
