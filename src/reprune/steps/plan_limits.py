"""Limits of a plan in milliseconds and bytes: as shares of what the dense model takes, and whether they can
be reached at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, structs

from reprune.core.artifacts import Cost, Plan, Profile
from reprune.core.errors import CompressionError
from reprune.core.limits import LATENCY, LATENCY_MS, bounded
from reprune.core.params import PlanParams
from reprune.core.store import Artifact

if TYPE_CHECKING:
    from reprune.compress.planning.options import Options


def dense_milliseconds(profiles: list[Artifact[Profile]]) -> dict[str, float]:
    """By target, what a call of the dense model was measured to take; by the profile whose tables are planned
    by, where several timed it.
    """
    found = {}
    for with_tables in (False, True):
        for profile in reversed(profiles):
            tabled = {fact.target for fact in profile.manifest.tables or ()}
            for one in profile.manifest.targets:
                if one.target in tabled or not with_tables:
                    found[one.target] = one.latency_us / 1000.0
    return found


def in_shares(
    asked: PlanParams, before: Cost, dense_ms: Mapping[str, float], say: Callable[[str], None]
) -> PlanParams:
    """The params with every limit as a share of the dense model's; without those that it meets as it is,
    which is said. Raises CompressionError for milliseconds on a target on which nobody timed it, and where
    the dense model meets everything that was asked, so that there is nothing to cut.
    """
    found: dict[str, float] = {}
    met = []
    for name, most in (asked.limits or {}).items():
        if bounded(name) == name:
            found[name] = most
            continue
        whole = _whole(name, before, dense_ms)
        told = f"plan: {name}: {most:g}, of {whole:.6g} that the dense model takes"
        if most >= whole:
            met.append(f"plan.limits.{name}")
            say(f"{told}: it asks nothing")
        else:
            found[bounded(name)] = most / whole
            say(f"{told}: {most / whole:.4f} of it")
    by_hand = asked.widths or asked.removed_blocks
    if met and not found and asked.fraction >= 1.0 and not by_hand:
        raise CompressionError(
            "the dense model is within every limit as it is: nothing is asked that a cut could give",
            where=f"params.yaml ({met[0]})",
            fix="lower the limit, or set plan.fraction to less than 1",
        )
    return structs.replace(asked, limits=found or UNSET)


def _whole(name: str, before: Cost, dense_ms: Mapping[str, float]) -> float:
    if not name.startswith(LATENCY_MS):
        return float(before.bytes)
    target = name.removeprefix(LATENCY_MS)
    if target not in dense_ms:
        raise CompressionError(
            f"no profile has timed the dense model on '{target}', so that nobody knows what share of its "
            "latency these milliseconds are",
            where=f"params.yaml (plan.limits.{name})",
            fix="run `reprune profile` where that target is timed, and give plan what it makes",
        )
    return dense_ms[target]


def refuse_out_of_reach(
    asked: PlanParams, shares: PlanParams, options: Options, untimed: Collection[str]
) -> None:
    """Raises CompressionError with the least that can be reached, in the unit that was asked in, where no
    widths keep a limit in milliseconds or bytes. Where a target is not `untimed`, that is left to its
    timings: tables may be wrong by more than what is missing.
    """
    from reprune.compress.planning.allocate import least_cost

    for name, most in (asked.limits or {}).items():
        unit = bounded(name)
        share = (shares.limits or {}).get(unit)
        timed = unit.startswith(LATENCY) and unit.removeprefix(LATENCY) not in untimed
        if unit == name or share is None or timed:
            continue
        limit = options.limit(unit, share)
        least = least_cost(options.problem(unit, 1.0), limit)
        if least > limit.most:
            reached = least / limit.most * most
            raise CompressionError(
                f"no allowed widths keep to {name}: {most:g}; the least that can be reached is {reached:.4g}",
                where=f"params.yaml (plan.limits.{name})",
                fix=f"raise it to at least {_rounded_up(reached):g}, or allow narrower layers with a "
                "smaller plan.min_keep or plan.round_to",
            )


def asked_alike(champion: Plan | None, asked: PlanParams, shares: PlanParams) -> Plan | None:
    """The champion's plan with its limits as shares of *this* dense model's, where they were asked for as
    they are now: milliseconds are another share of every retrained model's.
    """
    if champion is None or champion.limits != asked.limits:
        return champion
    return structs.replace(champion, limits=shares.limits)


def shares_for_people(asked: PlanParams, shares: PlanParams) -> dict[str, Any]:
    """For `plan.yaml`: which shares of the dense model's the limits in units were; nothing without such."""
    if asked.limits == shares.limits:
        return {}
    told = {bounded(name) for name in asked.limits or () if bounded(name) != name}
    return {
        "limits_as_shares": {
            name: float(f"{share:.4g}")
            for name, share in (shares.limits or {}).items()
            if name in told
        }
    }


def _rounded_up(value: float) -> float:
    """To four digits, never below the value."""
    digits = 3 - math.floor(math.log10(value))
    return math.ceil(value * 10.0**digits) / 10.0**digits
