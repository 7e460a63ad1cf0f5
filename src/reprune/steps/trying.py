"""Trying the champion's widths on this generation's weights, against fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from reprune.core.artifacts import JointTrial, Sensitivity
from reprune.core.params import GenerationsParams, PruneParams
from reprune.steps.opening import Dense

if TYPE_CHECKING:
    from reprune.compress.planning.options import Options

Compare: TypeAlias = Callable[[Mapping[str, int], Mapping[str, int]], JointTrial]


def comparing(
    opened: Dense,
    options: Options,
    table: Sensitivity,
    generations: GenerationsParams | UnsetType,
    prune: PruneParams,
    seed: int,
) -> Compare | None:
    """What cuts the dense model to the champion's widths and to fresh ones, repairs both without training
    and compares them on `tune`; None where that is not asked for.

    What `sensitivity` compared already for its spot check is not cut again, and costs nothing.
    """
    if generations is UNSET or not (generations.reuse and generations.try_champion):
        return None
    from reprune.compress.sensitivity.spot import Spot
    from reprune.compress.sensitivity.subject import Subject

    spot = Spot(
        subject=Subject(
            task=opened.task, module=opened.module, groups=opened.groups, cost=options.cost
        ),
        prune=prune,
        seed=seed,
        examples=generations.examples,
        blocks=opened.blocks,
    )
    tolerance, chance = generations.tolerance, generations.false_alarm

    def compare(known: Mapping[str, int], fresh: Mapping[str, int]) -> JointTrial:
        done = table.reuse.trial if table.reuse else None
        if done is not None and (done.known, done.fresh) == (dict(known), dict(fresh)):
            return replace(done, cost=0)
        return spot.compare(known, fresh, tolerance, chance)

    return compare
