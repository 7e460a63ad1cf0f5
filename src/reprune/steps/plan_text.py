"""A `plan.yaml` read back: what of it can be compared with another plan."""

from __future__ import annotations

from pathlib import Path

import msgspec

from reprune.core.artifacts import Cost, GroupPlan, Plan, Prediction
from reprune.core.documents import decode_yaml, read_bounded


class _GroupText(msgspec.Struct, frozen=True, kw_only=True):
    before: int
    after: int


class _CostText(msgspec.Struct, frozen=True, kw_only=True):
    before: float
    after: float


class _PredictedText(msgspec.Struct, frozen=True, kw_only=True):
    loss_increase: float | None = None
    latency_ratio: float | None = None


class _PlanText(msgspec.Struct, frozen=True, kw_only=True):
    """What of a `plan.yaml` can be compared; the rest of it is for people."""

    allocator: str
    budget: str
    fraction: float
    groups: dict[str, _GroupText]
    cost: dict[str, _CostText]
    predicted: _PredictedText = _PredictedText()
    removed_blocks: tuple[str, ...] = ()


def read_plan_text(path: Path, name: str) -> Plan:
    """The groups, blocks, knobs and costs that the file names; it has no parents, no digest and no masks.

    Raises DocumentError, which names `name`.
    """
    told = decode_yaml(read_bounded(path), _PlanText, name=name)
    costs = {
        name: told.cost.get(name, _CostText(before=0, after=0))
        for name in ("params", "macs", "bytes")
    }
    return Plan(
        allocator=told.allocator,
        budget=told.budget,
        fraction=told.fraction,
        before=Cost(**{name: int(cost.before) for name, cost in costs.items()}),
        groups=tuple(
            GroupPlan(group=name, width=one.before, keep=one.after)
            for name, one in told.groups.items()
        ),
        predicted=Prediction(
            params=int(costs["params"].after),
            macs=int(costs["macs"].after),
            loss_increase=told.predicted.loss_increase,
            latency_ratio=told.predicted.latency_ratio,
        ),
        blocks=told.removed_blocks or msgspec.UNSET,
    )
