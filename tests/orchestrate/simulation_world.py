"""The simulated world: registries, Kubeflow Pipelines, promote and people, in virtual time.

Nothing here knows the reconciler. What a run does follows the real steps in the order of their calls to
the registry, so that two promotes, a rollback and a crash can fall between any two of them.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from reprune.core.accepted import accepted
from reprune.orchestrate.reconcile_seen import Dense, RegistrySeen, Row, RunSeen

POLL_S = 300.0
RETRY_FIRST_S, RETRY_LONGEST_S = 60.0, 120.0
LONGEST_RUN_S = 900.0
STALE_S = 60.0


@dataclass(slots=True)
class SimLock:
    """`champion` is the version of the compressed model that the lock names."""

    digest: str
    version: str
    champion: str | None
    image: str


@dataclass(slots=True)
class SimRun:
    run_id: str
    model: Model
    lock: SimLock
    created_s: float
    state: str = "RUNNING"
    ended_s: float | None = None
    attempt: int = 0
    verdict: str = ""
    outcome: str = ""
    why: str = ""
    outside: bool = False

    @property
    def active(self) -> bool:
        return self.ended_s is None


@dataclass(slots=True)
class Model:
    """One watched name with its compressed twin. `past` keeps what the registry was, and since when."""

    name: str
    kinds: tuple[str, ...]
    mode: str
    since_s: float
    dense: list[Dense] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    champion: str | None = None
    champion_moved_s: float = -1e9
    runs: list[SimRun] = field(default_factory=list)
    past: list[tuple[float, RegistrySeen]] = field(default_factory=list)
    by_verdict: dict[str, SimRun] = field(default_factory=dict)
    added_s: dict[str, float] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    told: set[tuple[str, str]] = field(default_factory=set)
    dispatched: set[str] = field(default_factory=set)
    disturbed_s: float = 0.0

    @property
    def ours(self) -> list[Dense]:
        return [each for each in self.dense if each.registered_s > self.since_s]

    def cut_short(self) -> list[Row]:
        """The accepted passes that never became champion."""
        first = accepted(self.rows)
        return [
            row
            for row in self.rows
            if row.outcome == "pass"
            and not row.dry_run
            and not row.promoted
            and row.version != self.champion
            and first[row.lock].verdict == row.verdict
        ]


class World:
    """Virtual time, and everything that happens in it. `rng` is the only source of chance."""

    def __init__(self, rng: random.Random, *, plants: frozenset[str], keep_trace: bool) -> None:
        self.rng = rng
        self.plants = plants
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.count = 0
        self.models: dict[str, Model] = {}
        self.violations: list[str] = []
        self.trace: list[str] | None = [] if keep_trace else None
        self.listeners: list[Callable[[str], None]] = []
        self.pod_rate = self.rollback_rate = 0.0
        self.says_end = True
        self.images: tuple[str, ...] = ("a",)
        self.image_changed_s = 0.0
        self.attempts = 0
        self.shortest_run_s, self.longest_run_s = 60.0, LONGEST_RUN_S - 100.0

    # --- time ---

    def at(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self.count += 1
        heapq.heappush(self.queue, (self.now + delay_s, self.count, call, args))

    def run_until(self, end_s: float) -> None:
        queue = self.queue
        while queue and queue[0][0] <= end_s:
            self.now, _, call, args = heapq.heappop(queue)
            call(*args)
        self.now = end_s

    def note(self, *words: object) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now:9.1f} {' '.join(map(str, words))}")

    def wrong(self, rule: str, words: str) -> None:
        self.violations.append(f"{rule}: {words} (at {self.now:.1f} s)")
        self.note("VIOLATION", rule, words)

    # --- registry ---

    def changed(self, model: Model, name: str) -> None:
        seen = RegistrySeen(
            dense=tuple(model.dense), rows=tuple(model.rows), champion=model.champion
        )
        model.past.append((self.now, seen))
        for listener in self.listeners:
            listener(name)

    def seen(self, model: Model, age_s: float) -> RegistrySeen:
        """What the registry looked like `age_s` ago."""
        past = model.past
        place = len(past) - 1
        while place > 0 and past[place][0] > self.now - age_s:
            place -= 1
        return past[place][1]

    def register_dense(self, model: Model) -> None:
        version = str(len(model.dense) + 1)
        model.dense.append(Dense(version, self.now))
        if model.mode == "run" and self.rng.random() < 0.04:
            model.unusable.add(version)
        self.note("dense", model.name, version)
        self.changed(model, model.name)

    def add_row(self, model: Model, row: Row) -> str:
        version = str(len(model.rows) + 1)
        model.added_s[version] = self.now
        model.rows.append(
            Row(
                version=version,
                parent=row.parent,
                lock=row.lock,
                verdict=row.verdict,
                outcome=row.outcome,
                attempt=row.attempt,
                closed=row.closed,
                closes=row.closes,
            )
        )
        self.changed(model, f"{model.name}-compressed")
        return version

    def mark(self, model: Model, version: str) -> None:
        place = int(version) - 1
        row = model.rows[place]
        if not row.promoted:
            model.rows[place] = Row(
                version=row.version,
                parent=row.parent,
                lock=row.lock,
                verdict=row.verdict,
                outcome=row.outcome,
                attempt=row.attempt,
                promoted=True,
            )
            self.changed(model, f"{model.name}-compressed")

    def move_champion(self, model: Model, version: str, by: SimRun | None) -> None:
        """The alias moves; the invariants about it are checked at this very moment."""
        row = model.rows[int(version) - 1]
        if by is not None:
            if row.outcome != "pass" or by.outcome != "pass":
                self.wrong("passing", f"{model.name} promoted {row.outcome} row {version}")
            if row.verdict != by.verdict or row.lock != by.lock.digest:
                self.wrong("own-digests", f"row {version} was promoted by another run's verdict")
            if model.champion != by.lock.champion:
                self.wrong(
                    "receipts",
                    f"{model.name}: champion {model.champion}, locked {by.lock.champion}",
                )
        elif not row.promoted:
            self.wrong("receipts", f"{model.name}: rolled back to {version}, never promoted")
        # Who serves was promoted, whatever the promotion before could still say of it.
        if model.champion is not None:
            self.mark(model, model.champion)
        model.champion = version
        model.champion_moved_s = model.disturbed_s = self.now
        self.note("champion", model.name, version, by.run_id if by else "rollback")
        self.changed(model, f"{model.name}-compressed")

    def lock(
        self,
        model: Model,
        version: str,
        image: str,
        champion: str | None,
        rows: Iterable[Row],
    ) -> SimLock:
        """With the first look that `rows` have no verdict for, as core.lock.fresh_look."""
        taken = {row.lock for row in rows}
        digests = (f"{model.name}|{version}|{champion}|{look}|{image}" for look in count(1))
        digest = next(each for each in digests if each not in taken)
        return SimLock(digest, version, champion, image)

    def lock_of(self, digest: str) -> SimLock:
        _, version, champion, _, image = digest.split("|")
        return SimLock(digest, version, None if champion == "None" else champion, image)

    # --- runs ---

    def start_run(self, model: Model, lock: SimLock, *, outside: bool = False) -> SimRun:
        run = SimRun(f"{model.name}-r{len(model.runs) + 1}", model, lock, self.now, outside=outside)
        model.runs.append(run)
        self.note("run", run.run_id, lock.digest)
        self.at(self.rng.uniform(5.0, 40.0), self._fetch, run)
        return run

    def runs_of(self, model: Model, age_s: float) -> tuple[RunSeen, ...]:
        """What the service lists; with an age, runs of that last while are missing or still active."""
        then = self.now - age_s
        found = []
        for run in model.runs:
            if run.outside or (age_s > 0.0 and run.created_s > then):
                continue
            ended = run.ended_s if run.ended_s is not None and run.ended_s <= then else None
            found.append(
                RunSeen(
                    run_id=run.run_id,
                    version=run.lock.version,
                    lock=run.lock.digest,
                    state=run.state if ended is not None else "RUNNING",
                    created_s=run.created_s,
                    ended_s=ended if self.says_end else None,
                )
            )
        return tuple(found)

    def end_run(self, run: SimRun, state: str, why: str) -> None:
        if not run.active:
            return
        run.state, run.ended_s, run.why = state, self.now, why
        run.model.disturbed_s = self.now
        self.note("end", run.run_id, state, why)
        if run.outside and why in ("pod", "champion_moved", "champion_lost"):
            self.at(self.rng.uniform(30.0, 90.0), self.merge, run.model)

    def _crashes(self, run: SimRun) -> bool:
        if self.pod_rate and self.rng.random() < self.pod_rate:
            self.end_run(run, self.rng.choice(("FAILED", "FAILED", "CANCELED")), "pod")
        return not run.active

    def _fetch(self, run: SimRun) -> None:
        if self._crashes(run) or self._champion_wrong(run):
            return
        run.attempt = 1 + len(self._verdicts(run.model, run.lock.version))
        self.at(self.rng.uniform(self.shortest_run_s, self.longest_run_s), self._judge, run)

    def _judge(self, run: SimRun) -> None:
        """Ends in a verdict; two runs of one lock may judge differently."""
        if self._crashes(run):
            return
        run.outcome = self.rng.choices(("pass", "block", "inconclusive", "error"), (60, 20, 12, 8))[
            0
        ]
        run.verdict = f"verdict-of-{run.run_id}"
        if self.rng.random() < self.rollback_rate:
            # Somebody rolls back at the worst of times.
            self.at(self.rng.uniform(0.1, 20.0), self.rollback, run.model)
        self.at(self.rng.uniform(1.0, 10.0), self._register, run)

    def _verdicts(self, model: Model, version: str) -> set[str]:
        return {row.verdict for row in model.rows if row.verdict and row.parent == version}

    def _champion_wrong(self, run: SimRun) -> bool:
        """Ends the run unless the champion is the locked one; as registry.compressed.champion reads it."""
        model = run.model
        if "moves blindly" in self.plants and run.verdict:
            return False
        if model.champion is None and any(row.verdict != run.verdict for row in model.cut_short()):
            self.end_run(run, "FAILED", "champion_lost")
            return True
        if model.champion != run.lock.champion:
            self.end_run(run, "FAILED", "champion_moved")
            return True
        return False

    def _register(self, run: SimRun) -> None:
        model, version = run.model, run.lock.version
        if not run.active or self._crashes(run):
            return
        if "unfenced" not in self.plants and (
            len(self._verdicts(model, version)) >= run.attempt or self._judged(run.lock)
        ):
            self.end_run(run, "FAILED", "fenced")
            return
        if run.outcome == "pass" and self._champion_wrong(run):
            return
        # What was looked at may be another once all files are uploaded.
        self.at(self.rng.uniform(0.5, 30.0), self._add, run)

    def _judged(self, lock: SimLock) -> bool:
        """Whether there is an accepted verdict for this lock, by promote's own rule."""
        return any(lock.digest in accepted(model.rows) for model in self.models.values())

    def _add(self, run: SimRun) -> None:
        if not run.active or self._crashes(run):
            return
        model, version = run.model, run.lock.version
        model.by_verdict[run.verdict] = run
        outcome = run.outcome
        if "everything passes" in self.plants:
            run.outcome = "pass"
        row = self.add_row(
            model,
            Row(
                version="",
                parent=version,
                lock=run.lock.digest,
                verdict=run.verdict,
                outcome=outcome,  # type: ignore[arg-type]
                attempt=run.attempt,
            ),
        )
        self.note("row", model.name, row, run.run_id, run.outcome)
        self.at(self.rng.uniform(0.5, 8.0), self._move, run, row)

    def _move(self, run: SimRun, row: str) -> None:
        """Looks again whether it came first; the look and the move are one here, as late as can be."""
        if not run.active or self._crashes(run):
            return
        model = run.model
        if model.rows[int(row) - 1].verdict != run.verdict:
            self.end_run(run, "FAILED", "deleted")
            return
        fenced = "unfenced" not in self.plants and "looks once" not in self.plants
        if fenced and not self.is_first(model, row):
            self.end_run(run, "FAILED", "fenced")
            return
        if run.outcome != "pass":
            self.end_run(run, "FAILED", run.outcome)
            return
        if self._champion_wrong(run):
            return
        self.move_champion(model, row, run)
        self.at(self.rng.uniform(0.2, 3.0), self._finish, run, row)

    def _finish(self, run: SimRun, row: str) -> None:
        if self._crashes(run):
            return
        self.mark(run.model, row)
        self.end_run(run, "SUCCEEDED", "pass")

    def is_first(self, model: Model, version: str) -> bool:
        """Whether this row's verdict is the accepted one for its lock, by promote's own rule."""
        row = model.rows[int(version) - 1]
        return accepted(model.rows)[row.lock].verdict == row.verdict

    # --- people ---

    def rollback(self, model: Model) -> None:
        before = [
            row.version for row in model.rows if row.promoted and row.version != model.champion
        ]
        if model.champion is not None and before:
            self.move_champion(model, before[-1], None)

    def cure(self, model: Model) -> None:
        """Somebody promotes again what was cut short, or deletes it, as the error told them to."""
        if model.champion is not None:
            return
        for row in model.cut_short():
            run = model.by_verdict[row.verdict]
            if run.lock.champion is None:
                model.touched.add(row.parent)
                self.move_champion(model, row.version, run)
                self.mark(model, row.version)
                return
            # Promote refuses it: it was judged against a champion that is gone.
            self.note("delete", model.name, row.version)
            model.rows[int(row.version) - 1] = Row(version=row.version)
        self.changed(model, f"{model.name}-compressed")

    def merge(self, model: Model) -> None:
        """Somebody merges the pull request for the newest version, and CI judges and promotes it."""
        newest = model.dense[-1].version
        busy = any(run.active for run in model.runs)
        short = {row.verdict for row in model.cut_short()}
        if busy:
            self.at(60.0, self.merge, model)
            return
        if self._verdicts(model, newest) - short or newest in model.unusable:
            return
        if model.champion is None and model.cut_short():
            self.cure(model)
        self.start_run(
            model,
            self.lock(model, newest, self.images[-1], model.champion, model.rows),
            outside=True,
        )
