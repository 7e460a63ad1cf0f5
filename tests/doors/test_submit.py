"""`reprune submit`: one run a lock, its end told as it was, its verdict from the registry alone."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from msgspec import UNSET
from securesystemslib.signer import CryptoSigner

from reprune import __version__
from reprune.core.artifacts import Waiver
from reprune.core.errors import InputError
from reprune.core.lock import LOCK_FILE, lock_text, read_lock
from reprune.core.step import Documents
from reprune.doors import submit
from reprune.doors.cli import main
from reprune.doors.kfp.catalogue import catalogue_folder
from reprune.doors.progress import changes, summary, telling
from reprune.doors.submission import PIPELINE, Request, prepare
from reprune.orchestrate import wait as waiting
from reprune.orchestrate.described import Run, TaskState
from reprune.orchestrate.runs import run_name
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.registry.receipts import RECEIPT_FILE, Decision, Statement, decode, sign, subjects
from reprune.registry.tags import PROMOTED, tags_of
from tests.kfp_server import KfpServer, State
from tests.registry import stand

TOKEN = "a-token-that-nobody-may-see"
DIGEST = f"sha256:{'a' * 64}"
IMAGE = f"you/digits@{DIGEST}"
NAMED = Request(experiment="e", image=IMAGE, control_image=IMAGE)
SIGNED_S = 1_800_000_000
SIGNER = CryptoSigner.generate_ed25519()
PACKAGE = {
    "pipelineInfo": {"name": "continuous-compression"},
    "deploymentSpec": {"executors": {}},
    "root": {
        "dag": {"tasks": {}},
        "inputDefinitions": {
            "parameters": {
                "lock": {"parameterType": "STRING"},
                "params": {"parameterType": "STRING"},
                "policy": {"parameterType": "STRING"},
                "machines": {"parameterType": "LIST", "defaultValue": [{"name": ""}]},
                "compress_image": {"parameterType": "STRING", "defaultValue": "you/compress:1"},
                "control_image": {"parameterType": "STRING", "defaultValue": "you/control:1"},
                "share": {"parameterType": "NUMBER_DOUBLE", "isOptional": True},
            }
        },
    },
}
PLATFORM = {"platforms": {"kubernetes": {}}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing waits, and nothing of this machine's own configuration counts."""
    pause = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: pause(min(seconds, 0.001)))
    # Nothing here pulls the plug.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for name in (submit.HOST, submit.UI, submit.NAMESPACE, submit.TOKEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv(submit.TOKEN_FILE, str(tmp_path / "token"))


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with KfpServer(token=TOKEN) as running:
        yield running


