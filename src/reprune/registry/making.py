"""How a version was made, by the manifests stored with it: what was the champion's, and what that saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec.structs import replace

from reprune.core.artifacts import ModelBundle, Plan, Recovery, Sensitivity, TimesReuse
from reprune.registry.generations import Made


def made_of(
    table: Sensitivity, plan: Plan, bundle: ModelBundle, times: Sequence[TimesReuse]
) -> Made:
    """What each of them says of it; `times` are those of all latency tables."""
    reuse = table.reuse or None
    made = Made(
        table=reuse.how if reuse else "",
        why=reuse.why if reuse else "",
        cost=table.cost or 0,
        full_cost=reuse.full_cost if reuse else table.cost or 0,
        times=_how(times),
        times_why=times[0].why if times else "",
        builds=sum(one.built for one in times),
        full_builds=sum(one.full_builds for one in times),
        widths=_widths(plan),
        widths_doubt=plan.tried.doubt if plan.tried and plan.kept_champions else "",
        table_doubt=reuse.trial.doubt if reuse and reuse.trial else "",
        kept=plan.left,
        question=plan.asked,
        rise=plan.predicted.loss_increase,
    )
    return made if bundle.recovery is None else _recovered(made, bundle.recovery)


def _how(times: Sequence[TimesReuse]) -> Literal["", "reused", "measured"]:
    """What is told of several: that they were reused where one of them at least was."""
    if not times:
        return ""
    return "reused" if any(one.how == "reused" for one in times) else "measured"


def _widths(plan: Plan) -> Literal["", "kept", "fresh"]:
    kept = plan.kept_champions
    if kept is None:
        return ""
    return "kept" if kept else "fresh"


def _recovered(made: Made, recovery: Recovery) -> Made:
    """With what recovery took over from the champion's, and its learning rate."""
    known, rate = recovery.known or None, recovery.rate or None
    if rate is not None:
        made = replace(made, rate=rate.learning_rate, rate_how=rate.how, rate_age=rate.age)
    if known is None:
        return made
    began = "champion" if known.start and known.start.taken else "cut"
    return replace(
        made,
        epochs=known.epochs,
        asked=known.asked,
        recovery_saved=recovery.saved,
        start=began if known.start else "",
        taught=known.weight,
    )
