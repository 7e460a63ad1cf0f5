"""A teacher's outputs for every training example, computed once where that is cheaper than again.

What is kept is checked at every use: an example's answer is taken only where the very same inputs are
asked about (by a fingerprint of their bytes and shape), so that augmentation can never get the answer
for another picture. Answers come from batches of another make-up than those that ask: on a CPU they
are off by float rounding (bit-equal where the make-up is the same).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reprune.compress.structure.copies import leaves
from reprune.compress.training.calls import Call, calls_of
from reprune.compress.training.distillation import outputs_in
from reprune.measure.outputs import evaluating

if TYPE_CHECKING:
    from reprune.task.protocol import Batch, Task

# An augmentation that changes one example in two escapes this many looks once in 65,536 times; what
# escapes costs a needless pass, no wrong answer.
LOOKS = 16


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a teacher gives for a batch: its outputs, and what its named modules give."""

    outputs: tuple[Tensor, ...]
    features: Mapping[str, tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class TeacherCache:
    """`rows` is where an example's answer lies in every tensor; `prints` are (examples, 2)."""

    rows: Mapping[str, int]
    prints: Tensor
    outputs: tuple[Tensor, ...]
    features: Mapping[str, tuple[Tensor, ...]]

    def answer(self, call: Call, ids: Sequence[str]) -> Taught | None:
        """What the teacher gave for these examples; None where one of them, or its inputs, is new."""
        prints = fingerprints(call, len(ids))
        if prints is None or any(name not in self.rows for name in ids):
            return None
        where = torch.tensor([self.rows[name] for name in ids], device=self.prints.device)
        if not torch.equal(self.prints[where], prints):
            return None
        return Taught(
            outputs=tuple(tensor[where] for tensor in self.outputs),
            features={
                name: tuple(tensor[where] for tensor in tensors)
                for name, tensors in self.features.items()
            },
        )


def is_augmented(task: Task, *, seed: int) -> bool:
    """Whether examples of `train` look different in another epoch, as far as a few looks tell; True too
    where inputs have no row for each example, so that nobody can tell.
    """
    first = next(iter(task.batches("train", epoch=1, seed=seed)), None)
    if first is None:
        return False
    known = _rows(first)
    if not known:
        return True
    again = (
        known[name] == row
        for batch in task.batches("train", epoch=2, seed=seed)
        for name, row in _rows(batch).items()
        if name in known
    )
    return not all(islice(again, LOOKS))


def fill_cache(  # noqa: PLR0913  what a teacher's answers depend on
    task: Task,
    teacher: nn.Module,
    batches: Iterable[Batch],
    *,
    names: Sequence[str],
    examples: int,
    limit_bytes: int,
    seed: int,
    context: Callable[[], AbstractContextManager[object]],
) -> tuple[TeacherCache | None, int]:
    """The teacher's answers for all of `batches`, which hold `examples`; and how many it was asked.

    None where they do not fit `limit_bytes`, or cannot be told apart by example: several calls of the
    module a batch, arguments or outputs without a row for each example, or other shapes in other
    batches. Stops as soon as that is known.
    """
    rows: dict[str, int] = {}
    made: list[Tensor] = []
    prints: Tensor | None = None
    shape: Taught | None = None
    asked = 0
    for batch in batches:
        answer = _ask(task, teacher, batch, names, seed, context)
        asked += len(batch)
        if answer is None:
            return None, asked
        found, mark = answer
        tensors = _tensors(found)
        if prints is None or shape is None:
            if _bytes(tensors) // len(batch) * examples > limit_bytes:
                return None, asked
            shape = found
            made = [tensor.new_empty((examples, *tensor.shape[1:])) for tensor in tensors]
            prints = mark.new_empty((examples, mark.shape[1]))
        start = len(rows)
        rows |= {name: start + index for index, name in enumerate(batch.ids)}
        if len(rows) != start + len(batch) or len(rows) > examples or not _fit(tensors, made):
            return None, asked
        for tensor, kept in zip((mark, *tensors), (prints, *made), strict=True):
            kept[start : len(rows)] = tensor
    if prints is None or shape is None or len(rows) != examples:
        return None, asked
    return _assembled(rows, prints, made, shape), asked


def fingerprints(call: Call, examples: int) -> Tensor | None:
    """Two 64-bit numbers an example, of all the bytes and the shape of its part of the call's
    arguments: (examples, 2) int64. Unequal inputs have equal ones once in 2^60.

    None where an argument is no tensor with a row for each example (constants aside).
    """
    total: Tensor | None = None
    for number, value in enumerate((*call.args, *call.kwargs.values())):
        if value is None or isinstance(value, bool | int | float | str):
            continue
        if not isinstance(value, Tensor) or value.dim() < 1 or len(value) != examples:
            return None
        marks = _fingerprint(value, number)
        total = marks if total is None else total + marks
    return total


def _fingerprint(value: Tensor, number: int) -> Tensor:
    flat = value.detach().contiguous().reshape(len(value), -1)
    if flat.dtype == torch.bool:
        flat = flat.to(torch.uint8)
    words = flat.view(torch.int32) if flat.element_size() >= 4 else flat.view(torch.uint8)
    seed = words.shape[1] * 1009 + value.dim() * 31 + number
    keys = _keys(words.shape[1] + 1, seed).to(value.device)
    wide = words.to(torch.int64)
    return torch.stack([(wide * key[:-1]).sum(dim=1) + key[-1] for key in keys], dim=1)


@lru_cache(maxsize=16)
def _keys(count: int, seed: int) -> Tensor:
    """Odd multipliers modulo 2^64: a difference in one word alone can never vanish."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**62), 2**62, (2, count), generator=generator) * 2 + 1


def _rows(batch: Batch) -> dict[str, tuple[int, ...]]:
    """Each example's fingerprint; none where inputs have no row for each example."""
    call = Call(args=batch.inputs, kwargs={}, output=None, features={})
    prints = fingerprints(call, len(batch))
    rows = [] if prints is None else [tuple(row) for row in prints.tolist()]
    return dict(zip(batch.ids, rows, strict=False))


def _ask(
    task: Task,
    teacher: nn.Module,
    batch: Batch,
    names: Sequence[str],
    seed: int,
    context: Callable[[], AbstractContextManager[object]],
) -> tuple[Taught, Tensor] | None:
    """What the teacher gives when the task's loss runs it, and the fingerprints of what it was given."""
    generator = torch.Generator().manual_seed(seed)
    with evaluating(teacher), context(), calls_of(teacher, names) as calls:
        task.loss(teacher, batch, generator)
    if len(calls) != 1:
        return None
    prints = fingerprints(calls[0], len(batch))
    found = Taught(outputs=tuple(outputs_in(calls[0].output)), features=calls[0].features)
    if prints is None or any(len(tensor) != len(batch) for tensor in _tensors(found)):
        return None
    return found, prints


def _tensors(found: Taught) -> list[Tensor]:
    return [*found.outputs, *leaves(dict(found.features))]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _fit(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> bool:
    return [tensor.shape[1:] for tensor in tensors] == [tensor.shape[1:] for tensor in made]


def _assembled(
    rows: Mapping[str, int], prints: Tensor, made: Sequence[Tensor], shape: Taught
) -> TeacherCache:
    left = iter(made)
    return TeacherCache(
        rows=rows,
        prints=prints,
        outputs=tuple(next(left) for _ in shape.outputs),
        features={
            name: tuple(next(left) for _ in tensors) for name, tensors in shape.features.items()
        },
    )
