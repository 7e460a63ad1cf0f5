"""Trying the champion's widths on this generation's weights, against fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from reprune.core import store
from reprune.core.artifacts import JointTrial, Plan, Previous, Sensitivity
from reprune.core.documents import decode_json
from reprune.core.errors import DocumentError
from reprune.core.params import GenerationsParams, PruneParams
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.steps.inheriting import age_of
from reprune.steps.opening import Dense

if TYPE_CHECKING:
    from reprune.compress.planning.options import Options

Compare: TypeAlias = Callable[[Mapping[str, int], Mapping[str, int]], JointTrial]

COMPARED_FILE = "compared.json"


def known_plan(
    previous: Artifact[Previous], generations: GenerationsParams | UnsetType, ctx: Context
) -> tuple[Plan | None, int | UnsetType]:
    """The plan that the champion was made by, if it was stored and is to be tried, and the `age` of the
    new plan (see Plan). It is not looked at where nothing is taken over, or the champion's widths are not to
    be tried, nor in generation number `cold_every` since that was last so.
    """
    if generations is UNSET or not (generations.reuse and generations.try_champion):
        return None, UNSET
    if previous.manifest.champion is None or "plan/manifest.json" not in previous.manifest.payload:
        return None, UNSET
    found = store.read(previous.path / "plan", Plan).manifest
    age = age_of(previous.manifest, found.age or 0)
    if age < generations.cold_every:
        return found, age
    ctx.say(
        f"plan: the champion's widths are not tried, as was last so {age} generations ago "
        "(generations.cold_every)"
    )
    return None, UNSET


def comparing(
    opened: Dense,
    options: Options,
    table: Sensitivity,
    generations: GenerationsParams | UnsetType,
    prune: PruneParams,
    seed: int,
    ctx: Context,
) -> Compare | None:
    """What cuts the dense model to the champion's widths and to fresh ones, repairs both without training
    and compares them on `tune`; None where that is not asked for.

    What `sensitivity` compared already for its spot check is not cut again, and costs nothing. Nor is what
    this step compared before it was killed.
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
        path = ctx.work / COMPARED_FILE
        kept = _read(path)
        if kept is not None and (kept.known, kept.fresh) == (dict(known), dict(fresh)):
            return kept
        found = spot.compare(known, fresh, tolerance, chance)
        store.write_bytes(path, msgspec.json.encode(found))
        return found

    return compare


def _read(path: Path) -> JointTrial | None:
    """What an earlier run compared; None if it cannot be read: that costs only time."""
    try:
        return decode_json(path.read_bytes(), JointTrial, name=str(path))
    except (FileNotFoundError, DocumentError):
        return None
