"""The limits of a plan by name: what each bounds, and which cannot stand together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reprune.core.errors import DocumentError, nearest

if TYPE_CHECKING:
    from reprune.core.params import Params

# What `plan.limits` may bound as a share of the dense model's, beside latency@<target>; and in units of their
# own, with the share that bounds the same.
LIMITS = ("macs", "params", "bytes")
LATENCY, LATENCY_MS = "latency@", "latency_ms@"
SIZE_BYTES = "size_bytes"


def bounded(limit: str) -> str:
    """What a name in `plan.limits` bounds, as the name of the limit that is a share of it."""
    if limit.startswith(LATENCY_MS):
        return LATENCY + limit.removeprefix(LATENCY_MS)
    return "bytes" if limit == SIZE_BYTES else limit


def check_limits(params: Params, path: Path) -> None:
    """Raises DocumentError for limits of nothing that is known, shares above 1, and two of the same."""
    plan = params.plan
    per_target = (f"{kind}{target}" for target in params.targets for kind in (LATENCY, LATENCY_MS))
    known = [*LIMITS, SIZE_BYTES, *per_target]
    budget = f"{LATENCY}{plan.latency_target}" if plan.budget == "latency" else plan.budget
    seen: dict[str, str] = {}
    for name, most in (plan.limits or {}).items():
        of = bounded(name)
        what, fix = "", "keep one of both"
        if name not in known:
            what = f"there is no limit '{name}'; {nearest(name, known)}"
            fix = f"use one of: {', '.join(known)}"
        elif of == name and most > 1.0:
            what = f"{name} is a share of the dense model's, and {most:g} is above 1"
            in_units = [one for one in known if one != name and bounded(one) == name]
            fix = " or ".join(["set a share of at most 1", *in_units])
        elif of == budget:
            what = f"{of} is the budget and a limit too"
            fix += ": the budget's is plan.fraction (1.0 asks nothing)"
        elif of in seen:
            what = f"{seen[of]} and {name} bound the same"
        if what:
            raise DocumentError(what, where=f"{path} (plan.limits)", fix=fix)
        seen[of] = name
