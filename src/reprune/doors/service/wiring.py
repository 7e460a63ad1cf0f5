"""From a configuration to a loop that sweeps it, with its numbers kept."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from reprune import __version__
from reprune.doors.service.config import Settings
from reprune.doors.service.logs import say
from reprune.doors.service.loop import Loop
from reprune.doors.service.metrics import Metrics
from reprune.doors.service.ports import KubeflowRuns, Memories, Projects, Told, WallClock
from reprune.doors.service.registries import Patience, Registries
from reprune.doors.service.telling import Couriers, make_couriers
from reprune.orchestrate.reconcile_actions import Close, Submit
from reprune.orchestrate.reconcile_drive import load_memories, run_sweep, sweep
from reprune.orchestrate.reconcile_ports import Ports, RegistryView, Runs
from reprune.orchestrate.reconcile_seen import (
    Memory,
    RegistrySeen,
    RunSeen,
    after,
    terminal_states,
)
from reprune.orchestrate.reconcile_watch import Key, Watch


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Looks through `registry` and `runs`, and keeps what was seen in the metrics.

    `ends` are the versions whose end was seen, so that the lag is told once, when it is known.
    """

    registry: RegistryView
    runs: Runs
    metrics: Metrics
    clock: Callable[[], float] = time.time
    ends: dict[Key, str] = field(default_factory=dict)

    def look(self, watch: Watch) -> RegistrySeen:
        """As the registry's."""
        seen = self.registry.look(watch)
        about = _about(watch)
        ours = after(seen.dense, watch.since.timestamp())
        states = terminal_states(seen)
        counts: Counter[str] = Counter(
            states[each.version] for each in ours if each.version in states
        )
        self.metrics.put("reprune_versions_seen", len(seen.dense), **about)
        self.metrics.replace("reprune_verdicts", "state", dict(counts), about)
        newest = ours[-1] if ours else None
        waits = newest is not None and newest.version not in states
        now_s = self.clock()
        waiting_s = now_s - newest.registered_s if newest is not None and waits else 0.0
        self.metrics.put("reprune_waiting_seconds", max(0.0, waiting_s), **about)
        ended = [each for each in ours if each.version in states]
        if ended and self.ends.get(watch.key) != ended[-1].version:
            # What had ended before we first looked says nothing about how fast we are.
            if watch.key in self.ends:
                lag_s = max(0.0, now_s - ended[-1].registered_s)
                self.metrics.put("reprune_verdict_lag_seconds", lag_s, **about)
            self.ends[watch.key] = ended[-1].version
        self.ends.setdefault(watch.key, "")
        return seen

    def close(self, watch: Watch, close: Close) -> None:
        """As the registry's."""
        self.registry.close(watch, close)

    def of(self, watch: Watch) -> tuple[RunSeen, ...]:
        """As the runs'."""
        found = self.runs.of(watch)
        counts = Counter(run.state for run in found)
        self.metrics.replace("reprune_runs", "state", dict(counts), _about(watch))
        return found

    def submit(self, watch: Watch, submit: Submit) -> None:
        """As the runs'."""
        self.runs.submit(watch, submit)

    def cancel(self, watch: Watch, run_id: str) -> None:
        """As the runs'."""
        self.runs.cancel(watch, run_id)


def make_ports(
    settings: Settings, metrics: Metrics, patience: Patience, couriers: Couriers
) -> Ports:
    """The real ones."""
    registries = Registries(settings=settings, patience=patience)
    projects = Projects(settings=settings, registries=registries)
    runs = KubeflowRuns(settings=settings, projects=projects, patience=patience)
    watched = Watched(registry=registries, runs=runs, metrics=metrics)
    state = settings.config.state
    return Ports(
        registry=watched,
        locks=projects,
        runs=watched,
        people=Told(settings=settings, hooks=couriers.hand),
        clock=WallClock(),
        store=Memories(folder=settings.path(state) if state else None, waiting=couriers.waiting),
    )


@dataclass
class Sweeper:
    """Carries out one sweep after the other over `ports`; memories are kept from one to the next."""

    settings: Settings
    ports: Ports
    metrics: Metrics
    patience: Patience
    couriers: Couriers
    memories: dict[Key, Memory] | None = None
    last_failures: int = 0

    def __call__(self, failures_before: int) -> tuple[float, bool]:
        """One sweep. Returns in how many seconds the next is due, and whether no call failed."""
        given = self.settings.watches
        if self.memories is None:
            known = load_memories(self.ports, given.watches)
            self.memories = {key: self.couriers.untold(each) for key, each in known.items()}
        self.patience.forget()
        try:
            swept = run_sweep(
                self.ports, sweep(given, self.memories, failures_before=failures_before)
            )
        except Exception:
            self.metrics.add("reprune_sweeps_total", result="crashed")
            raise
        self.memories = swept.memories
        self.last_failures = len(swept.failures)
        names = {watch.label: watch.name for watch in given.watches}
        for failure in swept.failures:
            self.metrics.add("reprune_call_failures_total", call=failure.call)
            say(
                "a call failed",
                level=logging.WARNING,
                model=names.get(failure.watch, ""),
                watch=failure.watch,
                call=failure.call,
                words=failure.words,
            )
        well = not swept.failures
        self.metrics.add("reprune_sweeps_total", result="full" if well else "partial")
        if well:
            self.metrics.full()
        return swept.pause_s, well


def make_sweeper(settings: Settings) -> Sweeper:
    """Nothing is contacted yet."""
    metrics = Metrics(clock=time.monotonic)
    metrics.put("reprune_build_info", 1.0, version=__version__)
    patience = Patience()
    couriers = make_couriers(settings, metrics)
    ports = make_ports(settings, metrics, patience, couriers)
    return Sweeper(
        settings=settings, ports=ports, metrics=metrics, patience=patience, couriers=couriers
    )


def make_loop(sweeper: Sweeper) -> Loop:
    """A loop that was not started."""
    return Loop(sweep=sweeper)


def _about(watch: Watch) -> dict[str, str]:
    return {"model": watch.name, "workspace": watch.registry.workspace}
