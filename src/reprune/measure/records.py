"""The sealed evaluation: every arm's record of every example, as integers that anybody can recount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from msgspec import UNSET
from safetensors.numpy import save
from torch import Tensor, nn

from reprune.core.artifacts import Recorded
from reprune.core.documents import canonical
from reprune.core.errors import BuildError, NonFiniteWeights, TaskError
from reprune.core.store import write_bytes
from reprune.measure.outputs import run_module
from reprune.runtimes.base import Session
from reprune.task.protocol import Batch, Split, Task
from reprune.task.seal import Census, Sealed
from reprune.task.trained_on import is_marked

if TYPE_CHECKING:
    Column: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

RECORDS_FILE = "records.safetensors"
EXAMPLES_FILE = "examples.json"
AS_TRAINED = "dense"

Answer: TypeAlias = Callable[[Batch], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The same examples through all arms. `arms` maps a key of QualityEvidence.arms to its columns.

    `dropped` is Recorded's; `eval_digest` is over the whole split, the dropped examples included.
    """

    ids: tuple[str, ...]
    slices: dict[str, tuple[str, ...]]
    sources: tuple[str, ...] | None
    eval_digest: str
    arms: dict[str, dict[str, Column]]
    dropped: dict[str, int | None] = field(default_factory=dict)
    times: tuple[str, ...] | None = None


def take_records(
    task: Sealed, engines: Mapping[str, Session], dense: nn.Module, *, split: Split = "eval"
) -> Taken:
    """One pass over the split: `dense` as trained, and every engine under its key `<arm>@<target>`.

    `task` must have the split open. Raises TaskError for ids that repeat or are not those of the
    split's census, and for records that are not one integer an example; NonFiniteWeights or
    BuildError for an output that is not finite, naming the example.
    """
    answers: dict[str, Answer] = {AS_TRAINED: partial(module_answer, dense)}
    answers |= {key: partial(engine_answer, key, session) for key, session in engines.items()}
    ids: list[str] = []
    parts: dict[str, dict[str, list[Column]]] = {key: {} for key in answers}
    for batch in task.batches(split, epoch=0, seed=0):
        ids += batch.ids
        for key, answer in answers.items():
            for name, values in checked_records(task, answer(batch), batch).items():
                parts[key].setdefault(name, []).append(values)
    census = task.census(split)
    _check_ids(ids, census.ids)
    arms = {key: _joined(key, columns, len(ids)) for key, columns in parts.items()}
    _check_columns(arms)
    return Taken(
        ids=tuple(ids),
        slices=census.slices,
        sources=census.sources,
        eval_digest=census.digest,
        arms=arms,
        times=census.times,
    )


def without_trained_on(
    taken: Taken, census: Census, trained_on: Mapping[str, bytes | None]
) -> Taken:
    """`taken` without the examples that an arm was made with.

    `trained_on` maps arms to their marks (see task.trained_on), None where an arm has none.
    `census` is of the split that was taken. Raises PayloadCorrupt for bytes that are no marks.
    """
    known = {
        arm: None if raw is None else is_marked(census, raw) for arm, raw in trained_on.items()
    }
    out = [any(marked) for marked in zip(*(one for one in known.values() if one), strict=True)]
    rows = [row for row in range(len(census.ids)) if not (out and out[row])]
    return replace(
        taken,
        ids=tuple(taken.ids[row] for row in rows),
        slices={name: tuple(each[row] for row in rows) for name, each in taken.slices.items()},
        sources=None if taken.sources is None else tuple(taken.sources[row] for row in rows),
        times=None if taken.times is None else tuple(taken.times[row] for row in rows),
        arms={
            key: {name: column[rows] for name, column in columns.items()}
            for key, columns in taken.arms.items()
        },
        dropped={arm: None if one is None else sum(one) for arm, one in known.items()},
    )