class Repository:
    """A repository with a lock, a package beside it, and a registry of plain folders."""

    def __init__(self, root: Path, params: str = stand.PARAMS) -> None:
        self.root = root
        stand.write_repository(root, params)
        if "targets" in params:
            targets = dict.fromkeys(yaml.safe_load(params)["targets"], "required")
            policy = yaml.safe_load(stand.POLICY) | {"targets": targets}
            (root / "policy.yaml").write_text(yaml.safe_dump(policy))
        weights = stand.write_weights(root / "weights.safetensors")
        self.documents = stand.documents(root, weights)
        register_dense(open_registry(self.documents.params.registry, root), "digits", weights)
        (root / LOCK_FILE).write_text(lock_text(self.documents.lock))
        (root / f"{PIPELINE}.yaml").write_text(yaml.safe_dump_all([PACKAGE, PLATFORM]))
        self.name = run_name("digits", self.documents.lock.digest)

    def judged(self, outcome: str, *, alias: bool | None = None, **changes: Any) -> str:
        """Registers a judged candidate for the lock, as `promote` does; returns its version."""
        lock = read_lock(self.root / LOCK_FILE)
        values: dict[str, Any] = {
            "registry": lock.registry,
            "workspace": lock.workspace,
            "name": lock.name,
            "outcome": outcome,
            "reasons": () if outcome == "pass" else ("accuracy.vs_parent on ort-cpu: too low",),
            "attempt": 1,
            "dense_version": "1",
            "dense_weights": DIGEST,
            "champion": None,
            "bundle": DIGEST,
            "verdict": DIGEST,
            "lock": lock.digest,
            "policy": DIGEST,
            "procedure": "2",
            "eval_digest": DIGEST,
            "machines": ("box",),
            "predecessor": None,
            "reprune": "0.1.0",
            "measured_until_s": SIGNED_S,
            "signed_at_s": SIGNED_S,
            "latency_ratio": 0.5,
            "quality_drop": None,
            "flips": 0.01,
        }
        decision = Decision(**(values | changes))
        raw = sign(Statement(subject=subjects({"a": DIGEST}), predicate=decision), SIGNER)
        folder = self.root / "candidate"
        folder.mkdir(exist_ok=True)
        (folder / RECEIPT_FILE).write_bytes(raw)
        registry = open_registry(self.documents.params.registry, self.root)
        receipt = decode(raw, where="r")
        version = registry.register("digits-compressed", folder, tags_of(receipt))
        if decision.promotes if alias is None else alias:
            registry.set_alias("digits-compressed", "champion", version)
            registry.set_tags("digits-compressed", version, {PROMOTED: "true"})
        return version


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.chdir(tmp_path)
    return Repository(tmp_path / "repo")


