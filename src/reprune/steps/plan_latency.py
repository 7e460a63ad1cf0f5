"""What a plan knows of latency: which targets it is about, and what times them on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

from reprune.core.params import PlanParams, Target
from reprune.runtimes.base import cannot_run_here, get_runtime
from reprune.steps.opening import Dense

TimeRatio: TypeAlias = Callable[[Mapping[str, int]], float]


def latency_targets(params: PlanParams) -> tuple[str, ...]:
    """The targets with a latency budget or limit, the budget's first."""
    first = [params.latency_target] if params.budget == "latency" else []
    limits = [name.partition("@")[2] for name in params.limits or () if "@" in name]
    return tuple(dict.fromkeys([*first, *limits]))


@contextmanager
def timers(
    opened: Dense, targets: Mapping[str, Target], seed: int, say: Callable[[str], None]
) -> Iterator[dict[str, TimeRatio]]:
    """What measures a latency ratio on each of `targets`; those that this machine is not are named and left
    out.
    """
    if not targets:
        yield {}
        return
    from reprune.compress.planning.latency import Bench, timing

    with ExitStack() as stack:
        found = {}
        for name, target in targets.items():
            reason = untimed_here(target)
            if reason:
                say(f"plan: {name} is not timed, only predicted: {reason}")
                continue
            bench = Bench(
                task=opened.task,
                module=opened.module,
                groups=opened.groups,
                target=target,
                seed=seed,
                blocks=opened.blocks,
            )
            found[name] = stack.enter_context(timing(bench))
        yield found


def untimed_here(target: Target) -> str:
    """Why times taken on this machine would not be the target's; "" where they are."""
    if target.run or target.kit:
        return "it is another machine"
    runtime = get_runtime(target.runtime)
    if not runtime.capabilities.latency:
        return f"what {target.runtime} takes here means nothing for the device"
    return cannot_run_here(runtime, target)
