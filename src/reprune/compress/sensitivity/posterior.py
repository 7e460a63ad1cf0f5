"""The rises of all cuts from noisy measurements of some of them: a log-Gaussian model, fitted by Laplace.

A cut's true rise is exp(f). The prior of f is a Gaussian process over (group, cut): a common level, a
slope on the log of an estimate, an offset for each cut share, a factor for each group, and something of
its own; so what was measured of a group tells about its other cuts, and what was measured of a cut
share tells about other groups. Measurements are exp(f) plus Gaussian noise of known covariance, which
may be as large as the rise itself or larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"

# Standard deviations of the prior. An estimate to second order has the slope 1 while cuts are small and
# less where losses saturate.
LEVEL, OFFSET = 3.0, 1.0
SLOPE, SLOPE_SPREAD = 0.8, 0.3
GROUP_SCALES = (0.05, 0.15, 0.3, 0.6)
OWN_SCALES = (0.1, 0.2, 0.4, 0.8)
STEPS = 60
LEAST = 1e-9


@dataclass(frozen=True, kw_only=True)
class Points:
    """One cut a row: which group and which cut share it is of (numbers from 0), and an estimate of its
    rise (positive; NaN where there is none).
    """

    groups: Sequence[int]
    shares: Sequence[int]
    estimates: Array


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Mean and standard deviation of every cut's rise; `log_sd` is that of its logarithm."""

    mean: Array
    sd: Array
    log_sd: Array


def posterior(points: Points, measured: Sequence[int], rises: Array, noise: Array) -> Posterior:
    """What is known of every cut's rise after `rises` were measured at the rows `measured`, with the
    noise covariance `noise` (len(measured), len(measured)).

    The result is the mixture over a small grid of the prior's scales, each weighing by how likely it
    makes the measurements (Laplace's approximation of the evidence: Rasmussen and Williams 2006, 3.4
    and 5.4). Deterministic. Means and deviations are positive and finite.
    """
    x, unit = _features(points, rises)
    scaled, covariance = rises / unit, noise / unit**2
    index = np.asarray(measured, dtype=np.intp)
    grid = [
        _fit(points, x, index, (scaled, covariance), scales)
        for scales in product(GROUP_SCALES, OWN_SCALES)
    ]
    evidence = np.array([found[0] for found in grid])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    latents = np.array([found[1] for found in grid])
    variances = np.array([found[2] for found in grid])
    latent = weights @ latents
    variance = weights @ (variances + np.square(latents - latent))
    mean = unit * np.exp(latent + np.minimum(variance, 1.0) / 2.0)
    return Posterior(
        mean=mean,
        sd=mean * np.sqrt(np.expm1(np.minimum(variance, 2.0))),
        log_sd=np.sqrt(variance),
    )


def _features(points: Points, rises: Array) -> tuple[Array, float]:
    """The log estimates, centred in each cut share (0 where there is none): what an estimate says of a
    share as a whole, the offsets learn from measurements. And the unit that rises are told in.
    """
    known = np.isfinite(points.estimates) & (points.estimates > 0.0)
    logs = np.log(np.where(known, np.maximum(points.estimates, LEAST), 1.0))
    x = np.zeros(len(logs))
    for share in set(points.shares):
        rows = known & (np.asarray(points.shares) == share)
        if rows.any():
            x[rows] = logs[rows] - logs[rows].mean()
    unit = float(np.median(np.abs(rises))) if len(rises) else 1.0
    return x, max(unit, LEAST)


def _fit(
    points: Points,
    x: Array,
    measured: np.ndarray[tuple[int, ...], np.dtype[np.intp]],
    data: tuple[Array, Array],
    scales: tuple[float, float],
) -> tuple[float, Array, Array]:
    """(log evidence, mode of f, variance of f) under one prior."""
    group_scale, own_scale = scales
    groups, shares = np.asarray(points.groups), np.asarray(points.shares)
    prior_mean = SLOPE * x
    kernel = (
        LEVEL**2
        + SLOPE_SPREAD**2 * np.outer(x, x)
        + OFFSET**2 * (shares[:, None] == shares[None])
        + group_scale**2 * (groups[:, None] == groups[None])
        + own_scale**2 * np.eye(len(x))
    )
    inner = kernel[np.ix_(measured, measured)]
    cross = kernel[:, measured]
    mode, precision, fit = _mode(inner, prior_mean[measured], *data)
    solved = np.linalg.solve(inner, mode - prior_mean[measured])
    latent = prior_mean + cross @ solved
    # Var f = K - C (K_mm + W^-1)^-1 C^T, written so that W may be singular.
    weight = np.linalg.solve(np.eye(len(inner)) + precision @ inner, precision)
    variance = np.diag(kernel) - np.einsum("im,mn,in->i", cross, weight, cross)
    log_det = np.linalg.slogdet(np.eye(len(inner)) + precision @ inner)[1]
    evidence = -fit - 0.5 * float((mode - prior_mean[measured]) @ solved) - 0.5 * float(log_det)
    return evidence, latent, np.maximum(variance, 1e-12)


def _mode(
    kernel: Array, prior_mean: Array, rises: Array, noise: Array
) -> tuple[Array, Array, float]:
    """The likeliest f of the measured cuts, the Gauss-Newton precision there, and half the misfit."""
    weight = np.linalg.inv(noise + 1e-12 * np.eye(len(rises)))
    prior = np.linalg.inv(kernel)

    def loss(f: Array) -> float:
        gap, off = rises - np.exp(f), f - prior_mean
        return 0.5 * float(gap @ weight @ gap) + 0.5 * float(off @ prior @ off)

    f = np.log(np.maximum(rises, 0.1 * np.sqrt(np.diag(noise)) + LEAST))
    now = loss(f)
    for _ in range(STEPS):
        slope = np.exp(f)
        gradient = -slope * (weight @ (rises - slope)) + prior @ (f - prior_mean)
        curvature = slope[:, None] * weight * slope[None] + prior
        step = np.clip(np.linalg.solve(curvature, gradient), -2.0, 2.0)
        length = 1.0
        while length > 1e-6 and not loss(f - length * step) <= now:
            length /= 2.0
        if length <= 1e-6:
            break
        f = f - length * step
        before, now = now, loss(f)
        if before - now < 1e-10 * max(1.0, abs(now)):
            break
    slope = np.exp(f)
    gap = rises - slope
    return f, slope[:, None] * weight * slope[None], 0.5 * float(gap @ weight @ gap)
