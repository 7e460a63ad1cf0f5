"""One run of the pipeline's components, called one by one in this process, to be handed what is wrong.

Two machines, so that lists have two elements; nothing in the policy is a time, so that a busy
machine changes no verdict.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import runpy
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from kfp import dsl
from safetensors.numpy import load_file, save_file

from reprune.core import store
from reprune.core.artifacts import WEIGHTS
from reprune.core.documents import digest_of
from reprune.core.errors import EXIT_INPUT
from reprune.core.lock import LOCK_FILE
from reprune.core.params import PARAMS_FILE, read_params
from reprune.core.policy import POLICY_FILE
from reprune.core.step import WORK_VARIABLE
from reprune.doors.kfp.run import Texts
from reprune.doors.kfp.workplace import PROJECT_VARIABLE
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.registry.protocol import CHAMPION, known_alias, known_versions
from reprune.steps.update import update
from tests.repository import inside, make_repository

MACHINES = ("a", "b")
# What is done in two parts for another reason than the machine is named by the same letters.
SHARDS = dict(zip(MACHINES, ("0/2", "1/2"), strict=True))
TARGET = {"runtime": "onnxruntime", "precision": "fp32", "batch_size": 1, "threads": 1}
POLICY = {
    "schema": 1,
    "targets": {"ort-a": "required", "ort-b": "required"},
    "looks": [5],
    "quality": {"accuracy": {"vs_parent": {"max_drop": 0.3, "max_error_ratio": None}}},
    "size": {"vs_parent": {"max_ratio": 0.9}},
}

Given = Path | list[Path]

# Where each input of a component comes from, below a run's folder: <component>/<output>.
_DENSE, _PREVIOUS, _DATA = "fetch_model/dense", "fetch_model/previous", "validate_data/data"
_TABLE, _CHOSEN = "sensitivity_analysis/table", "plan/chosen"
_SHARDS = [f"sensitivity_shard-{machine}/measured" for machine in MACHINES]
_PRUNED, _CANDIDATE = "prune/pruned", "distill/candidate"
_PROFILES = [f"profile-{machine}/profiled" for machine in MACHINES]
_ENGINES = [f"build-{machine}/engines" for machine in MACHINES]
_MEASURED = [f"benchmark-{machine}/measured" for machine in MACHINES]
_VERDICT, _REPORT = "gate/verdict", "report/written"
_MODEL = {"dense": _DENSE, "data": _DATA}
_ARMS = {"candidate": _CANDIDATE, **_MODEL, "previous": _PREVIOUS}
_JUDGED = {"candidate": _CANDIDATE, "chosen": _CHOSEN, "table": _TABLE}
WIRING: dict[str, dict[str, str | list[str]]] = {
    "fetch_model": {},
    "validate_data": {"dense": _DENSE, "previous": _PREVIOUS},
    "profile": {**_MODEL, "previous": _PREVIOUS},
    "sensitivity_analysis": {**_MODEL, "previous": _PREVIOUS},
    "sensitivity_shard": {**_MODEL},
    "sensitivity_merge": {**_MODEL, "previous": _PREVIOUS, "shards": _SHARDS},
    "plan": {"dense": _DENSE, "profiles": _PROFILES, "table": _TABLE, "previous": _PREVIOUS},
    "prune": {**_MODEL, "chosen": _CHOSEN},
    "distill": {
        "student": _PRUNED,
        "teacher": _DENSE,
        "data": _DATA,
        "previous": _PREVIOUS,
    },
    "build": {**_ARMS},
    "tensorrt_build": {**_ARMS},
    "benchmark": {"engines": "build-{machine}/engines", **_MODEL, "previous": _PREVIOUS},
    "gate": {
        **_ARMS,
        **_JUDGED,
        "pruned": _PRUNED,
        "benchmarks": _MEASURED,
        "engines": _ENGINES,
        "profiles": _PROFILES,
    },
    "report": {"verdict": _VERDICT},
    "promote": {
        **_JUDGED,
        "verdict": _VERDICT,
        "engines": _ENGINES,
        "profiles": _PROFILES,
        "report": _REPORT,
    },
}
# What a set has beside these: see tests/doors/test_kfp_members.py.
OF_SETS = {"choose_member", "fetch_member", "fetch_set"}
ON_MACHINES = ("profile", "build", "benchmark")
IN_PARTS = (*ON_MACHINES, "sensitivity_shard")
# What a run is made of, in the order in which it is made; promotion is left to the tests.
ORDER = [name for name in WIRING if name not in ("tensorrt_build", "sensitivity_merge", "promote")]
# Every artefact of a run.
ARTEFACTS = [
    _DENSE,
    _PREVIOUS,
    _DATA,
    *_PROFILES,
    _TABLE,
    *_SHARDS,
    _CHOSEN,
    _PRUNED,
    _CANDIDATE,
    *_ENGINES,
    *_MEASURED,
    _VERDICT,
    _REPORT,
]


@dataclass(frozen=True)
class Ended:
    """How a component ended: the exit code, and all that it said."""

    code: int
    said: str

    @property
    def last(self) -> str:
        return self.said.rstrip().rpartition("\n")[2]


def complaints(ended: Ended, out: Path, names: str = "") -> list[str]:
    """What of the law a refused call does not keep."""
    found = []
    if ended.code != EXIT_INPUT:
        found.append(f"exit code {ended.code}")
    if not ended.last.startswith("error: ") or "To fix: " not in ended.last:
        found.append(f"last line: {ended.last!r}")
    if names not in ended.last:
        found.append(f"does not name {names}: {ended.last!r}")
    if "Traceback" in ended.said:
        found.append(ended.said)
    left = [str(path) for path in out.rglob("*") if path.is_file()]
    if left:
        found.append(f"left {left}")
    return found


@dataclass(frozen=True)
class Run:
    """`root` is the user's project; the artefacts lie below `folder`."""

    root: Path
    folder: Path
    texts: Texts

    def path(self, name: str) -> Path:
        return self.folder / name

    def inputs(self, component: str, machine: str = MACHINES[0]) -> dict[str, Given]:
        """What the component is handed when nothing is wrong."""
        return {
            name: [self.path(each) for each in source]
            if isinstance(source, list)
            else self.path(source.format(machine=machine))
            for name, source in WIRING[component].items()
        }

    def digest(self, name: str) -> str:
        return (self.path(name) / store.DIGEST).read_text().strip()

    def call(
        self,
        component: str,
        out: Path,
        *,
        machine: str = MACHINES[0],
        texts: Texts | None = None,
        **changed: Given,
    ) -> Ended:
        """Calls the component as kfp would; its outputs lie below `out`, by their names."""
        inputs = {**self.inputs(component, machine), **changed}
        return call(component, texts or self.texts, inputs, out, root=self.root, machine=machine)


