"""The real steps on artefacts that are laid by hand: no repository and no registry, and a task whose code is
a package beside this module.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from safetensors.torch import save_file
from torch import nn

from reprune.compress.bundle import stored_tensors
from reprune.core import store
from reprune.core.artifacts import DataReport, Manifest, ModelBundle, Previous, TaskFact
from reprune.core.lock import ChampionRef, DenseRef, Lock
from reprune.core.params import Params
from reprune.core.policy import Policy
from reprune.core.step import WORK_VARIABLE, Documents, run
from reprune.steps import get_step
from reprune.task.trained_on import TRAINED_ON

NOTHING = "sha256:" + "0" * 64


def lay(
    out: Path,
    manifest: Manifest,
    parents: Mapping[str, str],
    payload: Mapping[str, bytes] | None = None,
) -> None:
    """Writes an artefact as the step of its folder's name would."""
    with store.drafting(out) as draft:
        for file, content in (payload or {}).items():
            (draft / file).write_bytes(content)
        store.write(draft, manifest, step=out.name, parents=dict(parents), out=out)


def lay_dense(
    out: Path, module: nn.Module, *, entry: str, package: Path, files: tuple[str, ...], version: str
) -> store.Artifact[ModelBundle]:
    """The dense model as `fetch-dense` leaves it; its task is `entry` in `files` of `package`."""
    with store.drafting(out) as draft:
        save_file(stored_tensors(module), draft / "weights.safetensors")
        code = draft / "task" / package.name
        code.mkdir(parents=True)
        for file in files:
            shutil.copyfile(package / file, code / file)
        manifest = ModelBundle(
            name=package.name,
            dense_version=version,
            task=TaskFact(entry=entry, digest=NOTHING, data_version=package.name),
        )
        return store.write(draft, manifest, step="fetch-dense", parents={}, out=out)


def lay_data(out: Path, dense: store.Artifact[ModelBundle]) -> None:
    """A report on data that passed."""
    report = DataReport(task=dense.manifest.task, passed=True, expectations=(), splits={}, power=())
    lay(out, report, {"dense": dense.digest}, {TRAINED_ON: b""})


def lay_previous(
    out: Path,
    *,
    name: str,
    version: str,
    champion: ChampionRef | None = None,
    parts: Mapping[str, Path] | None = None,
) -> None:
    """What `fetch-previous` brings: the champion with its `parts`, artefacts by name; or none."""
    with store.drafting(out) as draft:
        for part, made in (parts or {}).items():
            shutil.copytree(made, draft / part)
        manifest = Previous(
            name=name,
            dense_version=version,
            champion=champion,
            anchor=None,
            attempts=0,
            history=(),
        )
        store.write(draft, manifest, step="fetch-previous", parents={}, out=out)


def documents(root: Path, *, name: str, entry: str, knobs: Mapping[str, Any]) -> Documents:
    """What the steps read, for one target named `cpu`; `knobs` are sections of the params."""
    lock = Lock(
        reprune="0",
        registry="files",
        workspace="default",
        name=name,
        dense=DenseRef(version="1", weights=NOTHING),
        champion="none",
        targets=("cpu",),
        params=NOTHING,
        policy=NOTHING,
        task=NOTHING,
        data_version=name,
    )
    named = {"name": name, "task": entry, "targets": {"cpu": {}}}
    params = msgspec.convert(named | dict(knobs), Params)
    return Documents(
        root=root, params=params, policy=Policy(targets={"cpu": "required"}), lock=lock
    )


def make(
    step: str,
    inputs: Mapping[str, Path],
    read: Documents,
    out: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Runs a step; what it makes lies in `out`."""
    run(get_step(step), dict(inputs), read, out, say=say)


@contextmanager
def checkpoints_in(folder: Path) -> Iterator[None]:
    """The steps keep there what they need to go on after a kill."""
    before = os.environ.get(WORK_VARIABLE)
    os.environ[WORK_VARIABLE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(WORK_VARIABLE, None)
        if before is not None:
            os.environ[WORK_VARIABLE] = before
