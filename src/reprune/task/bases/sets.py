"""Several tasks as one: models that share frames, a device and a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from reprune.core.documents import digest_of
from reprune.core.errors import TaskError
from reprune.task.bases.set_module import SetModule, Unknown, answered
from reprune.task.bases.set_options import give_options, refuse_wrong
from reprune.task.outputs import Kind, outputs_of, said_of_outputs
from reprune.task.protocol import Batch, Split, Task, Work

if TYPE_CHECKING:
    from reprune.task.protocol import Records


class TaskSet:
    """A task made of the tasks in `members`, under the names that params.yaml gives them there.

    All look at the same frames: in every split they give the same ids in the same batches. An input that
    two members call by one name is one input of the set, and must be the same for both. `weights` say how
    much each member's loss counts (1 where it is not named): cuts are shared out accordingly. The records
    are the members' own, each column as `<member>.<column>`, which the policy's metrics `<member>.<metric>`
    read. Class labels are those of the member `labels_of`, or of the only one that has some. What members
    say of their modules (`keep`, `heads`, `blocks`, `features`) holds below their names, beside what the
    set's own class says. Raises TaskError where members do not fit together, at the first batch that shows
    it.
    """

    members: ClassVar[Mapping[str, type]]
    weights: ClassVar[Mapping[str, float]] = {}
    labels_of: ClassVar[str] = ""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {name: made() for name, made in sorted(self.members.items())}
        refuse_wrong(self, self.tasks)
        give_options(self, self.tasks)
        if all(hasattr(task, "plain") for task in self.tasks.values()):
            self.plain = getattr(self, "plain", self._plain)
        if any(hasattr(task, "shown") for task in self.tasks.values()):
            self.shown = getattr(self, "shown", self._shown)

    @cached_property
    def data_version(self) -> str:
        return digest_of({member: task.data_version for member, task in self.tasks.items()})

    @cached_property
    def preprocess_digest(self) -> str:
        return digest_of({member: task.preprocess_digest for member, task in self.tasks.items()})

    @cached_property
    def input_names(self) -> Sequence[str]:
        """Every name once, in the order in which the members have them."""
        names = (name for task in self.tasks.values() for name in task.input_names)
        return tuple(dict.fromkeys(names))

    def model(self) -> nn.Module:
        return SetModule(
            {member: task.model() for member, task in self.tasks.items()}, self._places
        )

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        return self._joined(
            {member: task.example_inputs(batch_size) for member, task in self.tasks.items()},
            "example_inputs()",
        )

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """The weighted sum of the members' losses.

        The set runs once, as a whole, so that whoever listens to `module` hears it, and an engine of the
        set can be asked; each member's loss is given what its part answered (`answered`).
        """
        with self._heard(module) as heard:
            outputs = tuple(module(*batch.inputs))
        parts = []
        for member, own in self.outputs_of_members(outputs).items():
            part = self._part(member, batch)
            if member not in heard:  # an engine's: it has no parts that could be called
                heard[member] = Unknown(), own[0] if self._forms[member][1] else own
            once = answered(heard[member][0], part.inputs, heard[member][1])
            loss = self.tasks[member].loss(once, part, generator)
            parts.append(self.weights.get(member, 1.0) * loss)
        return torch.stack(parts).sum()

    def batches(
        self,
        split: Split,
        *,
        epoch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[Batch]:
        """The members' batches side by side."""
        yield from self._together(
            {
                member: task.batches(
                    split, epoch=epoch, seed=seed, rank=rank, world=world, start=start
                )
                for member, task in self.tasks.items()
            },
            f"batches('{split}')",
        )

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Records:
        found: dict[str, Any] = {}
        for member, own in self.outputs_of_members(outputs).items():
            columns = self.tasks[member].records(own, self._part(member, batch))
            found |= {f"{member}.{column}": values for column, values in columns.items()}
        return found

    def workload(self) -> Sequence[Work]:
        """The members' workloads side by side: they must have the same shares in the same order."""
        found: list[Work] = []
        works = {member: task.workload() for member, task in self.tasks.items()}
        for row in zip_longest(*works.values()):
            if None in row or len({work.weight for work in row}) != 1:
                raise TaskError(
                    "the members' workloads have different shares",
                    where=f"{type(self).__name__}.workload()",
                    fix="give workload() in the set's own class",
                )
            inputs = {member: work.inputs for member, work in zip(works, row, strict=True)}
            found.append(Work(inputs=self._joined(inputs, "workload()"), weight=row[0].weight))
        return found

    def _labels(self, given: Mapping[str, Sequence[str] | None]) -> Sequence[str] | None:
        """The labels of one member: which must not change from batch to batch."""
        if self.labels_of:
            return given[self.labels_of]
        having = [labels for labels in given.values() if labels is not None]
        return having[0] if len(having) == 1 else None

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Which of the set's inputs each member takes."""
        names = list(self.input_names)
        return {
            member: [names.index(name) for name in task.input_names]
            for member, task in self.tasks.items()
        }

    @cached_property
    def _forms(self) -> dict[str, tuple[int, bool]]:
        """How many outputs each member's module has, and whether it gives a tensor alone."""
        forms = {}
        for member, task in self.tasks.items():
            module, inputs = task.model().eval(), task.example_inputs(2)
            with torch.no_grad():
                count = len(outputs_of(module, inputs))
                forms[member] = count, isinstance(module(*inputs), Tensor)
        return forms

    def outputs_of_members(self, outputs: Sequence[Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """The members' own among the outputs of the set in eval mode."""
        found, begin = {}, 0
        for member, (count, _) in self._forms.items():
            found[member] = tuple(outputs[begin : begin + count])
            begin += count
        return found

    @cached_property
    def outputs_are(self) -> tuple[Kind, ...]:
        """What the members say of their outputs; empty where one says nothing."""
        found: list[Kind] = []
        for member, (count, _) in self._forms.items():
            said = said_of_outputs(self.tasks[member])
            found.extend(said if isinstance(said, tuple) else [said] * count)
        return tuple(found)

    @contextmanager
    def _heard(self, module: nn.Module) -> Iterator[dict[str, tuple[nn.Module, object]]]:
        """Inside, each member's part of `module` that is called is noted, with what it gave: in training it
        may give more than in eval mode.
        """
        heard: dict[str, tuple[nn.Module, object]] = {}
        parts = dict(module.named_children())
        hooks = [
            parts[member].register_forward_hook(
                lambda part, _, output, member=member: heard.update({member: (part, output)})
            )
            for member in self.tasks.keys() & parts.keys()
        ]
        try:
            yield heard
        finally:
            for hook in hooks:
                hook.remove()

    def _part(self, member: str, batch: Batch) -> Batch:
        """The batch as the member's own task gave it."""
        targets = cast(Mapping[str, object], batch.targets)
        return Batch(
            inputs=tuple(batch.inputs[place] for place in self._places[member]),
            targets=targets[member],
            ids=batch.ids,
            slices=batch.slices,
            source=batch.source,
            time=batch.time,
            labels=batch.labels,
        )

    def _joined(self, inputs: Mapping[str, tuple[Tensor, ...]], where: str) -> tuple[Tensor, ...]:
        """Every input once. Raises TaskError where two members have one of the same name that differs."""
        found: dict[int, Tensor] = {}
        for member, tensors in inputs.items():
            for place, tensor in zip(self._places[member], tensors, strict=True):
                if place in found and not torch.equal(found[place], tensor):
                    raise TaskError(
                        f"the input '{self.input_names[place]}' is not the same for '{member}' as for the "
                        "members before it",
                        where=f"{type(self).__name__}.{where}",
                        fix="give the members one input, augmented alike, or two names for two inputs",
                    )
                found.setdefault(place, tensor)
        return tuple(found[place] for place in sorted(found))

    def _one(self, columns: Sequence[Sequence[str] | None], what: str) -> Any:
        """What all members that say it say of the frames."""
        given = [column for column in columns if column is not None]
        if given and _agreed(given) is None:
            raise TaskError(
                f"the members say different things about the same frames ({what})",
                where=type(self).__name__,
                fix="let them agree, or give only one of them this column",
            )
        return given[0] if given else None

    def _shown(self, batch: Batch) -> Sequence[str]:
        """Each example in the words of every member that has some."""
        told = {
            member: cast(Any, task).shown(self._part(member, batch))
            for member, task in self.tasks.items()
            if hasattr(task, "shown")
        }
        rows = zip(*told.values(), strict=True)
        return [
            "; ".join(f"{m}: {text}" for m, text in zip(told, row, strict=True)) for row in rows
        ]

    def _plain(self, split: Split) -> Iterator[Batch]:
        """The split's batches without augmentation."""
        tasks = cast(Mapping[str, Any], self.tasks)
        yield from self._together(
            {member: task.plain(split) for member, task in tasks.items()}, f"plain('{split}')"
        )

    def _together(self, streams: Mapping[str, Iterator[Batch]], where: str) -> Iterator[Batch]:
        for row in zip_longest(*streams.values()):
            first = row[0]
            if first is None or any(
                batch is None or list(batch.ids) != list(first.ids) for batch in row
            ):
                raise TaskError(
                    "the members do not give the same examples in the same batches",
                    where=f"{type(self).__name__}.{where}",
                    fix="let them share ids, splits and batch size: a frame goes through every member",
                )
            parts = dict(zip(streams, row, strict=True))
            slices: dict[str, Sequence[str]] = {}
            for batch in row:
                for family, values in batch.slices.items():
                    slices[family] = self._one([slices.get(family), values], f"slices['{family}']")
            yield Batch(
                inputs=self._joined(
                    {member: batch.inputs for member, batch in parts.items()}, where
                ),
                targets={member: batch.targets for member, batch in parts.items()},
                ids=first.ids,
                slices=slices,
                source=self._one([batch.source for batch in row], "source"),
                time=self._one([batch.time for batch in row], "time"),
                labels=self._labels({member: batch.labels for member, batch in parts.items()}),
            )


def _agreed(columns: Sequence[Sequence[str] | None]) -> Sequence[str] | None:
    """The one column that there is; None where there is none, or where members mean other things."""
    given = [list(column) for column in columns if column is not None]
    return given[0] if given and all(column == given[0] for column in given) else None
