"""Which rules a policy makes, given the arms that exist, and how many of them could block by chance."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from reprune.core.policy import Margin, Policy, QualityRules


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
    rules = policy.latency
    if rules is None:
        return []
    named = [(baseline, getattr(rules, baseline.name)) for baseline in BASELINES]
    return [(b, rule.max_ratio) for b, rule in named if rule is not None and b.arm in arms]


def margins(rules: QualityRules, arms: Collection[str]) -> list[tuple[Baseline, Margin]]:
    """The margin rules of a metric whose baseline is among `arms`."""
    named = [(baseline, getattr(rules, baseline.name)) for baseline in BASELINES]
    return [(b, margin) for b, margin in named if margin is not None and b.arm in arms]


def slice_baselines(rules: QualityRules, arms: Collection[str]) -> list[Baseline]:
    """Against whom slices are judged: everybody the metric's margins name, else the parent."""
    if rules.slices is None:
        return []
    return [baseline for baseline, _ in margins(rules, arms)] or [PARENT]


def family_size(policy: Policy, arms: Collection[str]) -> int:
    """How many rules chance could break, over all targets; at least 1. A slice rule counts once."""
    each = len(latency_limits(policy, arms))
    for rules in policy.quality.values():
        each += len(margins(rules, arms)) + len(slice_baselines(rules, arms))
        each += rules.floor is not None
    return max(1, each * len(policy.targets))


def absent_rules(policy: Policy, arms: Collection[str]) -> dict[str, list[str]]:
    """The rules that are not judged because their baseline does not exist: arm to rule names."""
    absent: dict[str, list[str]] = {}
    parts = [("latency", policy.latency), *policy.quality.items(), ("size", policy.size)]
    for name, part in parts:
        for baseline in BASELINES:
            if getattr(part, baseline.name, None) is not None and baseline.arm not in arms:
                absent.setdefault(baseline.arm, []).append(f"{name}.{baseline.name}")
    return absent
