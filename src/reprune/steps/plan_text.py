"""A `plan.yaml` read back: what of it can be compared with another plan."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from reprune.core.artifacts import (
    Cost,
    GroupPlan,
    LatencyPrediction,
    Plan,
    Prediction,
    SparsityPlan,
    TensorPlan,
)
from reprune.core.documents import decode_yaml, read_bounded


class _GroupText(msgspec.Struct, frozen=True, kw_only=True):
    before: int
    after: int


class _CostText(msgspec.Struct, frozen=True, kw_only=True):
    before: float
    after: float


class _LatencyText(msgspec.Struct, frozen=True, kw_only=True):
    """`measured` is words where nothing was."""

    by_table: float
    measured: float | str
    saving_corrected_by: float


class _PredictedText(msgspec.Struct, frozen=True, kw_only=True):
    loss_increase: float | None = None
    latency_ratio: float | None = None
    joint_loss_increase: float | UnsetType = UNSET
    latency: dict[str, _LatencyText] | UnsetType = UNSET
    optimality_gap: float | UnsetType = UNSET
    params: int = 0
    macs: int = 0


class _PlanText(msgspec.Struct, frozen=True, kw_only=True):
    """What of a `plan.yaml` can be compared; the rest of it is for people."""

    allocator: str
    budget: str
    fraction: float
    limits: dict[str, float] | UnsetType = UNSET
    floors: dict[str, float] | UnsetType = UNSET
    by_hand: tuple[str, ...] | UnsetType = UNSET
    groups: dict[str, _GroupText]
    cost: dict[str, _CostText]
    predicted: _PredictedText = _PredictedText()
    removed_blocks: tuple[str, ...] = ()


class _MaskText(msgspec.Struct, frozen=True, kw_only=True):
    weights: int
    zeros: int


class _MasksText(msgspec.Struct, frozen=True, kw_only=True):
    """The same of a plan that masks weights and cuts nothing."""

    pattern: str
    scope: Literal["global", "local", "sensitivity"]
    weights: int
    zeros: int
    by_hand: tuple[str, ...] | UnsetType = UNSET
    tensors: dict[str, _MaskText]
    predicted: _PredictedText = _PredictedText()


class _Method(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the two it is."""

    method: str = ""


def read_plan_text(path: Path, name: str) -> Plan:
    """The groups or masks, blocks, knobs and costs that the file names; it has no parents and no digest.

    Raises DocumentError, which names `name`.
    """
    raw = read_bounded(path)
    if decode_yaml(raw, _Method, name=name).method == "masks":
        return _of_masks(decode_yaml(raw, _MasksText, name=name))
    return _of_groups(decode_yaml(raw, _PlanText, name=name))


def _of_groups(told: _PlanText) -> Plan:
    before, after = (
        Cost(
            **{
                name: int(getattr(told.cost[name], when)) if name in told.cost else 0
                for name in ("params", "macs", "bytes")
            }
        )
        for when in ("before", "after")
    )
    return Plan(
        allocator=told.allocator,
        budget=told.budget,
        fraction=told.fraction,
        before=before,
        groups=tuple(
            GroupPlan(group=name, width=one.before, keep=one.after)
            for name, one in told.groups.items()
        ),
        predicted=_predicted(told.predicted, after),
        blocks=told.removed_blocks or UNSET,
        limits=told.limits,
        floors=told.floors,
        by_hand=told.by_hand,
    )


def _of_masks(told: _MasksText) -> Plan:
    """Masks cut nothing, so that the costs after it are those before."""
    cost = Cost(params=told.predicted.params, macs=told.predicted.macs, bytes=0)
    tensors = tuple(
        TensorPlan(tensor=name, size=one.weights, zeros=one.zeros)
        for name, one in told.tensors.items()
    )
    return Plan(
        # As the step writes it: by the pattern where there is one.
        allocator=told.scope if told.pattern == "unstructured" else told.pattern,
        budget="weights",
        fraction=1.0 - told.zeros / told.weights if told.weights else 1.0,
        before=cost,
        groups=(),
        predicted=_predicted(told.predicted, cost),
        sparsity=SparsityPlan(
            pattern=told.pattern, scope=told.scope, zeros=told.zeros, tensors=tensors
        ),
        by_hand=told.by_hand,
    )


def _predicted(told: _PredictedText, cost: Cost) -> Prediction:
    return Prediction(
        params=cost.params,
        macs=cost.macs,
        loss_increase=told.loss_increase,
        latency_ratio=told.latency_ratio,
        joint_loss_increase=told.joint_loss_increase,
        optimality_gap=told.optimality_gap,
        latencies=UNSET if told.latency is UNSET else _latencies(told.latency),
    )


def _latencies(told: dict[str, _LatencyText]) -> dict[str, LatencyPrediction]:
    return {
        target: LatencyPrediction(
            forecast=one.by_table,
            measured=None if isinstance(one.measured, str) else one.measured,
            correction=one.saving_corrected_by,
        )
        for target, one in told.items()
    }
