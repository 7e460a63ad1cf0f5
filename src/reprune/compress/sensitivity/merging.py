"""From what shards saw of cuts to the rise of every cut, with an error that covers the whole estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import isotonic_regression

from reprune.compress.paired import BatchLosses, paired_increase
from reprune.compress.planning.curves import fit_curves, predicted
from reprune.compress.sensitivity.evidence import Array, Estimate, Trace, controls, estimate
from reprune.compress.sensitivity.joint import check
from reprune.compress.sensitivity.posterior import Points, posterior
from reprune.compress.sensitivity.shards import agreed, all_cuts
from reprune.compress.sensitivity.subject import Measured, keeps
from reprune.compress.sensitivity.trials import block_unit
from reprune.core.artifacts import BlockSensitivity, CutPoint, GroupSensitivity, JointCheck
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from reprune.compress.sensitivity.observed import CutSeen, JointSeen, Observed
    from reprune.compress.sensitivity.subject import Subject
    from reprune.core.params import SensitivityParams

# Correlations between cuts are seen on a few dozen batches only: they are drawn to zero by this much.
SHRINK = 0.8
# No rise is known better than to this share of itself.
LEAST_ERROR = 0.01


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One cut: its unit and cut share by number, and what was seen."""

    unit: str
    key: str
    group: int
    share: int
    seen: CutSeen


def merge(subject: Subject, params: SensitivityParams, parts: Sequence[Observed]) -> Measured:
    """The sensitivity from all shards' parts, in any order: the very bits that one part of everything
    gives.

    `loss_increase` is the mean and `standard_error` the standard deviation of what is known of the
    rise (`compress.sensitivity.posterior`), made monotone in the cut. The passes that every shard makes count
    once in `cost`. Raises CompressionError for parts that are not those of one measurement.
    """
    base, fixed = agreed(parts), parts[0].fixed
    if any(part.fixed != fixed for part in parts):
        raise CompressionError(
            "the shards are not of one measurement: their passes over the data differ",
            where="sensitivity",
            fix="run every shard again with the same model, task, params and seed",
        )
    rows = _rows(subject, params, parts)
    joint = {key: seen for part in parts for key, seen in part.joint.items()}
    mean, sd = _rises(rows, base)
    found = {row.key: (float(mean[i]), float(sd[i])) for i, row in enumerate(rows)}
    groups = tuple(
        GroupSensitivity(
            group=group.name,
            width=group.width,
            cuts=tuple(
                CutPoint(
                    keep=keep,
                    loss_increase=found[f"{group.name}@{keep}"][0],
                    standard_error=found[f"{group.name}@{keep}"][1],
                    macs=(cost := subject.cost({group.name: keep})).macs,
                    params=cost.params,
                )
                for keep in keeps(group.width, params.cuts)
            ),
        )
        for group in subject.groups
    )
    blocks = tuple(
        BlockSensitivity(
            block=block.name,
            loss_increase=found[block_unit(block)][0],
            standard_error=found[block_unit(block)][1],
            macs=block.cost.macs,
            params=block.cost.params,
        )
        for block in subject.blocks
    )
    spent = [fixed, *(row.seen.cost for row in rows), *(joint[key].cost for key in sorted(joint))]
    return Measured(
        base_loss=base.mean,
        examples=base.examples,
        groups=groups,
        blocks=blocks,
        joint=_joint(groups, joint, base) if joint else None,
        cost=math.ceil(math.fsum(spent) - 1e-6),
    )


def _rows(subject: Subject, params: SensitivityParams, parts: Sequence[Observed]) -> list[_Row]:
    wanted = [
        (group.name, f"{group.name}@{keep}", number, _share(1.0 - keep / group.width, params.cuts))
        for number, group in enumerate(subject.groups)
        for keep in keeps(group.width, params.cuts)
    ]
    unshared, first = len(params.cuts), len(subject.groups)
    wanted += [
        (block_unit(block), block_unit(block), first + number, unshared)
        for number, block in enumerate(subject.blocks)
    ]
    cuts = all_cuts(parts, [key for _, key, _, _ in wanted])
    return [
        _Row(unit=unit, key=key, group=group, share=share, seen=cuts[key])
        for unit, key, group, share in wanted
    ]


