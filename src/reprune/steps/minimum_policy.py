"""Is a policy at least as strict as another? The promoter's minimum is not the repository's to change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, get_args

from reprune.core.params import Precision
from reprune.core.policy import (
    ChampionMinRatio,
    ChampionRatio,
    GuardRules,
    LatencyObjective,
    LatencyRules,
    Margin,
    MaxRatio,
    MemoryRules,
    MinRatio,
    ParityRules,
    Policy,
    QualityRules,
    SizeRules,
    SliceRules,
    TailRules,
    ThroughputRules,
)

Ratio: TypeAlias = MaxRatio | ChampionRatio | MinRatio | ChampionMinRatio
BASELINES = ("vs_parent", "vs_champion", "vs_anchor")


def at_least(policy: Policy, minimum: Policy) -> list[str]:
    """What `policy` demands less of than `minimum` does, in words; empty if it is nowhere weaker.

    A rule that the minimum has and the policy lacks is weaker; one that only the policy has is not.
    """
    return list(_weaker(policy, minimum))


def _weaker(policy: Policy, minimum: Policy) -> Iterator[str]:
    for target, role in sorted(minimum.targets.items()):
        found = policy.targets.get(target)
        if found is None or (role == "required" and found != "required"):
            yield f"targets.{target} is {found or 'missing'}, not {role}"
    yield from _above("alpha", policy.alpha, minimum.alpha)
    if any(rules.slices is not None for rules in minimum.quality.values()):
        # No slice may show harm at alpha: at a smaller one less is shown. Neither demands more then.
        yield from _below("alpha", policy.alpha, minimum.alpha)
    # A first look at fewer units decides on less evidence; later ones only spend what is left.
    yield from _below("looks (the first)", min(policy.looks), min(minimum.looks))
    yield from _above("valid_for_days", policy.valid_for_days, minimum.valid_for_days)
    yield from _latency(policy.latency, minimum.latency)
    yield from _ratios("throughput", policy.throughput, minimum.throughput)
    yield from _ceiling("memory", policy.memory, minimum.memory)
    for metric, rules in sorted(minimum.quality.items()):
        yield from _quality(f"quality.{metric}", policy.quality.get(metric), rules)
    yield from _ceiling("size", policy.size, minimum.size)
    yield from _parity(policy.parity, minimum.parity)
    yield from _guards(policy.guards, minimum.guards)
    yield from _above("eval.max_uses", policy.eval.max_uses, minimum.eval.max_uses)
    # What is held can be decided by the next benchmark; what is blocked needs a person.
    if (policy.on_inconclusive, minimum.on_inconclusive) == ("hold", "block"):
        yield "on_inconclusive is hold, not block"
    # A dry run promotes nothing, so it demands no less than any minimum does.
    if (policy.mode, minimum.mode) == ("enforce", "dry-run"):
        yield "mode is enforce, not dry-run"


def _latency(found: LatencyRules | None, minimum: LatencyRules | None) -> Iterator[str]:
    if minimum is None:
        return
    yield from _ratios("latency", found, minimum)
    yield from _tail(found.tail if found else None, minimum.tail)
    yield from _objective(found.objective if found else None, minimum.objective)


def _tail(found: TailRules | None, minimum: TailRules | None) -> Iterator[str]:
    name = "latency.tail"
    if minimum is None:
        return
    if found is None:
        yield f"{name} is missing"
        return
    # Neither of two percentiles demands more than the other: a ratio of p99 can hold where p95's fails.
    if found.percentile != minimum.percentile:
        yield f"{name}.percentile is {found.percentile}, not {minimum.percentile}"
    yield from _below(f"{name}.units", found.units, minimum.units)
    yield from _ratios(name, found, minimum)


def _objective(found: LatencyObjective | None, minimum: LatencyObjective | None) -> Iterator[str]:
    name = "latency.objective"
    if minimum is None:
        return
    if found is None:
        yield f"{name} is missing"
        return
    yield from _above(f"{name}.max_ms", found.max_ms, minimum.max_ms)
    yield from _below(f"{name}.percentile", found.percentile, minimum.percentile)
    yield from _below(f"{name}.units", found.units, minimum.units)


def _ratios(
    name: str,
    found: LatencyRules | TailRules | ThroughputRules | MemoryRules | SizeRules | None,
    minimum: LatencyRules | TailRules | ThroughputRules | MemoryRules | SizeRules | None,
) -> Iterator[str]:
    for baseline in BASELINES:
        yield from _ratio(
            f"{name}.{baseline}",
            getattr(found, baseline, None),
            getattr(minimum, baseline, None),
        )


def _quality(name: str, found: QualityRules | None, minimum: QualityRules) -> Iterator[str]:
    for baseline in BASELINES:
        yield from _margin(
            f"{name}.{baseline}", getattr(found, baseline, None), getattr(minimum, baseline)
        )
    if minimum.floor is not None:
        yield from _below(f"{name}.floor", found.floor if found else None, minimum.floor)
    if minimum.slices is not None:
        yield from _slices(f"{name}.slices", found.slices if found else None, minimum.slices)


def _margin(name: str, found: Margin | None, minimum: Margin | None) -> Iterator[str]:
    if minimum is None:
        return
    if found is None:
        yield f"{name} is missing"
        return
    yield from _above(f"{name}.max_drop", found.max_drop, minimum.max_drop)
    if minimum.max_error_ratio is not None:
        yield from _above(f"{name}.max_error_ratio", found.max_error_ratio, minimum.max_error_ratio)


def _slices(name: str, found: SliceRules | None, minimum: SliceRules) -> Iterator[str]:
    if found is None:
        yield f"{name} is missing"
        return
    yield from _above(f"{name}.max_drop", found.max_drop, minimum.max_drop)
    # A slice below the bound is not judged by itself.
    yield from _above(f"{name}.min_examples", found.min_examples, minimum.min_examples)
    for each in sorted(set(minimum.required) - set(found.required)):
        yield f"{name}.required lacks '{each}'"


def _ceiling(
    name: str, found: SizeRules | MemoryRules | None, minimum: SizeRules | MemoryRules | None
) -> Iterator[str]:
    if minimum is None:
        return
    yield from _ratios(name, found, minimum)
    if minimum.ceiling_bytes is not None:
        yield from _above(
            f"{name}.ceiling_bytes", found.ceiling_bytes if found else None, minimum.ceiling_bytes
        )


def _guards(found: GuardRules, minimum: GuardRules) -> Iterator[str]:
    if minimum.control and not found.control:
        yield "guards.control is off"
    for field in ("max_waiting", "max_disturbed", "max_clock_change", "max_interval"):
        most = getattr(minimum, field)
        if most is not None:
            yield from _above(f"guards.{field}", getattr(found, field), most)


def _parity(found: ParityRules, minimum: ParityRules) -> Iterator[str]:
    for precision in get_args(Precision):
        mine, least = found.bounds(precision), minimum.bounds(precision)
        name = "parity" if precision == "fp32" else f"parity.by_precision.{precision}"
        if least.max_abs is not None:
            yield from _above(f"{name}.max_abs", mine.max_abs, least.max_abs)
        yield from _below(f"{name}.min_cosine", mine.min_cosine, least.min_cosine)
        yield from _below(f"{name}.min_agreement", mine.min_agreement, least.min_agreement)


def _ratio(name: str, found: Ratio | None, minimum: Ratio | None) -> Iterator[str]:
    if minimum is None:
        return
    if isinstance(minimum, MinRatio | ChampionMinRatio):
        least = found.min_ratio if isinstance(found, MinRatio | ChampionMinRatio) else None
        yield from _below(f"{name}.min_ratio", least, minimum.min_ratio)
    else:
        most = found.max_ratio if isinstance(found, MaxRatio | ChampionRatio) else None
        yield from _above(f"{name}.max_ratio", most, minimum.max_ratio)


def _above(name: str, found: float | None, most: float) -> Iterator[str]:
    if found is None:
        yield f"{name} is missing"
    elif not found <= most:
        yield f"{name} is {found:g}, more than {most:g}"


def _below(name: str, found: float | None, least: float) -> Iterator[str]:
    if found is None:
        yield f"{name} is missing"
    elif not found >= least:
        yield f"{name} is {found:g}, less than {least:g}"
