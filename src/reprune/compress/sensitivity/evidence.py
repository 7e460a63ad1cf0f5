"""What a few measured batches say of a cut's rise, and which cut of a group to measure next.

The first-order change of the loss is known on every batch, the true change d on a few of them. As the
two go together (their correlation is 0.6 to 0.95 on trained networks), d - b s on the few plus b times
the mean of s on all is a far better mean of d than its own (a control variate: Owen, Monte Carlo
theory, methods and examples, 8.9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"

# What is assumed while a group is being measured; the final fit learns these from all groups.
CONTROL = 0.7
GROUP_SCALE, OWN_SCALE = 0.6, 0.3
# A variance from few batches is drawn to that of the first-order changes, as if from so many more.
PRIOR_BATCHES = 4.0
# How far the outputs move tells most of how cuts rank, and on the same few batches for all of them: on
# ResNet-20 64 examples of it rank nine groups better than 1,000 examples of the loss.
FIRST_PIECES = 4


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One cut: `rises` of the loss on the first batches, and `slopes`, the first-order changes, on all
    of them (none where they are not known).
    """

    rises: tuple[float, ...]
    slopes: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A rise with the variance that each further batch divides, and the variance that stays."""

    rise: float
    per_piece: float
    fixed: float

    def variance(self, pieces: int) -> float:
        return self.per_piece / max(pieces, 1) + self.fixed


def estimate(trace: Trace, control: float, ratio: float = 1.0) -> Estimate:
    """The rise by the control variate with the coefficient `control`; `ratio` is the prior variance of
    what the slopes do not explain, in units of the slopes' own. At least one batch must be measured.
    """
    d, s = np.array(trace.rises), np.array(trace.slopes)
    count = len(d)
    if not len(s):
        spread = float(d.var(ddof=1)) if count > 1 else float(d[0] ** 2)
        return Estimate(rise=float(d.mean()), per_piece=spread, fixed=0.0)
    own = float(s.var(ddof=1)) if len(s) > 1 else float(s[0] ** 2)
    left = d - control * s[:count]
    squares = float(((left - left.mean()) ** 2).sum())
    prior = PRIOR_BATCHES * ratio * own
    return Estimate(
        rise=float(left.mean() + control * s.mean()),
        per_piece=(prior + squares) / (PRIOR_BATCHES + count - 1),
        fixed=control**2 * own / len(s),
    )


def next_cut(traces: Sequence[Trace], *, pieces: int, precision: float) -> int | None:
    """The cut of a group whose next batch reduces the group's uncertainty most; None where every cut's
    relative standard deviation is at most `precision`, or all its batches are used up.

    First every cut gets FIRST_PIECES batches. The uncertainty is the summed variance of the log rises,
    under a prior in which a group's cuts share a factor (0.6 standard deviations of a log) and have 0.3
    each of their own.
    """
    counts = [len(trace.rises) for trace in traces]
    behind = min(range(len(counts)), key=counts.__getitem__)
    if counts[behind] < min(FIRST_PIECES, pieces):
        return behind
    found = [estimate(trace, CONTROL) for trace in traces]
    now = _log_variances(found, counts)
    if float(np.sqrt(now.max())) <= precision:
        return None
    best, gain = None, 0.0
    for number, count in enumerate(counts):
        if count < pieces:
            more = [one + (other == number) for other, one in enumerate(counts)]
            saved = float(now.sum() - _log_variances(found, more).sum())
            if best is None or saved > gain:
                best, gain = number, saved
    return best


def _log_variances(found: Sequence[Estimate], counts: Sequence[int]) -> Array:
    variances = np.array(
        [max(one.variance(count), 1e-30) for one, count in zip(found, counts, strict=True)]
    )
    # A rise that is not seen yet is taken as large as its own noise: measuring on may still show it.
    rises = np.maximum([one.rise for one in found], 0.5 * np.sqrt(variances))
    kernel = GROUP_SCALE**2 + OWN_SCALE**2 * np.eye(len(found))
    noise = np.diag(variances / rises**2)
    posterior = kernel - kernel @ np.linalg.solve(kernel + noise, kernel)
    return np.asarray(np.diag(posterior))


def controls(traces: Mapping[int, Sequence[Trace]]) -> dict[int, tuple[float, float]]:
    """For each cut share (a number) the coefficient of the control variate, pooled over its cuts, and
    the part of the slopes' variance that it leaves.

    The pooled least-squares coefficient, in units in which every cut's slopes have variance 1, and
    between 0 and 1; CONTROL where no cut has two measured batches.
    """
    return {share: _control([t for t in found if t.slopes]) for share, found in traces.items()}


def _control(traces: Sequence[Trace]) -> tuple[float, float]:
    products = squares = 0.0
    units: list[tuple[Array, Array]] = []
    for trace in traces:
        d, s = np.array(trace.rises), np.array(trace.slopes)
        scale = float(s.std()) if len(s) > 1 else 0.0
        if len(d) > 1 and scale > 0.0:
            one, other = (d - d.mean()) / scale, s[: len(d)] / scale
            other = other - other.mean()
            products += float(one @ other)
            squares += float(other @ other)
            units.append((one, other))
    if squares <= 0.0:
        return CONTROL, 1.0
    control = min(1.0, max(0.0, products / squares))
    left = sum(float(((one - control * other) ** 2).sum()) for one, other in units)
    freedom = sum(len(one) - 1 for one, _ in units)
    return control, left / freedom
