"""What a plan knows of latency: its targets, the profiles' tables of them, and what times them here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from reprune.core.artifacts import Profile
from reprune.core.errors import ChainBroken, CompressionError
from reprune.core.machine import Machine, this_machine
from reprune.core.params import PlanParams, Target
from reprune.core.plan_checks import TRYING
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.runtimes.base import get_runtime
from reprune.steps.opening import Dense
from reprune.steps.timing_places import timing_place, why_untimed

if TYPE_CHECKING:
    from reprune.compress.planning.terms import Rungs, Terms
    from reprune.measure.timing_place import TimingPlace

# Allocators that plan a latency budget by tables, where there are any; to the others MACs stand for it.
BY_TABLES = ("latency", *TRYING)

TimeRatio: TypeAlias = Callable[[Mapping[str, int]], float]


def latency_targets(params: PlanParams) -> tuple[str, ...]:
    """The targets with a latency budget or limit, the budget's first."""
    first = [params.latency_target] if params.budget == "latency" else []
    limits = [name.partition("@")[2] for name in params.limits or () if "@" in name]
    return tuple(dict.fromkeys([*first, *limits]))


def not_timed(
    profiles: list[Artifact[Profile]],
    params: PlanParams,
    targets: Mapping[str, Target],
    threads: int,
) -> dict[str, str]:
    """Which of the latency targets are not timed, and why: what nothing here can time, and what was profiled
    on machines of other kinds alone than this one, where it is this one that would time.
    """
    found = {}
    for name in latency_targets(params):
        reason = why_untimed(targets[name])
        if not reason and not targets[name].run:
            reason = _profiled_elsewhere(profiles, name, this_machine(threads))
        if reason:
            found[name] = reason
    return found


def _profiled_elsewhere(profiles: list[Artifact[Profile]], name: str, here: Machine) -> str:
    """What profiled it, where that were machines of other kinds only; "" else, and where nothing did."""
    machines = profiled_by(profiles, name)
    if not machines or any(_alike(machine, here) for machine in machines):
        return ""
    return (
        f"it was profiled on another kind of machine: {_described(machines[0])} there, "
        f"{_described(here)} here"
    )


def profiled_by(profiles: list[Artifact[Profile]], name: str) -> list[Machine]:
    """The machines that timed the target, in the order of the profiles."""
    return [
        _machine_of(profile.manifest, name)
        for profile in profiles
        if _timed_by(profile.manifest, name)
    ]


def _machine_of(profile: Profile, name: str) -> Machine:
    """The device of the target, where it has one, else the machine of the profile."""
    devices = [one.machine for one in profile.targets if one.target == name and one.machine]
    return devices[0] if devices else profile.machine


def _timed_by(profile: Profile, name: str) -> bool:
    timed = [one.target for one in profile.targets]
    return name in (*timed, *(one.target for one in profile.tables or ()))


def forecasts(
    profiles: list[Artifact[Profile]],
    params: PlanParams,
    targets: Mapping[str, Target],
    full: Mapping[str, int],
    untimed: Mapping[str, str],
) -> dict[str, Callable[[Rungs], Terms]]:
    """By target, its latency in microseconds as the profiles' operator tables have it; `full` are the widths
    of the dense model, `untimed` what is not timed here and why. A latency budget is left out where it is
    timed, and the params plan it by something else.

    Raises CompressionError for what nothing predicts: a limit on a target without tables, and a budget that
    is not timed either; ChainBroken for two profiles with tables of different kinds of machine.
    """
    by_tables = params.allocator in BY_TABLES and params.latency_model != "in-model"
    found: dict[str, Callable[[Rungs], Terms]] = {}
    for name in latency_targets(params):
        budget = params.budget == "latency" and name == params.latency_target
        if budget and not by_tables and name not in untimed:
            continue
        having = [p for p in profiles if any(t.target == name for t in p.manifest.tables or ())]
        if having:
            _refuse_two_kinds(having, name)
            found[name] = _forecast(having[0], name, full)
        elif not budget:
            raise CompressionError(
                f"nothing predicts the latency on '{name}': no profile has its operator tables",
                where=f"params.yaml (plan.limits.latency@{name})",
                fix=_how_to_predict(targets[name], "take the limit out"),
            )
        elif name in untimed:
            raise CompressionError(
                f"a latency budget is timed or predicted, and '{name}' can be neither: it is not timed, "
                f"{untimed[name]}; and no profile has its operator tables",
                where="params.yaml (plan.latency_target)",
                fix=_how_to_predict(targets[name], "set plan.budget to macs or params")
                + _how_to_time(targets[name]),
            )
    return found


def _how_to_predict(target: Target, instead: str) -> str:
    """What of `profile.tables` would help, or `instead`, where profile makes no tables of the target."""
    if _never_timed(target):
        return f"{instead}: profile makes no tables of a target that it does not time"
    where = "" if target.run else " on the target's kind of machine"
    return f"set profile.tables and run `reprune profile` again{where}, or {instead}"


