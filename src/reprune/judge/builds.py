"""Several builds of every engine as a random effect: a device that builds its own engine draws another one.

A builder times kernels and chooses, so two builds of one model differ, by more than many units of one build
show: the builds are the sample, not the units. In unit i every arm runs its build i mod k. So build b of the
candidate and build b of a baseline are one independent draw of both, and the median log-ratio of their units
is one value; the k values get Student's interval with k - 1 degrees of freedom. This is the top level of the
hierarchical analysis of Kalibera and Jones, "Rigorous benchmarking in reasonable time" (ISMM 2013), sections
4 and 5, where means over a level's repetitions are the observations of the level above.

Crossing the builds (each of the candidate's against each of a baseline's) and taking one value for each of
the candidate's would leave the luck of the baseline's builds out of the interval: it is in all values alike.
Values are taken to be normal. Where a builder has two choices, k builds may all show the same one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from reprune.judge.distributions import critical, tail
from reprune.judge.evidence import Evidence, TargetEvidence, Unit
from reprune.judge.numeric import rounded
from reprune.judge.words import ARM_NAMES, count

FEWEST_BUILDS = 3
_ALIKE = 1e-9  # a standard error of logarithms that nine digits of a ratio do not show


@dataclass(frozen=True, kw_only=True)
class OverBuilds:
    """The geometric mean of the builds' ratios and its limits; `p_harm` is that of not being above the
    limit. `low` and `high` are None, and `p_harm` 1, with fewer than three builds.
    """

    ratio: float
    low: float | None = None
    high: float | None = None
    p_harm: float = 1.0


def builds_of(units: Sequence[Unit]) -> tuple[int, ...]:
    """The build that each unit ran; empty where there was but one. The units have no problems."""
    found = tuple(unit.arms["candidate"].build or 0 for unit in units)
    return found if any(found) else ()


def over_builds(
    ratios: Sequence[float], builds: Sequence[int], limit: float, level: float
) -> OverBuilds:
    """The analysis of the module's head; `level` is the error on either side."""
    values = [
        median(math.log(r) for r, build in zip(ratios, builds, strict=True) if build == one)
        for one in set(builds)
    ]
    k = len(values)
    mean = math.fsum(values) / k
    if k < FEWEST_BUILDS:
        return OverBuilds(ratio=rounded(math.exp(mean)))
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (k - 1) / k)
    reach = critical(level, k - 1) * error
    ratio = rounded(math.exp(mean))
    p_harm = float(ratio <= rounded(limit))  # builds that are alike leave no doubt
    if error > _ALIKE:
        p_harm = tail((mean - math.log(limit)) / error, k - 1)
    return OverBuilds(
        ratio=ratio,
        low=rounded(math.exp(mean - reach)),
        high=rounded(math.exp(mean + reach)),
        p_harm=rounded(p_harm),
    )


def turn_problems(units: Sequence[Unit]) -> Iterator[str]:
    """Whether the builds were run in turn and together: nobody may choose which of them are timed."""
    builds = [{arm.build or 0 for arm in unit.arms.values()} for unit in units]
    if any(len(found) != 1 for found in builds):
        yield "the arms of a unit ran different builds"
        return
    taken = [found.pop() for found in builds]
    turns = max(taken, default=0) + 1
    if turns < 1 or taken != [unit.index % turns for unit in units]:
        yield "the builds were not run in turn"


def build_problems(target: TargetEvidence, evidence: Evidence) -> Iterator[str]:
    """Sentences about builds that were made and not timed, or timed and not made."""
    made = {
        engine.arm: 1 + len(engine.copies or ())
        for engine in evidence.engines
        if engine.target == target.target
    }
    counts = set(made.values())
    if len(counts) > 1:
        told = ", ".join(f"{made[arm]} of {ARM_NAMES.get(arm, arm)}" for arm in sorted(made))
        yield f"Of {target.target} there are not as many builds of each arm: {told}."
        return
    k = max(counts, default=1)
    if 1 < k < FEWEST_BUILDS:
        yield (
            f"{target.target} was built {k} times; fewer than {FEWEST_BUILDS} builds do not show how much "
            "builds differ."
        )
    for units in (target.units, *(other.units for other in target.throughput)):
        run = {arm.build or 0 for unit in units for arm in unit.arms.values()}
        if len(run) != min(k, len(units)):
            yield f"On {target.target}, {count(len(run), 'build')} ran, and {k} were made."


def build_notes(evidence: Evidence) -> Iterator[str]:
    """What was judged over several builds, and what was not."""
    for target in evidence.targets:
        builds = set(builds_of(target.units))
        if builds:
            yield (
                f"{target.target} builds its own engines, so {len(builds)} builds of each arm were timed and "
                "are the sample: limits on the typical call and the rate are over builds, slow calls are "
                "those of all builds together, and size, memory and metrics are those of the first."
            )
