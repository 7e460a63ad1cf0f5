"""The service tells its hooks how versions ended and what holds one up: each once, waiting for none."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reprune.core.http import Backoff
from reprune.doors.cli import main
from reprune.doors.service import logs
from reprune.doors.service.config import read_settings
from reprune.doors.service.metrics import Metrics
from reprune.doors.service.notices import about
from reprune.doors.service.telling import MOST_WAITING, Courier, make_couriers
from reprune.doors.service.wiring import Sweeper
from reprune.orchestrate.reconcile_actions import Close, Tell
from reprune.orchestrate.reconcile_telling import UNREAD
from reprune.registry.tags import ATTEMPT, LOCK, OUTCOME, PARENT, TOLD, VERDICT
from reprune.steps.noticing import tell_promotion
from tests.chain import Story
from tests.doors.service import test_serve
from tests.doors.service.test_serve import Place
from tests.hook_server import SECRET, HookServer
from tests.kfp_server import KfpServer
from tests.registry.promotion import COMPRESSED, promoted, ready
from tests.registry.test_noticing import configure, ops

kfp = test_serve.kfp
place = test_serve.place
HUSH = "/services/T000/B000/hush-hush"
SOON = Backoff(first_s=0.05, longest_s=0.1, tries=4)


@pytest.fixture
def server() -> Iterator[HookServer]:
    with HookServer() as running:
        yield running


@pytest.fixture
def hooked(place: Place, server: HookServer) -> Place:
    (place.root / "hook-secret").write_text(SECRET)
    (place.root / "chat-url").write_text(server.url + HUSH)
    place.config["hooks"] = [
        {"name": "ops", "kind": "webhook", "url": server.url, "secret_file": "hook-secret"},
    ]
    place.write()
    return place


def swept(sweep: Sweeper) -> None:
    assert sweep(0)[1]
    sweep.couriers.drain(20.0)


def forget(place: Place) -> Sweeper:
    for each in (place.root / "state").iterdir():
        each.unlink()
    return place.sweeper()


def close(place: Place, sweep: Sweeper, version: str, why: str) -> None:
    watch = sweep.settings.watches.watches[0]
    sweep.ports.registry.close(watch, Close((version,), "error", why))


def test_a_version_that_was_given_up_is_told_once_even_by_a_service_that_forgot(
    hooked: Place, kfp: KfpServer, server: HookServer
) -> None:
    hooked.train()
    sweep = hooked.sweeper()
    close(hooked, sweep, "1", "3 runs ended without a verdict")
    swept(sweep)
    swept(sweep)
    [came] = server.came
    data = came.body["data"]
    assert (came.body["type"], data["dense_version"]) == ("error", "1")
    assert data["words"] == "version 1 ended in an error: 3 runs ended without a verdict"
    assert 'reprune_notices_total{hook="ops",result="taken"} 1' in sweep.metrics.text()
    tags = hooked.registry.versions(COMPRESSED)[0].tags
    assert tags[f"{TOLD}ops"] == came.headers["webhook-id"]
    swept(forget(hooked))
    assert len(server.came) == 1


def test_what_was_under_way_at_the_end_is_told_after_the_start(
    hooked: Place, kfp: KfpServer, server: HookServer
) -> None:
    """With the memories of before, in which it is said already."""
    hooked.train()
    sweep = hooked.sweeper()
    close(hooked, sweep, "1", "why")
    sweep.couriers.stop()
    assert sweep(0)[1]
    sweep.couriers.stop()
    assert server.came == []
    swept(hooked.sweeper())
    swept(hooked.sweeper())
    assert len(server.came) == 1


def test_an_end_that_waits_is_told_after_the_start_though_a_newer_version_is_there(
    hooked: Place, kfp: KfpServer, server: HookServer
) -> None:
    hooked.train(1.0)
    sweep = hooked.sweeper()
    close(hooked, sweep, "1", "why")
    sweep.couriers.stop()
    assert sweep(0)[1]
    hooked.train(2.0)
    assert sweep(0)[1]
    assert server.came == []
    swept(hooked.sweeper())
    swept(hooked.sweeper())
    [came] = server.came
    assert (came.body["type"], came.body["data"]["dense_version"]) == ("error", "1")


def test_what_holds_a_version_up_is_told_and_a_superseded_one_is_not(
    hooked: Place, kfp: KfpServer, server: HookServer
) -> None:
    hooked.train(1.0)
    hooked.train(2.0)
    # A champion that is not ours.
    folder = hooked.root / "foreign"
    folder.mkdir()
    (folder / "model").write_text("x")
    version = hooked.registry.register(COMPRESSED, folder, {})
    hooked.registry.set_alias(COMPRESSED, "champion", version)
    sweep = hooked.sweeper()
    for _ in range(2):
        sweep(0)
        sweep.couriers.drain(20.0)
    [came] = server.came
    data = came.body["data"]
    assert (came.body["type"], data["dense_version"]) == ("waiting", "2")
    assert data["words"].startswith("champion_foreign: ")
    assert (data["champion_after"], data["version"]) == (version, None)
    watch = sweep.settings.watches.watches[0]
    tell = Tell("k", "2", "champion_foreign", "words")
    day = 86_400.0
    keys = [about(sweep.settings, watch, tell, at * day).message.key for at in (5, 5.5, 6)]
    assert keys[0] == keys[1] != keys[2]


def test_a_run_that_never_ends_is_told_with_its_link(
    hooked: Place, kfp: KfpServer, server: HookServer
) -> None:
    hooked.train()
    swept(hooked.sweeper())
    (started,) = kfp.runs.values()
    started.created_at = (datetime.now(UTC) - timedelta(days=4)).isoformat()
    hooked.watch["since"] = datetime.now(UTC) - timedelta(days=5)
    hooked.write()
    swept(forget(hooked))
    [came] = server.came
    assert came.body["type"] == "waiting"
    assert came.body["data"]["run"] == f"{kfp.url}/#/runs/details/run-1"
    assert came.body["data"]["words"].startswith("run_stuck: the run run-1 was begun 4 days ago")


def test_what_cannot_be_read_is_told_without_asking_the_registry(
    hooked: Place, kfp: KfpServer, server: HookServer
) -> None:
    sweep = hooked.sweeper()
    watch = sweep.settings.watches.watches[0]
    shutil.rmtree(hooked.root / "registry", ignore_errors=True)
    (hooked.root / "registry").write_text("not a folder")
    sweep.couriers.hand(watch, Tell("k", "", UNREAD, "for 6 hours it could not be looked at"))
    sweep.couriers.drain(20.0)
    [came] = server.came
    assert (came.body["type"], came.body["data"]["model"]) == ("waiting", "digits")
    assert came.body["data"]["words"].startswith("watch_unreadable: for 6 hours")


@pytest.mark.slow
def test_a_hook_that_is_down_holds_no_sweep_and_is_told_later(
    hooked: Place, kfp: KfpServer, server: HookServer
) -> None:
    hooked.train()
    sweep = hooked.sweeper()
    close(hooked, sweep, "1", "why")
    for courier in sweep.couriers.each:
        courier.pace = SOON
    server.answers = [server.hang, 200]
    began = time.monotonic()
    assert sweep(0)[1]
    assert time.monotonic() - began < 4.0
    # A try lasts 4 seconds, and the second one is within the deadline.
    server.wait_for(2)


def courier(place: Place, metrics: Metrics, pace: Backoff = SOON) -> Courier:
    (made,) = make_couriers(read_settings(place.file), metrics).each
    made.pace = pace
    return made


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_a_registry_that_does_not_answer_delays_and_in_the_end_loses(
    hooked: Place, server: HookServer
) -> None:
    from reprune.core.errors import RegistryUnreachable

    hooked.train()
    metrics = Metrics(clock=time.monotonic)
    made = courier(hooked, metrics)
    watch = read_settings(hooked.file).watches.watches[0]

    def down(*_: object) -> Any:
        raise RegistryUnreachable("does not answer")

    made.look = down
    made.hand(watch, Tell("k", "1", "error", "words"))
    until(lambda: 'result="lost"} 1' in metrics.text())
    assert 'reprune_notices_total{hook="ops",result="retried"} 3' in metrics.text()
    # And a crash stops no later message.

    def crash(*_: object) -> Any:
        raise ZeroDivisionError

    made.look = crash
    made.hand(watch, Tell("k", "1", "error", "words"))
    until(lambda: 'result="lost"} 2' in metrics.text())
    made.look = lambda watch, tell, at_s: about(made.settings, watch, tell, at_s)
    made.hand(watch, Tell("k", "1", "error", "words"))
    server.wait_for(1)
    made.stop()


def test_no_more_wait_than_fit(hooked: Place, server: HookServer) -> None:
    metrics = Metrics(clock=time.monotonic)
    made = courier(hooked, metrics)
    watch = made.settings.watches.watches[0]
    server.answers = [server.hang] * 3
    for number in range(MOST_WAITING + 5):
        made.hand(watch, Tell(str(number), str(number), "champion_lost", "words"))
    # One may be under way.
    lost = metrics.text().partition('result="lost"} ')[2].split("\n")[0]
    made.stop()
    assert lost in {"4", "5"}


def test_once_waits_for_what_it_tells_and_shows_no_secret(
    hooked: Place,
    kfp: KfpServer,
    server: HookServer,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hooked.config["hooks"] += [
        {"name": "chat", "kind": "slack", "url_file": "chat-url"},
        {"name": "bad", "kind": "slack", "url": f"{server.url}{HUSH}-literal"},
    ]
    hooked.write()
    hooked.train()
    close(hooked, hooked.sweeper(), "1", f"somebody wrote {SECRET} here")
    server.answers = [404, 404, 404]
    capfd.readouterr()
    assert main(["serve", "--once", "--config", str(hooked.file), "--json"]) == 0
    assert len(server.came) == 3
    out, err = capfd.readouterr()
    assert json.loads(out)["failures"] == 0
    told = [json.loads(line) for line in err.splitlines()]
    lost = [line for line in told if line["event"] == "a hook was not told"]
    assert sorted((line["hook"], line["why"]) for line in lost) == [
        ("bad", "answers 404"),
        ("chat", "answers 404"),
        ("ops", "answers 404"),
    ]
    assert "hush" not in out + err
    assert SECRET not in out + err
    assert server.url not in out + err


def test_what_the_service_logs_hides_every_secret_of_a_hook(
    hooked: Place, server: HookServer
) -> None:
    hooked.config["hooks"] += [{"name": "chat", "kind": "slack", "url_file": "chat-url"}]
    hooked.write()
    settings = read_settings(hooked.file)
    words = f"{(hooked.root / 'chat-url').read_text()} {SECRET} {server.url}"
    record = logging.LogRecord("x", logging.INFO, "f", 1, words, None, None)
    line = logs.JsonLines(settings.confidential).format(record)
    assert json.loads(line)["event"] == "*** *** ***"


def test_of_several_verdicts_the_accepted_one_of_the_newest_lock_is_told(hooked: Place) -> None:
    hooked.train()
    folder = hooked.root / "judged"
    folder.mkdir()
    (folder / "model").write_text("x")
    for lock, outcome in (("a", "block"), ("b", "block"), ("b", "block"), ("b", "inconclusive")):
        tags = {PARENT: "1", LOCK: lock, OUTCOME: outcome, VERDICT: f"v-{lock}", ATTEMPT: "1"}
        hooked.registry.register(COMPRESSED, folder, tags)
    settings = read_settings(hooked.file)
    watch = settings.watches.watches[0]
    told = {
        state: about(settings, watch, Tell("k", "1", state, "words"), 0.0).message.data.version
        for state in ("blocked", "inconclusive", "error", "promoted")
    }
    assert told == {"blocked": "2", "inconclusive": "4", "error": None, "promoted": None}


@pytest.mark.parametrize("story", [Story(), Story(candidate_wrong=60)])
def test_promote_and_the_service_tell_the_same_and_only_once(
    place: Place, kfp: KfpServer, server: HookServer, story: Story, tmp_path: Path
) -> None:
    """One id, and a hook of one name in both is told by whoever comes first."""
    root = tmp_path / "judged"
    root.mkdir()
    ready(root, story)
    configure(root, ops(server, "promoted", "blocked"))
    result = promoted(root)
    # What is watched is what was judged, under the same address.
    place.root = root
    place.watch |= {"registry": {"kind": "files", "uri": "registry"}, "mode": "pull-request"}
    place.watch |= {"repository": "you/digits"}
    for key in ("image", "experiment"):
        del place.watch[key]
    hook = ops(server, "promoted", "blocked")
    (root / "hook-secret").write_text(SECRET)
    (root / "token").write_text("a-token")
    place.config = {"projects": ".", "github": {"token_file": "token"}, "hooks": [hook]}
    place.write()
    sweep = place.sweeper()
    watch = sweep.settings.watches.watches[0]
    state = "promoted" if result.promoted else "blocked"
    tell = Tell("k", "1", state, "words")
    found = about(sweep.settings, watch, tell, 0.0)
    tell_promotion(root, result, say=pytest.fail)
    [came] = server.came
    assert found.message.key == came.headers["webhook-id"]
    theirs, ours = came.body["data"], found.message.data
    assert (ours.lock, ours.verdict, ours.outcome) == (
        theirs["lock"],
        theirs["verdict"],
        theirs["outcome"],
    )
    assert ours.champion_after == theirs["champion_after"]
    assert ours.run is None
    sweep.couriers.hand(watch, tell)
    sweep.couriers.drain(20.0)
    assert len(server.came) == 1
