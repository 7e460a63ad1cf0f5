"""A lock without the user's code: what `reprune project` asked the task for, and a registry's answer.

Everything that a lock says about a repository is fixed when its image is built, but for one fact only
the task can tell: which data it has. `reprune project` asks it, and writes the answer into
`reprune.project.yaml` with digests of all that it holds for; the image carries the file. From then on
a version, a champion and an anchor are enough for the lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from msgspec import to_builtins

from reprune import __version__
from reprune.core import store
from reprune.core.documents import Document, digest_of, read_yaml
from reprune.core.errors import DocumentError, StaleLock
from reprune.core.lock import Digest, Lock, Name
from reprune.core.params import PARAMS_FILE, Params, read_params
from reprune.core.policy import POLICY_FILE, Policy, read_policy
from reprune.core.step import Documents
from reprune.registry import compressed
from reprune.registry.protocol import Registry
from reprune.steps.pinning import pinned
from reprune.steps.update import check_together, reference, task_of
from reprune.task.load import task_digest

PROJECT_FILE = "reprune.project.yaml"
_HEADER = "# Written by `reprune project` for the image: edit nothing here by hand.\n"


class Project(Document, kw_only=True):
    """What holds for every lock of one state of a repository."""

    schema: Literal[1] = 1
    reprune: str
    name: Name
    params: Digest
    policy: Digest
    task: Digest
    data_version: str


@dataclass(frozen=True, kw_only=True)
class Described:
    """The file as it now is on disk. `changed` is False if it said the same before."""

    project: Project
    changed: bool
    path: Path


def describe(root: Path) -> Described:
    """Writes `reprune.project.yaml` for what lies in `root`, whole or not at all, and only if it changes.

    The task is imported, to ask for its data version. Raises DocumentError or TaskError.
    """
    given = read_params(root / PARAMS_FILE)
    policy = read_policy(root / POLICY_FILE)
    check_together(given, policy, root)
    data_version = task_of(given, root).data_version
    project = _expected(given, policy, root, data_version)
    path = root / PROJECT_FILE
    changed = _existing(path) != project
    if changed:
        body = yaml.safe_dump(to_builtins(project), sort_keys=False, width=1000)
        store.write_bytes(path, (_HEADER + body).encode())
    return Described(project=project, changed=changed, path=path)


def check(root: Path) -> Described:
    """What `reprune.project.yaml` says, if it is about the files beside it. No code of the task is run.

    Raises StaleLock if it is not, and DocumentError if there is none.
    """
    found = read_yaml(root / PROJECT_FILE, Project)
    given = read_params(root / PARAMS_FILE)
    policy = read_policy(root / POLICY_FILE)
    check_together(given, policy, root)
    _check(found, _expected(given, policy, root, found.data_version), root)
    return Described(project=found, changed=False, path=root / PROJECT_FILE)


def pin(root: Path, registry: Registry, version: str | None = None) -> Documents:
    """The documents of `root`, its lock being the one that `reprune update` would write there now.

    None of the user's code runs and nothing is written below `root`. Raises StaleLock where
    `reprune.project.yaml` is not about the files beside it, and what `update` raises.
    """
    found = check(root).project
    given = read_params(root / PARAMS_FILE)
    policy = read_policy(root / POLICY_FILE)
    lock = Lock(
        reprune=__version__,
        registry=given.registry.uri,
        workspace=given.registry.workspace,
        name=given.name,
        dense=pinned(registry, given, version),
        champion=reference(compressed.champion(registry, given.name)),
        anchor=reference(compressed.anchor(registry, given.name)),
        targets=tuple(sorted(given.targets)),
        params=found.params,
        policy=found.policy,
        task=found.task,
        data_version=found.data_version,
    )
    return Documents(root=root, params=given, policy=policy, lock=lock)


def _expected(given: Params, policy: Policy, root: Path, data_version: str) -> Project:
    return Project(
        reprune=__version__,
        name=given.name,
        params=digest_of(given),
        policy=digest_of(policy),
        task=task_digest(given.task, root),
        data_version=data_version,
    )


def _check(found: Project, expected: Project, root: Path) -> None:
    what = {
        "reprune": "the installed Reprune is another one",
        "name": "the model's name in params.yaml changed",
        "params": f"{PARAMS_FILE} changed",
        "policy": f"{POLICY_FILE} changed",
        "task": "the task's code changed",
    }
    for field, words in what.items():
        if getattr(found, field) != getattr(expected, field):
            raise StaleLock(
                f"{words} since the project was described",
                where=str(root / PROJECT_FILE),
                fix="run `reprune project` there, then build the image",
            )


def _existing(path: Path) -> Project | None:
    """The file as it is; an undecodable one is written again."""
    try:
        return read_yaml(path, Project)
    except DocumentError:
        return None
