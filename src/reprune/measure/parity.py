"""How far an engine is from the bundle that it was built from, on real examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from reprune.core.artifacts import Parity
from reprune.core.errors import BuildError
from reprune.core.records import ALIKE, DETECTIONS, MEASURED, NOTHING, SCALE
from reprune.measure.records import checked_records, engine_answer, module_answer
from reprune.runtimes.base import Session
from reprune.task.protocol import Batch, Task

if TYPE_CHECKING:
    from typing import TypeAlias

    from reprune.measure.records import Column

    Bools: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]

# Below this an engine computes another function, whatever precision it was built for.
LEAST_COSINE = 0.9


def take_parity(
    key: str, session: Session, module: nn.Module, task: Task, batches: Sequence[Batch]
) -> Parity:
    """The engine's outputs against the module's on `batches`; `agreement` is of whole records, whose
    measured values need only be close (see `alike`).

    `cosine` is between all outputs taken as one vector, `max_abs` over all of them; in a set `cosine`
    and `agreement` are those of the member with the least: the others' many outputs would hide it. Raises
    BuildError for an engine of another form, with outputs that are not finite, or that computes
    another function; the policy bounds what is less than that.
    """
    of_members = getattr(task, "outputs_of_members", _undivided)
    told: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    agreeing: Counter[str] = Counter()
    for batch in batches:
        expected, found = module_answer(module, batch), engine_answer(key, session, batch)
        forms = [[tuple(output.shape) for output in outputs] for outputs in (expected, found)]
        if forms[0] != forms[1]:
            raise BuildError(f"the engine {key} gives outputs {forms[1]}, its bundle {forms[0]}")
        answers = zip(*(of_members(outputs).items() for outputs in (expected, found)), strict=True)
        for (member, ours), (_, theirs) in answers:
            one, other = told.setdefault(member, ([], []))
            one += [output.detach().cpu().double().flatten() for output in ours]
            other += [output.double().flatten() for output in theirs]
        agreeing.update(
            _agreeing(
                checked_records(task, expected, batch), checked_records(task, found, batch), told
            )
        )
    pairs = [(torch.cat(one), torch.cat(other)) for one, other in told.values()]
    examples = sum(len(batch) for batch in batches)
    parity = Parity(
        examples=examples,
        max_abs=float(f"{max(float((one - other).abs().max()) for one, other in pairs):.6g}"),
        cosine=round(min(_cosine(one, other) for one, other in pairs), 9),
        agreement=round(min(agreeing.values()) / examples, 9),
    )
    if parity.cosine < LEAST_COSINE:
        raise BuildError(
            f"the engine {key} does not compute what its bundle does: the cosine of their outputs "
            f"on {examples} calibration examples is {parity.cosine}",
            fix="look for operators that the export changes; build it again",
        )
    return parity


def alike(column: str, one: Column, other: Column) -> Bools:
    """Which examples have the same answer in both: the same number, or, where a column holds measured
    values, numbers at most ALIKE apart; of a detection the same class and match, and a score as close.

    `column` may have the name of a member of a set before it.
    """
    kind = column.rpartition(".")[2]
    same: Bools = one == other
    if kind in MEASURED:
        same = np.abs(one - other) <= ALIKE
    elif kind.startswith(DETECTIONS):
        there = (one != NOTHING) & (other != NOTHING)
        step = SCALE + 1
        scores = np.abs(one // 2 % step - other // 2 % step) <= ALIKE
        classes = one // 2 // step == other // 2 // step
        same = same | (there & scores & classes & (one % 2 == other % 2))
    return same


def _undivided(outputs: Sequence[Tensor]) -> dict[str, Sequence[Tensor]]:
    return {"": outputs}


def _agreeing(
    one: dict[str, Column], other: dict[str, Column], members: Collection[str]
) -> dict[str, int]:
    """How many examples have the same answer in all columns, by the member whose columns they are."""
    found: dict[str, list[Bools]] = {}
    for name, column in one.items():
        member = name.rpartition(".")[0]
        same = alike(name, column, other[name])
        found.setdefault(member if member in members else "", []).append(same)
    return {member: int(np.logical_and.reduce(same).sum()) for member, same in found.items()}


def _cosine(one: Tensor, other: Tensor) -> float:
    norms = float(one.norm() * other.norm())
    if norms == 0.0:
        # Two outputs of zeros agree; zeros and anything else have nothing in common.
        return 1.0 if float(one.norm()) == float(other.norm()) else 0.0
    return float(one @ other) / norms
