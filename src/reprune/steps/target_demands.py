"""What the targets' runtimes ask of a plan: multiples of channels, and patterns of zeros they can use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from msgspec import structs

from reprune.core.params import PlanParams, Target
from reprune.runtimes.base import get_runtime

# plan.round_to: whatever the targets want.
FROM_TARGETS = 0


def aligned(params: PlanParams, targets: Mapping[str, Target]) -> PlanParams:
    """`params` with a number in `round_to`: where it is 0, the least that suits every target."""
    if params.round_to != FROM_TARGETS:
        return params
    return structs.replace(params, round_to=math.lcm(*map(alignment, targets.values())))


def alignment(target: Target) -> int:
    """The number that channel counts should be a multiple of there; 1 where the runtime has no wish."""
    return get_runtime(target.runtime).capabilities.alignment.get(target.precision, 1)


def demands(params: PlanParams, targets: Mapping[str, Target]) -> Iterator[str]:
    """Sentences about targets that this plan does not suit, and what to expect there."""
    for name, target in sorted(targets.items()):
        wanted = alignment(target)
        if params.method == "channels" and params.round_to % wanted:
            yield (
                f"{name}: {target.runtime} in {target.precision} is fastest where channel counts are "
                f"multiples of {wanted}, and plan.round_to is {params.round_to}"
            )
        if params.method != "channels":
            yield _zeros(
                name, target, "unstructured" if params.method == "weights" else params.pattern
            )


def _zeros(name: str, target: Target, pattern: str) -> str:
    can = get_runtime(target.runtime).capabilities
    if pattern in can.sparsity:
        return f"{name}: {target.runtime} can skip zeros in the pattern {pattern}; what it saves is measured"
    kept = (
        "the file gets smaller and nothing gets faster"
        if pattern in can.stores_sparse
        else "neither the file nor a call gets smaller"
    )
    return (
        f"{name}: {target.runtime} computes {pattern} zeros like any number: {kept} from them alone"
    )
