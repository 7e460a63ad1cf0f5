"""Promotes and rollbacks on machines of their own, interleaved call by call on one registry of plain folders.

Each actor runs the real promote or rollback in a thread and stops before each call to the registry; a
schedule says whose turn it is, and whether the call fails, is done with the answer lost, or is the last
that this actor makes. What is copied and judged again is made once a verdict, and used again. What must
hold is checked at the very moment that the alias moves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest

from reprune.core.errors import (
    ChampionForeign,
    ChampionMoved,
    PromotionRefused,
    RegistryUnreachable,
    RepruneError,
)
from reprune.core.params import read_params
from reprune.registry.compressed import champion, check_files
from reprune.registry.files import FILES
from reprune.registry.links import read_link, records
from reprune.registry.open import open_registry
from reprune.registry.protocol import CHAMPION, Registry, VersionInfo, known_alias, known_versions
from reprune.registry.receipts import RECEIPT_FILE, Receipted, subject_digests
from reprune.registry.tags import LOCK, PROMOTED, VERDICT
from reprune.steps import moving
from reprune.steps import promote as promote_module
from reprune.steps.acceptance import Case
from reprune.steps.promote import PromoteResult
from reprune.steps.promoter import read_promoter
from reprune.steps.rollback import RollbackResult, rollback
from reprune.steps.staging import Evidence, Staged
from tests.registry.promotion import COMPRESSED, NOW_S, evidence, promoted
from tests.registry.stand import Killed

T = TypeVar("T")
Fault = Literal["", "fails", "answer lost", "dies before", "dies after"]
FAULTS: tuple[Fault, ...] = ("fails", "answer lost", "dies before", "dies after")
ROLLBACK = "rollback"
# Answers for good; whoever died, or was not answered, tries again.
_FINAL = (PromoteResult, RollbackResult, PromotionRefused, ChampionMoved, ChampionForeign)


@dataclass(frozen=True)
class Judged:
    """A repository with evidence, and what promote makes of it before it looks at the registry."""

    root: Path
    staged: Staged
    case: Case


def judge_again(root: Path, folder: Path) -> Judged:
    """Copies to `folder` and judges, as promote does each time."""
    folder.mkdir(parents=True)
    staged = promote_module.stage(evidence(root), folder)
    return Judged(
        root, staged, promote_module.check_integrity(staged, read_params(root / "params.yaml"))
    )


@dataclass
class Actor:
    """Runs `work` a call at a time. `done` holds its result, or the error that is its answer for good."""

    name: str
    work: Callable[[], Any]
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    stopped: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    fault: Fault = ""
    thread: threading.Thread | None = None
    done: Any = None
    seen: str | None = None
    calls: int = 0

    def turn(self, fault: Fault = "") -> None:
        """One call to the registry, and all that follows it up to the next; an ended actor begins anew."""
        if self.done is not None:
            return
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, daemon=True)
            self.thread.start()
            assert self.stopped.acquire(timeout=60)
            if self.thread is None:
                return
        self.fault = fault
        self.calls += 1
        self.go.release()
        assert self.stopped.acquire(timeout=60)

    def _run(self) -> None:
        try:
            self.done = self.work()
        except (Killed, RegistryUnreachable):
            pass
        except (RepruneError, AssertionError) as error:
            self.done = error
        finally:
            self.thread = None
            self.stopped.release()

    def call(self, done: Callable[[], T]) -> T:
        """Waits for its turn, and does what the fault says."""
        self.stopped.release()
        assert self.go.acquire(timeout=60)
        fault = self.fault
        if fault == "dies before":
            raise Killed
        if fault == "fails":
            raise RegistryUnreachable("does not answer")
        answer = done()
        if fault == "dies after":
            raise Killed
        if fault == "answer lost":
            raise RegistryUnreachable("does not answer")
        return answer


@dataclass(frozen=True)
class Stopping:
    """The registry, as an actor sees it."""

    inner: Registry
    actor: Actor
    world: World

    @property
    def identity(self) -> str:
        return self.inner.identity

    @property
    def workspace(self) -> str:
        return self.inner.workspace

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        return self.actor.call(lambda: self.inner.versions(name))

    def fetch(self, name: str, version: str, destination: Path, *, part: str = "") -> None:
        self.actor.call(lambda: self.inner.fetch(name, version, destination, part=part))

    def alias(self, name: str, alias: str) -> str | None:
        def look() -> str | None:
            self.actor.seen = self.inner.alias(name, alias)
            return self.actor.seen

        return self.actor.call(look)

    def register(self, name: str, folder: Path, tags: Mapping[str, str]) -> str:
        return self.actor.call(lambda: self.inner.register(name, folder, tags))

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        self.actor.call(lambda: self.inner.set_tags(name, version, tags))

    def set_alias(self, name: str, alias: str, version: str) -> None:
        def move() -> None:
            self.world.check_move(self.actor, version)
            self.inner.set_alias(name, alias, version)

        self.actor.call(move)


@dataclass
class World:
    """One registry, and who works with it. `served` are the verdicts that the alias ever named, by lock."""

    root: Path
    registry: Registry
    actors: list[Actor] = field(default_factory=list)
    served: dict[str, set[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def run(self, schedule: Iterable[tuple[int, Fault]]) -> None:
        """The schedule, and then everybody to the end, without faults."""
        for who, fault in schedule:
            self.actors[who % len(self.actors)].turn(fault)
        for actor in self.actors:
            for _ in range(1000):
                if actor.done is not None:
                    break
                actor.turn()
        assert not self.wrong, self.wrong

    def infos(self) -> dict[str, VersionInfo]:
        return {info.version: info for info in known_versions(self.registry, COMPRESSED)}

    def accepted(self, lock: str) -> str:
        """Counted here anew: the verdict of the lowest number."""
        rows = [info for info in self.infos().values() if info.tags.get(LOCK) == lock]
        return min(rows, key=lambda info: int(info.version)).tags[VERDICT]

    def check_move(self, actor: Actor, version: str) -> None:
        """Checks what must hold of `version` now that `actor` moves the alias onto it."""
        infos, before = self.infos(), known_alias(self.registry, COMPRESSED, CHAMPION)
        info = infos[version]
        link = read_link(self.registry, info, read_promoter(self.root).keys)
        assert isinstance(link, Receipted)
        decision = link.statement.predicate
        self.served.setdefault(decision.lock, set()).add(decision.verdict)
        if actor.name == ROLLBACK:
            told = [record.statement.predicate for _, record in records(self.registry, "digits")]
            self._expect(any(each.version == version for each in told), "no record of it")
            self._expect(PROMOTED in info.tags, "it never served")
        else:
            self._expect(decision.outcome == "pass", "it did not pass")
            self._expect(decision.verdict == self.accepted(decision.lock), "it came second")
            listed = {**subject_digests(link.statement), RECEIPT_FILE: link.digest}
            check_files(
                self.root / "registry" / COMPRESSED / version / FILES, listed, where=version
            )
        # Between the last look and the move, another may have moved: no registry has a condition.
        if before == actor.seen and before is not None and before != version:
            self._expect(PROMOTED in infos[before].tags, f"{before} is left unmarked")
            locked = decision.champion and decision.champion.version
            self._expect(
                actor.name == ROLLBACK or locked == before, "it was judged against another"
            )

    def _expect(self, holds: bool, words: str) -> None:
        if not holds:
            self.wrong.append(words)

    def check_end(self) -> None:
        """Everybody has ended: one accepted verdict a lock, nothing half done, and doing it again is idle."""
        assert all(len(verdicts) == 1 for verdicts in self.served.values()), self.served
        holder = champion(self.registry, "digits")
        assert holder is not None
        # Who served before all this was not marked: only who replaces it does.
        assert PROMOTED in holder.info.tags or holder.info.version == "2"
        for actor in self.actors:
            assert isinstance(actor.done, _FINAL), actor.done


def promoting(patched: pytest.MonkeyPatch, judged: Mapping[str, Judged], root: Path) -> World:
    """A world on the registry of `root` in which the names of `judged` promote, and `rollback` rolls back.

    Each has a machine of its own: no lock of the file system is between them.
    """
    section = read_params(root / "params.yaml").registry
    world = World(root, open_registry(section, root))
    by_root: dict[Path, Actor] = {}
    staged = {each.root: each.staged for each in judged.values()}
    cases = {each.staged.verdict.digest: each.case for each in judged.values()}

    def again(given: Evidence, _: Path) -> Staged:
        found = staged[given.verdict.parents[1]]
        (found.folder / RECEIPT_FILE).unlink(missing_ok=True)
        return found

    patched.setattr(promote_module, "stage", again)
    patched.setattr(promote_module, "check_integrity", lambda each, _: cases[each.verdict.digest])
    patched.setattr(promote_module, "private_folder", lambda *_: nullcontext(root))
    patched.setattr(moving, "holding", lambda *_, **__: nullcontext())
    patched.setattr(
        moving, "open_registry", lambda _, at: Stopping(world.registry, by_root[at], world)
    )
    for name, each in judged.items():
        actor = Actor(name, lambda at=each.root: promoted(at))  # type: ignore[misc]
        by_root[each.root] = actor
        world.actors.append(actor)
    back = Actor(ROLLBACK, lambda: _back(root))
    by_root[root] = back
    world.actors.append(back)
    return world


def _back(root: Path) -> Any:
    return rollback(root, to=None, by="Ada", reason="labels", now=NOW_S, say=lambda _: None)
