"""What a plan of a set says of its members: what each gives up, and what equal shares would have cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reprune.core.artifacts import ModelBundle, Profile
from reprune.core.step import Context
from reprune.core.store import Artifact

if TYPE_CHECKING:
    from reprune.compress.planning.options import Options


def members_for_people(
    dense: Artifact[ModelBundle],
    profile: Profile,
    options: Options,
    widths: Mapping[str, int],
    ctx: Context,
) -> dict[str, Any]:
    """For `plan.yaml`; nothing where the model is no set. MACs stand for cost here, whatever the budget is:
    of them each member has its own.
    """
    from reprune.compress.planning.members import (
        equal_split,
        member_shares,
        own_costs,
        rise_of,
    )

    members = sorted(dense.manifest.members or ())
    if not members:
        return {}
    own = own_costs(profile.layers, members)
    problem = options.problem("macs", 1.0)
    shares = member_shares(problem, widths, own)
    left = problem.cost(widths) / problem.cost({})
    equal = equal_split(problem, own, left)
    split = None if equal is None else rise_of(problem, equal)
    chosen = sum(share.rise for share in shares.values())
    if split is not None:
        ctx.say(
            f"plan: the members share the budget at a predicted loss of {chosen:.4f}; cut to {left:.2f} of "
            f"its MACs each, they would lose {split:.4f}"
        )
    return {
        "members": {
            member: {
                **({"floor": options.floors[member]} if member in options.floors else {}),
                "macs_left": _short(share.left),
                "predicted_loss": _short(share.rise),
                "predicted_loss_alone": {
                    each: None if rise is None else _short(rise)
                    for each, rise in share.curve.items()
                },
            }
            for member, share in shares.items()
        },
        "equal_shares": {
            "macs_left": _short(left),
            "predicted_loss": None if split is None else _short(split),
        },
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
