"""A service with several watches in a folder of its own: registry, projects, secrets, configuration."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from reprune.core.params import Registry as Section
from reprune.doors.service.config import Settings, read_settings
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.steps.project import describe
from tests.doors.test_submit import PACKAGE, PLATFORM
from tests.kfp_server import KfpServer, State
from tests.registry import stand

SECRET = "the-webhook-secret-of-this-stage"
TOKEN = "a-token-of-this-stage"


@contextmanager
def kfp_whose_runs_are(state: str) -> Iterator[KfpServer]:
    """A server of runs that begin when they are submitted, and are in this state from then on."""
    with KfpServer(token=TOKEN) as server:
        server.plan = [State(state)]

        def begin(run_id: str) -> None:
            server.runs[run_id].created_at = datetime.now(UTC).isoformat()

        server.on_submit = begin
        yield server


class Stage:
    """`run` are the models of watches in mode `run`, `told` those in mode `pull-request`; `host` is where
    Kubeflow Pipelines and GitHub's API are. With `members` all of them are sets.
    """

    def __init__(
        self,
        root: Path,
        host: str,
        *,
        kind: str = "files",
        run: Sequence[str] = ("digits",),
        told: Sequence[str] = (),
        poll_s: float = 10.0,
        members: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.members = dict(members or {})
        where = root / ("registry" if kind == "files" else "registry.db")
        uri = str(where) if kind == "files" else f"sqlite:///{where}"
        self.section = Section(kind=kind, uri=uri)
        self.registry = open_registry(self.section, root)
        self.file = root / "serve.yaml"
        (root / "secret").write_text(SECRET)
        (root / "token").write_text(TOKEN)
        (root / "pipeline.yaml").write_text(yaml.safe_dump_all([PACKAGE, PLATFORM]))
        common = {
            "registry": {"kind": kind, "uri": uri},
            "since": (datetime.now(UTC) - timedelta(minutes=5)).isoformat(),
            "poll_s": poll_s,
            "members": self.members,
        }
        watches: list[dict[str, Any]] = [
            {**common, "name": name, "image": self._image(name), "experiment": "staged"}
            for name in run
        ]
        watches += [
            {**common, "name": name, "mode": "pull-request", "repository": f"you/{name}"}
            for name in told
        ]
        config = {
            "projects": "projects",
            "state": "state",
            "webhook": {"secret_files": ["secret"]},
            "kubeflow": {"host": host, "token_file": "token", "timeout_s": 5},
            "github": {"api": host, "token_file": "token"},
            "runs": {name: {"pipeline": "pipeline.yaml"} for name in run},
        }
        self.file.write_text(json.dumps(config))
        (root / "watches.yaml").write_text(json.dumps({"watches": watches}))

    def _image(self, name: str) -> str:
        digits = hashlib.sha256(name.encode()).hexdigest()
        project = self.root / "projects" / digits
        section = f"{{kind: {self.section.kind}, uri: '{self.section.uri}'}}"
        stand.write_repository(
            project,
            f"name: {name}\ntask: task.digits:DigitsTask\nregistry: {section}\n"
            "targets: {ort-cpu: {runtime: onnxruntime}}\n"
            + (f"members: {json.dumps(self.members)}\n" if self.members else ""),
            self.members,
        )
        if self.members:
            code = project / "task" / "digits.py"
            code.write_text(code.read_text() + f"    members = {tuple(self.members)}\n")
        describe(project)
        return f"you/{name}@sha256:{digits}"

    def train(self, name: str, value: float = 1.0) -> str:
        """One more version of the model."""
        weights = stand.write_weights(self.root / "weights" / "w.safetensors", value)
        return register_dense(self.registry, name, weights)

    def settings(self) -> Settings:
        """The configuration as the service reads it."""
        return read_settings(self.file)


def delivery(number: int, name: str, at_s: int) -> tuple[dict[str, bytes], bytes]:
    """Headers and body of a webhook of MLflow's, signed as it does."""
    data = {"entity": "model_version", "action": "created", "data": {"name": name}}
    body, stamp, ident = json.dumps(data).encode(), str(at_s).encode(), b"d-%d" % number
    digest = hmac.new(SECRET.encode(), b".".join((ident, stamp, body)), hashlib.sha256).digest()
    headers = {
        "content-type": b"application/json",
        "x-mlflow-delivery-id": ident,
        "x-mlflow-timestamp": stamp,
        "x-mlflow-signature": b"v1," + base64.b64encode(digest),
    }
    return headers, body
