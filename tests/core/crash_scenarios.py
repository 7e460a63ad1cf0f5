"""All that Reprune writes and must not lose: how each is written, and what a reader finds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from reprune.core import durable, store
from reprune.core.artifacts import Plan
from reprune.core.errors import (
    ArtifactMissing,
    RegistryUnreachable,
    RepruneError,
    VersionNotFound,
)
from reprune.core.overrides import Overrides, overrides_text, read_overrides
from reprune.measure.attempts import Look, local_attempts, next_attempt
from reprune.registry import artifact_root
from reprune.registry.bounded import Limits
from reprune.registry.files import MARKER, FilesRegistry
from tests.core.crash_entries import entry
from tests.core.crash_model import Counts, judge
from tests.core.recording import recording
from tests.core.test_store import make_plan, write_plan

Step = Callable[[Path], object]
Observe = Callable[[Path], str]
LOOK = Look(name="digits", dense_version="1", weights="w", eval_digest="e", candidate="c")


@dataclass(frozen=True)
class Scenario:
    """`steps` are calls that each promise to hold once they return; `before` is done unwatched."""

    steps: Sequence[Step]
    observe: Observe
    before: Sequence[Step] = ()
    watched: str = "."


def run(scenario: Scenario, folder: Path) -> Counts:
    """All crash states of the scenario, in `folder`, an empty one of the caller's."""
    root, scratch = folder / "root", folder / "scratch"
    root.mkdir()
    for step in scenario.before:
        step(root)
    watched = root / scenario.watched

    def look() -> str:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(watched, scratch, symlinks=True)
        return scenario.observe(scratch)

    seen = [look()]
    with recording(watched) as recorder:
        for step in scenario.steps:
            step(root)
            recorder.look()
            recorder.ack("")
            seen.append(look())
    return judge(recorder, seen, scenario.observe, scratch)


# --- artefacts ----------------------------------------------------------------------------------


def _artefact(root: Path) -> str:
    out = root / "runs" / "plan"
    try:
        return store.read(out, Plan).digest
    except ArtifactMissing:
        return "half" if out.exists() else "absent"
    except RepruneError as error:
        return f"{type(error).__name__}: {error.what}"


def _swept(root: Path) -> str:
    """As the next run finds it."""
    if (root / "runs").is_dir():
        store.sweep(root / "runs" / "plan")
    return _artefact(root)


def _write(keep: int) -> Step:
    def write(root: Path) -> None:
        with store.drafting(root / "runs" / "plan") as draft:
            # A folder that holds nothing but a folder: its names must come through as well.
            (draft / "task" / "digits").mkdir(parents=True)
            (draft / "task" / "digits" / "model.py").write_bytes(b"# %d\n" % keep)
            (draft / "units.json").write_bytes(b"[%d]" % keep)
            out = root / "runs" / "plan"
            store.write(draft, make_plan(keep), step="plan", parents={}, out=out)

    return write


def _copied(root: Path) -> None:
    source = store.read(root.parent / "source", Plan)
    store.copy_whole(source, root / "runs" / "plan")


def _source(root: Path) -> None:
    write_plan(root.parent / "source", keep=1)


def _without_exchange(step: Step) -> Step:
    """On a system that cannot swap two names."""

    def made(root: Path) -> None:
        with mock.patch.object(durable, "exchange", return_value=False):
            step(root)

    return made


# --- files ---------------------------------------------------------------------------------------


def _one_file(name: str) -> Observe:
    def observe(root: Path) -> str:
        path = root / name
        return path.read_bytes().decode("latin-1") if path.exists() else "absent"

    return observe


def _file(name: str, content: bytes, *, private: bool = False) -> Step:
    def write(root: Path) -> None:
        with store.disk_errors(root / name):
            durable.write_file(root / name, content, private=private)

    return write


def _attempts(root: Path) -> str:
    """A count may be too high after a crash (then an attempt is lost, and none is had twice)."""
    return str(local_attempts(root / "repo" / "attempts.jsonl", LOOK))


def _look(root: Path) -> None:
    next_attempt(root / "repo" / "attempts.jsonl", LOOK)


def _overridden(count: int) -> Step:
    grown = Overrides(overrides=tuple(entry(number) for number in range(count)))
    return lambda root: store.write_bytes(
        root / "reprune.overrides.yaml", overrides_text(grown).encode()
    )


def _overrides(root: Path) -> str:
    try:
        return str(len(read_overrides(root / "reprune.overrides.yaml").overrides))
    except RepruneError as error:
        return f"{type(error).__name__}: {error.what}"


