"""The reconciler's decisions, one look at a time, and the file of watches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.documents import decode_json, decode_yaml
from reprune.core.errors import (
    ChampionForeign,
    DocumentError,
    OrchestratorError,
    PickleRefused,
    RegistryUnreachable,
)
from reprune.orchestrate.reconcile import decide, free, pause_s
from reprune.orchestrate.reconcile_actions import (
    MOST_CLOSED,
    Cancel,
    Close,
    Decision,
    Dispatch,
    Submit,
    Tell,
    WriteLock,
)
from reprune.orchestrate.reconcile_drive import Swept, load_memories, run_sweep, sweep
from reprune.orchestrate.reconcile_ports import LockMade, Ports
from reprune.orchestrate.reconcile_seen import (
    SETTLE_S,
    Dense,
    LockKnown,
    Memory,
    RegistrySeen,
    Row,
    RunSeen,
    Seen,
    remember,
    terminal_states,
)
from reprune.orchestrate.reconcile_watch import Watch, Watches, woken

NOW = 1_800_000_000.0
IMAGE = f"registry.example/project@sha256:{'a' * 64}"
TEXT = f"""
schema: 1
concurrency: 2
watches:
  - registry: {{uri: https://mlflow.example}}
    name: lenet
    since: 2026-11-01T00:00:00Z
    image: {IMAGE}
    namespace: team
    experiment: reprune
    machine_kinds: [gpu]
"""


def watches(text: str = TEXT) -> Watches:
    return decode_yaml(text, Watches, name="watches.yaml")


WATCH = watches().watches[0]
PULLING = watches(
    TEXT.replace(f"image: {IMAGE}", "mode: pull-request\n    repository: team/project").replace(
        "    namespace: team\n    experiment: reprune\n    machine_kinds: [gpu]\n", ""
    )
).watches[0]


def dense(*versions: str) -> tuple[Dense, ...]:
    return tuple(Dense(each, NOW - 1000.0 + int(each)) for each in versions)


def row(version: str, parent: str, outcome: str = "block", **more: Any) -> Row:
    given = {"lock": f"lock-{parent}", "verdict": f"v{version}", "attempt": 1, **more}
    return Row(version=version, parent=parent, outcome=outcome, **given)  # type: ignore[arg-type]


def run(run_id: str, version: str, state: str = "RUNNING", **more: Any) -> RunSeen:
    given = {"lock": f"lock-{version}", "created_s": NOW - 900.0, **more}
    return RunSeen(run_id=run_id, version=version, state=state, **given)


def answer(
    watch: Watch = WATCH,
    *,
    runs: tuple[RunSeen, ...] = (),
    memory: Memory | None = None,
    room: bool = True,
    now_s: float = NOW,
    **registry: Any,
) -> Decision:
    seen = Seen(runs, RegistrySeen(**{"dense": (), "rows": (), **registry}))
    return decide(watch, seen, remember(memory or Memory(), seen, now_s), now_s, room=room)


def kinds(decision: Decision) -> list[type]:
    return [type(each) for each in decision.actions]


def test_a_version_gets_its_lock_and_then_its_run() -> None:
    first = answer(dense=dense("1", "2"), rows=(row("1", "1"),))
    (write,) = first.actions
    assert isinstance(write, WriteLock)
    assert write.version == "2"
    lock = LockKnown(version="2", digest="sha256:d", text="t", basis=write.basis)
    then = answer(dense=dense("1", "2"), rows=(row("1", "1"),), memory=Memory(locks={"2": lock}))
    assert then.actions == (Submit(lock, ()),)
    moved = answer(
        dense=dense("1", "2"),
        rows=(row("1", "1", "pass"),),
        champion="1",
        memory=Memory(locks={"2": lock}),
    )
    assert kinds(moved) == [WriteLock], "the champion moved, so the lock is another"


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SUCCEEDED", "SKIPPED"])
def test_the_state_of_a_run_decides_nothing(state: str) -> None:
    ended = (run("a", "1", state, ended_s=NOW - 800.0),)
    assert kinds(answer(dense=dense("1"), runs=ended)) == [WriteLock]
    told = answer(dense=dense("1"), runs=ended, rows=(row("1", "1"),))
    assert [type(each) for each in told.actions] == [Tell]


def test_retries_are_spaced_and_end_as_an_error() -> None:
    ended = [run(f"r{place}", "1", "FAILED", ended_s=NOW - 30.0) for place in range(3)]
    waiting = answer(dense=dense("1"), runs=tuple(ended[:1]))
    assert waiting.actions == ()
    assert waiting.look_again_s > NOW
    late = NOW + WATCH.retry_longest_s
    assert kinds(answer(dense=dense("1"), runs=tuple(ended[:2]), now_s=late)) == [WriteLock]
    (close,) = answer(dense=dense("1"), runs=tuple(ended), now_s=late).actions
    assert isinstance(close, Close)
    assert (close.state, close.versions) == ("error", ("1",))
    yielded = Memory(yielded=("r0",))
    again = answer(dense=dense("1"), runs=tuple(ended), now_s=late, memory=yielded)
    assert kinds(again) == [WriteLock], "a duplicate that we cancelled is no failed attempt"


def test_older_versions_are_superseded_once_they_are_quiet() -> None:
    running = answer(dense=dense("1", "2"), runs=(run("a", "1"),))
    assert running.actions == ()
    assert running.waiting == "for version 1"
    first = answer(dense=dense("1", "2")).actions[0]
    assert first == Close(("1",), "superseded", "version 2 is newer")


def test_what_was_superseded_is_judged_once_the_newer_version_is_gone() -> None:
    """Its verdict and any other end stay; a version that is newer again supersedes it as before."""
    closed = Row(version="1", closed="superseded", closes=("1",))
    assert kinds(answer(dense=dense("1"), rows=(closed,))) == [WriteLock]
    again = answer(dense=dense("1", "3"), rows=(closed,))
    assert [each.version for each in again.actions if isinstance(each, WriteLock)] == ["3"]
    assert not [each for each in again.actions if isinstance(each, Close)]
    for row_2 in (row("2", "1"), Row(version="2", closed="error", closes=("1",))):
        for rows in ((row_2, closed), (closed, row_2)):
            assert kinds(answer(dense=dense("1"), rows=rows)) == [Tell]


def test_many_old_versions_are_closed_in_a_few_rows() -> None:
    versions = tuple(Dense(str(place), NOW - 5.0) for place in range(5000))
    closes = [each for each in answer(dense=versions).actions if isinstance(each, Close)]
    assert max(len(each.versions) for each in closes) == MOST_CLOSED
    assert [each for close in closes for each in close.versions] == [str(n) for n in range(4999)]


def test_the_younger_of_two_runs_of_a_lock_is_cancelled() -> None:
    twins = (run("b", "1", created_s=NOW - 10.0), run("a", "1", created_s=NOW - 20.0))
    assert answer(dense=dense("1"), runs=twins).actions == (Cancel("b", "1"),)
    other = (twins[0], run("a", "1", lock="another", created_s=NOW - 20.0))
    assert answer(dense=dense("1"), runs=other).actions == ()


def test_nothing_from_before_since_counts() -> None:
    old = Dense("1", WATCH.since.timestamp())
    assert answer(dense=(old,)).actions == ()
    # The registry's clock was set back, but its order tells.
    late = (old, Dense("2", NOW), Dense("3", WATCH.since.timestamp() - 5.0))
    (close, write) = answer(dense=late).actions
    assert close.versions == ("2",)
    assert write.version == "3"


def test_a_pull_request_is_asked_for_once_a_day() -> None:
    assert answer(PULLING, dense=dense("1")).actions == (Dispatch("1"),)
    sent = Memory(dispatched={"1": NOW})
    assert answer(PULLING, dense=dense("1"), memory=sent).actions == ()
    assert kinds(answer(PULLING, dense=dense("1"), memory=sent, now_s=NOW + 86_400.0)) == [Dispatch]


def test_a_machine_has_one_run_and_all_have_few() -> None:
    other = msgspec.structs.replace(WATCH, name="minilm")
    busy = (other, (run("a", "1"),), Memory())
    idle = (other, (run("a", "1", "FAILED"),), Memory())
    unread = (other, None, Memory())
    asked = (other, (), Memory(claims={"1": NOW - 1.0}))
    for beside, expected in ((busy, False), (idle, True), (unread, False), (asked, False)):
        assert free(WATCH, [beside], concurrency=4, now_s=NOW) is expected
    elsewhere = (msgspec.structs.replace(other, machine_kinds=()), *busy[1:])
    assert free(WATCH, [elsewhere], concurrency=2, now_s=NOW)
    assert not free(WATCH, [elsewhere], concurrency=1, now_s=NOW)
    assert answer(dense=dense("1"), room=False).waiting == "for room"


@pytest.mark.parametrize("state", ["PENDING", "PAUSED", "RUNNING", "a word of tomorrow"])
@pytest.mark.parametrize("newest_ended", [False, True])
def test_a_run_that_never_ends_is_told_once_a_day(state: str, newest_ended: bool) -> None:
    """It holds up its model and its machines, whether or not it is of the newest version."""
    stuck = (run("a", "1", state),)
    rows = (row("1", "2"),) if newest_ended else ()
    memory, said = Memory(told={"2 blocked": NOW}), []
    for hour in range(0, 24 * 6, 6):
        now_s = NOW + hour * 3600.0
        found = answer(dense=dense("1", "2"), runs=stuck, rows=rows, memory=memory, now_s=now_s)
        assert not any(isinstance(each, WriteLock | Submit) for each in found.actions)
        for tell in [each for each in found.actions if isinstance(each, Tell)]:
            said.append((hour, tell.state, tell.version, tell.run))
            assert state in tell.words
            memory = msgspec.structs.replace(memory, told={**memory.told, tell.key: now_s})
    assert said == [(hour, "run_stuck", "1", "a") for hour in (72, 96, 120)]


def test_which_verdict_counts() -> None:
    def of(*rows: Row, champion: str | None = None) -> dict[str, Any]:
        return dict(terminal_states(RegistrySeen(dense=(), rows=rows, champion=champion)))

    assert of(row("1", "7", "pass")) == {}, "a promotion cut short"
    assert of(row("1", "7", "pass"), champion="1") == {"7": "promoted"}
    assert of(row("1", "7", "pass", promoted=True), champion="5") == {"7": "promoted"}
    assert of(row("1", "7", "pass", dry_run=True)) == {"7": "passed"}
    assert of(row("1", "7"), row("2", "7", "pass")) == {"7": "blocked"}, "a duplicate run"
    assert of(row("1", "7"), row("2", "7", "inconclusive", attempt=2)) == {"7": "blocked"}
    waived = row("2", "7", verdict="v1", waived=True, promoted=True)
    assert of(row("1", "7"), waived) == {"7": "promoted"}
    closed = Row(version="3", closed="superseded", closes=("7", "8"))
    assert of(closed, row("4", "7")) == {"7": "blocked", "8": "superseded"}
    assert of(Row(version="1")) == {}, "somebody else's"


@given(st.integers(1, 40), st.text("0123456789", min_size=1, max_size=9))
def test_pauses_double_within_their_bounds(failures: int, version: str) -> None:
    pause = pause_s(WATCH, version, failures)
    whole = min(WATCH.retry_longest_s, WATCH.retry_first_s * 2.0 ** (failures - 1))
    assert whole / 2 <= pause <= whole
    assert pause == pause_s(WATCH, version, failures)


@given(
    times=st.dictionaries(st.sampled_from(["1", "2", "a"]), st.floats(NOW - 1e5, NOW + 1e5)),
    states=st.lists(st.sampled_from(["RUNNING", "FAILED", "odd word"]), max_size=3),
)
def test_whatever_is_remembered_somebody_looks_again(
    times: dict[str, float], states: list[str]
) -> None:
    memory = Memory(claims=times, ended=times, told=times, dispatched=times)
    runs = tuple(run(name, "2", state) for name, state in zip("abc", states, strict=False))
    found = answer(dense=dense("1", "2"), runs=runs, memory=memory)
    assert NOW < found.look_again_s <= NOW + WATCH.poll_s


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: lenet", "name: lenet-compressed", "Reprune itself registers"),
        (f"image: {IMAGE}", "image: project:latest", "does not match|pattern|regex"),
        ("    experiment: reprune\n", "", "needs `experiment`"),
        ("namespace: team", "mode: pull-request\n    repository: a/b", "no use for `image`"),
        ("namespace: team", "namespaces: team", "namespaces"),
        ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00", "timezone"),
        ("concurrency: 2", "concurrency: 0", "concurrency|>= 1"),
        ("namespace: team", "retry_longest_s: 10", "below `retry_first_s`"),
    ],
)
def test_a_watch_that_cannot_work_is_refused(old: str, new: str, words: str) -> None:
    assert old in TEXT
    with pytest.raises(DocumentError, match=words):
        watches(TEXT.replace(old, new))


def test_one_model_is_watched_once() -> None:
    twice = TEXT + TEXT.partition("watches:\n")[2]
    with pytest.raises(DocumentError, match="watched twice"):
        watches(twice)


def test_two_models_of_one_name_need_namespaces_of_their_own() -> None:
    """A run is listed by the model's name alone, so one would be charged with the other's failures."""
    second = TEXT.partition("watches:\n")[2].replace("mlflow.example", "staging.example")
    with pytest.raises(DocumentError, match="their runs in one namespace"):
        watches(TEXT + second)
    assert len(watches(TEXT + second.replace("namespace: team", "namespace: b")).watches) == 2


def test_a_run_that_names_no_lock_is_nobodys_duplicate() -> None:
    odd = tuple(run(name, "", lock="") for name in "ab")
    assert answer(dense=dense("1"), runs=odd).actions == ()
    ours = tuple(run(name, "1") for name in "ab")
    assert [each.run_id for each in answer(dense=dense("1"), runs=ours).actions] == ["b"]  # type: ignore[union-attr]


def test_only_the_dense_model_wakes_its_watch() -> None:
    def wakes(name: str, uri: str = "https://mlflow.example", workspace: str = "default") -> int:
        return len(woken([WATCH], uri=uri, workspace=workspace, name=name))

    assert wakes("lenet") == 1
    assert wakes("lenet-compressed") == wakes("other") == 0
    assert wakes("lenet", uri="https://elsewhere") == wakes("lenet", workspace="b") == 0


def test_a_set_is_woken_by_its_members() -> None:
    """By each of them, and by nothing that Reprune registers for it."""
    text = TEXT.replace("name: lenet\n", "name: set\n    members: {a: lenet, b: unet}\n")
    (of_set,) = watches(text).watches

    def wakes(name: str) -> int:
        return len(woken([of_set], uri="https://mlflow.example", workspace="default", name=name))

    assert wakes("lenet") == wakes("unet") == 1
    assert wakes("a") == wakes("set") == wakes("set-compressed") == wakes("lenet-compressed") == 0
    with pytest.raises(DocumentError, match="members are the dense models"):
        watches(text.replace("b: unet", "b: set"))


@dataclass
class Place:
    """All ports on one desk; `broken` names the methods that fail, and with what."""

    seen: RegistrySeen
    runs: list[RunSeen] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    broken: dict[str, Exception] = field(default_factory=dict)
    kept: dict[Any, bytes] = field(default_factory=dict)
    time_s: float = NOW

    def ports(self) -> Ports:
        return Ports(registry=self, locks=self, runs=self, people=self, clock=self, store=self)

    def _may(self, method: str) -> None:
        if method in self.broken:
            raise self.broken[method]

    def look(self, watch: Watch) -> RegistrySeen:
        self._may("look")
        return self.seen

    def close(self, watch: Watch, close: Close) -> None:
        self._may("close")
        made = Row(version="9", closed=close.state, closes=close.versions)
        self.seen = msgspec.structs.replace(self.seen, rows=(*self.seen.rows, made))

    def write(self, watch: Watch, version: str) -> LockMade:
        self._may("write")
        return LockMade(digest=f"lock-{version}", text="", champion=None, anchor=None)

    def of(self, watch: Watch) -> tuple[RunSeen, ...]:
        self._may("of")
        return tuple(self.runs)

    def submit(self, watch: Watch, submit: Submit) -> None:
        self._may("submit")
        self.runs.append(run("a", submit.lock.version, lock=submit.lock.digest))

    def cancel(self, watch: Watch, run_id: str) -> None:
        self._may("cancel")

    def dispatch(self, watch: Watch, version: str) -> None:
        self._may("dispatch")

    def tell(self, watch: Watch, tell: Tell) -> None:
        self._may("tell")
        self.said.append(tell.words)

    def now_s(self) -> float:
        return self.time_s

    def load(self, watch: Watch) -> Memory:
        self._may("load")
        return decode_json(self.kept[watch.key], Memory, name="memory")

    def save(self, watch: Watch, memory: Memory) -> None:
        self._may("save")
        self.kept[watch.key] = msgspec.json.encode(memory)


def swept(place: Place, memories: Any = None) -> Swept:
    return run_sweep(place.ports(), sweep(watches(), memories or {}))


def test_a_sweep_starts_one_run_and_remembers_that_it_asked() -> None:
    place = Place(RegistrySeen(dense=dense("1"), rows=()))
    first = swept(place)
    assert [each.version for each in place.runs] == ["1"]
    assert first.failures == ()
    assert 0 < first.pause_s <= WATCH.poll_s
    assert load_memories(place.ports(), [WATCH]) == first.memories
    place.runs.clear()
    swept(place, first.memories)
    assert place.runs == [], "the run may still appear"
    swept(place)
    assert len(place.runs) == 1, "a lost memory is no reason to wait"


@pytest.mark.parametrize("method", ["look", "of"])
def test_a_read_that_failed_is_not_nothing(method: str) -> None:
    place = Place(RegistrySeen(dense=dense("1", "2"), rows=()))
    place.broken[method] = RegistryUnreachable("is down")
    found = swept(place)
    assert place.runs == []
    assert place.seen.rows == ()
    assert [each.call for each in found.failures] == ["read"]
    assert found.pause_s < 10.0


def test_a_version_that_nobody_can_use_is_closed_and_told() -> None:
    place = Place(RegistrySeen(dense=dense("1"), rows=()))
    place.broken["write"] = PickleRefused("is a pickle")
    swept(place, swept(place).memories)
    assert terminal_states(place.seen) == {"1": "error"}
    assert place.runs == []
    assert place.said == ["version 1 ended in an error"]


@pytest.mark.parametrize(
    ("method", "error"),
    [("write", ChampionForeign("was set by hand")), ("submit", OrchestratorError("answered 400"))],
)
def test_what_somebody_has_to_put_right_is_told_once(method: str, error: Exception) -> None:
    place = Place(RegistrySeen(dense=dense("1"), rows=()))
    place.broken[method] = error
    found = swept(place)
    for _ in range(4):
        place.time_s += SETTLE_S / 2
        found = swept(place, found.memories)
    assert place.said == [str(error)]
    assert terminal_states(place.seen) == {}
    place.broken.clear()
    place.time_s += WATCH.poll_s
    swept(place, found.memories)
    assert len(place.runs) == 1, "once it was put right, it goes on by itself"


def test_an_end_is_told_though_a_newer_version_came_meanwhile() -> None:
    """Once, also where telling it failed at first; and no end from before we looked is told with it."""
    place = Place(RegistrySeen(dense=dense("1", "2"), rows=(row("1", "1"),)))
    found = swept(place)
    place.seen = RegistrySeen(dense=dense("1", "2", "3"), rows=(row("1", "1"), row("2", "2")))
    place.broken["tell"] = RegistryUnreachable("nobody hears")
    found = swept(place, found.memories)
    assert place.said == []
    place.broken.clear()
    for _ in range(3):
        place.time_s += WATCH.poll_s
        found = swept(place, found.memories)
    assert place.said == ["version 2 was blocked"]


def test_an_end_that_was_told_is_not_told_again_when_a_newer_version_comes() -> None:
    place = Place(RegistrySeen(dense=dense("1"), rows=()))
    found = swept(place)
    place.runs.clear()
    place.seen = RegistrySeen(dense=dense("1"), rows=(row("1", "1"),))
    found = swept(place, found.memories)
    place.seen = RegistrySeen(dense=dense("1", "2"), rows=(row("1", "1"),))
    for _ in range(3):
        place.time_s += 1.0
        found = swept(place, found.memories)
    assert place.said == ["version 1 was blocked"]


@pytest.mark.parametrize("broken", ["of", "look"])
def test_a_watch_that_stays_unreadable_is_told_once_a_day(broken: str) -> None:
    """By a service that starts anew in between as well; a moment in which it can be read begins it anew."""
    place = Place(RegistrySeen(dense=dense("1"), rows=(row("1", "1"),)))
    found = swept(place)
    place.said.clear()
    place.broken = {broken: OrchestratorError("answered 403")}
    heard = []
    for hour in range(0, 36, 2):
        place.time_s = NOW + hour * 3600.0
        found = swept(place, load_memories(place.ports(), [WATCH]))
        heard += [hour] if place.said else []
        assert all("answered 403" in each for each in place.said)
        place.said.clear()
    assert heard == [6, 30]
    place.broken = {}
    found = swept(place, found.memories)
    place.broken = {broken: OrchestratorError("answered 403")}
    place.time_s += 3600.0
    swept(place, found.memories)
    assert place.said == []


def test_a_store_that_fails_stops_nothing() -> None:
    place = Place(RegistrySeen(dense=dense("1"), rows=()))
    place.broken = {"save": RegistryUnreachable("full"), "load": RegistryUnreachable("empty")}
    assert load_memories(place.ports(), [WATCH]) == {}
    assert swept(place).failures
    assert len(place.runs) == 1


def test_a_run_that_was_asked_for_is_waited_for_until_it_appears() -> None:
    """Once it is there, the next version need not wait as long as it could have stayed away."""
    memory = Memory(claims={"1": NOW - 10.0}, before={"1": ("a",)})
    registry = RegistrySeen(dense=dense("1", "2"), rows=(row("1", "1"),))
    older = run("a", "1", "FAILED", ended_s=NOW - 800.0)
    for runs, starts in (
        ((older,), False),
        ((older, run("b", "1", "FAILED", ended_s=NOW - 1.0)), True),
        ((older, run("b", "1")), False),
    ):
        seen = Seen(runs, registry)
        found = decide(WATCH, seen, remember(memory, seen, NOW), NOW, room=True)
        assert any(isinstance(each, WriteLock) for each in found.actions) == starts
    # What an older Reprune remembered says nothing about the runs before.
    assert remember(Memory(claims={"1": NOW - 10.0}), seen, NOW).claims
