"""What a plan knows of latency: its targets, the profiles' tables of them, and what times them here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from reprune.core.artifacts import Profile
from reprune.core.errors import ChainBroken, CompressionError
from reprune.core.machine import Machine, this_machine
from reprune.core.params import PlanParams, Target
from reprune.core.store import Artifact
from reprune.runtimes.base import cannot_run_here, get_runtime
from reprune.steps.opening import Dense
from reprune.steps.plan_trials import TRYING

if TYPE_CHECKING:
    from reprune.compress.planning.terms import Rungs, Terms

# Allocators that plan a latency budget by tables, where there are any; to the others MACs stand for it.
BY_TABLES = ("latency", *TRYING)

TimeRatio: TypeAlias = Callable[[Mapping[str, int]], float]


def latency_targets(params: PlanParams) -> tuple[str, ...]:
    """The targets with a latency budget or limit, the budget's first."""
    first = [params.latency_target] if params.budget == "latency" else []
    limits = [name.partition("@")[2] for name in params.limits or () if "@" in name]
    return tuple(dict.fromkeys([*first, *limits]))


def forecasts(
    profiles: list[Artifact[Profile]],
    params: PlanParams,
    targets: Mapping[str, Target],
    full: Mapping[str, int],
    threads: int,
) -> dict[str, Callable[[Rungs], Terms]]:
    """By target, its latency in microseconds as the profiles' operator tables have it; `full` are the widths
    of the dense model. A latency budget is left out where the params plan it by something else.

    Raises CompressionError for a limit on a target without tables, and for tables of another kind of
    machine than the one that times the target, ChainBroken for two profiles with different ones.
    """
    by_tables = params.allocator in BY_TABLES and params.latency_model != "in-model"
    found: dict[str, Callable[[Rungs], Terms]] = {}
    for name in latency_targets(params):
        budget = params.budget == "latency" and name == params.latency_target
        if budget and not by_tables:
            continue
        having = [p for p in profiles if any(t.target == name for t in p.manifest.tables or ())]
        if having:
            _refuse_other_machines(having, name, targets[name], threads)
            found[name] = _forecast(having[0], name, full)
        elif not budget:
            raise CompressionError(
                f"nothing predicts the latency on '{name}': no profile has its operator tables",
                where="params.yaml (plan.limits)",
                fix="set profile.tables and run `reprune profile` again where that target is timed",
            )
    return found


def _forecast(
    profile: Artifact[Profile], target: str, full: Mapping[str, int]
) -> Callable[[Rungs], Terms]:
    from reprune.compress.planning.terms import merged
    from reprune.compress.tables.layer_terms import table_of, terms_of

    table = table_of(profile, target)

    def forecast(rungs: Rungs) -> Terms:
        """A width that was set by hand is a rung without the full one, which the tables begin from."""
        for name, widths in rungs.items():
            step = table.steps.get(name, 1)
            if widths[-1] not in (0, full[name]) and widths[-1] % step:
                raise CompressionError(
                    f"{name} was timed on '{target}' at multiples of {step} channels, not at {widths[-1]}",
                    where="params.yaml (plan.widths)",
                    fix=f"set {name} to a multiple of {step}, or profile with a smaller profile.tables.step",
                )
        whole = {
            name: widths if widths[-1] == full[name] else (*widths, full[name])
            for name, widths in rungs.items()
        }
        terms = terms_of(table, whole)
        return merged(terms.constant, terms.terms, rungs)

    return forecast


def _refuse_other_machines(
    having: list[Artifact[Profile]], name: str, target: Target, threads: int
) -> None:
    first = having[0].manifest.machine
    for other in having[1:]:
        if other.manifest.machine.kind != first.kind:
            raise ChainBroken(
                f"two profiles have operator tables of '{name}', measured on different kinds of machine: "
                f"{_described(first)}, and {_described(other.manifest.machine)}",
                where=f"{having[0].path} and {other.path}",
                fix="give plan the one of the machine that the target is",
            )
    here = this_machine(threads)
    if not untimed_here(target) and here.kind != first.kind:
        raise CompressionError(
            f"the operator tables of '{name}' were measured on another kind of machine than this one, "
            f"which times the plan: {_described(first)} there, {_described(here)} here",
            where=str(having[0].path),
            fix="run `reprune profile` on this machine, or plan on the one of the tables",
        )


def _described(machine: Machine) -> str:
    kind = machine.kind.removeprefix("sha256:")[:12]
    return f"{machine.cpu}, {machine.logical_cpus} CPUs, {machine.os} (kind {kind})"


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