Submit = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def run(
    repository: Repository,
    server: KfpServer,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Submit:
    """`reprune submit --json` there: exit code, its object (which fits the schema), stderr."""
    caplog.set_level(logging.DEBUG)

    def call(*words: str) -> tuple[int, dict[str, Any], str]:
        monkeypatch.chdir(repository.root.parent)
        code = main(["submit", "-C", "repo", "--json", "--host", server.url, *words])
        out, err = capsys.readouterr()
        assert TOKEN not in out + err + caplog.text
        answer = json.loads(out)
        kind = "submit" if answer["ok"] else "error"
        schema = Path(__file__).parents[2] / "docs" / "schemas" / "output" / f"{kind}.schema.json"
        jsonschema.validate(answer, json.loads(schema.read_text()))
        return code, answer, err

    return call


def promises(
    repository: Repository, server: KfpServer, outcome: str, state: str, **changes: Any
) -> None:
    """The next run ends like this, its last task having registered that."""
    server.plan = [State("PENDING"), State("RUNNING", {"gate": "RUNNING"}), State(state)]
    server.on_submit = lambda _: repository.judged(outcome, **changes) and None


@pytest.mark.parametrize(
    ("outcome", "state", "code"),
    [
        ("pass", "SUCCEEDED", 0),
        ("block", "FAILED", 3),
        ("inconclusive", "FAILED", 4),
        ("error", "FAILED", 2),
        # The promotion was done, and something after it broke.
        ("pass", "FAILED", 0),
        ("block", "CANCELED", 3),
    ],
)
def test_the_verdict_is_the_registrys(
    repository: Repository, server: KfpServer, run: Submit, outcome: str, state: str, code: int
) -> None:
    """Whatever the run's state says, the receipt that names the lock decides."""
    promises(repository, server, outcome, state)
    ended, answer, err = run()
    assert ended == code
    assert answer["run"] == repository.name
    assert (answer["outcome"], answer["state"]) == (outcome, state)
    assert answer["promoted"] == (outcome == "pass")
    assert answer["champion"] == ("1" if outcome == "pass" else None)
    assert answer["link"] == f"{server.url}/#/runs/details/run-1"
    assert not answer["attached"]
    assert err.splitlines()[-3:] == ["gate: RUNNING", "run: RUNNING", f"run: {state}"]
    assert len(server.posted()) == 1


def test_what_is_sent_is_the_texts(repository: Repository, server: KfpServer, run: Submit) -> None:
    """Byte for byte, with the package as it is, and nothing but what was asked for."""
    promises(repository, server, "pass", "SUCCEEDED")
    run("--set", "share=15", "--experiment", "nightly", "--service-account", "runner")
    sent = server.posted()[0]
    texts = {
        name: (repository.root / file).read_text()
        for name, file in (
            ("lock", LOCK_FILE),
            ("params", "params.yaml"),
            ("policy", "policy.yaml"),
        )
    }
    assert sent["runtime_config"] == {"parameters": {**texts, "share": 15}}
    assert sent["pipeline_spec"] == {"pipeline_spec": PACKAGE, "platform_spec": PLATFORM}
    assert sent["service_account"] == "runner"
    assert server.posted("/experiments") == [{"display_name": "nightly"}]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED", "SUCCEEDED"])
def test_an_end_without_a_receipt_is_no_success(server: KfpServer, run: Submit, state: str) -> None:
    """No verdict is no verdict: above all where the run says SUCCEEDED."""
    server.plan = [State(state, error="a pod\x1b[2J was evicted" if state == "FAILED" else "")]
    code, answer, _ = run()
    assert (code, answer["code"]) == (1, "run_failed")
    assert "no verdict" in answer["what"]
    assert answer["where"] == f"{server.url}/#/runs/details/run-1"
    assert ("a pod [2J was evicted" in answer["what"]) == (state == "FAILED")


def test_another_runs_receipt_is_not_this_runs(
    repository: Repository, server: KfpServer, run: Submit
) -> None:
    """One for another lock, or one that was signed before the run began."""
    server.plan = [State("SUCCEEDED")]
    repository.judged("pass", lock=f"sha256:{'b' * 64}")
    assert run()[0] == 1
    server.runs.clear()
    promises(repository, server, "block", "FAILED", signed_at_s=1)
    assert run()[0] == 1


def test_a_pass_that_was_not_promoted_is_no_success(
    repository: Repository, server: KfpServer, run: Submit
) -> None:
    """The promotion was cut short between the receipt and the alias."""
    promises(repository, server, "pass", "FAILED", alias=False)
    code, answer, _ = run()
    assert code == 1
    assert "cut short" in answer["what"]


def test_dry_runs_and_overrides(repository: Repository, server: KfpServer, run: Submit) -> None:
    """A dry run tells its outcome and promotes nothing; an override promotes what was blocked."""
    promises(repository, server, "block", "SUCCEEDED", dry_run=True)
    code, answer, _ = run()
    assert (code, answer["dry_run"], answer["promoted"]) == (3, True, False)
    server.runs.clear()
    waiver = Waiver(
        by="Ada",
        reason="known",
        expires="2027-01-01",
        rules=(),
        verdict=DIGEST,
        candidate=DIGEST,
        policy=DIGEST,
    )
    promises(repository, server, "block", "SUCCEEDED", waiver=waiver, verdict=f"sha256:{'c' * 64}")
    code, answer, _ = run("--again")
    assert (code, answer["waived_by"], answer["promoted"]) == (0, "Ada", True)


def test_it_attaches_to_a_run_that_is_there(
    repository: Repository, server: KfpServer, run: Submit
) -> None:
    """Already running is no error: the same end, and nothing is sent, with --again neither."""
    server.add(repository.name, State("RUNNING"), State("RUNNING"), State("FAILED"))
    repository.judged("block")
    code, answer, err = run("--again")
    assert (code, answer["attached"], answer["state"]) == (3, True, "FAILED")
    assert f"already running, so nothing is submitted: {answer['link']}" in err
    assert server.posted() == []


def test_a_state_we_do_not_know_is_active(
    repository: Repository, server: KfpServer, run: Submit
) -> None:
    """Else a second run would be started beside it."""
    server.add(repository.name, *[State("HIBERNATING")] * 3, State("CANCELED"))
    code, _, err = run("--again")
    assert code == 1
    assert "does not know" in err
    assert server.posted() == []


def test_a_run_that_succeeded_is_never_repeated(
    repository: Repository, server: KfpServer, run: Submit
) -> None:
    """It says what it came to; --again changes nothing."""
    server.add(repository.name, State("FAILED"))
    server.add(repository.name, State("SUCCEEDED"))
    repository.judged("pass")
    for words in ((), ("--again",)):
        code, answer, _ = run(*words)
        assert (code, answer["attached"], answer["run_id"]) == (0, True, "run-2")
    assert server.posted() == []


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED"])
def test_a_person_may_run_again_what_failed(
    repository: Repository, server: KfpServer, run: Submit, state: str
) -> None:
    """Not by itself: without --again it says how the last one ended, and what to do."""
    server.add(repository.name, State(state))
    code, answer, err = run()
    assert (code, answer["code"]) == (1, "run_failed")
    assert f"has ended {state}" in err
    assert "--again" in answer["fix"]
    assert server.posted() == []
    promises(repository, server, "pass", "SUCCEEDED")
    code, answer, _ = run("--again")
    assert (code, answer["run_id"], len(server.posted())) == (0, "run-2", 1)


def test_what_was_judged_elsewhere_is_not_judged_unasked(
    repository: Repository, server: KfpServer, run: Submit
) -> None:
    """The registry remembers longer than the service; another look is another attempt."""
    repository.judged("block")
    code, answer, _ = run()
    assert (code, answer["state"], answer["link"]) == (3, "JUDGED", "")
    assert server.posted() == []
    promises(repository, server, "pass", "SUCCEEDED", verdict=f"sha256:{'c' * 64}")
    code, answer, err = run("--again")
    lock = read_lock(repository.root / LOCK_FILE)
    assert (code, lock.look, answer["lock"]) == (0, 2, lock.digest)
    assert answer["run"] == run_name("digits", lock.digest) != repository.name
    assert server.posted()[0]["runtime_config"]["parameters"]["lock"] == lock_text(lock)
    assert "commit it" in err
    server.runs.clear()
    code, answer, _ = run("--again")
    assert (code, answer["state"], answer["promoted"]) == (0, "JUDGED", True)
    assert len(server.posted()) == 1


def test_two_at_once_end_as_one(repository: Repository, server: KfpServer, run: Submit) -> None:
    """Who came second gives way: its run is cancelled, and the other one is waited for."""

    def other(run_id: str) -> None:
        server.runs[run_id].created_at = "2026-01-02T03:04:06Z"
        server.add(repository.name, State("RUNNING"), State("RUNNING"), State("FAILED"))
        repository.judged("block")

    server.on_submit = other
    code, answer, err = run()
    assert (code, answer["run_id"], answer["attached"]) == (3, "run-2", True)
    assert server.runs["run-1"].plan[-1].state == "CANCELED"
    assert "ours is cancelled" in err


def test_lost_connections_all_the_way(
    repository: Repository, server: KfpServer, run: Submit
) -> None:
    """Of every kind, at every request: still one run, and its verdict."""
    promises(repository, server, "pass", "SUCCEEDED")
    for path in ("/healthz", "/experiments", "/runs", "/runs/run-1"):
        server.fail("GET", path, drop=True)
        server.fail("GET", path, status=503)
    server.fail("POST", "/experiments", done=True, drop=True)
    server.fail("POST", "/runs", drop=True)
    server.fail("POST", "/runs", done=True, drop=True)
    code, _, err = run()
    assert code == 0
    assert server.faults == []
    assert len(server.runs) == 1
    assert err.count("the connection was lost") == 1


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"status": 401}, "access_denied"),
        ({"status": 403}, "access_denied"),
        ({"status": 404}, "run_not_found"),
        ({"status": 400}, "orchestrator"),
        ({"raw": b"<html>"}, "orchestrator"),
    ],
    ids=str,
)
def test_what_ends_a_wait(server: KfpServer, run: Submit, fault: dict[str, Any], code: str) -> None:
    """What will not pass by itself is told, and the next call attaches."""
    server.plan = [State("RUNNING")]
    server.fail("GET", "/runs/", **fault)
    ended, answer, err = run()
    assert (ended, answer["code"]) == (2, code)
    assert f"submitted {next(iter(server.runs.values())).body['display_name']}" in err


