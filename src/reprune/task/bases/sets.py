"""Several tasks as one: models that share frames, a device and a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from reprune.core.documents import digest_of
from reprune.core.errors import TaskError
from reprune.task.outputs import outputs_of
from reprune.task.protocol import Batch, Split, Task, Work

if TYPE_CHECKING:
    from reprune.task.protocol import Records

_PER_MODULE = ("keep", "blocks", "features")


class SetModule(nn.Module):
    """The members' modules side by side, each a child under its member's name.

    Takes every input once, by `inputs` (each member's places among them), and returns all members'
    outputs, one member's after the other's.
    """

    def __init__(
        self, members: Mapping[str, nn.Module], inputs: Mapping[str, Sequence[int]]
    ) -> None:
        super().__init__()
        self.places = {member: tuple(inputs[member]) for member in members}
        for member, module in members.items():
            self.add_module(member, module)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One frame through all members."""
        outputs: list[Tensor] = []
        for member, places in self.places.items():
            own = outputs_of(self.get_submodule(member), tuple(inputs[place] for place in places))
            outputs.extend(own)
        return tuple(outputs)


class TaskSet:
    """A task made of the tasks in `members`, under the names that params.yaml gives them there.

    All look at the same frames: in every split they give the same ids in the same batches. An input that
    two members call by one name is one input of the set, and must be the same for both. `weights` say how
    much each member's loss counts (1 where it is not named): cuts are shared out accordingly. The records
    are the members' own, each column as `<member>.<column>`, which the policy's metrics `<member>.<metric>`
    read. Class labels are kept where the members agree about them. Raises TaskError where members do not
    fit together, at the first batch that shows it.
    """

    members: ClassVar[Mapping[str, type]]
    weights: ClassVar[Mapping[str, float]] = {}

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {name: made() for name, made in sorted(self.members.items())}
        unknown = sorted(set(self.weights) - set(self.tasks))
        wrong = [name for name, weight in self.weights.items() if not weight > 0]
        if not self.tasks or unknown or wrong:
            what = f"weighs '{unknown[0]}', which is no member" if unknown else "names no member"
            raise TaskError(
                f"the weight of '{wrong[0]}' is not above 0" if wrong else what,
                where=type(self).__name__,
                fix=f"its members are: {', '.join(self.tasks)}",
            )
        for option in _PER_MODULE:
            found = self._named(option)
            if found:
                setattr(self, option, found)
        heads = {
            f"{member}.{module}": count
            for member, task in self.tasks.items()
            for module, count in (getattr(task, "heads", None) or {}).items()
        }
        if heads:
            self.heads = heads
        if all(hasattr(task, "plain") for task in self.tasks.values()):
            self.plain = self._plain
        if any(hasattr(task, "shown") for task in self.tasks.values()):
            self.shown = self._shown
        own = [name for name, task in self.tasks.items() if hasattr(task, "optimizer")]
        if own and not hasattr(self, "optimizer"):
            raise TaskError(
                f"'{own[0]}' has an optimizer of its own, and all members are trained by one",
                where=type(self).__name__,
                fix="give the set `optimizer(params)`",
            )

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
        """The weighted sum of the members' losses."""
        parts = [
            self.weights.get(member, 1.0)
            * task.loss(module.get_submodule(member), self._part(member, batch), generator)
            for member, task in self.tasks.items()
        ]
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
        begin = 0
        for member, task in self.tasks.items():
            end = begin + self._outputs[member]
            own = task.records(outputs[begin:end], self._part(member, batch))
            found |= {f"{member}.{column}": values for column, values in own.items()}
            begin = end
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

    def _named(self, option: str) -> tuple[str, ...]:
        return tuple(
            f"{member}.{name}"
            for member, task in self.tasks.items()
            for name in (getattr(task, option, None) or ())
        )

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Which of the set's inputs each member takes."""
        names = list(self.input_names)
        return {
            member: [names.index(name) for name in task.input_names]
            for member, task in self.tasks.items()
        }

    @cached_property
    def _outputs(self) -> dict[str, int]:
        """How many outputs each member's module has."""
        counts = {}
        for member, task in self.tasks.items():
            module = task.model().eval()
            with torch.no_grad():
                counts[member] = len(outputs_of(module, task.example_inputs(2)))
        return counts

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
                labels=_agreed([batch.labels for batch in row]),
            )


def _agreed(columns: Sequence[Sequence[str] | None]) -> Sequence[str] | None:
    """The one column that there is; None where there is none, or where members mean other things."""
    given = [list(column) for column in columns if column is not None]
    return given[0] if given and all(column == given[0] for column in given) else None