def _share(gone: float, cuts: Sequence[float]) -> int:
    """The number of the cut share that leaves `gone` away: a narrow group has fewer widths than shares."""
    return min(range(len(cuts)), key=lambda number: abs(cuts[number] - gone))


def _rises(rows: Sequence[_Row], base: BatchLosses) -> tuple[Array, Array]:
    """Mean and standard deviation of every row's rise, never falling along a unit's rows."""
    traces = [
        Trace(
            rises=tuple(a - b for a, b in zip(row.seen.losses, base.losses, strict=False)),
            slopes=row.seen.slopes,
        )
        for row in rows
    ]
    by_share: dict[int, list[Trace]] = {}
    for row, trace in zip(rows, traces, strict=True):
        by_share.setdefault(row.share, []).append(trace)
    coefficients = controls(by_share)
    seen = [
        estimate(trace, *coefficients[row.share]) for row, trace in zip(rows, traces, strict=True)
    ]
    weights = np.array([coefficients[row.share][0] for row in rows])
    found = posterior(
        Points(
            groups=[row.group for row in rows],
            shares=[row.share for row in rows],
            estimates=_estimates(rows, traces, base),
        ),
        range(len(rows)),
        np.array([one.rise for one in seen]),
        _noise(seen, traces, weights),
    )
    mean, sd = found.mean.copy(), found.sd
    for unit in dict.fromkeys(row.unit for row in rows):
        index = [i for i, row in enumerate(rows) if row.unit == unit]
        fit = isotonic_regression(mean[index], weights=1.0 / np.square(sd[index]))
        mean[index] = fit.x
    return mean, sd


def _estimates(rows: Sequence[_Row], traces: Sequence[Trace], base: BatchLosses) -> Array:
    """A second-order estimate of every row's rise, up to a factor of its cut share: the mean squared
    change of the outputs, on the batches on which all cuts of the share were made; where the outputs
    cannot be compared, half the mean square of an example's first-order change (the empirical Fisher
    information in place of the Hessian: Theis et al., arXiv:1801.05787, section 2.2). NaN where neither
    is known.
    """
    counts: dict[int, int] = {}
    for row in rows:
        count = len(row.seen.moves)
        counts[row.share] = min(counts.get(row.share, count), count)
    moved = [row.seen.moves[: counts[row.share]] for row in rows]
    if all(min(moves) >= 0.0 for moves in moved):
        return np.array([math.fsum(moves) / len(moves) for moves in moved])
    size = base.examples / len(base.sizes)
    return np.array(
        [
            0.5 * size * float(np.var(trace.slopes, ddof=1)) if len(trace.slopes) > 1 else math.nan
            for trace in traces
        ]
    )


def _noise(seen: Sequence[Estimate], traces: Sequence[Trace], weights: Array) -> Array:
    """The covariance of the measured rises: their own batches', and that of the slopes they share."""
    own = np.array(
        [one.per_piece / len(trace.rises) for one, trace in zip(seen, traces, strict=True)]
    )
    rises = np.array([one.rise for one in seen])
    result = np.diag(own + (LEAST_ERROR * rises) ** 2 + 1e-18)
    sloped = [i for i, trace in enumerate(traces) if len(trace.slopes) > 1]
    if sloped:
        slopes = np.array([traces[i].slopes for i in sloped]) * weights[sloped][:, None]
        shared = np.atleast_2d(np.cov(slopes)) / slopes.shape[1]
        shared = SHRINK * shared + (1.0 - SHRINK) * np.diag(np.diag(shared))
        result[np.ix_(sloped, sloped)] += shared
    return result


def _joint(
    groups: Sequence[GroupSensitivity], joint: Mapping[str, JointSeen], base: BatchLosses
) -> JointCheck:
    curves = fit_curves(groups)
    sums, rises = [], []
    for key in sorted(joint, key=int):
        seen = joint[key]
        count = len(seen.losses)
        before = BatchLosses(losses=base.losses[:count], sizes=base.sizes[:count])
        after = BatchLosses(losses=seen.losses, sizes=base.sizes[:count])
        sums.append(predicted(curves, seen.widths))
        rises.append(paired_increase(after, before)[0])
    return check(sums, rises)