def test_time_is_up(server: KfpServer, run: Submit) -> None:
    """--timeout ends the waiting with an error that says so; the run goes on."""
    server.plan = [State("RUNNING")]
    code, answer, _ = run("--timeout", "0.05")
    assert (code, answer["code"]) == (1, "still_running")
    assert answer["where"].endswith("/#/runs/details/run-1")
    assert server.runs["run-1"].plan[0].state == "RUNNING"


def test_interrupting_says_that_the_run_goes_on(
    server: KfpServer, run: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the waiting and nothing else."""
    server.plan = [State("RUNNING")]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(waiting, "_sleep", interrupted)
    code, answer, _ = run()
    assert (code, answer["code"]) == (1, "interrupted")
    assert "the run goes on" in answer["what"]
    assert answer["where"].endswith("/#/runs/details/run-1")


def test_without_waiting(repository: Repository, server: KfpServer, run: Submit) -> None:
    """It is submitted, linked, and left alone; a registry out of reach is said, and no reason to stop."""
    (repository.root / ".reprune" / "registry").rename(repository.root / "elsewhere")
    code, answer, err = run("--no-wait")
    assert (code, answer["state"], answer["outcome"]) == (0, "PENDING", None)
    assert "the registry cannot be read from here" in err
    assert len(server.posted()) == 1


def test_a_registry_out_of_reach_stops_before_anything_is_sent(
    repository: Repository, server: KfpServer, run: Submit
) -> None:
    """Who waits for a verdict must be able to read it."""
    (repository.root / ".reprune" / "registry").rename(repository.root / "elsewhere")
    code, answer, _ = run()
    assert (code, answer["code"]) == (2, "registry_unreachable")
    assert server.posted() == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "shar=1"], "did you mean 'share'"),
        (["--set", "share=much"], "'share' is a number"),
        (["--set", "share"], "NAME=VALUE"),
        (["--set", "lock=x"], "is the text of reprune.lock.yaml"),
        (["--set", "share=1", "--set", "share=2"], "given already, by --set"),
        (["--image", IMAGE, "--set", "compress_image=x"], "given already, by --image"),
        (["--pipeline", "nowhere.yaml"], "no such package"),
        (["--pipeline", "params.yaml"], "no pipeline package"),
        (["--machines", "nowhere.yaml"], "no such file"),
        (["--host", "kubeflow"], "is no address"),
        (["--timeout", "-1"], "above 0"),
    ],
)
def test_a_mistake_never_reaches_the_server(
    server: KfpServer, run: Submit, words: list[str], says: str
) -> None:
    """Everything that can be checked here is checked before the first request."""
    code, answer, _ = run(*words)
    assert code == 2
    assert says in answer["what"]
    assert server.requests == []


@pytest.mark.slow
def test_our_own_pipeline_takes_what_is_sent(repository: Repository) -> None:
    """Names and types of its parameters are those that the flags stand for."""
    (repository.root / f"{PIPELINE}.yaml").unlink()
    (repository.root / "machines.yaml").write_text("schema: 1\nmachines: [{}]\n")
    request = Request(
        experiment="e",
        machines=repository.root / "machines.yaml",
        image=IMAGE,
        control_image=IMAGE,
        settings=("read_secret=other",),
    )
    shipped = prepare(repository.documents, request)
    assert shipped.pipeline_spec["pipelineInfo"]["name"] == "continuous-compression"
    assert "platforms" in shipped.platform_spec
    assert shipped.parameters["machines"][0]["image"] == IMAGE
    assert shipped.parameters["compress_image"] == IMAGE


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ([], "compress_image, control_image"),
        (["--image", IMAGE], "control_image"),
        (["--control-image", IMAGE], "compress_image"),
        (["--image", "reprune/compress", "--control-image", IMAGE], "compress_image, machines"),
        (
            ["--image", IMAGE, "--control-image", IMAGE, "--machines", "machines.yaml"],
            "machines",
        ),
    ],
)
def test_images_that_nobody_named_are_refused(
    repository: Repository, server: KfpServer, run: Submit, words: list[str], where: str
) -> None:
    """Whoever owns the default names at a public registry would be handed the run's secrets."""
    (repository.root / f"{PIPELINE}.yaml").unlink()
    (repository.root / "machines.yaml").write_text(
        f"schema: 1\nmachines: [{{image: reprune/tensorrt:{__version__}}}]\n"
    )
    code, answer, _ = run(*words)
    assert (code, answer["code"], answer["where"]) == (2, InputError.code, where)
    assert "built-in default" in answer["what"]
    assert "--control-image" in answer["fix"]
    assert server.requests == []


@pytest.fixture
def perception(tmp_path: Path) -> Documents:
    """Those of a set, whose package is the one that comes with Reprune."""
    stand.write_set(tmp_path / "set", {"depth": "depth-net", "detector": "detector"})
    weights = stand.write_weights(tmp_path / "weights.safetensors")
    made = stand.documents(tmp_path / "set", weights)
    (made.root / LOCK_FILE).write_text(lock_text(made.lock))
    return made


def test_a_set_goes_through_the_pipeline_for_sets(perception: Documents) -> None:
    """With every member; who gives members a secret of their own names all of them."""
    plain = prepare(perception, NAMED)
    assert plain.pipeline_spec["pipelineInfo"]["name"] == "perception"
    assert plain.parameters["members"] == [{"name": "depth"}, {"name": "detector"}]
    own = [{"name": "detector", "read_secret": "detector-read"}, {"name": "depth"}]
    request = replace(NAMED, settings=(f"members={json.dumps(own)}",))
    assert prepare(perception, request).parameters["members"] == own
    single = catalogue_folder() / "pipelines" / PIPELINE / f"{PIPELINE}.yaml"
    other = prepare(perception, replace(NAMED, pipeline=single))
    assert "members" not in other.parameters


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ('[{"name": "depth"}]', "the member 'detector' is left out"),
        ('[{"name": "depth"}, {"name": "detecter"}]', "no member 'detecter'; did you mean"),
        ('[{"name": "depth"}, {"name": "depth"}]', "the member 'depth' stands there twice"),
        ('[{"name": "depth", "secret": "x"}]', "unknown field `secret`"),
        ('["depth", "detector"]', "Expected `object`"),
        ("{}", "is a list, not dict"),
        ("[]", "the member 'depth' is left out"),
    ],
)
def test_members_that_are_not_those_of_the_set_are_refused(
    perception: Documents, members: str, says: str
) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        prepare(perception, replace(NAMED, settings=(f"members={members}",)))


