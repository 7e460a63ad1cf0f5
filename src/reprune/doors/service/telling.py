"""Couriers: one a hook, each with a thread of its own, so that no sweep waits for a host, nor a hook for
another.

A message is about what the registry then says of the version, and is written down there once it was
taken (tag `reprune.told.<hook>`): a service that lost its memory tells nobody twice. One that is not
taken is tried again, with longer and longer pauses, a few times.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from reprune.core.errors import RepruneError
from reprune.core.http import Backoff
from reprune.doors.service.config import Settings
from reprune.doors.service.logs import crashed, say
from reprune.doors.service.metrics import Metrics
from reprune.doors.service.notices import ENDS, About, about
from reprune.orchestrate.notify import Hook, deliver
from reprune.orchestrate.reconcile_actions import Tell
from reprune.orchestrate.reconcile_seen import Memory
from reprune.orchestrate.reconcile_watch import Key, Watch

MOST_WAITING = 1000
PACE = Backoff(first_s=60.0, longest_s=1800.0, tries=6)
# An end this old is no news: a service that starts to watch does not tell of last year.
OLD_S = 7 * 86_400.0
# What is told to nobody.
SILENT = ("superseded",)


@dataclass
class _Letter:
    watch: Watch
    tell: Tell
    at_s: float
    tries: int = 0
    due_s: float = 0.0


@dataclass
class Courier:
    """Delivers to one hook, in turn. `look` says what a letter is about, and may raise RepruneError."""

    hook: Hook
    settings: Settings
    metrics: Metrics
    look: Callable[[Watch, Tell, float], About]
    pace: Backoff = PACE
    _letters: deque[_Letter] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _sending: _Letter | None = None
    _stopped: bool = False

    def hand(self, watch: Watch, tell: Tell) -> None:
        """It will be delivered, unless too much waits already. Returns at once."""
        with self._changed:
            if len(self._letters) >= MOST_WAITING:
                self._lost(watch, tell, "too many messages wait")
                return
            self._letters.append(_Letter(watch, tell, time.time()))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"courier-{self.hook.name}", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def drain(self, until: float) -> None:
        """Returns when each letter was tried once at least, or at `until` (of time.monotonic)."""
        with self._changed:
            self._changed.wait_for(self._tried, timeout=max(0.0, until - time.monotonic()))

    def stop(self) -> None:
        """What waits is told to nobody; what is under way may still be taken."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def waiting(self, key: Key) -> frozenset[str]:
        """The versions of a watch whose ends this hook neither took nor refused for good."""
        with self._changed:
            letters = [*self._letters, *([self._sending] if self._sending else [])]
        return frozenset(
            each.tell.version
            for each in letters
            if each.watch.key == key and each.tell.state in ENDS
        )

    def _tried(self) -> bool:
        return self._sending is None and all(each.tries for each in self._letters)

    def _run(self) -> None:
        while True:
            with self._changed:
                letter = self._sending = self._next()
            if letter is None:
                return
            again = False
            try:
                again = self._deliver(letter)
            except Exception:  # noqa: BLE001  # the next letter has to be delivered all the same
                crashed("a message to a hook crashed", model=letter.watch.name, hook=self.hook.name)
                self._lost(letter.watch, letter.tell, "crashed")
            with self._changed:
                self._sending = None
                if again:
                    self._letters.append(letter)
                self._changed.notify_all()

    def _next(self) -> _Letter | None:
        """The first letter that is due, once there is one; it waits no more. None at the end."""
        while not self._stopped:
            now_s = time.monotonic()
            due = min(self._letters, key=lambda each: each.due_s, default=None)
            if due is not None and due.due_s <= now_s:
                self._letters.remove(due)
                return due
            self._changed.wait(None if due is None else due.due_s - now_s)
        return None

    def _deliver(self, letter: _Letter) -> bool:
        """Whether it has to be tried again."""
        watch, tell = letter.watch, letter.tell
        letter.tries += 1
        try:
            found = self.look(watch, tell, letter.at_s)
        except RepruneError as error:
            return self._again(letter, f"the registry could not be asked: {error.what}")
        told, place = found.message, found.place
        if told.event not in self.hook.events or found.told.get(self.hook.name) == told.key:
            return False
        if letter.at_s - told.at_s > OLD_S:
            return False
        failures = deliver([self.hook], told, self.settings.root)
        if failures:
            if failures[0].passing:
                return self._again(letter, failures[0].why)
            self._lost(watch, tell, failures[0].why)
            return False
        self.metrics.add("reprune_notices_total", hook=self.hook.name, result="taken")
        say(
            "a hook was told",
            model=watch.name,
            version=tell.version,
            state=tell.state,
            hook=self.hook.name,
            notice=told.key,
        )
        if place is not None:
            try:
                place.write_down([self.hook.name], told.key)
            except RepruneError as error:
                self._warn(watch, tell, f"it could not be written down: {error.what}")
        return False

    def _again(self, letter: _Letter, why: str) -> bool:
        if letter.tries >= self.pace.tries:
            self._lost(letter.watch, letter.tell, why)
            return False
        letter.due_s = time.monotonic() + self.pace.pause_s(letter.tries)
        self.metrics.add("reprune_notices_total", hook=self.hook.name, result="retried")
        if letter.tries == 1:
            self._warn(letter.watch, letter.tell, f"{why}; it will be tried again")
        return True

    def _lost(self, watch: Watch, tell: Tell, why: str) -> None:
        self.metrics.add("reprune_notices_total", hook=self.hook.name, result="lost")
        self._warn(watch, tell, why)

    def _warn(self, watch: Watch, tell: Tell, why: str) -> None:
        say(
            "a hook was not told",
            level=logging.WARNING,
            model=watch.name,
            version=tell.version,
            state=tell.state,
            hook=self.hook.name,
            why=why,
        )


@dataclass(frozen=True, kw_only=True)
class Couriers:
    """All of them."""

    each: tuple[Courier, ...]

    def hand(self, watch: Watch, tell: Tell) -> None:
        """To every hook, but for what is told to nobody."""
        if tell.state not in SILENT:
            for courier in self.each:
                courier.hand(watch, tell)

    def waiting(self, watch: Watch) -> frozenset[str]:
        """The versions of the watch whose ends some hook has still to take."""
        return frozenset[str]().union(*(courier.waiting(watch.key) for courier in self.each))

    def untold(self, memory: Memory) -> Memory:
        """A memory of before the start, without the ends that were said: a message may have been lost
        with the process, and on the version stands who took it. As it is, where nobody is told.
        """
        if not self.each:
            return memory
        told = {
            key: at_s for key, at_s in memory.told.items() if key.rpartition(" ")[2] not in ENDS
        }
        return msgspec.structs.replace(memory, told=told)

    def drain(self, timeout_s: float) -> None:
        """Returns when all was tried once, or after `timeout_s`."""
        until = time.monotonic() + timeout_s
        for courier in self.each:
            courier.drain(until)

    def stop(self) -> None:
        """As each courier's."""
        for courier in self.each:
            courier.stop()


def make_couriers(settings: Settings, metrics: Metrics) -> Couriers:
    """No thread runs before there is something to tell."""

    def look(watch: Watch, tell: Tell, at_s: float) -> About:
        return about(settings, watch, tell, at_s)

    hooks = settings.config.hooks
    return Couriers(
        each=tuple(
            Courier(hook=hook, settings=settings, metrics=metrics, look=look) for hook in hooks
        )
    )