def _never_timed(target: Target) -> bool:
    """Whether nothing that is started from any machine times it."""
    emulated = not target.run and not get_runtime(target.runtime).capabilities.latency
    return target.kit or emulated


def _how_to_time(target: Target) -> str:
    """Where a budget can be timed, if anywhere."""
    if _never_timed(target) or target.run:
        return ""
    return "; or run `reprune plan` on that kind of machine, which times it"


def idle_tables(
    profiles: list[Artifact[Profile]],
    params: PlanParams,
    targets: Mapping[str, Target],
    threads: int,
) -> Iterator[str]:
    """A sentence for each target whose operator tables were measured and that this plan is not made by."""
    budget = params.budget == "latency"
    untimed = not_timed(profiles, params, targets, threads)
    by_tables = params.allocator in BY_TABLES and params.latency_model != "in-model"
    planned = {
        name
        for name in latency_targets(params)
        if not (budget and name == params.latency_target) or by_tables or name in untimed
    }
    if params.method != "channels":
        planned = set()
    measured = {fact.target for each in profiles for fact in each.manifest.tables or ()}
    for name in sorted(measured - planned):
        yield (
            f"{name}: latency tables were measured and this plan is not made by them; one with plan.budget "
            f"and plan.allocator latency is, or with a limit latency@{name}; without them profile is quicker"
        )


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


def _refuse_two_kinds(having: list[Artifact[Profile]], name: str) -> None:
    first = _machine_of(having[0].manifest, name)
    for profile in having[1:]:
        other = _machine_of(profile.manifest, name)
        if other.kind != first.kind:
            raise ChainBroken(
                f"two profiles have operator tables of '{name}', measured on different kinds of machine: "
                f"{_described(first)}, and {_described(other)}",
                where=f"{having[0].path} and {profile.path}",
                fix="give plan the one of the machine that the target is",
            )


def _alike(one: Machine, other: Machine) -> bool:
    """Whether times of one hold for the other; older profiles do not say of which GPU they are."""
    told = {machine.accelerator for machine in (one, other)} - {""}
    return one.kind == other.kind and len(told) <= 1


def _described(machine: Machine) -> str:
    kind = machine.kind.removeprefix("sha256:")[:12]
    return f"{machine.cpu}, {machine.logical_cpus} CPUs, {machine.os} (kind {kind})"


@dataclass(frozen=True, kw_only=True)
class Timers:
    """What measures latency ratios on one target: `once` by one look, `sure` by as many as a budget needs."""

    once: TimeRatio
    sure: TimeRatio


@contextmanager
def timers(  # the model, where it runs, what is known of that, and where it is told
    opened: Dense,
    targets: Mapping[str, Target],
    untimed: Mapping[str, str],
    profiles: list[Artifact[Profile]],
    seed: int,
    threads: int,
    ctx: Context,
) -> Iterator[dict[str, Timers]]:
    """What measures a latency ratio on each of `targets`; those that are `untimed` are named with the reason
    and left out. What was measured is kept in the work folder, and not measured again by a run that goes on.

    Raises for a device what timing_place raises, and ChainBroken for one of another kind than was profiled.
    """
    for name, reason in untimed.items():
        ctx.say(f"plan: {name} is not timed, only predicted: {reason}")
    if targets.keys() <= untimed.keys():
        yield {}
        return
    from reprune.compress.planning.kept_times import kept
    from reprune.compress.planning.latency import Bench, timed_inputs, timing

    with ExitStack() as stack:
        found = {}
        for name in (name for name in targets if name not in untimed):
            where = timing_place(name, targets[name], threads, ctx.say)
            _refuse_other_kind(profiles, name, where)
            bench = Bench(
                task=opened.task,
                module=opened.module,
                groups=opened.groups,
                where=where,
                seed=seed,
                blocks=opened.blocks,
            )
            # Another machine that answers when a plan goes on has times of its own, and so have other calls.
            called = [array.shape for array in timed_inputs(opened.task, where.target.batch_size)]
            key = f"{name} ({where.machine.instance}, {where.target.runtime} {where.version}, {called})"
            ratio = stack.enter_context(timing(bench))
            found[name] = Timers(
                once=kept(ratio, key, ctx.work),
                sure=kept(partial(ratio, sure=True), f"{key}, sure", ctx.work),
            )
        yield found


def _refuse_other_kind(profiles: list[Artifact[Profile]], name: str, where: TimingPlace) -> None:
    """Of a device, which says only when it is called what it is. Raises ChainBroken."""
    machines = profiled_by(profiles, name)
    if not machines or any(_alike(machine, where.machine) for machine in machines):
        return
    raise ChainBroken(
        f"the device of '{name}' is another kind of machine than the one it was profiled on: "
        f"{_described(machines[0])} then, {_described(where.machine)} now",
        where=where.target.run,
        fix="reach the device that was profiled, or run `reprune profile` again",
    )