def test_the_pipeline_for_sets_takes_no_model_of_its_own(repository: Repository) -> None:
    """It would have nothing to fetch."""
    package = catalogue_folder() / "pipelines" / "perception" / "perception.yaml"
    with pytest.raises(InputError, match="names no members") as raised:
        prepare(repository.documents, replace(NAMED, pipeline=package))
    assert "continuous_compression" in raised.value.fix


@pytest.mark.parametrize("file", ["params.yaml", "policy.yaml", "task/digits.py"])
def test_a_stale_lock_never_reaches_the_server(
    repository: Repository, server: KfpServer, run: Submit, file: str
) -> None:
    """What would be run is not what the lock names."""
    path = repository.root / file
    before = "digits" if file == "params.yaml" else "0.9" if file == "policy.yaml" else "pre-1"
    path.write_text(path.read_text().replace(before, "0.8" if before == "0.9" else "other", 1))
    code, answer, _ = run()
    assert (code, answer["code"]) == (2, "stale_lock")
    assert server.requests == []


def test_nobody_said_where(
    repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the flag and the variable."""
    monkeypatch.chdir(repository.root)
    assert main(["submit"]) == 2
    assert "REPRUNE_KFP_HOST" in capsys.readouterr().err


def test_for_people(
    repository: Repository,
    server: KfpServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Link and verdict on stdout, what happens on stderr; hosts and tokens from the environment."""
    monkeypatch.chdir(repository.root)
    monkeypatch.setenv(submit.HOST, server.url)
    monkeypatch.setenv(submit.UI, "https://kubeflow.example.org")
    monkeypatch.delenv(submit.TOKEN_FILE)
    monkeypatch.setenv(submit.TOKEN, TOKEN)
    reason = "accuracy.vs_parent on ort-cpu: too low\x1b[2J"
    promises(repository, server, "block", "FAILED", reasons=(reason,))
    assert main(["submit", "--image", "digits:latest"]) == 3
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"run: {repository.name} FAILED",
        "link: https://kubeflow.example.org/#/runs/details/run-1",
        "verdict: block, version 1",
        "  accuracy.vs_parent on ort-cpu: too low[U+001B][2J",
        "champion: none",
    ]
    assert "warning: the image digits:latest is named by no digest" in err
    # What the package brings counts too.
    assert "warning: the image you/control:1 is named by no digest" in err


