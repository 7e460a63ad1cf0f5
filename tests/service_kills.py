"""`reprune serve` killed again and again at random moments, while versions are registered and runs proceed.

    found = drill(folder, Order(kills=200, seed=0, mlflow=True, poll_s=30.0))

The service is a process of its own that gets SIGKILL and is started again; it is forked from one that has
its imports done, so that a start takes a moment. The registry is a real MLflow server with its webhook, or
plain folders and webhooks that are signed here. The API of Kubeflow Pipelines is the tests' own; what a run
leaves is registered by the real `promote`, with its receipt signed, from artefacts with made-up
measurements (tests/chain.py). Some runs end without a verdict. As neither registry nor API is stale here,
the reconciler's SETTLE_S is 3 s.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml
from msgspec import to_builtins
from safetensors.numpy import save_file

from reprune import __version__
from reprune.core.documents import decode_yaml, digest_of
from reprune.core.lock import Lock
from reprune.core.params import Params, read_params
from reprune.core.policy import read_policy
from reprune.doors.service.config import read_settings
from reprune.doors.service.signatures import sign
from reprune.doors.service.wiring import make_sweeper
from reprune.orchestrate import reconcile, reconcile_seen
from reprune.orchestrate.reconcile_seen import RegistrySeen, terminal_states
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.steps.project import PROJECT_FILE, Project
from reprune.steps.promote import promote
from reprune.steps.promoter import make_promoter
from reprune.task.load import task_digest
from tests import chain
from tests.kfp_server import KfpServer, State
from tests.mlflow_server import call_back, free_port, mlflow_server, wait_for
from tests.registry.promotion import evidence, write_lock

SECRET = "the-webhook-secret-of-this-drill"
DIGITS = "a" * 64
SETTLE_S = 3.0
# So long it is waited for the end of all versions after the last kill.
PATIENCE_S = 300.0
# Of five lives one may end before the service listens; the others end so many seconds later at most.
UNBORN = 0.2
LIFE_S = 5.0
STARTS_WITHIN_S = 120.0
# Runs that end without a verdict, and what the others find: a pass, two blocks, and one more.
CRASHES = 0.15
STORIES: tuple[dict[str, Any], ...] = (
    {},
    {"candidate_wrong": 120},
    {"candidate_wrong": 120},
    {"ratio": 1.2},
)
PRELOADED = [
    "reprune.doors.cli",
    "reprune.doors.serve",
    "reprune.doors.service.app",
    "reprune.doors.service.wiring",
    "tests.service_kills",
    "uvicorn",
]
PRELOADED_FOR_MLFLOW = ["mlflow", "mlflow.store.artifact.mlflow_artifacts_repo"]


@dataclass
class Found:
    """What a drill came to. `settle_polls`: how many polls after the last kill all had ended."""

    kills: int = 0
    versions: int = 0
    runs: int = 0
    settle_polls: int = 0
    violations: list[str] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Order:
    """So many kills, or as many as `longest_s` allows. `poll_s` is the watch's."""

    kills: int
    seed: int
    mlflow: bool
    poll_s: float
    longest_s: float = 1e9


def drill(folder: Path, order: Order) -> Found:
    """Kills the service so often, lets it settle, and checks what is there.

    `REPRUNE_WORK` has to be set, to a folder of its own.
    """
    with registry_at(folder, mlflow=order.mlflow) as section, KfpServer() as kfp:
        yard = Yard(folder, section, kfp, order)
        if order.mlflow:
            url = f"http://127.0.0.1:{yard.port}/webhooks/mlflow"
            call_back(section["uri"], url, SECRET)
        yard.kill_again_and_again()
        yard.settle()
        yard.check()
        return yard.found


@contextmanager
def registry_at(folder: Path, *, mlflow: bool) -> Iterator[dict[str, str]]:
    """`registry` in params.yaml."""
    if not mlflow:
        yield {"kind": "files", "uri": str(folder / "registry")}
        return
    with mlflow_server(folder / "mlflow") as address:
        wait_for(address, folder / "mlflow")
        yield {"kind": "mlflow", "uri": address}


