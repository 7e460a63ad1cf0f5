"""How much an engine loses of the module that it was built from, in the task's own terms, on `tune`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reprune.core.errors import ChainBroken, TaskError
from reprune.core.params import BuildParams, Target
from reprune.measure.outputs import evaluating
from reprune.measure.records import checked_records, engine_answer, module_answer
from reprune.runtimes.base import Runtime, Session
from reprune.runtimes.guarded import GuardedSession
from reprune.task.protocol import Batch, Task

CORRECT = "correct"
NAME = "under trial"


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """`share` of examples answered rightly, None where the records do not tell; else `loss`, None where
    it cannot be had of outputs alone.
    """

    share: float | None
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """`harm` is the loss in units of what is allowed: within bounds up to 1."""

    harm: float
    words: str


class Yardstick:
    """The module's own answers on the first examples of `tune`, to hold engines against.

    Raises TaskError for an empty split, NonFiniteWeights for a module that gives no numbers.
    """

    def __init__(self, module: nn.Module, task: Task, *, most: int, ranking: int) -> None:
        self._task, self._module = task, module
        self.batches = list(_first(task, most))
        if not self.batches:
            raise TaskError(
                "the tune split is empty",
                fix="which layers stay in float is chosen on it: give it examples",
            )
        self.examples = sum(map(len, self.batches))
        self._ranking = _until(self.batches, ranking)
        self._expected = [module_answer(module, batch) for batch in self._ranking]
        with evaluating(module):
            self._is_single = isinstance(module(*self.batches[0].inputs), Tensor)
        answers = (module_answer(module, batch) for batch in self.batches)
        self._base = Fidelity(share=self._share(answers), loss=None)
        if self._base.share is None:
            self._base = Fidelity(share=None, loss=self._loss(module))

    def of(self, runtime: Runtime, engine: Path, target: Target) -> Fidelity:
        """What the engine is worth on all examples. Raises BuildError for one that does not run."""
        with _opened(runtime, engine, target) as session:
            return self.of_session(session)

    def of_session(self, session: Session) -> Fidelity:
        """The same of an open engine, which is called once with each of `batches`, in their order."""
        if self._base.share is not None:
            answers = (engine_answer(NAME, session, batch) for batch in self.batches)
            return Fidelity(share=self._share(answers), loss=None)
        if self._base.loss is None:
            return Fidelity(share=None, loss=None)
        return Fidelity(share=None, loss=self._loss(_Engine(session, self._is_single)))

    def distance(self, runtime: Runtime, engine: Path, target: Target) -> float:
        """|engine - module|^2 / |module|^2 over all outputs on the ranking examples."""
        apart, size = 0.0, 0.0
        with _opened(runtime, engine, target) as session:
            for batch, expected in zip(self._ranking, self._expected, strict=True):
                found = engine_answer(NAME, session, batch)
                for one, other in zip(expected, found, strict=True):
                    apart += float((one.double() - other.double()).square().sum())
                    size += float(one.double().square().sum())
        return apart / (size or 1.0)

    def judge(self, found: Fidelity, params: BuildParams) -> Judged:
        """Against the module's own worth, by the bounds of `params`."""
        base = self._base
        if base.share is not None and found.share is not None:
            drop = base.share - found.share
            words = f"{found.share:.2%} answered rightly, {base.share:.2%} by the bundle"
            return Judged(harm=_rounded(drop / params.max_drop), words=words)
        if base.loss is not None and found.loss is not None:
            rise = (found.loss - base.loss) / max(abs(base.loss), 1e-9)
            words = f"loss {found.loss:.6g}, the bundle's {base.loss:.6g}"
            harm = float("inf") if math.isnan(rise) else _rounded(rise / params.max_loss_rise)
            return Judged(harm=harm, words=words)
        return Judged(
            harm=0.0,
            words="not compared: no record `correct` for the whole, and the loss needs more than outputs",
        )

    def bound(self, params: BuildParams) -> str:
        """What is allowed, in words."""
        if self._base.share is not None:
            return f"{params.max_drop:.2%} fewer answered rightly"
        return f"a loss {params.max_loss_rise:.1%} higher"

    def _share(self, answers: Iterator[tuple[Tensor, ...]]) -> float | None:
        right = 0
        for batch, outputs in zip(self.batches, answers, strict=True):
            column = checked_records(self._task, outputs, batch).get(CORRECT)
            if column is None or not np.isin(column, (0, 1)).all():
                return None
            right += int(column.sum())
        return right / self.examples

    def _loss(self, module: nn.Module) -> float | None:
        """The task's mean loss; None where it asks for more than the outputs of `module`."""
        generator = torch.Generator().manual_seed(0)
        total = 0.0
        with evaluating(module):
            for batch in self.batches:
                try:
                    loss = self._task.loss(module, batch, generator)
                except (AttributeError, TypeError, ChainBroken):
                    # It asked an engine for a layer, by name or by place, or one that ran elsewhere for
                    # what that was not given: a second look, or inputs of its own.
                    if isinstance(module, _Engine):
                        return None
                    raise
                total += float(loss) * len(batch)
        return total / self.examples


class _Engine(nn.Module):
    """A session in a module's place: the same outputs for the same inputs, and nothing else."""

    def __init__(self, session: Session, is_single: bool) -> None:
        super().__init__()
        self._session, self._is_single = session, is_single

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        arrays = [tensor.detach().cpu().contiguous().numpy() for tensor in inputs]
        outputs = tuple(torch.from_numpy(array) for array in self._session.run(arrays))
        return outputs[0] if self._is_single else outputs


@contextmanager
def _opened(runtime: Runtime, engine: Path, target: Target) -> Iterator[Session]:
    if not runtime.capabilities.may_crash:
        yield runtime.open(engine, target)
        return
    session = GuardedSession(engine, target)
    try:
        yield session
    finally:
        session.close()


def _first(task: Task, examples: int) -> Iterator[Batch]:
    yield from _until(task.batches("tune", epoch=0, seed=0), examples)


def _until(batches: Iterator[Batch] | Sequence[Batch], examples: int) -> list[Batch]:
    """Whole batches until there are at least `examples`, or no more."""
    found: list[Batch] = []
    seen = 0
    for batch in batches:
        if seen >= examples:
            break
        found.append(batch)
        seen += len(batch)
    return found


def _rounded(value: float) -> float:
    # A drop of exactly the bound is within it, whatever the last bit says.
    return round(value, 9)