# ---- machines ----------------------------------------------------------------------------------

TWO = f"""\
{stand.PARAMS}
targets:
  ort-cpu: {{machine: box}}
  trt: {{runtime: tensorrt, machine: jetson}}
"""
MACHINES = """\
schema: 1
machines:
  - name: box
    node_selector: {kubernetes.io/hostname: node-1}
  - name: jetson
    image: you/jetson@sha256:1
    accelerator_type: nvidia.com/gpu
    accelerator_count: 1
    tolerations: [{key: nvidia.com/gpu, operator: Exists, tolerationSeconds: 30}]
"""


@pytest.fixture
def run_two(run: Submit, tmp_path: Path) -> Submit:
    """As `run`, after the repository got its two machines."""
    Repository(tmp_path / "repo", TWO)
    return run


def test_machines_are_sent_with_every_field(
    tmp_path: Path, server: KfpServer, run_two: Submit
) -> None:
    """What is left out is filled in, the image from --image; names are those of params.yaml."""
    (tmp_path / "repo" / "machines.yaml").write_text(MACHINES)
    run_two("--machines", "machines.yaml", "--image", IMAGE, "--no-wait")
    sent = server.posted()[0]["runtime_config"]["parameters"]
    assert sent["compress_image"] == IMAGE
    assert sent["machines"] == [
        {
            "name": "box",
            "image": IMAGE,
            "accelerator_type": "",
            "accelerator_count": 0,
            "node_selector": {"kubernetes.io/hostname": "node-1"},
            "tolerations": [],
        },
        {
            "name": "jetson",
            "image": "you/jetson@sha256:1",
            "accelerator_type": "nvidia.com/gpu",
            "accelerator_count": 1,
            "node_selector": {},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "tolerationSeconds": 30}
            ],
        },
    ]


