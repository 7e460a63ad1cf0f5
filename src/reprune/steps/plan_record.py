"""What a plan records, for the steps after it and for the next generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from reprune.core.artifacts import Cost, GroupPlan, Plan, Prediction
from reprune.core.params import PlanParams
from reprune.steps.opening import Dense

if TYPE_CHECKING:
    from reprune.compress.planning.choose import Choice
    from reprune.compress.planning.options import Options


def recorded(
    params: PlanParams,
    opened: Dense,
    options: Options,
    before: Cost,
    choice: Choice,
    predicted: Prediction,
) -> Plan:
    """The plan as it is stored: what was asked, what was chosen, and what later steps must know of it."""
    from reprune.core.artifacts import block_key

    removed = _removed(opened, choice)
    return Plan(
        allocator=params.allocator,
        budget=params.budget,
        fraction=params.fraction,
        before=before,
        groups=tuple(
            GroupPlan(group=group.name, width=group.width, keep=choice.widths[group.name])
            for group in opened.groups
        ),
        predicted=predicted,
        blocks=removed if params.depth else UNSET,
        head_dimensions=True if params.head_dimensions else UNSET,
        limits=params.limits or UNSET,
        floors=params.floors or UNSET,
        by_hand=(*sorted(params.widths or ()), *(params.removed_blocks or ())) or UNSET,
        tried=choice.tried or UNSET,
        round_to=params.round_to,
        block_losses={name: options.curves[block_key(name)].at(0) for name in removed} or UNSET,
    )


def _removed(opened: Dense, choice: Choice) -> tuple[str, ...]:
    from reprune.core.artifacts import block_key

    names = (block.name for block in opened.blocks)
    return tuple(name for name in names if choice.widths.get(block_key(name)) == 0)
