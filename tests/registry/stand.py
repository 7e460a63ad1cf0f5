"""What the registry's tests share: weights, a repository with a task, and registries that fail on cue."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from reprune import __version__
from reprune.core.documents import digest_of
from reprune.core.lock import DenseRef, Lock
from reprune.core.params import Params, read_params
from reprune.core.policy import Policy, read_policy
from reprune.core.step import Documents
from reprune.core.store import file_digest
from reprune.registry.protocol import Registry, VersionInfo
from reprune.task.load import task_digest

PARAMS = """\
name: digits
task: task.digits:DigitsTask
registry: {kind: files, uri: .reprune/registry}
"""
POLICY = """\
targets: {ort-cpu: required}
quality: {accuracy: {floor: 0.9}}
"""
TASK = """\
class DigitsTask:
    data_version = "data-1"
    preprocess_digest = "pre-1"
    input_names = ("image",)

    def model(self): ...
    def example_inputs(self, batch_size): ...
    def loss(self, module, batch, generator): ...
    def batches(self, split, *, epoch, seed, rank=0, world=1, start=0): ...
    def records(self, outputs, batch): ...
    def workload(self): ...
"""


def write_weights(path: Path, value: float = 1.0) -> Path:
    """A state dict of two float tensors and a counter, in safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "conv.weight": np.full((4, 4), value, np.float32),
        "conv.bias": np.zeros(4, np.float32),
        "steps": np.array([7], np.int64),
    }
    save_file(tensors, path)
    return path


def policy_of(members: Collection[str]) -> str:
    """POLICY, or the same of a set."""
    asked = {f"{member}.accuracy": {"floor": 0.9} for member in members}
    return POLICY.replace("{accuracy: {floor: 0.9}}", json.dumps(asked)) if asked else POLICY


def write_repository(root: Path, params: str = PARAMS, members: Collection[str] = ()) -> None:
    """params.yaml, policy.yaml and a task folder; each of the `members` is asked for its accuracy."""
    (root / "task").mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(params)
    (root / "policy.yaml").write_text(policy_of(members))
    (root / "task" / "__init__.py").write_text("")
    (root / "task" / "digits.py").write_text(TASK)


def write_set(root: Path, members: Mapping[str, str]) -> None:
    """The same, of a set: no member has a version yet."""
    write_repository(root, f"{PARAMS}members: {json.dumps(dict(members))}\n", members)
    code = root / "task" / "digits.py"
    code.write_text(f"{code.read_text()}    members = {tuple(members)}\n")


def documents(root: Path, weights: Path, **changes: object) -> Documents:
    """The documents as `update` would pin them for dense version 1 and no champion."""
    params: Params = read_params(root / "params.yaml")
    policy: Policy = read_policy(root / "policy.yaml")
    values: dict[str, object] = {
        "reprune": __version__,
        "registry": params.registry.uri,
        "workspace": params.registry.workspace,
        "name": params.name,
        "dense": DenseRef(version="1", weights=file_digest(weights)),
        "champion": "none",
        "targets": tuple(sorted(params.targets)),
        "params": digest_of(params),
        "policy": digest_of(policy),
        "task": task_digest(params.task, root),
        "data_version": "data-1",
    }
    return Documents(
        root=root,
        params=params,
        policy=policy,
        lock=Lock(**(values | changes)),  # type: ignore[arg-type]
    )


class Killed(BaseException):
    """Stands for a process that ended between two instructions; nothing may catch it."""


@dataclass
class Failing:
    """A registry whose `at`-th write fails: before it is done, or after it with the answer lost."""

    inner: Registry
    at: int
    after: bool
    error: type[BaseException] = Killed
    writes: list[str] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return self.inner.identity

    @property
    def workspace(self) -> str:
        return self.inner.workspace

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        return self.inner.versions(name)

    def fetch(self, name: str, version: str, destination: Path, *, part: str = "") -> None:
        self.inner.fetch(name, version, destination, part=part)

    def alias(self, name: str, alias: str) -> str | None:
        return self.inner.alias(name, alias)

    def register(self, name: str, folder: Path, tags: Mapping[str, str]) -> str:
        self._before("register")
        version = self.inner.register(name, folder, tags)
        self._after()
        return version

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self._before("set_alias")
        self.inner.set_alias(name, alias, version)
        self._after()

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        self._before("set_tags")
        self.inner.set_tags(name, version, tags)
        self._after()

    def _before(self, what: str) -> None:
        self.writes.append(what)
        if not self.after and len(self.writes) == self.at:
            raise self.error

    def _after(self) -> None:
        if self.after and len(self.writes) == self.at:
            raise self.error
