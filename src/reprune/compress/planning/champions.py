"""Whether the champion's widths may answer what a plan is asked now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reprune.compress.planning.options import LATENCY
from reprune.core.artifacts import block_key

if TYPE_CHECKING:
    from reprune.compress.planning.options import Options
    from reprune.core.artifacts import Plan
    from reprune.core.params import PlanParams

# What two plans must have been asked alike for the one's widths to be an answer to the other.
QUESTION = ("allocator", "budget", "fraction", "limits", "floors")
# Trials of a latency: one for fresh widths and one for the champion's.
FEWEST_TRIALS = 2


def widths_to_try(
    options: Options,
    params: PlanParams,
    champion: Plan | None,
    *,
    timed: bool,
    say: Callable[[str], None],
) -> dict[str, int] | None:
    """The champion's widths where its plan answered the same question, they are still allowed, and where
    plans are `timed` a trial is left for them; else None.
    """
    known = None if champion is None else _allowed(options, params, champion)
    if known is not None and timed and params.latency_trials < FEWEST_TRIALS:
        say(
            "plan: the champion's widths are not tried: plan.latency_trials leaves no trial for them"
        )
        return None
    return known


def budgets_of(params: PlanParams) -> dict[str, float]:
    """Every budget with its fraction, the first one first; a latency by its target."""
    first = LATENCY + params.latency_target if params.budget == "latency" else params.budget
    return {first: params.fraction, **(params.limits or {})}


def _allowed(options: Options, params: PlanParams, champion: Plan) -> dict[str, int] | None:
    if any(getattr(champion, name) != getattr(params, name) for name in QUESTION):
        return None
    widths = {item.group: item.keep for item in champion.groups}
    removed = {block_key(block) for block in champion.blocks or ()}
    same_groups = {item.group: item.width for item in champion.groups} == {
        name: width for name, width in options.full.items() if name not in options.blocks
    }
    if not same_groups or removed - options.blocks.keys():
        return None
    widths |= {block: int(block not in removed) for block in options.blocks}
    if any(widths[name] not in rungs for name, rungs in options.rungs.items()):
        return None
    counted = {n: f for n, f in budgets_of(params).items() if not n.startswith(LATENCY)}
    fits = all(options.limit(unit, share).fits(widths) for unit, share in counted.items())
    return widths if fits and options.problem("macs", 1.0).spares(widths) else None
