"""Is a policy at least as strict as another? The promoter's minimum is not the repository's to change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from reprune.core.policy import (
    ChampionRatio,
    LatencyRules,
    Margin,
    MaxRatio,
    ParityRules,
    Policy,
    QualityRules,
    SizeRules,
    SliceRules,
)

Ratio: TypeAlias = MaxRatio | ChampionRatio
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
    # A first look at fewer units decides on less evidence; later ones only spend what is left.
    yield from _below("looks (the first)", min(policy.looks), min(minimum.looks))
    yield from _above("valid_for_days", policy.valid_for_days, minimum.valid_for_days)
    yield from _latency(policy.latency, minimum.latency)
    for metric, rules in sorted(minimum.quality.items()):
        yield from _quality(f"quality.{metric}", policy.quality.get(metric), rules)
    yield from _size(policy.size, minimum.size)
    yield from _parity(policy.parity, minimum.parity)


def _latency(found: LatencyRules | None, minimum: LatencyRules | None) -> Iterator[str]:
    for baseline in BASELINES:
        yield from _ratio(
            f"latency.{baseline}",
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


def _size(found: SizeRules | None, minimum: SizeRules | None) -> Iterator[str]:
    if minimum is None:
        return
    for baseline in ("vs_parent", "vs_champion"):
        yield from _ratio(
            f"size.{baseline}", getattr(found, baseline, None), getattr(minimum, baseline)
        )
    if minimum.ceiling_bytes is not None:
        yield from _above(
            "size.ceiling_bytes", found.ceiling_bytes if found else None, minimum.ceiling_bytes
        )


def _parity(found: ParityRules, minimum: ParityRules) -> Iterator[str]:
    yield from _above("parity.max_abs", found.max_abs, minimum.max_abs)
    yield from _below("parity.min_cosine", found.min_cosine, minimum.min_cosine)
    yield from _below("parity.min_agreement", found.min_agreement, minimum.min_agreement)


def _ratio(name: str, found: Ratio | None, minimum: Ratio | None) -> Iterator[str]:
    if minimum is not None:
        yield from _above(
            f"{name}.max_ratio", found.max_ratio if found else None, minimum.max_ratio
        )


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
