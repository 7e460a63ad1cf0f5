"""All rules about time on one target, batch size by batch size, and the units that they used."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from reprune.core.policy import Policy
from reprune.judge.drafts import Draft
from reprune.judge.evidence import Evidence, TargetEvidence, Unit
from reprune.judge.family import latency_limits, tail_limits, throughput_limits
from reprune.judge.latency import Sequential, latency_plan
from reprune.judge.latency_rules import latency_drafts
from reprune.judge.tail_rules import objective_drafts, tail_drafts
from reprune.judge.throughput_rules import throughput_drafts

LEAST_MARGIN = math.log(1.02)
LARGEST_MARGIN = math.log(1.10)
# A guard takes a pass back. At the level of a later attempt it would see less on the very same units, and at
# a small alpha too, so its level is that of the usual policy's first attempt, always.
GUARDS_ALPHA = 0.025


@dataclass(frozen=True, kw_only=True)
class Series:
    """The rules at one batch size of a target. `units` are those that some rule looked at.

    `own` says whether it is the batch size that latency is measured at. `tail` is the level of guards,
    shared over the looks, and `half_margin` the bias (as a difference of logarithms) that no rule can bear.
    """

    target: str
    batch_size: int
    own: bool
    units: tuple[Unit, ...]
    drafts: tuple[Draft, ...]
    tail: float
    half_margin: float

    @property
    def baselines(self) -> tuple[str, ...]:
        """The arms that the rules compare with, in the order of the rules."""
        named = [draft.baseline for draft in self.drafts if draft.baseline != "absolute"]
        return tuple(dict.fromkeys(named))

    @property
    def place(self) -> str:
        """Where it was measured, to begin a sentence with."""
        return f"On {self.target}" if self.own else f"On {self.target} at batch {self.batch_size}"


def extra_batches(evidence: Evidence, policy: Policy) -> int:
    """How many batch sizes were measured besides the required targets' own; see family_size."""
    return sum(
        len(target.throughput)
        for target in evidence.targets
        if policy.targets.get(target.target) == "required"
    )


def speed_margin(policy: Policy, arms: Collection[str]) -> float:
    """How far the tightest rule about time is from demanding equality, as a difference of logarithms.

    A limit of 0.8 and one of 1.25 are equally far from 1. Between 2 % (a rule that demands exactly
    equality could bear nothing) and 10 % (a limit far from 1 is no reason to believe a machine on
    which one model differs from itself by a quarter).
    """
    limits = [limit for _, limit in (*latency_limits(policy, arms), *tail_limits(policy, arms))]
    limits += [limit for _, limit in throughput_limits(policy, arms)]
    tightest = min((abs(math.log(limit)) for limit in limits), default=LARGEST_MARGIN)
    return min(LARGEST_MARGIN, max(LEAST_MARGIN, tightest))


def speed_series(
    target: TargetEvidence, policy: Policy, evidence: Evidence, alpha: float
) -> list[Series]:
    """The target's own batch size first; one without rules is left out. The units have no problems."""
    arms = tuple(evidence.arms)
    plan = latency_plan(policy, arms, alpha, extra_batches(evidence, policy))
    name, own = target.target, (target.target, target.batch_size, True)
    drafts = [
        *latency_drafts(target.units, name, policy, arms, plan),
        *tail_drafts(target.units, name, policy, arms, alpha, evidence.seed),
        *objective_drafts(target.units, name, policy, alpha),
        *throughput_drafts(target.units, own, policy, arms, plan),
    ]
    half = speed_margin(policy, arms) / 2
    found = [_series(own, target.units, drafts, plan, half)]
    for other in target.throughput:
        where = target.target, other.batch_size, False
        rates = throughput_drafts(other.units, where, policy, arms, plan)
        found.append(_series(where, other.units, rates, plan, half))
    return [series for series in found if series.drafts]


def _series(
    where: tuple[str, int, bool],
    units: tuple[Unit, ...],
    drafts: list[Draft],
    plan: Sequential,
    half: float,
) -> Series:
    used = max((draft.samples for draft in drafts), default=0)
    return Series(
        target=where[0],
        batch_size=where[1],
        own=where[2],
        units=units[:used],
        drafts=tuple(drafts),
        tail=GUARDS_ALPHA / len(plan.looks),
        half_margin=half,
    )
