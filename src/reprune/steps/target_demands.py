"""What the targets' runtimes ask of a plan: multiples of channels, and patterns of zeros they can use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from msgspec import UNSET, structs

from reprune.core.artifacts import Profile
from reprune.core.errors import InputError, RepruneError
from reprune.core.params import PlanParams, Target
from reprune.core.policy import Policy
from reprune.runtimes.base import get_runtime

# plan.round_to: whatever the targets want, and a multiple of what nearly every runtime's kernels like.
FROM_TARGETS = 0
USUAL = 8
# Above this share of the time of fp16, what int8 saves is lost in the noise of a quick look.
NO_GAIN = 0.98


def aligned(params: PlanParams, targets: Mapping[str, Target]) -> PlanParams:
    """`params` with a number in `round_to`: where it is 0, the least multiple of 8 that suits all targets."""
    if params.round_to != FROM_TARGETS:
        return params
    return structs.replace(params, round_to=math.lcm(USUAL, *map(alignment, targets.values())))


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
                f"multiples of {wanted}, and plan.round_to is {params.round_to} (0 follows the targets)"
            )
        if params.method != "channels":
            yield _zeros(
                name, target, "unstructured" if params.method == "weights" else params.pattern
            )


def gains(profiles: Iterable[Profile]) -> Iterator[str]:
    """What int8 buys over fp16 on each target where that was measured; there is no other fair rival."""
    for one in (target for profile in profiles for target in profile.targets):
        if one.over_fp16 is not UNSET:
            advice = "" if one.over_fp16 < NO_GAIN else ": int8 buys nothing there, ask for fp16"
            yield (
                f"{one.target}: int8-fp16 takes {one.over_fp16:.2f} of the time of fp16 (dense model, a "
                f"quick look){advice}"
            )


def refuse_unoffered(targets: Mapping[str, Target]) -> None:
    """Raises InputError for a target whose runtime has not its precision, device or options, before work is
    spent.
    """
    for name, target in sorted(targets.items()):
        can = get_runtime(target.runtime).capabilities
        kind = target.device.partition(":")[0]
        for asked, offered, key in (
            (target.precision, can.precisions, "precision"),
            (kind, ("", *can.devices), "device"),
        ):
            if asked not in offered:
                raise InputError(
                    f"{target.runtime} has no {key} {asked}",
                    where=f"params.yaml (targets.{name}.{key})",
                    fix=f"use one of: {', '.join(filter(None, offered))}",
                )
        for option in target.options:
            if option not in can.options:
                listed = ", ".join(sorted(can.options))
                raise InputError(
                    f"{target.runtime} has no option {option}",
                    where=f"params.yaml (targets.{name}.options)",
                    fix=f"use one of: {listed}" if listed else "take it out: it has no options",
                )


def refuse_untimed(
    required_here: Iterable[tuple[str, Target]], policy: Policy, *, anywhere: bool = False
) -> None:
    """Raises InputError where the policy demands speed of a required target that is only emulated here:
    times of an emulation are no evidence, and none at all would be a demand that nobody checked.

    With `anywhere`, where another machine may be the one that times, only of what is emulated on all of them;
    a runtime that is not installed here is left to the one that has it.
    """
    if policy.latency is None and policy.throughput is None:
        return
    for name, target in required_here:
        try:
            can = get_runtime(target.runtime).capabilities
        except (RepruneError, ImportError):
            if anywhere:
                continue
            raise
        if not can.latency and not (anywhere and can.latency_elsewhere):
            raise InputError(
                f"the policy demands speed of '{name}', and what {target.runtime} takes on this machine "
                "says nothing of the device",
                where=f"policy.yaml (targets.{name})",
                fix="make it advisory, reach the device by `run:` or `kit: true`, or demand no speed",
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
