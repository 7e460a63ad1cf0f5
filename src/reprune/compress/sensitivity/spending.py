"""How many examples a calibrated sensitivity may forward, and how they are spent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.compress.sensitivity.evidence import FIRST_PIECES
from reprune.compress.sensitivity.trials import RECALIBRATION, block_unit, repairs_readers

if TYPE_CHECKING:
    from reprune.compress.sensitivity.subject import Subject
    from reprune.core.params import PruneParams, SensitivityParams

# Examples in a piece of a batch: small, so that a few of them show their spread.
PIECE = 16
CALIBRATION_PIECE = 64
JOINT_PLANS = 8
# What is measured however small the budget is: examples of calibration, and pieces of tune.
LEAST_CALIBRATION, LEAST_SLOPES, LEAST_JOINT, LEAST_DIRECT = 256, 12, 1, FIRST_PIECES
# Parts of the budget that is left after scoring.
CALIBRATION_PART, SLOPES_PART, JOINT_PART = 0.14, 0.33, 0.1


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """What is known before the passes: what the criterion cost in examples forwarded, the largest piece
    of tune, and the largest of calibration.
    """

    scores: int
    piece: int
    calibration: int


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Examples of calibration; pieces for slopes and for each joint plan; forward passes that each
    unit (a group or block) may at least spend on evaluations, and what is `free` for all of them.
    """

    calibration: int
    slopes: int
    joint: int
    direct: Mapping[str, float]
    free: float


def bound(subject: Subject, params: SensitivityParams, prune: PruneParams, fixed: Fixed) -> float:
    """What a calibrated sensitivity costs at most, in examples forwarded: `params.budget` of measuring
    every group at every cut, or, for a model of few groups, the least that tells anything.
    """
    whole = params.budget * len(subject.groups) * len(params.cuts) * params.examples
    least = _least_calibration(fixed) + fixed.piece * (3 * LEAST_SLOPES + JOINT_PLANS * LEAST_JOINT)
    direct = math.fsum(_least_direct(subject, params, prune, fixed.piece).values())
    return max(whole, fixed.scores + least + direct)


def sizes(subject: Subject, params: SensitivityParams, prune: PruneParams, fixed: Fixed) -> Sizes:
    """How the bound is spent: parts of what the criterion leaves, none below its least."""
    direct = _least_direct(subject, params, prune, fixed.piece)
    room = bound(subject, params, prune, fixed) - fixed.scores
    least = math.fsum(direct.values()) + fixed.piece * (
        3 * LEAST_SLOPES + JOINT_PLANS * LEAST_JOINT
    )
    calibration = _least_calibration(fixed)
    free = room - least - calibration
    more = max(0, min(int(CALIBRATION_PART * room), prune.examples) - calibration)
    calibration += min(more, int(free))
    free = room - least - calibration
    slope_pieces = max(LEAST_SLOPES, int(SLOPES_PART * room / 3 / fixed.piece))
    slope_pieces = min(slope_pieces, LEAST_SLOPES + int(free / 3 / fixed.piece))
    free -= 3 * fixed.piece * (slope_pieces - LEAST_SLOPES)
    joint = max(LEAST_JOINT, int(JOINT_PART * room / JOINT_PLANS / fixed.piece))
    joint = min(joint, LEAST_JOINT + int(free / JOINT_PLANS / fixed.piece))
    free -= JOINT_PLANS * fixed.piece * (joint - LEAST_JOINT)
    return Sizes(
        calibration=calibration,
        slopes=slope_pieces,
        joint=joint,
        direct=direct,
        free=max(0.0, free),
    )


def _least_calibration(fixed: Fixed) -> int:
    return max(LEAST_CALIBRATION, fixed.calibration)


def _least_direct(
    subject: Subject, params: SensitivityParams, prune: PruneParams, piece: int
) -> dict[str, float]:
    """By unit: its cuts' first pieces under every repair, the proof of the replay, and a little."""
    found = {}
    for group in subject.groups:
        renewed = 0 if repairs_readers(subject.module, group, prune) else RECALIBRATION
        found[group.name] = float(piece + len(params.cuts) * (LEAST_DIRECT * piece + renewed))
    for block in subject.blocks:
        found[block_unit(block)] = float(RECALIBRATION + (1 + LEAST_DIRECT) * piece)
    return found