def test_a_machine_without_an_image_has_the_packages(
    tmp_path: Path, server: KfpServer, run_two: Submit
) -> None:
    """The one that the other steps run in by default."""
    (tmp_path / "repo" / "machines.yaml").write_text(MACHINES)
    run_two("--machines", "machines.yaml", "--no-wait")
    sent = server.posted()[0]["runtime_config"]["parameters"]
    assert [each["image"] for each in sent["machines"]] == [
        "you/compress:1",
        "you/jetson@sha256:1",
    ]
    assert "compress_image" not in sent


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("name: box", "name: bix", "did you mean 'bix'"),
        ("name: jetson", "name: box", "stands there twice"),
        ("  - name: box", "  - name: spare\n  - name: box", "no target belongs to the machine 'spare'"),
        ("accelerator_count: 1", "accelerator_count: 0", "needs both its type and its count"),
        ("accelerator_count: 1", "accelerator_count: one", "Expected `int`"),
        ("node_selector", "node_selectr", "did you mean 'node_selector'"),
        ("operator: Exists", "oprator: Exists", "did you mean 'operator'"),
        ("schema: 1", "schema: 2", "Invalid enum value"),
    ],
)  # fmt: skip
def test_machines_that_do_not_fit_never_reach_the_server(
    tmp_path: Path, server: KfpServer, run_two: Submit, old: str, new: str, says: str
) -> None:
    """Named with the file, and the line or the machine."""
    (tmp_path / "repo" / "machines.yaml").write_text(MACHINES.replace(old, new))
    code, answer, _ = run_two("--machines", "machines.yaml")
    assert code == 2
    assert says in answer["what"]
    assert "machines" in answer["where"]
    assert server.requests == []