# --- the registry --------------------------------------------------------------------------------


def _registry(root: Path) -> FilesRegistry:
    return FilesRegistry(
        identity="r", workspace="w", folder=root / "shared" / "registry", limits=Limits()
    )


def _register(number: int) -> Step:
    def register(root: Path) -> None:
        source = root.parent / f"source-{number}"
        (source / "bundle" / "task" / "digits").mkdir(parents=True, exist_ok=True)
        (source / "bundle" / "task" / "digits" / "model.py").write_bytes(b"# %d" % number)
        (source / "receipt.json").write_bytes(b"{%d}" % number)
        _registry(root).register("digits-compressed", source, {"receipt": str(number)})

    return register


def _alias(version: str) -> Step:
    return lambda root: _registry(root).set_alias("digits-compressed", "champion", version)


def _tagged(root: Path) -> None:
    _registry(root).set_tags("digits-compressed", "1", {"rolled_back": "2"})


def _registered(root: Path) -> str:
    """All versions with their tags and files, and the champion."""
    registry = _registry(root)
    try:
        found = registry.versions("digits-compressed")
        champion = registry.alias("digits-compressed", "champion")
    except VersionNotFound:
        return "nothing"
    except RegistryUnreachable as error:
        there = (registry.folder / MARKER).exists()
        return f"{type(error).__name__}: {error.what}" if there else "nothing"
    rows = [
        (
            info.version,
            sorted(info.tags.items()),
            store.folder_digest(registry.folder / info.name / info.version / "files")[:15],
        )
        for info in found
    ]
    return f"{rows} {champion}" if rows else "nothing"


def _put(root: Path) -> None:
    source = root.parent / "source"
    (source / "bundle" / "task" / "digits").mkdir(parents=True, exist_ok=True)
    (source / "bundle" / "task" / "digits" / "model.py").write_bytes(b"#")
    # A place of its own each time, as the registry draws it.
    share = root / "share" / "digits"
    used = len(list(share.iterdir())) if share.is_dir() else 0
    artifact_root.put(root / "share", f"digits/{used}", source, Limits())


def _stored(root: Path) -> str:
    share = root / "share" / "digits"
    places = [path for path in share.glob("*") if not path.name.startswith(".")]
    return " ".join(store.folder_digest(place) for place in places) or "nothing"


SCENARIOS: dict[str, Scenario] = {
    "an artefact, the first": Scenario([_write(1)], _artefact),
    "an artefact in the place of another": Scenario([_write(2), _write(3)], _artefact, [_write(1)]),
    "an artefact in the place of another, by a name aside": Scenario(
        [_without_exchange(_write(2)), _without_exchange(_write(3))], _swept, [_write(1)]
    ),
    "a copied artefact": Scenario([_copied], _artefact, [_source, _write(2)]),
    "a lock, a proof, a sidecar": Scenario(
        [
            _file("repo/reprune.lock.yaml", b"lock: one"),
            _file("repo/reprune.lock.yaml", b"lock: 2"),
        ],
        _one_file("repo/reprune.lock.yaml"),
    ),
    "a key": Scenario([_file("repo/key.pem", b"secret", private=True)], _one_file("repo/key.pem")),
    "the ledger of attempts": Scenario([_look, _look, _look], _attempts),
    "overrides": Scenario([_overridden(1), _overridden(2)], _overrides),
    "a registry, the first version": Scenario([_register(1)], _registered),
    "a registry, versions and champions": Scenario(
        [_register(2), _alias("1"), _tagged, _alias("2")], _registered, [_register(1)]
    ),
    "files of a registry that keeps none": Scenario([_put], _stored),
}


# --- what must be found out --------------------------------------------------------------------


def _in_place(path: Path, content: bytes, *, private: bool = False) -> None:
    durable.make_folder(path.parent)
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    durable.fsync(path.parent)


def _unsynced(path: Path, content: bytes, *, private: bool = False) -> None:
    durable.make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
    durable.fsync(path.parent)


def _folder_unsynced(path: Path, content: bytes, *, private: bool = False) -> None:
    durable.make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


WRONG: dict[str, Callable[..., None]] = {
    "written in place": _in_place,
    "renamed without fsync": _unsynced,
    "fsync of the file and not of its folder": _folder_unsynced,
}


@contextmanager
def written_wrongly(how: str) -> Iterator[None]:
    """Every file is written so in the block."""
    with mock.patch.object(durable, "write_file", WRONG[how]):
        yield
