"""What a verdict's rules say of every metric and target against the dense model, for later generations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from reprune.core.artifacts import RuleResult

_END = ".vs_parent"
LATENCY = f"latency{_END}"
_NO_METRICS = ("latency", "throughput", "memory", "size")


def quality_drops(rules: Iterable[RuleResult]) -> dict[str, float]:
    """What each metric lost, in its own unit: on the target where it lost most, among those that decide where
    one does.
    """
    return {
        metric: max(loss(one) or 0.0 for one in found)
        for metric, found in _by(rules, quality=True).items()
    }


def latency_ratios(rules: Iterable[RuleResult]) -> dict[str, float]:
    """The latency on each target, as a share of the dense model's."""
    found = _by(rules, quality=False)
    return {target: max(one.change or 0.0 for one in each) for target, each in found.items()}


def rooms(rules: Sequence[RuleResult]) -> dict[str, float]:
    """Up to what loss of each metric, and (as `latency@<target>`) what ratio on each target, the interval
    would stay within what the policy allows if it is as wide as it is; of rules that decide alone.
    """
    found: dict[str, float] = {}
    for quality, sign in ((True, ""), (False, "latency@")):
        for name, each in _by(rules, quality=quality).items():
            known = [_room(one) for one in each if one.required]
            if known:
                found[f"{sign}{name}"] = min(known)
    return found


def loss(one: RuleResult) -> float | None:
    """What of a change is a loss, as receipts state it."""
    if one.change is None:
        return None
    # Adding 0.0 turns -0.0 into 0.0.
    return (-one.change if one.direction == "at least" else one.change) + 0.0


def is_quality(one: RuleResult) -> bool:
    """Whether a rule is about a metric, or the slices of one, against the dense model."""
    return one.rule.endswith(_END) and one.rule.partition(".")[0] not in _NO_METRICS


def _room(one: RuleResult) -> float:
    least = one.direction == "at least"
    limit, end = (-one.limit, one.low) if least else (one.limit, one.high)
    return limit - (abs(end - one.change) if end is not None and one.change is not None else 0.0)


def _by(rules: Iterable[RuleResult], *, quality: bool) -> dict[str, list[RuleResult]]:
    found: dict[str, list[RuleResult]] = {}
    for name, one in _named(rules, quality=quality):
        found.setdefault(name, []).append(one)
    return {
        name: [one for one in each if one.required] or each for name, each in sorted(found.items())
    }


def _named(rules: Iterable[RuleResult], *, quality: bool) -> Iterator[tuple[str, RuleResult]]:
    for one in rules:
        if one.change is None or ".slices." in one.rule:
            continue
        if quality and is_quality(one):
            yield one.rule.removesuffix(_END), one
        elif not quality and one.rule == LATENCY:
            yield one.target or "", one
