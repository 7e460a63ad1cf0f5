"""Guards on the conditions of blocks: waiting for a core, stolen time, clocks, and an accelerator's state."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reprune.core.artifacts import GuardResult
from reprune.core.policy import GuardRules
from reprune.judge.conditions import (
    Reading,
    blocks_of,
    differences,
    disturbed_units,
    mean_interval,
    process_change,
    stolen_share,
    waited_share,
)
from reprune.judge.evidence import HOST_CLOCK, Conditions, DeviceConditions
from reprune.judge.guards import (
    Finding,
    Guard,
    control_guard,
    interval_guard,
    judge_guards,
    nothing_yet,
    units_guard,
)
from reprune.judge.median import median_interval
from reprune.judge.numeric import rounded
from reprune.judge.series import Series
from reprune.judge.words import ARM_NAMES, count, percent

# What a driver calls no throttling at all, and a clock that a person has fixed, which is what one should do.
HARMLESS = frozenset({"", "none", "idle", "gpu_idle", "applications_clocks_setting"})


def waiting_guard(series: Series, rules: GuardRules) -> Finding:
    """Other processes had the core while this one was ready to run."""
    return _lost_time(series, rules, waited_share, "waited for a core that other processes had")


def stolen_guard(series: Series, rules: GuardRules) -> Finding:
    """The hypervisor gave the machine's time to others."""
    return _lost_time(series, rules, stolen_share, "lost time to other guests of the host")


def _lost_time(series: Series, rules: GuardRules, reading: Reading, what: str) -> Finding:
    most = rules.max_waiting
    if most is None:
        return Finding(state="off", words="The policy does not limit waiting.")
    limit = rules.max_disturbed
    if not series.units:
        return nothing_yet(series, limit)
    disturbed, told = disturbed_units(series.units, reading, most)
    if not told:
        return _untold(series, limit, f"whether blocks {what}")
    share = disturbed / told
    seen = (
        f"{series.place}, {disturbed} of {count(told, 'unit')} {what} for more than {percent(most)} "
        f"of a block ({percent(share)}, {percent(limit)} is allowed)"
    )
    if rounded(share) > rounded(limit):
        return Finding(
            state="tripped",
            value=share,
            limit=limit,
            words=f"{seen}: stop what else runs there, or give the benchmark cores of its own.",
        )
    if uneven := _uneven_share(series, reading):
        return Finding(
            state="tripped",
            value=share,
            limit=limit,
            words=f"{series.place}, blocks {what}, and not those of all arms alike: {uneven}. Give the "
            "benchmark cores of its own, and targets no more threads than there are cores.",
        )
    return Finding(state="ok", value=share, limit=limit, words=f"{seen}.")


def _uneven_share(series: Series, reading: Reading) -> str:
    """Whether candidate and a baseline certainly differ by more than half the margin, in words."""
    for baseline in series.baselines:
        found = differences(series.units, baseline, reading)
        interval = mean_interval(found, series.tail)
        if interval and _outside(interval, series.half_margin):
            mean = math.fsum(found) / len(found)
            than = f"{'more' if mean > 0 else 'less'} than {ARM_NAMES[baseline]}"
            return f"the candidate {percent(abs(rounded(mean)))} of its time {than}"
    return ""


def _outside(interval: tuple[float, float], allowed: float) -> bool:
    low, high = interval
    return rounded(low) > rounded(allowed) or rounded(high) < -rounded(allowed)


def clock_guard(series: Series, rules: GuardRules) -> Finding:
    """A fixed piece of arithmetic must take about as long all the time, and before all arms alike."""
    limit = rules.max_clock_change
    if limit is None:
        return Finding(state="off", words="The policy does not limit how the clock may change.")
    if not series.units:
        return nothing_yet(series, limit)
    change = process_change(series.units, _pulse)
    if change is None:
        return _untold(series, limit, "how fast its clock was")
    seen = (
        f"{series.place}, the machine's slowest process was {change:.3g} times as slow as its fastest "
        f"({limit:.4g} is allowed)"
    )
    if rounded(change) > rounded(limit):
        words = f"{seen}: fix the clock (governor, cooling, power), or use another machine."
        return Finding(state="tripped", value=change, limit=limit, words=words)
    if uneven := _uneven_speed(series, _log_pulse):
        return Finding(
            state="tripped",
            value=change,
            limit=limit,
            words=f"{series.place}, the machine's clock was not the same for all arms ({uneven}): fix the "
            "clock, or use another machine.",
        )
    return Finding(state="ok", value=change, limit=limit, words=f"{seen}.")


