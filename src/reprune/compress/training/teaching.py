"""The loss of recovery: the task's own, and what the teacher adds to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reprune.compress.training.balancing import Balancer
from reprune.compress.training.calls import Call, calls_of
from reprune.compress.training.distillation import distance, kinds_of, outputs_in
from reprune.compress.training.features import (
    Projections,
    attention_distance,
    check_names,
    feature_distance,
)
from reprune.compress.training.teacher_cache import Taught, TeacherCache, fill_cache, is_augmented
from reprune.core.errors import InputError, TaskError
from reprune.measure.outputs import evaluating
from reprune.task.outputs import said_of_outputs

if TYPE_CHECKING:
    from reprune.compress.training.lesson import Lesson, Second
    from reprune.core.params import DistillParams
    from reprune.task.outputs import Kind
    from reprune.task.protocol import Batch, Task


# What the result says of a teacher that is not the dense model.
TEACHERS = {"self": "the student as it came", "ema": "the student's moving average"}


@dataclass(kw_only=True)
class Teaching:
    """`names` are the modules whose outputs are distilled; `spent` counts examples that the student or
    the teacher ran besides training steps. `second` teaches logits beside the teacher. `projections`
    train with the student. `kinds` is what the outputs are, once a batch has shown it: it stays so, whatever
    shapes later ones have.
    """

    task: Task
    teacher: nn.Module
    params: DistillParams
    context: Callable[[], AbstractContextManager[object]]
    names: tuple[str, ...] = ()
    second: Second | None = None
    projections: nn.Module | None = None
    cache: TeacherCache | None = None
    balancer: Balancer = field(default_factory=Balancer)
    kinds: tuple[Kind, ...] | None = None
    spent: int = 0

    @classmethod
    def of(
        cls,
        task: Task,
        teacher: nn.Module,
        params: DistillParams,
        context: Callable[[], AbstractContextManager[object]],
        second: Second | None = None,
    ) -> Teaching:
        names: tuple[str, ...] = ()
        if params.features > 0.0 or params.attention > 0.0:
            names = params.feature_modules or tuple(getattr(task, "features", ()))
        return cls(
            task=task,
            teacher=teacher,
            params=params,
            context=context,
            names=names,
            second=second if params.weight > 0.0 else None,
        )

    @property
    def shares(self) -> dict[str, float]:
        """The parts of the loss and their weights; the task's own first, then those above 0."""
        weight = self.params.weight
        taught = {"logits": weight, "features": self.params.features}
        taught["attention"] = self.params.attention
        return {"own": 1.0 - weight} | {name: w for name, w in taught.items() if w > 0.0}

    @property
    def teaches(self) -> bool:
        return len(self.shares) > 1

    def project(self, student: nn.Module, batch: Batch, *, seed: int) -> None:
        """Makes the projections that `batch` shows to be needed. Raises InputError, CompressionError."""
        if not self.names and self.params.features == self.params.attention == 0.0:
            return
        check_names(self.names, {"student": student, "teacher": self.teacher})
        if self.params.features == 0.0:
            return
        with evaluating(student), self.context():
            call = self._student_calls(student, batch, torch.Generator().manual_seed(seed))[1][0]
            taught = self._run(call)
        self.spent += 2 * len(batch)
        made = Projections(call.features, taught.features, seed=seed)
        self.projections = made.to(batch.inputs[0].device)

    def remember(self, batches: Callable[[], Iterator[Batch]], *, examples: int, seed: int) -> None:
        """Keeps the teacher's answers where that is cheaper than asking again (see teacher_cache)."""
        limit = self.params.teacher_cache_bytes
        moves = self.params.teacher == "ema"
        if not self.teaches or moves or limit == 0 or self.params.epochs < 2:
            return
        if is_augmented(self.task, seed=seed):
            return
        self.cache, asked = fill_cache(
            self.task,
            self.teacher,
            batches(),
            names=self.names,
            examples=examples,
            limit_bytes=limit,
            seed=seed,
            context=self.context,
        )
        self.spent += asked

    def loss(
        self, student: nn.Module, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        """The weighted sum of the parts, a scalar; and how many examples the teachers ran for it.

        The task's loss runs the student itself; the teacher then sees exactly what the student was
        called with, call by call, so that augmentation and several views are the same for both.
        """
        own, calls = self._student_calls(student, batch, generator)
        if not self.teaches:
            return own, 0
        kept = self._recall(calls, batch)
        taught = [kept] if kept is not None else [self._run(call) for call in calls]
        if self.kinds is None and self.params.weight > 0.0:
            said = said_of_outputs(self.task)
            self.kinds = kinds_of(taught[0].outputs, said, batch.targets)
        parts = {"own": own}
        for name in list(self.shares)[1:]:
            distances = [
                self._distance(name, call, given) for call, given in zip(calls, taught, strict=True)
            ]
            parts[name] = torch.stack(distances).mean()
        asked = 0 if kept is not None else len(batch)
        if self.second is not None:
            parts["logits"] = self._with_second(parts["logits"], calls, self.second)
            asked += len(batch)
        return self._combined(parts), asked

    def state(self) -> dict[str, Tensor]:
        """What has been learnt besides the student."""
        found = {} if self.projections is None else dict(self.projections.state_dict())
        return found | self.balancer.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes up what `state` gave."""
        self.balancer.restore(state)
        for name in self.balancer.state():
            state.pop(name, None)
        if self.projections is not None:
            self.projections.load_state_dict(state)

    def _student_calls(
        self, student: nn.Module, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, Sequence[Call]]:
        with calls_of(student, self.names) as calls:
            own = self.task.loss(student, batch, generator)
        if self.teaches and not calls:
            raise TaskError(
                "the loss did not call the module as module(...), so there is nothing to distil",
                where=f"{type(self.task).__name__}.loss",
                fix="call the module itself in loss(), or set distill.weight, features and "
                "attention to 0",
            )
        return own, calls

    def _recall(self, calls: Sequence[Call], batch: Batch) -> Taught | None:
        if self.cache is None or len(calls) != 1:
            return None
        return self.cache.answer(calls[0], batch.ids)

    def _with_second(self, first: Tensor, calls: Sequence[Call], second: Second) -> Tensor:
        """The distance of the logits to both teachers, each by its weight."""
        apart = []
        for call in calls:
            with evaluating(second.module):
                output = second.module(*call.args, **call.kwargs)
            apart.append(distance(call.output, output, self.params.temperature, self.kinds))
        return (1.0 - second.weight) * first + second.weight * torch.stack(apart).mean()

    def _run(self, call: Call) -> Taught:
        with evaluating(self.teacher), calls_of(self.teacher, self.names) as answers:
            output = self.teacher(*call.args, **call.kwargs)
        return Taught(outputs=tuple(outputs_in(output)), features=answers[0].features)

    def _distance(self, name: str, call: Call, taught: Taught) -> Tensor:
        if name == "logits":
            return distance(call.output, taught.outputs, self.params.temperature, self.kinds)
        if name == "attention":
            return attention_distance(call.features, taught.features)
        normalized = self.params.feature_distance == "normalized"
        maps = self.projections
        return feature_distance(
            call.features,
            taught.features,
            maps if isinstance(maps, Projections) else Projections({}, {}, seed=0),
            normalized=normalized,
        )

    def _combined(self, parts: dict[str, Tensor]) -> Tensor:
        shares = self.shares
        if self.params.balance:
            return self.balancer.combine(parts, shares)
        return torch.stack([shares[name] * part for name, part in parts.items()]).sum()


def second_of(lesson: Lesson, device: torch.device) -> Second | None:
    """A copy of the lesson's second teacher on the device; None where there is none."""
    if lesson.second is None:
        return None
    module = copy.deepcopy(lesson.second.module).float().eval().to(device)
    return replace(lesson.second, module=module)


def teacher_of(lesson: Lesson, params: DistillParams, judged: nn.Module) -> nn.Module:
    """The model that teaches; the moving average itself where that is asked for."""
    if params.teacher == "ema":
        if not params.ema:
            raise InputError(
                "the moving average cannot teach where there is none",
                where="params.yaml (distill.teacher)",
                fix="set distill.ema, for example to 0.999",
            )
        return judged
    chosen = lesson.student if params.teacher == "self" else lesson.teacher
    return copy.deepcopy(chosen).float().eval()
