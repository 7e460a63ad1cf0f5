"""Where a target's engines can be timed, if anywhere: on this machine, or on a device behind a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reprune.core.params import Target
from reprune.runtimes.base import cannot_run_here, get_runtime

if TYPE_CHECKING:
    from reprune.measure.timing_place import TimingPlace


def why_untimed(target: Target) -> str:
    """Why nothing that is started from here times the target, in words; "" where something does."""
    if target.kit:
        return "nobody can call its device (kit)"
    if target.run:
        return ""
    runtime = get_runtime(target.runtime)
    if not runtime.capabilities.latency:
        return f"what {target.runtime} takes here means nothing for the device"
    return cannot_run_here(runtime, target)


def timing_place(
    name: str, target: Target, threads: int, say: Callable[[str], None]
) -> TimingPlace:
    """This machine, or the device behind `target.run`, which is called once. Raises as there()."""
    if target.run:
        from reprune.steps.remote_timing import there

        return there(name, target, say)
    from reprune.measure.timing_place import here

    return here(target, threads)
