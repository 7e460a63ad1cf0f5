"""What a plan of a set says of its members: what each gives up, and what equal shares would have cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reprune.core.artifacts import ModelBundle, Profile
from reprune.core.errors import CompressionError
from reprune.core.params import PlanParams
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.steps.plan_latency import latency_targets

if TYPE_CHECKING:
    from reprune.compress.planning.allocate import Problem
    from reprune.compress.planning.options import Options


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What members' shares are of: `problem` counts it, `own` is each member's in the dense model. `target`
    is where latency was measured, "" for MACs.
    """

    problem: Problem
    own: Mapping[str, float]
    target: str = ""

    @property
    def unit(self) -> str:
        return f"latency@{self.target}" if self.target else "macs"


def members_for_people(
    dense: Artifact[ModelBundle],
    profiles: list[Artifact[Profile]],
    params: PlanParams,
    options: Options,
    widths: Mapping[str, int],
    ctx: Context,
) -> dict[str, Any]:
    """For `plan.yaml`; nothing where the model is no set. Shares are of measured latency where a profile has
    operator tables, of the budget's target rather than another's; else of MACs, and which it is stands
    under `shares_of`.
    """
    from reprune.compress.planning.members import belongs, left_of, member_shares, own_costs

    members = sorted(dense.manifest.members or ())
    if not members:
        return {}
    counted = Measure(
        problem=options.problem("macs", 1.0), own=own_costs(profiles[0].manifest.layers, members)
    )
    measure = _by_latency(profiles, params, options, members, ctx) or counted
    shares = member_shares(measure.problem, widths, measure.own)
    told = {}
    for member, share in shares.items():
        mine = {name: width for name, width in widths.items() if belongs(name, member)}
        told[member] = {
            **({"floor": options.floors[member]} if member in options.floors else {}),
            "macs_left": _short(left_of(counted.problem, mine, counted.own[member])),
            **(_milliseconds(measure.own[member], share.left) if measure.target else {}),
            "predicted_loss": _short(share.rise),
            "predicted_loss_alone": {
                each: None if rise is None else _short(rise) for each, rise in share.curve.items()
            },
        }
    chosen = sum(share.rise for share in shares.values())
    equal = _equal_shares(measure, widths, chosen, ctx)
    return {"members": told, "shares_of": measure.unit, "equal_shares": equal}


def _equal_shares(
    measure: Measure, widths: Mapping[str, int], chosen: float, ctx: Context
) -> dict[str, float | None]:
    """What it would lose to cut every member to one share of its own, so that as much is saved in all."""
    from reprune.compress.planning.members import equal_split, left_of, rise_of

    left = left_of(measure.problem, widths, sum(measure.own.values()))
    equal = equal_split(measure.problem, measure.own, left)
    split = None if equal is None else rise_of(measure.problem, equal)
    if split is not None:
        what = f"latency on {measure.target}" if measure.target else "MACs"
        ctx.say(
            f"plan: the members share the budget at a predicted loss of {chosen:.4f}; cut to {left:.2f} of "
            f"its own {what} each, they would lose {split:.4f}"
        )
    return {
        f"{'latency' if measure.target else 'macs'}_left": _short(left),
        "predicted_loss": None if split is None else _short(split),
    }


def _by_latency(
    profiles: list[Artifact[Profile]],
    params: PlanParams,
    options: Options,
    members: list[str],
    ctx: Context,
) -> Measure | None:
    """By the operator tables of the first target that has any, those that the plan is about first; None,
    and why is said, where there are none or they say nothing about these widths.
    """
    from reprune.compress.planning.members import timed
    from reprune.compress.tables.layer_terms import table_of, terms_of, time_below

    having = {fact.target: one for one in reversed(profiles) for fact in one.manifest.tables or ()}
    target = next(
        (name for name in (*latency_targets(params), *sorted(having)) if name in having), ""
    )
    why = "no profile has latency tables"
    if target:
        table = table_of(having[target], target)
        # What was set by hand is a rung without the full width, which is what shares are of.
        rungs = {
            name: tuple(sorted({*widths, options.full[name]}))
            for name, widths in options.rungs.items()
        }
        own = {member: time_below(table, member) for member in members}
        try:
            terms = terms_of(table, rungs)
        except CompressionError as error:
            why = f"{error.where}: {error.what}"
        else:
            problem = timed(options.problem("macs", 1.0), terms)
            return Measure(problem=problem, own=own, target=target)
    ctx.say(f"plan: what members give up is told over shares of MACs: {why}")
    return None


def _milliseconds(own_us: float, left: float) -> dict[str, Any]:
    return {
        "latency_left": _short(left),
        "latency_ms": {"before": _short(own_us / 1000.0), "after": _short(left * own_us / 1000.0)},
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
