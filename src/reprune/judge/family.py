"""Which rules a policy makes, given the arms that exist, and how many of them could block by chance."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from reprune.core.documents import Document
from reprune.core.policy import LatencyRules, Margin, Policy, QualityRules, TailRules


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """`name` is as in the policy (vs_parent), `arm` is whom it means (dense)."""

    name: str
    arm: str


PARENT = Baseline(name="vs_parent", arm="dense")
BASELINES = (
    PARENT,
    Baseline(name="vs_champion", arm="champion"),
    Baseline(name="vs_anchor", arm="anchor"),
)


def latency_limits(policy: Policy, arms: Collection[str]) -> list[tuple[Baseline, float]]:
    """The latency rules whose baseline is among `arms`, with the largest ratio each allows."""
    return _largest_ratios(policy.latency, arms)


def tail_limits(policy: Policy, arms: Collection[str]) -> list[tuple[Baseline, float]]:
    """The rules on a percentile of single calls, as `latency_limits`."""
    return _largest_ratios(None if policy.latency is None else policy.latency.tail, arms)


def throughput_limits(policy: Policy, arms: Collection[str]) -> list[tuple[Baseline, float]]:
    """The throughput rules whose baseline is among `arms`, with the least ratio each allows."""
    return [(b, rule.min_ratio) for b, rule in _named(policy.throughput, arms)]


def memory_limits(policy: Policy, arms: Collection[str]) -> list[tuple[Baseline, float]]:
    """The memory rules that compare, as `latency_limits`."""
    return [(b, rule.max_ratio) for b, rule in _named(policy.memory, arms)]


def _largest_ratios(
    rules: LatencyRules | TailRules | None, arms: Collection[str]
) -> list[tuple[Baseline, float]]:
    return [(b, rule.max_ratio) for b, rule in _named(rules, arms)]


def _named(rules: Document | None, arms: Collection[str]) -> list[tuple[Baseline, Any]]:
    """The rules of a section that compare with an arm that exists."""
    found = [(b, getattr(rules, b.name, None)) for b in BASELINES if b.arm in arms]
    return [(baseline, rule) for baseline, rule in found if rule is not None]


def margins(rules: QualityRules, arms: Collection[str]) -> list[tuple[Baseline, Margin]]:
    """The margin rules of a metric whose baseline is among `arms`."""
    named = [(baseline, getattr(rules, baseline.name)) for baseline in BASELINES]
    return [(b, margin) for b, margin in named if margin is not None and b.arm in arms]


def slice_baselines(rules: QualityRules, arms: Collection[str]) -> list[Baseline]:
    """Against whom slices are judged: everybody the metric's margins name, else the parent."""
    if rules.slices is None:
        return []
    return [baseline for baseline, _ in margins(rules, arms)] or [PARENT]


def family_size(policy: Policy, arms: Collection[str], batches: int = 0) -> int:
    """How many rules chance could break, over all required targets; at least 1. A slice rule counts
    once. Advisory targets do not count: that they are watched may not change what is decided.

    `batches` counts the batch sizes that throughput is measured at besides the targets' own, over the
    policy's required targets: the policy does not know them.
    """
    throughput = len(throughput_limits(policy, arms))
    each = len(latency_limits(policy, arms)) + len(tail_limits(policy, arms)) + throughput
    each += policy.latency is not None and policy.latency.objective is not None
    for rules in policy.quality.values():
        each += len(margins(rules, arms)) + len(slice_baselines(rules, arms))
        each += rules.floor is not None
    required = sum(role == "required" for role in policy.targets.values())
    return max(1, each * required + throughput * batches)


def absent_rules(policy: Policy, arms: Collection[str]) -> dict[str, list[str]]:
    """The rules that are not judged because their baseline does not exist: arm to rule names."""
    absent: dict[str, list[str]] = {}
    parts = [
        ("latency", policy.latency),
        ("latency.tail", None if policy.latency is None else policy.latency.tail),
        ("throughput", policy.throughput),
        *policy.quality.items(),
        ("size", policy.size),
        ("memory", policy.memory),
    ]
    for name, part in parts:
        for baseline in BASELINES:
            if getattr(part, baseline.name, None) is not None and baseline.arm not in arms:
                absent.setdefault(baseline.arm, []).append(f"{name}.{baseline.name}")
    return absent