def write_records(out: Path, taken: Taken) -> Recorded:
    """Writes the two payload files (core.artifacts.Recorded says what they hold) into `out`."""
    tensors = {
        f"{key}/{name}": column
        for key, columns in sorted(taken.arms.items())
        for name, column in sorted(columns.items())
    }
    write_bytes(out / RECORDS_FILE, save(tensors))
    sources = None if taken.sources is None else list(taken.sources)
    examples = {"ids": taken.ids, "slices": taken.slices, "sources": sources}
    if taken.times is not None:
        examples["times"] = list(taken.times)
    write_bytes(out / EXAMPLES_FILE, canonical(examples))
    return Recorded(
        examples=len(taken.ids),
        eval_digest=taken.eval_digest,
        columns=tuple(sorted({name for columns in taken.arms.values() for name in columns})),
        dropped=taken.dropped or UNSET,
    )


def checked_records(task: Task, outputs: tuple[Tensor, ...], batch: Batch) -> dict[str, Column]:
    """The task's records of a batch: int64 columns of len(batch). Raises TaskError for anything else."""
    found: dict[str, Column] = {}
    for name, values in task.records(outputs, batch).items():
        column = np.asarray(values)
        if column.dtype.kind not in "biu" or column.shape != (len(batch),):
            raise TaskError(
                f"records() gives '{name}' as {column.dtype}{list(column.shape)}; "
                f"int64[{len(batch)}] is needed",
                where=type(task).__name__,
                fix="give one integer for each example of the batch",
            )
        found[name] = column.astype(np.int64)
    if not found:
        raise TaskError("records() gives no column", where=type(task).__name__)
    return found


def module_answer(module: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """The module's outputs on the batch. Raises NonFiniteWeights, naming the example."""
    outputs = run_module(module, batch.inputs)
    strange = _first_not_finite(outputs, batch)
    if strange is not None:
        raise NonFiniteWeights(
            f"the model gives an output that is not finite for example '{strange}'",
            fix="train the model again, or look at that example",
        )
    return outputs


def engine_answer(key: str, session: Session, batch: Batch) -> tuple[Tensor, ...]:
    """The engine's outputs on the batch. Raises BuildError, naming engine and example."""
    inputs = [tensor.detach().cpu().contiguous().numpy() for tensor in batch.inputs]
    outputs = tuple(torch.from_numpy(array) for array in session.run(inputs))
    strange = _first_not_finite(outputs, batch)
    if strange is not None:
        raise BuildError(
            f"the engine {key} gives an output that is not finite for example '{strange}'",
            fix="compare it with its bundle on that example; build it again",
        )
    return outputs


def _first_not_finite(outputs: tuple[Tensor, ...], batch: Batch) -> str | None:
    for output in outputs:
        if output.is_floating_point() and not bool(torch.isfinite(output).all()):
            if output.shape[:1] != (len(batch),):
                return batch.ids[0]
            bad = ~torch.isfinite(output).reshape(len(batch), -1).all(dim=1)
            return batch.ids[int(bad.nonzero()[0])]
    return None


def _check_ids(ids: Sequence[str], census: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise TaskError(
            f"{len(repeated)} ids of the eval split stand for several examples, "
            f"for example '{repeated[0]}'",
            fix="give every example an id of its own",
        )
    if tuple(ids) != tuple(census):
        raise TaskError(
            f"two passes over the eval split differ: {len(ids)} and {len(census)} examples",
            fix="make order and content a function of seed and epoch alone",
        )
    if not ids:
        raise TaskError("the eval split is empty", fix="give the task examples to be judged on")


def _joined(key: str, parts: Mapping[str, list[Column]], examples: int) -> dict[str, Column]:
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    short = sorted(name for name, column in columns.items() if len(column) != examples)
    if short:
        raise TaskError(
            f"records() gives {', '.join(short)} for only some batches ({key})",
            fix="give the same columns for every batch",
        )
    return columns


def _check_columns(arms: Mapping[str, Mapping[str, Column]]) -> None:
    wanted = set(arms[AS_TRAINED])
    for key, columns in arms.items():
        if set(columns) != wanted:
            raise TaskError(
                f"records() gives other columns for {key} ({', '.join(sorted(columns))}) than for "
                f"the dense model ({', '.join(sorted(wanted))})",
                fix="let the columns not depend on the outputs",
            )
