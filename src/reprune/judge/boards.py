"""How a board was set when its engines were built and when they were timed: it must be one setting.

A Jetson's power mode says how many cores it has and how fast its GPU may run, and its clocks are locked or
free. A builder chooses kernels by their times in the mode that it finds: an engine that was built in one and
timed in another is not the engine that would be used there, and two arms need not lose the same by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reprune.judge.evidence import Evidence, TargetEvidence
from reprune.judge.words import ARM_NAMES

# Of BuildFact.details, by their names there.
SETTINGS = {"jetson power_mode": "power mode", "jetson clocks": "clocks"}
_FIX = (
    "set the board as it is to be used, empty the engine cache (.reprune/work/engines), and run build and "
    "benchmark in that one setting"
)


def board_problems(target: TargetEvidence, evidence: Evidence) -> Iterator[str]:
    """Sentences about settings that changed between build and benchmark, or meanwhile; and about those that
    the build told and the benchmark does not. None for a target whose machine told neither.
    """
    every = [target.units, *(other.units for other in target.throughput)]
    boards = [unit.board or {} for units in every for unit in units]
    built: dict[str, dict[str, str]] = {
        engine.arm: engine.built.details
        for engine in evidence.engines
        if engine.target == target.target and engine.built
    }
    for key, name in SETTINGS.items():
        timed = {board.get(key, "") for board in boards}
        yield from _setting_problems(target.target, name, timed, _told(built, key))


def _told(built: Mapping[str, Mapping[str, str]], key: str) -> dict[str, str]:
    return {arm: details[key] for arm, details in sorted(built.items()) if key in details}


def _setting_problems(
    target: str, name: str, timed: set[str], built: Mapping[str, str]
) -> Iterator[str]:
    seen = ", ".join(sorted(one or "not told" for one in timed))
    if len(timed) > 1:
        yield f"On {target}, the board's {name} changed while it was timed ({seen}): {_FIX}."
        return
    for then in sorted(set(built.values())):
        if timed and timed != {then}:
            who = ", ".join(ARM_NAMES.get(arm, arm) for arm in built if built[arm] == then)
            yield (
                f"On {target}, the board's {name} was {then} when engines were built (of {who}), and {seen} "
                f"at the benchmark: {_FIX}."
            )
