"""At which batch sizes throughput is measured: what takes samples and what checks them must agree."""

from __future__ import annotations

from collections.abc import Mapping

from reprune.core.params import Target
from reprune.core.policy import Policy


def other_batch_sizes(target: Target, policy: Policy) -> tuple[int, ...]:
    """The batch sizes at which the policy wants throughput besides the target's own, rising."""
    if policy.throughput is None:
        return ()
    return tuple(sorted(set(target.throughput_batch_sizes) - {target.batch_size}))


def count_batches(targets: Mapping[str, Target], policy: Policy) -> int:
    """How many of those there are over all targets that the policy requires (see judge.family)."""
    required = [
        target for name, target in targets.items() if policy.targets.get(name) == "required"
    ]
    return sum(len(other_batch_sizes(target, policy)) for target in required)