def test_named_machines_must_be_described(server: KfpServer, run_two: Submit) -> None:
    """Without --machines the error shows what to write."""
    code, answer, _ = run_two()
    assert code == 2
    assert "- name: box" in answer["fix"]
    assert server.requests == []


def test_one_machine_for_all_needs_no_name(
    repository: Repository, server: KfpServer, run: Submit
) -> None:
    """Where no target names a machine, one without a name takes them all."""
    (repository.root / "machines.yaml").write_text(
        "schema: 1\nmachines: [{accelerator_type: nvidia.com/gpu, accelerator_count: 1}]\n"
    )
    run("--machines", "machines.yaml", "--no-wait")
    (sent,) = server.posted()[0]["runtime_config"]["parameters"]["machines"]
    assert (sent["name"], sent["image"]) == ("", "you/compress:1")


# ---- progress ----------------------------------------------------------------------------------


def state(word: str, **tasks: str) -> Run:
    made = tuple(TaskState(task_id=name, name=name, state=each) for name, each in tasks.items())
    return Run(
        run_id="1", name="n", state=word, created_at_s=None, error="", tasks=made, link="http://x"
    )


def test_progress_tells_changes_and_no_more() -> None:
    """A line for each task that changed, one for the run; nothing that a terminal would obey."""
    before = state("RUNNING", fetch="SUCCEEDED", prune="RUNNING")
    now = state("RUNNING", fetch="SUCCEEDED", prune="SUCCEEDED", **{"di\x1b[31m": "RUNNING"})
    assert changes(None, before) == ["fetch: SUCCEEDED", "prune: RUNNING", "run: RUNNING"]
    assert changes(before, now) == ["prune: SUCCEEDED", "di[U+001B][31m: RUNNING"]
    assert changes(now, now) == []
    assert summary(before) == "RUNNING prune; 1 SUCCEEDED"


def test_in_a_terminal_only_what_ended_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs now is on the line that changes."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    with telling() as teller:
        teller.say("submitted [bold]x[/bold]")
        teller.show(state("RUNNING", fetch="RUNNING"))
        teller.show(state("RUNNING", fetch="SUCCEEDED", prune="RUNNING"))
        teller.show(state("FAILED", fetch="SUCCEEDED", prune="FAILED"))
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    kept = [line for line in lines if line.endswith(("x[/bold]", "SUCCEEDED", "FAILED"))]
    assert kept == ["submitted [bold]x[/bold]", "fetch: SUCCEEDED", "prune: FAILED", "run: FAILED"]
    assert "prune: RUNNING" not in lines


def test_a_waiver_is_unset_by_default() -> None:
    """What `Repository.judged` registers is what promote would: no override, no dry run."""
    assert Decision.__struct_defaults__[-2:] == (UNSET, UNSET)


def test_a_request_without_a_token_file_is_refused(
    server: KfpServer, run: Submit, tmp_path: Path
) -> None:
    """A token's file that is gone is not "no token"."""
    (tmp_path / "token").unlink()
    code, answer, _ = run()
    assert (code, answer["code"]) == (2, InputError.code)
    assert "cannot be read" in answer["what"]
    assert server.requests == []
