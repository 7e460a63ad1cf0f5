"""What a cut took away, group by group: what was to be expected of it beside what is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from reprune.compress.planning.costs import cost_model
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import Kept, architecture_of
from reprune.compress.structure.groups import Group
from reprune.core.artifacts import Cost, GroupCut
from reprune.measure.profile import count_cost
from reprune.task.protocol import Task


def group_cuts(
    task: Task, module: nn.Module, groups: Sequence[Group], widths: Mapping[str, int], kept: Kept
) -> tuple[GroupCut, ...]:
    """Every group's record: `planned` is what the cost model says of the width that was asked for, and
    `removed` is counted on the model with this group alone cut to `kept`; both against `module`.
    """
    inputs = task.example_inputs(1)
    whole = count_cost(module, inputs)
    predicted = cost_model(module, groups, whole)
    cuts = []
    for group in groups:
        wanted = widths.get(group.name, group.width)
        left = whole.cost
        if len(kept[group.name]) < group.width:
            alone = {group.name: kept[group.name]}
            left = count_cost(apply(module, architecture_of(module, [group], alone)), inputs).cost
        cuts.append(
            GroupCut(
                group=group.name,
                width=group.width,
                requested=wanted,
                keep=len(kept[group.name]),
                planned=_less(whole.cost, predicted({group.name: wanted})),
                removed=_less(whole.cost, left),
            )
        )
    return tuple(cuts)


def _less(before: Cost, after: Cost) -> Cost:
    return Cost(
        params=before.params - after.params,
        macs=before.macs - after.macs,
        bytes=before.bytes - after.bytes,
    )