def _pulse(block: Conditions) -> float | None:
    return float(block.pulse_ns)


def _log_pulse(block: Conditions) -> float | None:
    return math.log(block.pulse_ns)


def _log_clock(block: Conditions) -> float | None:
    return None if block.device is None else math.log(block.device.clock_mhz)


def _log_memory_clock(block: Conditions) -> float | None:
    return None if block.device is None else math.log(block.device.memory_clock_mhz)


def _uneven_speed(series: Series, log_reading: Reading) -> str:
    """As `_uneven_share` for the logarithm of a speed, by medians: single pulses are often disturbed."""
    for baseline in series.baselines:
        found = differences(series.units, baseline, log_reading)
        interval = median_interval(found, series.tail) if found else None
        if interval and _outside(interval, series.half_margin):
            low, high = (math.exp(end) for end in interval)
            return f"candidate over {ARM_NAMES[baseline]}, limits {low:.4g} to {high:.4g}"
    return ""


def device_guard(series: Series, rules: GuardRules) -> Finding:
    """An accelerator must not throttle, be shared, or run one arm faster than another."""
    del rules  # a shared or throttled accelerator is never trusted
    blocks = [block for unit in series.units for block in blocks_of(unit)]
    states = [block.device for block in blocks if block.device is not None]
    if not series.units:
        return nothing_yet(series, None)
    if not states:
        return _untold(series, None, "the state of the accelerator that timed its calls itself")
    trouble = _device_trouble(series, states, len(blocks) - len(states))
    if trouble:
        return Finding(
            state="tripped",
            words=f"{series.place}, the accelerator cannot be trusted: {trouble}. Stop what else uses it, "
            "fix its clocks and power limit below what it can hold, and measure again.",
        )
    clocks = [state.clock_mhz for state in states]
    return Finding(
        state="ok",
        words=f"{series.place}, the accelerator ran alone at {min(clocks)} to {max(clocks)} MHz.",
    )


def _device_trouble(series: Series, states: Sequence[DeviceConditions], silent: int) -> str:
    """Every trouble that was seen, in words; empty where there was none."""
    found = []
    if silent:
        found.append(f"its driver did not answer in {count(silent, 'block')}")
    reasons = {reason for state in states for reason in state.throttle}
    slowed = sorted(reason for reason in reasons if reason.lower() not in HARMLESS)
    if slowed:
        found.append(f"it was slowed down ({', '.join(slowed)})")
    if len({rounded(state.power_limit_w) for state in states}) > 1:
        found.append("its power limit changed")
    others = max(state.other_processes for state in states)
    if others:
        found.append(f"{others} other {'process' if others == 1 else 'processes'} used it")
    for name, reading in (("clock", _log_clock), ("memory clock", _log_memory_clock)):
        if uneven := _uneven_speed(series, reading):
            found.append(f"its {name} was not the same for all arms ({uneven})")
    return "; ".join(found)


def _untold(series: Series, limit: float | None, what: str) -> Finding:
    return Finding(
        state="unknown", limit=limit, words=f"{series.place}, the machine does not tell {what}."
    )


def target_guards(series: Sequence[Series], rules: GuardRules) -> list[GuardResult]:
    """All guards on a target; that on an accelerator only where one was recorded, or timed the calls."""
    recorded = any(
        unit.clock != HOST_CLOCK or any(block.device is not None for block in blocks_of(unit))
        for one in series
        for unit in one.units
    )
    chosen = {name: guard for name, guard in GUARDS.items() if recorded or name != "device"}
    return judge_guards(series, rules, chosen)


GUARDS: dict[str, Guard] = {
    "control": control_guard,
    "waiting": waiting_guard,
    "stolen": stolen_guard,
    "clock": clock_guard,
    "device": device_guard,
    "interval": interval_guard,
    "units": units_guard,
}
