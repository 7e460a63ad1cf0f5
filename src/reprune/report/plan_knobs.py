"""What two plans were asked for, key by key, where that is not the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import UNSET

from reprune.core.artifacts import Plan
from reprune.report.differences import KeyDiff

_NOT_SET = "not set"


def plan_knobs(before: Plan, after: Plan) -> Iterator[KeyDiff]:
    """The budget and how it was spent; each limit, floor and part set by hand is a key of its own."""
    for key in ("allocator", "budget", "fraction", "head_dimensions"):
        yield from _change(key, *(_told(getattr(plan, key)) for plan in (before, after)))
    yield from _change("masks", *(_masks(plan) for plan in (before, after)))
    for key in ("limits", "floors"):
        bounds = [getattr(plan, key) or {} for plan in (before, after)]
        was, now = ({name: _told(most) for name, most in one.items()} for one in bounds)
        yield from _changes(key, was, now)
    yield from _changes("by_hand", _by_hand(before), _by_hand(after))


def _changes(key: str, was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[KeyDiff]:
    for name in dict.fromkeys((*was, *now)):
        yield from _change(f"{key}.{name}", was.get(name, _NOT_SET), now.get(name, _NOT_SET))


def _change(key: str, was: str, now: str) -> Iterator[KeyDiff]:
    if was != now:
        yield KeyDiff(place="plan", key=key, before=was, after=now)


def _told(value: object) -> str:
    return _NOT_SET if value is UNSET else f"{value}"


def _masks(plan: Plan) -> str:
    if plan.sparsity is UNSET:
        return "none"
    return f"{plan.sparsity.pattern}, {plan.sparsity.scope}"


def _by_hand(plan: Plan) -> dict[str, str]:
    """What a person decided: the width of a group, the masks of a tensor, or that a block goes."""
    widths = {item.group: f"{item.keep} of {item.width}" for item in plan.groups}
    if plan.sparsity is not UNSET:
        widths |= {one.tensor: f"{one.zeros} of {one.size} masked" for one in plan.sparsity.tensors}
    return {name: widths.get(name, "removed") for name in plan.by_hand or ()}
