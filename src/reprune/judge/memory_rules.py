"""Rules on the memory that an engine takes while it runs: peak resident bytes of fresh processes.

Nothing is resampled: a median of a few processes is compared with a median, and the ceiling holds
for the largest of them, which is the one that a small device has to bear.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import median
from typing import TypeAlias

from reprune.core.policy import Policy
from reprune.judge.drafts import Draft
from reprune.judge.evidence import TargetEvidence
from reprune.judge.family import Baseline, memory_limits
from reprune.judge.numeric import rounded
from reprune.judge.words import ARM_NAMES, count

MOST_BYTES = 2**60

Peaks: TypeAlias = Mapping[str, Sequence[int]]  # by arm, one a process


def memory_problems(target: TargetEvidence, policy: Policy, arms: Collection[str]) -> Iterator[str]:
    """Whose memory a rule needs and the evidence lacks, or holds figures that cannot be."""
    if policy.memory is None:
        return
    for arm in ("candidate", *(baseline.arm for baseline, _ in memory_limits(policy, arms))):
        if not target.memory.get(arm):
            yield f"The memory of {ARM_NAMES[arm]} on {target.target} was not measured."
    for arm, peaks in target.memory.items():
        if arm not in arms or not peaks:
            yield f"The memory of '{arm}' on {target.target} is of no arm, or of no process."
        elif min(peaks) <= 0:
            yield f"A process of {ARM_NAMES[arm]} on {target.target} took no memory, or less."
        elif max(peaks) >= MOST_BYTES:
            yield f"A process of {ARM_NAMES[arm]} on {target.target} took memory that no machine has."


def memory_drafts(peaks: Peaks, target: str, policy: Policy, arms: Collection[str]) -> list[Draft]:
    """One draft a memory rule whose baseline is among `arms`; nothing that they need is missing."""
    if policy.memory is None:
        return []
    required = policy.targets[target] == "required"
    drafts = [
        _ratio_draft(peaks, baseline, limit, target, required)
        for baseline, limit in memory_limits(policy, arms)
    ]
    if policy.memory.ceiling_bytes is not None:
        drafts.append(_ceiling_draft(peaks, policy.memory.ceiling_bytes, target, required))
    return drafts


def _ratio_draft(
    peaks: Peaks, baseline: Baseline, limit: float, target: str, required: bool
) -> Draft:
    mine, base = float(median(peaks["candidate"])), float(median(peaks[baseline.arm]))
    ratio = rounded(mine / base)
    name = ARM_NAMES[baseline.arm]
    allowed = f"the policy allows at most {limit:.4g} times its memory"
    processes = _processes(len(peaks["candidate"]))
    return Draft(
        rule=f"memory.{baseline.name}",
        baseline=baseline.arm,
        target=target,
        required=required,
        unit="ratio",
        baseline_value=base,
        candidate_value=mine,
        change=ratio,
        low=ratio,
        high=ratio,
        limit=rounded(limit),
        direction="at most",
        samples=len(peaks["candidate"]),
        facts=f"On {target}, a process takes {mine:.0f} bytes to load and run the candidate (the "
        f"median of {processes}), {ratio:.4g} times those of {name} ({base:.0f}), and {allowed}",
        short=f"it takes {ratio:.3g} times the memory of {name}",
        allowed=allowed,
        sure="pass" if ratio <= rounded(limit) else "block",
    )


def _ceiling_draft(peaks: Peaks, ceiling: int, target: str, required: bool) -> Draft:
    largest = max(peaks["candidate"])
    allowed = f"the policy allows at most {ceiling} bytes of memory"
    return Draft(
        rule="memory.ceiling",
        baseline="absolute",
        target=target,
        required=required,
        unit="bytes",
        baseline_value=None,
        candidate_value=float(largest),
        change=None,
        low=float(largest),
        high=float(largest),
        limit=float(ceiling),
        direction="at most",
        samples=len(peaks["candidate"]),
        facts=f"On {target}, a process takes {largest} bytes to load and run the candidate (the "
        f"largest of {_processes(len(peaks['candidate']))}), and {allowed}",
        short=f"it takes {largest} bytes of memory",
        allowed=allowed,
        sure="pass" if largest <= ceiling else "block",
    )


def _processes(number: int) -> str:
    """'1 process', '3 processes'."""
    return count(number, "process") if number == 1 else f"{number} processes"
