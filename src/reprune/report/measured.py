"""Numbers that figures draw and sentences name, taken from the evidence; nothing here is decided."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from reprune.core.artifacts import Arm, GroupSensitivity, Plan, Profile, Sensitivity, Surgery
from reprune.judge.evidence import ArmRecords, Evidence, TargetEvidence

ARMS: tuple[Arm, ...] = ("candidate", "dense", "champion", "anchor")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True)
class UnitRatio:
    """Candidate over baseline in one unit; below 1 the candidate is faster."""

    index: int
    process: int
    ratio: float


@dataclass(frozen=True, kw_only=True)
class CallTimes:
    """Quantiles (5, 25, 50, 75, 95 %) of single calls of one arm, all units together, in ms."""

    arm: Arm
    calls: int
    quantiles_ms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Flips:
    """The same examples through a baseline and the candidate, both as built for `target`, or the
    dense model as trained where `baseline` is `dense`. `wrong_at` and `right_at` are the places of
    the examples that became so. `member` is whose answers they are in a set, empty where there is none.
    """

    baseline: str
    target: str
    member: str
    both_right: int
    both_wrong: int
    wrong_at: tuple[int, ...]
    right_at: tuple[int, ...]

    @property
    def where(self) -> str:
        return f"{self.member}, {self.target}" if self.member else self.target

    @property
    def became_wrong(self) -> int:
        return len(self.wrong_at)

    @property
    def became_right(self) -> int:
        return len(self.right_at)

    @property
    def examples(self) -> int:
        return self.both_right + self.both_wrong + self.became_wrong + self.became_right

    @property
    def change(self) -> float:
        return (self.became_right - self.became_wrong) / self.examples


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A group as it was `planned` and as it was cut, to `keep` channels (the same where nothing tells), and
    the rise in loss that the sensitivity table expects of that cut alone.
    """

    group: str
    width: int
    planned: int
    keep: int
    loss: float | None

    @property
    def kept(self) -> float:
        return self.keep / self.width if self.width else 1.0


def unit_ratios(evidence: TargetEvidence, baseline: Arm) -> tuple[UnitRatio, ...]:
    """Each unit's ratio: the mean log median of the candidate's blocks less the baseline's."""
    return tuple(
        UnitRatio(
            index=unit.index,
            process=unit.process,
            ratio=math.exp(
                _log_median(unit.arms["candidate"].blocks_ns)
                - _log_median(unit.arms[baseline].blocks_ns)
            ),
        )
        for unit in evidence.units
        if "candidate" in unit.arms
        and baseline in unit.arms
        and any(unit.arms["candidate"].blocks_ns)
        and any(unit.arms[baseline].blocks_ns)
    )


def call_times(evidence: TargetEvidence) -> tuple[CallTimes, ...]:
    """How long single calls of each arm took."""
    found = []
    for arm in ARMS:
        calls = sorted(
            call / 1e6
            for unit in evidence.units
            if arm in unit.arms
            for block in unit.arms[arm].blocks_ns
            for call in block
        )
        if calls:
            places = tuple(calls[round(share * (len(calls) - 1))] for share in QUANTILES)
            found.append(CallTimes(arm=arm, calls=len(calls), quantiles_ms=places))
    return tuple(found)


def flips(evidence: Evidence) -> tuple[Flips, ...]:
    """Both ways, for each target, where the records are right or wrong: dense parent, then champion; in a
    set one member after the other.
    """
    arms = evidence.quality.arms
    found = []
    for target in [given.target for given in evidence.targets]:
        mine = right_or_wrong(arms.get(f"candidate@{target}"))
        for key, baseline in (("dense", "dense"), (f"champion@{target}", "champion")):
            theirs = right_or_wrong(arms.get(key))
            found += [
                _flips(baseline, target, member, theirs[member], mine[member])
                for member in mine
                if mine[member] and len(mine[member]) == len(theirs.get(member, ()))
            ]
    return tuple(found)


def right_or_wrong(records: ArmRecords | None) -> dict[str, tuple[int, ...]]:
    """The column `correct`, by the member whose it is; under "" that of a model that is no set."""
    columns = records.columns if records is not None else {}
    split = {name: name.rpartition(".") for name in columns}
    return {member: columns[name] for name, (member, _, kind) in split.items() if kind == "correct"}


def _flips(
    baseline: str, target: str, member: str, theirs: Sequence[int], mine: Sequence[int]
) -> Flips:
    pairs = list(zip(theirs, mine, strict=True))
    return Flips(
        baseline=baseline,
        target=target,
        member=member,
        both_right=pairs.count((1, 1)),
        both_wrong=pairs.count((0, 0)),
        wrong_at=tuple(at for at, pair in enumerate(pairs) if pair == (1, 0)),
        right_at=tuple(at for at, pair in enumerate(pairs) if pair == (0, 1)),
    )


def expected_losses(
    plan: Plan | None, table: Sensitivity | None, surgery: Surgery | None
) -> tuple[Expected, ...]:
    """The plan's groups in its order, each with what cutting it alone was measured to cost; empty where
    there is no plan.
    """
    known = {group.group: group for group in table.groups} if table is not None else {}
    done = {item.group: item.keep for item in surgery.groups} if surgery is not None else {}
    found = []
    for group in plan.groups if plan is not None else ():
        keep = done.get(group.group, group.keep)
        loss = _loss_at(known[group.group], keep) if group.group in known else None
        found.append(
            Expected(group=group.group, width=group.width, planned=group.keep, keep=keep, loss=loss)
        )
    return tuple(found)


def time_share(group: str, profiles: Sequence[Profile]) -> float | None:
    """The measured share of the dense model's time in operators that are named after the group's layer, on
    the first target whose operators were timed; None where the runtime's names do not tell.
    """
    profiled = next((one for each in profiles for one in each.targets if one.operators), None)
    if profiled is None:
        return None
    found = [
        one.share
        for one in profiled.operators
        if group in re.split(r"[^\w.]+", one.operator.replace("/", " "))
    ]
    return sum(found) if found else None


def macs_share(group: str, profiles: Sequence[Profile]) -> float | None:
    """The share of the dense model's multiply-accumulates in the layer the group is named after."""
    if not profiles or not profiles[0].cost.macs:
        return None
    found = [layer.macs for layer in profiles[0].layers if layer.layer == group]
    return sum(found) / profiles[0].cost.macs if found else None


def _loss_at(group: GroupSensitivity, keep: int) -> float:
    """Between measured cuts the rise in loss is taken as linear; below the deepest cut, as there."""
    points = sorted([(cut.keep, cut.loss_increase) for cut in group.cuts] + [(group.width, 0.0)])
    for (left, low), (right, high) in pairwise(points):
        if left <= keep <= right and right > left:
            return low + (high - low) * (keep - left) / (right - left)
    return points[0][1] if keep < points[0][0] else 0.0


def _log_median(blocks_ns: tuple[tuple[int, ...], ...]) -> float:
    return fmean(math.log(max(1.0, median(block))) for block in blocks_ns if block)