@contextlib.contextmanager
def surroundings(root: Path) -> Iterator[None]:
    """The environment of a component whose project is `root`; no two workers meet at a lock of ours."""
    work = str(root.with_name(f"work{os.environ.get('PYTEST_XDIST_WORKER', '')}"))
    with patch.dict(os.environ, {PROJECT_VARIABLE: str(root), WORK_VARIABLE: work}):
        yield


def component_of(name: str) -> Any:
    return getattr(import_module(f"components.{name}"), name)


def call(
    name: str,
    texts: Texts,
    inputs: Mapping[str, Given],
    out: Path,
    *,
    root: Path,
    machine: str = "",
    workspace: str = "",
) -> Ended:
    """Calls a component with kfp's own artifact objects."""
    component = component_of(name)
    spec = component.component_spec
    values: dict[str, Any] = {"lock": texts.lock, "params": texts.params, "policy": texts.policy}
    values |= {given: _handed(where) for given, where in inputs.items()}
    values["workspace"] = workspace
    if "machine" in spec.inputs:
        values["machine"] = machine if name in ON_MACHINES else ""
    if "shard" in spec.inputs:
        values["shard"] = SHARDS[machine]
    out.mkdir(parents=True, exist_ok=True)
    for each, described in spec.outputs.items():
        kind = described.type.removeprefix("system.").partition("@")[0]
        values[each] = getattr(dsl, kind)(uri=str(out / each), metadata={})
    said = io.StringIO()
    code = 0
    with contextlib.redirect_stderr(said), surroundings(root):
        try:
            component.python_func(**values)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ended(code, said.getvalue())


def _handed(where: Given) -> Any:
    if isinstance(where, list):
        return [_handed(each) for each in where]
    return dsl.Artifact(uri=str(where), metadata={})


def make_run(folder: Path) -> Run:
    """A dense version trained for a moment, and every component up to the report run on it."""
    made = make_repository(folder / "repo")
    targets = {f"ort-{machine}": {**TARGET, "machine": machine} for machine in MACHINES}
    made.edit("params.yaml", lambda params: params.update(targets=targets))
    made.edit("params.yaml", lambda params: params["distill"].update(epochs=1))
    made.edit("policy.yaml", lambda policy: (policy.clear(), policy.update(POLICY)))
    with surroundings(made.root), inside(made.root), contextlib.redirect_stdout(io.StringIO()):
        with patch.object(sys, "argv", ["train.py", "--seed", "1", "--epochs", "2"]):
            runpy.run_path("train.py", run_name="__main__")
        update(Path.cwd())
    run = Run(root=made.root, folder=folder / "first", texts=texts_of(made.root))
    for name in ORDER:
        for machine in MACHINES if name in IN_PARTS else ("",):
            out = run.folder / (f"{name}-{machine}" if machine else name)
            ended = run.call(name, out, machine=machine)
            assert ended.code == 0, ended.said
    return run


