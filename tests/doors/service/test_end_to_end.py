"""A version registered in a real MLflow becomes champion, or is blocked, and nobody typed a command.

Four processes: MLflow's server with its webhook, `reprune serve`, and a worker that runs what was
submitted to Kubeflow Pipelines, component by component, up to promote; the API that takes the runs is
the tests' own. Nothing in the policy is a time, so that a busy machine changes no verdict.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from reprune.core.params import Registry as Section
from reprune.orchestrate.reconcile_seen import SETTLE_S
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry, known_alias
from reprune.registry.tags import OUTCOME, PARENT, PROMOTED
from reprune.steps.project import describe
from tests.doors.service.test_serve import SECRET, Served, until
from tests.kfp_server import KfpServer
from tests.kfp_worker import Worker
from tests.mlflow_server import call_back, free_port, mlflow_server, wait_for
from tests.repository import make_repository

pytestmark = pytest.mark.slow

DIGITS = "a" * 64
TOKEN = "a-token-that-nobody-may-see"
# One pass through MLflow, the pipeline and back, on a machine that does other things as well.
PATIENCE_S = 300.0
POLICY = {
    "schema": 1,
    "targets": {"ort-cpu": "required"},
    "looks": [5],
    "quality": {
        "accuracy": {"floor": 0.5, "vs_parent": {"max_drop": 0.3, "max_error_ratio": None}}
    },
    "size": {"vs_parent": {"max_ratio": 0.9}},
}


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Everything that runs. `file` is the service's configuration, `root` its folder."""

    root: Path
    registry: Registry
    kfp: KfpServer
    worker: Worker
    served: Served

    @property
    def file(self) -> Path:
        return self.root / "serve.yaml"

    def compressed(self) -> dict[str, dict[str, str]]:
        """The tags of each version of digits-compressed."""
        found = self.registry.versions("digits-compressed")
        return {info.version: dict(info.tags) for info in found}

    def metrics(self) -> dict[str, float]:
        """Each series of the page, without the labels that are the same everywhere."""
        page = self.served.ask("GET", "/metrics")[1]
        found = {}
        for line in page.splitlines():
            name, _, value = line.rpartition(" ")
            labels = re.sub(r'(model|workspace)="[^"]*",?', "", name).replace(",}", "}")
            if not line.startswith("#"):
                found[labels.removesuffix("{}")] = float(value)
        return found

    def champion(self) -> str | None:
        return known_alias(self.registry, "digits-compressed", "champion")


def write_project(root: Path, uri: str) -> Path:
    """The /project of an image: the example, its registry the server; where the promoter's key now lies."""
    project = root / "projects" / DIGITS
    made = make_repository(project)
    made.edit("params.yaml", lambda given: given.update(registry={"kind": "mlflow", "uri": uri}))
    # What the dense model does wrong its candidate learns from it.
    made.edit("params.yaml", lambda given: given["distill"].update(epochs=1, weight=1.0))
    made.edit("policy.yaml", lambda policy: (policy.clear(), policy.update(POLICY)))
    describe(project)
    promoter = shutil.move(project / ".reprune" / "promoter", root / "promoter")
    return Path(promoter) / "config.yaml"


def write_configuration(root: Path, *, uri: str, kfp: str) -> None:
    (root / "secret").write_text(SECRET + "\n")
    (root / "token").write_text(TOKEN)
    watch: dict[str, Any] = {
        "registry": {"kind": "mlflow", "uri": uri},
        "name": "digits",
        "since": datetime.now(UTC) - timedelta(minutes=5),
        "image": f"you/digits@sha256:{DIGITS}",
        "experiment": "watched",
        # What happens within a test is not done by a look on time.
        "poll_s": 86_400.0,
    }
    config = {
        "projects": "projects",
        "state": "state",
        "webhook": {"secret_files": ["secret"]},
        "kubeflow": {"host": kfp, "token_file": "token"},
    }
    (root / "serve.yaml").write_text(yaml.safe_dump(config))
    (root / "watches.yaml").write_text(yaml.safe_dump({"watches": [watch]}))


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    root = tmp_path_factory.mktemp("e2e")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(root / "mlflow", port), KfpServer(token=TOKEN) as kfp:
        promoter = write_project(root, uri)
        write_configuration(root, uri=uri, kfp=kfp.url)
        with Worker(root / "projects" / DIGITS, root / "runs", promoter) as worker:
            kfp.on_submit = worker.executes(kfp)
            wait_for(uri, root / "mlflow")
            registry = open_registry(Section(kind="mlflow", uri=uri), root)
            served = Served(root)
            try:
                url = f"http://127.0.0.1:{served.told['port']}/webhooks/mlflow"
                call_back(uri, url, SECRET)
                until(lambda: served.ask("GET", "/readyz")[0] == 200, PATIENCE_S)
                yield Stand(root=root, registry=registry, kfp=kfp, worker=worker, served=served)
            finally:
                served.end()