class Yard:
    """One service, its registry and its runs, below `root`."""

    def __init__(
        self, root: Path, section: Mapping[str, str], kfp: KfpServer, order: Order
    ) -> None:
        self.root, self.kfp, self.order = root, kfp, order
        self.rng = random.Random(order.seed)
        self.port = free_port()
        self.found = Found()
        self.text = (
            "name: digits\ntask: task.digits:DigitsTask\n"
            f"registry: {{kind: {section['kind']}, uri: '{section['uri']}'}}\n"
        )
        self.webhooks = section["kind"] == "mlflow"
        self._write_project()
        self._write_configuration(section)
        self.registry = open_registry(
            decode_yaml(self.text, Params, name="params.yaml").registry, root
        )
        self._run_lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._seeds = random.Random(order.seed)
        self.context = multiprocessing.get_context("forkserver")
        more = PRELOADED_FOR_MLFLOW if self.webhooks else []
        self.context.set_forkserver_preload([*PRELOADED, *more])
        kfp.on_submit = self._submitted

    # --- what lies there ---

    def _write_project(self) -> None:
        """/project of an image, as `reprune project` leaves it for a task with this data version."""
        project = self.root / "projects" / DIGITS
        (project / "task").mkdir(parents=True)
        (project / "task" / "digits.py").write_text("class DigitsTask: ...\n")
        (project / "params.yaml").write_text(self.text)
        (project / "policy.yaml").write_text(chain.POLICY)
        given = read_params(project / "params.yaml")
        described = Project(
            reprune=__version__,
            name=given.name,
            params=digest_of(given),
            policy=digest_of(read_policy(project / "policy.yaml")),
            task=task_digest(given.task, project),
            data_version="data-1",
        )
        (project / PROJECT_FILE).write_text(yaml.safe_dump(to_builtins(described)))
        make_promoter(self.root)

    def _write_configuration(self, section: Mapping[str, str]) -> None:
        (self.root / "secret").write_text(SECRET)
        watch = {
            "registry": dict(section),
            "name": "digits",
            "since": datetime.now(UTC) - timedelta(minutes=5),
            "image": f"you/digits@sha256:{DIGITS}",
            "experiment": "drill",
            "poll_s": self.order.poll_s,
            "attempts": 3,
            "retry_first_s": 1.0,
            "retry_longest_s": 2.0,
        }
        config = {
            "projects": "projects",
            "state": "state",
            "webhook": {"secret_files": ["secret"]},
            "kubeflow": {"host": self.kfp.url},
        }
        (self.root / "serve.yaml").write_text(yaml.safe_dump(config))
        (self.root / "watches.yaml").write_text(yaml.safe_dump({"watches": [watch]}))

    # --- what happens ---

    def kill_again_and_again(self) -> None:
        until_s = time.monotonic() + self.order.longest_s
        for _ in range(self.order.kills):
            if time.monotonic() > until_s:
                break
            process = self._start()
            if self.rng.random() >= UNBORN:
                self._wait_for(process)
            end_s = time.monotonic() + LIFE_S * self.rng.random()
            while time.monotonic() < end_s:
                if self.rng.random() < 0.15:
                    self.register()
                time.sleep(max(0.0, min(0.3, end_s - time.monotonic())))
            process.kill()
            process.join()
            self.found.kills += 1
            if self.rng.random() < 0.3:
                self.register()

    def register(self) -> None:
        """The next dense version, and a webhook that may find nobody."""
        self.found.versions += 1
        number = str(self.found.versions)
        file = self.root / "weights.safetensors"
        # As the artefacts of its run will have them.
        value = np.full((4, 4), chain.hash_int(f"dense{number}"), np.float32)
        save_file({"conv.weight": value}, file)
        made = register_dense(self.registry, "digits", file)
        assert made == number, (made, number)
        if not self.webhooks and self.rng.random() < 0.5:
            self.wake()

    def wake(self) -> None:
        body = json.dumps(
            {"entity": "model_version", "action": "created", "data": {"name": "digits"}}
        ).encode()
        delivery, stamp = str(self.rng.random()).encode(), str(int(time.time())).encode()
        signature = sign(SECRET.encode(), delivery, stamp, body).decode()
        headers = {
            "Content-Type": "application/json",
            "X-MLflow-Delivery-Id": delivery.decode(),
            "X-MLflow-Timestamp": stamp.decode(),
            "X-MLflow-Signature": signature,
        }
        url = f"http://127.0.0.1:{self.port}/webhooks/mlflow"
        with suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=2).close()

    def _start(self) -> Any:
        words = ["serve", "--port", str(self.port), "--config", str(self.root / "serve.yaml")]
        process = self.context.Process(target=serve, args=(words, str(self.root / "serve.log")))
        process.start()
        return process

    def _wait_for(self, process: Any) -> None:
        until_s = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < until_s:
            assert process.is_alive(), "the service ended by itself"
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.05)
        raise AssertionError("the service does not listen")

    def settle(self) -> None:
        """One more version, no more kills: how many polls it takes until all have ended."""
        self.register()
        process = self._start()
        began_s = time.monotonic()
        try:
            while time.monotonic() - began_s < PATIENCE_S:
                if self._ended(self.look()):
                    break
                time.sleep(0.5)
            else:
                words = (self.root / "serve.log").read_text().splitlines()[-20:]
                self.found.violations += [f"not settled; active are {self._active()}", *words]
            self.found.settle_polls = math.ceil((time.monotonic() - began_s) / self.order.poll_s)
            # Whoever would still do something at the next poll has done it then.
            time.sleep(SETTLE_S + 1.0)
            assert process.is_alive()
        finally:
            process.kill()
            process.join()
        for thread in self._threads:
            thread.join()
        self.found.runs = len(self.kfp.runs)

    def look(self) -> RegistrySeen:
        """As the service looks, from another process."""
        sweeper = make_sweeper(read_settings(self.root / "serve.yaml"))
        return sweeper.ports.registry.look(sweeper.settings.watches.watches[0])

    def _ended(self, seen: RegistrySeen) -> bool:
        states = terminal_states(seen)
        return all(each.version in states for each in seen.dense) and not self._active()

    def _active(self) -> list[str]:
        return [run_id for run_id, run in self.kfp.runs.items() if run.plan[0].state == "RUNNING"]

    # --- runs ---

    def _submitted(self, run_id: str) -> None:
        run = self.kfp.runs[run_id]
        if self._active():
            self.found.violations.append(f"{run_id} is started beside {self._active()}")
        run.created_at = datetime.now(UTC).isoformat()
        run.plan = [State("RUNNING")]
        thread = threading.Thread(target=self._execute, args=(run_id, self._seeds.random()))
        self._threads.append(thread)
        thread.start()

    def _execute(self, run_id: str, seed: float) -> None:
        rng = random.Random(seed)
        run = self.kfp.runs[run_id]
        time.sleep(rng.random())
        state = "FAILED"
        if rng.random() >= CRASHES:
            text = run.body["runtime_config"]["parameters"]["lock"]
            try:
                with self._run_lock:
                    state = self._judge(run_id, decode_yaml(text, Lock, name="lock"), rng)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told of
                self.found.violations.append(f"{run_id}: {type(error).__name__} {error}")
        run.finished_at = datetime.now(UTC).isoformat()
        run.plan = [State(state)]

    def _judge(self, run_id: str, lock: Lock, rng: random.Random) -> str:
        """What the steps of a run leave, under its lock, and then the real promote."""
        root = self.root / "runs" / run_id
        story = chain.Story(
            dense_version=lock.dense.version,
            champion=None if lock.champion == "none" else lock.champion,
            started_s=time.time(),
            **rng.choice(STORIES),
        )
        with patch.object(chain, "PARAMS", self.text):
            made = chain.write_chain(root, story)
        given = made.documents
        documents = type(given)(
            root=given.root, params=given.params, policy=given.policy, lock=lock
        )
        type(made)(root=made.root, documents=documents).judged()
        write_lock(root, lock)
        (root / ".reprune").symlink_to(self.root / ".reprune")
        result = promote(root, evidence(root), now=time.time(), say=lambda _: None)
        shutil.rmtree(root)
        return "SUCCEEDED" if result.promoted else "FAILED"

    # --- what came of it ---

    def check(self) -> None:
        """Fills in `violations`, from what the registry holds."""
        seen, wrong = self.look(), self.found.violations
        states = terminal_states(seen)
        if len(seen.dense) != self.found.versions:
            wrong.append(f"{len(seen.dense)} of {self.found.versions} versions are there")
        ends: dict[str, set[str]] = {each.version: set() for each in seen.dense}
        judged: dict[str, set[str]] = {}
        for row in seen.rows:
            if row.verdict:
                ends.setdefault(row.parent, set()).add(row.outcome)
                judged.setdefault(row.lock, set()).add(row.verdict)
            for version in row.closes:
                ends.setdefault(version, set()).add(row.closed)
        for version, claimed in ends.items():
            if len(claimed) != 1 or version not in states:
                wrong.append(f"version {version} has ended as {sorted(claimed)}")
        wrong += [f"{lock} has {len(got)} verdicts" for lock, got in judged.items() if len(got) > 1]
        newest = seen.dense[-1].version
        if states.get(newest) == "superseded":
            wrong.append(f"version {newest} is the newest, and superseded")
        promoted = [row for row in seen.rows if row.promoted]
        if promoted and promoted[-1].version != seen.champion:
            wrong.append(f"version {promoted[-1].version} was promoted, {seen.champion} serves")
        for state in states.values():
            self.found.states[state] = self.found.states.get(state, 0) + 1


def serve(words: list[str], log: str) -> None:
    """The service, in this process, with what it says at the end of `log`."""
    from reprune.doors.cli import main

    with Path(log).open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    for module in (reconcile, reconcile_seen):
        module.SETTLE_S = SETTLE_S  # type: ignore[attr-defined]
    raise SystemExit(main(words))