def texts_of(root: Path) -> Texts:
    """The three documents as they are now."""
    return Texts(*((root / name).read_text() for name in (LOCK_FILE, PARAMS_FILE, POLICY_FILE)))


def make_stale(run: Run) -> Run:
    """The same artefacts made under another lock: its dense version is another one, and so is every digest.

    Fetch, gate and report are run; what lies between them is written again as those steps would
    have written it, because what they compute is not what is wrong with it.
    """
    params = read_params(run.root / PARAMS_FILE)
    weights = load_file(run.path(_DENSE) / WEIGHTS)
    weights |= {name: each * 0.999 for name, each in weights.items() if each.ndim > 1}
    save_file(weights, run.folder / "second.safetensors")
    with surroundings(run.root), inside(run.root):
        registry = open_registry(params.registry, run.root)
        register_dense(registry, params.name, run.folder / "second.safetensors")
        update(Path.cwd())
        texts = texts_of(run.root)
        update(Path.cwd(), version="1")
    assert texts_of(run.root) == run.texts
    stale = Run(root=run.root, folder=run.folder.with_name("second"), texts=texts)
    assert stale.call("fetch_model", stale.folder / "fetch_model").code == 0
    digests = {run.digest(name): stale.digest(name) for name in (_DENSE, _PREVIOUS)}
    old, new = (store.file_digest(each.path(_DENSE) / WEIGHTS) for each in (run, stale))
    digests[old] = new
    for name in ARTEFACTS[2:-2]:
        digests[run.digest(name)] = written_again(
            run.path(name), stale.path(name), digests, dense_version="2"
        )
    for name in ("gate", "report"):
        ended = stale.call(name, stale.folder / name)
        assert ended.code == 0, ended.said
    return stale


def written_again(source: Path, out: Path, digests: Mapping[str, str], **changes: Any) -> str:
    """Copies an artefact with digests exchanged for others wherever it names them, and fields changed.

    Its own digest is corrected, and returned. A field that its kind does not have is left out.
    """
    copied(source, out)
    raw = (out / store.MANIFEST).read_text()
    for old, new in digests.items():
        raw = raw.replace(old, new)
    value = json.loads(raw)
    value |= {name: each for name, each in changes.items() if name in value}
    put(out / store.MANIFEST, msgspec.json.format(msgspec.json.encode(value), indent=2))
    digest = digest_of(value)
    put(out / store.DIGEST, digest.encode())
    return digest


def relinked(run: Run, folder: Path, name: str, change: Mapping[str, str]) -> Run:
    """The run with `name` made from other parents (input to digest), and all that descends from it."""
    digests: dict[str, str] = {}
    for each in ARTEFACTS[:-2]:
        out = folder / each
        parents = json.loads((run.path(each) / store.MANIFEST).read_text())["parents"]
        known = {old: new for old, new in digests.items() if old != new}
        changes = {"parents": dict(sorted({**parents, **change}.items()))} if each == name else {}
        digests[run.digest(each)] = written_again(run.path(each), out, known, **changes)
    return Run(root=run.root, folder=folder, texts=run.texts)


def copied(source: Path, out: Path) -> Path:
    """A copy that shares its files with the original: `put` breaks the link."""
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, out, copy_function=os.link)
    return out


def put(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


@dataclass(frozen=True)
class Registered:
    """What a promotion could have changed."""

    champion: str | None
    versions: tuple[str, ...]


def registered(root: Path) -> Registered:
    params = read_params(root / PARAMS_FILE)
    with inside(root):
        registry = open_registry(params.registry, root)
        name = f"{params.name}-compressed"
        known = known_versions(registry, name)
        return Registered(
            champion=known_alias(registry, name, CHAMPION) if known else None,
            versions=tuple(info.version for info in known),
        )


def copy_project(run: Run, folder: Path) -> Run:
    """The same run on a copy of the project, whose registry may be written."""
    shutil.copytree(run.root, folder / "repo", symlinks=True)
    return Run(root=folder / "repo", folder=run.folder, texts=run.texts)


def shared_runs(factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A run and the stale one beside it: made once, however many workers ask. Nobody writes there."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "component-run"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        done = folder / "done.json"
        if not done.exists():
            first = make_run(folder)
            second = make_stale(first)
            done.write_text(json.dumps([first.texts.lock, second.texts.lock]))
    locks = json.loads(done.read_text())
    root = folder / "repo"
    rest = texts_of(root)
    first, second = (
        Run(root=root, folder=folder / name, texts=Texts(lock, rest.params, rest.policy))
        for name, lock in zip(("first", "second"), locks, strict=True)
    )
    return first, second