def test_a_good_version_becomes_champion_and_a_bad_one_is_blocked(stand: Stand) -> None:
    """In MLflow's tags, in the numbers and in the log; only webhooks made the service look."""
    began_s = time.monotonic()
    said = stand.worker.train(seed=1, epochs=3)
    assert said.startswith("digits version 1")
    seen = 'reprune_verdicts{state="promoted"}'
    until(lambda: stand.metrics().get(seen) == 1, PATIENCE_S)
    assert stand.champion() == "1"
    first = stand.compressed()["1"]
    assert (first[PARENT], first[OUTCOME]) == ("1", "pass")
    assert first[PROMOTED].startswith("sha256:")
    until(lambda: "run-1" in stand.worker.ended, PATIENCE_S)

    assert register_wrong(stand, "1") == "2"
    until(lambda: stand.metrics().get('reprune_verdicts{state="blocked"}') == 1, PATIENCE_S)
    until(lambda: "run-2" in stand.worker.ended, PATIENCE_S)
    assert stand.champion() == "1"
    second = stand.compressed()["2"]
    assert (second[PARENT], second[OUTCOME]) == ("2", "block")
    assert PROMOTED not in second
    assert "accuracy" in stand.worker.ended["run-2"]
    numbers = stand.metrics()
    assert numbers[seen] == 1
    assert numbers["reprune_versions_seen"] == 2
    assert numbers["reprune_waiting_seconds"] == 0
    assert numbers['reprune_runs{state="SUCCEEDED"}'] == 1
    assert 0 < numbers["reprune_verdict_lag_seconds"] < PATIENCE_S
    # Two dense versions, two rows and a mark at least; each of them is a delivery of its own.
    woken = numbers['reprune_deliveries_total{result="woken",source="mlflow"}']
    assert woken >= 5
    # A run that takes longer than a claim holds, on a busy machine, is looked at on time as well.
    on_time = (time.monotonic() - began_s) // SETTLE_S
    assert numbers['reprune_sweeps_total{result="full"}'] <= 1 + woken + on_time
    assert 'reprune_sweeps_total{result="partial"}' not in numbers
    assert len(stand.kfp.posted()) == 2
    check_log(stand)


def register_wrong(stand: Stand, version: str) -> str:
    """A version that takes every digit for the next one."""
    folder = stand.root / "wrong"
    stand.registry.fetch("digits", version, folder)
    weights = load_file(folder / "weights.safetensors")
    for name in ("12.weight", "12.bias"):
        weights[name] = np.roll(weights[name], 1, axis=0)
    save_file(weights, folder / "wrong.safetensors")
    return register_dense(stand.registry, "digits", folder / "wrong.safetensors")


def check_log(stand: Stand) -> None:
    assert stand.served.end() == 0
    log = stand.served.log
    assert SECRET not in log
    assert TOKEN not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert all({"model", "version", "run"} <= line.keys() for line in lines)
    started = [line for line in lines if line["event"] == "a run was started"]
    assert [(line["model"], line["version"], line["run"]) for line in started] == [
        ("digits", "1", "run-1"),
        ("digits", "2", "run-2"),
    ]
    told = [line for line in lines if line["event"] == "a version's state"]
    assert [(line["version"], line["state"], line["run"]) for line in told] == [
        ("1", "promoted", "run-1"),
        ("2", "blocked", "run-2"),
    ]
