"""fetch-dense and fetch-previous: what the lock pins comes in, checked; everything else is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from reprune.core import store
from reprune.core.artifacts import ModelBundle, Previous
from reprune.core.errors import (
    CheckpointError,
    NonFiniteWeights,
    PickleRefused,
    RegistryUnreachable,
    RepruneError,
    StaleLock,
    VersionNotFound,
)
from reprune.core.lock import DenseRef
from reprune.core.params import read_params
from reprune.core.step import Documents, run
from reprune.core.store import Artifact, file_digest
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry
from reprune.steps.fetch import fetch_dense, fetch_previous
from reprune.steps.update import update
from reprune.task.load import task_digest
from tests.registry.stand import PARAMS, documents, write_repository, write_weights

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_repository(tmp_path)
    return tmp_path


@pytest.fixture
def source(root: Path) -> Registry:
    return open_registry(read_params(root / "params.yaml").registry, root)


@pytest.fixture
def pinned(root: Path, source: Registry) -> Documents:
    weights = write_weights(root / "w.safetensors")
    register_dense(source, "digits", weights)
    return documents(root, weights)


def fetched(given: Documents) -> Artifact[ModelBundle]:
    run(fetch_dense, {}, given, given.root / "dense", say=lambda _: None)
    return store.read(given.root / "dense", ModelBundle)


def previous(given: Documents) -> Previous:
    run(fetch_previous, {}, given, given.root / "previous", say=lambda _: None)
    return store.read(given.root / "previous", Previous).manifest


def test_the_bundle_holds_the_locked_weights_and_the_task(pinned: Documents) -> None:
    """Weights byte for byte as registered, the task importable from the bundle, both named by the lock."""
    bundle = fetched(pinned)
    weights = bundle.file("weights.safetensors")
    assert file_digest(weights) == pinned.lock.dense.weights
    assert set(bundle.manifest.payload) == {
        "weights.safetensors",
        "task/task/__init__.py",
        "task/task/digits.py",
    }
    assert bundle.manifest.dense_version == "1"
    assert bundle.manifest.task.digest == pinned.lock.task
    assert task_digest("task.digits:DigitsTask", bundle.path / "task") == pinned.lock.task
    assert bundle.manifest.surgery is None
    assert not list((pinned.root / "work").rglob("draft"))


def test_fetching_twice_gives_the_same_artefact(pinned: Documents) -> None:
    """A function of the lock: the same digest again."""
    assert fetched(pinned).digest == fetched(pinned).digest


def test_caches_and_hidden_files_are_no_part_of_the_task(pinned: Documents) -> None:
    """Compiled files beside the task change neither its digest nor the bundle."""
    before = fetched(pinned).digest
    cache = pinned.root / "task" / "__pycache__"
    cache.mkdir()
    (cache / "digits.pyc").write_bytes(b"x")
    (pinned.root / "task" / ".notes").write_text("x")
    assert fetched(pinned).digest == before


def test_user_code_is_not_imported(pinned: Documents) -> None:
    """A task that fails on import is fetched all the same: fetch runs where no user code may."""
    (pinned.root / "task" / "digits.py").write_text("raise SystemExit('imported')\n")
    lock_task = task_digest("task.digits:DigitsTask", pinned.root)
    assert fetched(documents(pinned.root, pinned.root / "w.safetensors", task=lock_task))


def edit_task(root: Path) -> None:
    (root / "task" / "digits.py").write_text("class DigitsTask: ...\n")


def lose_registry(root: Path) -> None:
    shutil.rmtree(root / ".reprune")


def swap_weights(root: Path) -> None:
    folder = root / ".reprune" / "registry" / "digits" / "1" / "files"
    write_weights(folder / "weights.safetensors", value=2.0)


def lose_task(root: Path) -> None:
    shutil.rmtree(root / "task")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "error", "fix"),
    [
        (edit_task, StaleLock, "reprune update"),
        (swap_weights, StaleLock, "reprune update"),
        (lose_registry, RegistryUnreachable, "registry.uri"),
        (lose_task, RepruneError, "task"),
    ],
)
def test_a_changed_world_is_refused_and_nothing_is_written(
    pinned: Documents, break_it: Callable[[Path], None], error: type[RepruneError], fix: str
) -> None:
    """Task, weights or registry other than locked: an error that says what to do; the old artefact stays."""
    before = fetched(pinned).digest
    break_it(pinned.root)
    with pytest.raises(error) as caught:
        fetched(pinned)
    assert fix in caught.value.fix
    assert caught.value.where
    assert store.read(pinned.root / "dense", ModelBundle).digest == before


def test_files_that_were_replaced_in_place_are_pinned_by_the_update_that_is_advised(
    root: Path, source: Registry
) -> None:
    """`update` remembers what it fetched; that it was wrong shows here, and is forgotten."""
    register_dense(source, "digits", write_weights(root / "w.safetensors"))
    first = update(root).lock
    swap_weights(root)
    with pytest.raises(StaleLock, match="other weights") as caught:
        fetched(documents(root, root / "w.safetensors", task=first.task))
    assert "`dense-weights`" in caught.value.fix
    again = update(root)
    assert again.changed
    assert again.lock.dense.weights != first.dense.weights


def test_a_version_that_does_not_exist_is_named_with_those_that_do(pinned: Documents) -> None:
    """The error lists the versions that could be pinned instead."""
    weights = pinned.root / "w.safetensors"
    dense = DenseRef(version="7", weights=file_digest(weights))
    with pytest.raises(VersionNotFound, match="no version 7") as caught:
        fetched(documents(pinned.root, weights, dense=dense))
    assert "use one of: 1" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "letters"}, "name"),
        ({"registry": "elsewhere"}, "registry"),
        ({"workspace": "team"}, "workspace"),
    ],
)
def test_a_lock_for_another_registry_or_name_is_stale(
    pinned: Documents, change: dict[str, str], word: str
) -> None:
    """A lock that pins a version somewhere else is not looked up here."""
    given = documents(pinned.root, pinned.root / "w.safetensors", **change)
    for fetch in (fetched, previous):
        with pytest.raises(StaleLock, match=word):
            fetch(given)


def test_nan_weights_are_refused(root: Path, source: Registry, tmp_path: Path) -> None:
    """A registered model with a NaN never becomes a bundle; the tensor is named."""
    weights = write_weights(tmp_path / "in" / "weights.safetensors", value=float("nan"))
    source.register("digits", weights.parent, {})
    with pytest.raises(NonFiniteWeights, match=r"conv\.weight"):
        fetched(documents(root, weights))


def test_a_mask_among_the_weights_is_fetched(root: Path, source: Registry, tmp_path: Path) -> None:
    """A causal mask that is a persistent buffer: a bundle takes it, so the registry hands it over."""
    weights = tmp_path / "in" / "weights.safetensors"
    weights.parent.mkdir()
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    save_file({"head.weight": np.ones((2, 2), np.float32), "mask": mask}, weights)
    source.register("digits", weights.parent, {})
    bundle = fetched(documents(root, weights))
    assert bundle.file("weights.safetensors").read_bytes() == weights.read_bytes()


@pytest.mark.slow
def test_pickled_weights_need_permission(root: Path, source: Registry, tmp_path: Path) -> None:
    """Refused by default; with allow_pickle the values arrive as safetensors, which are what is pinned:
    the gate compares the bundle's weights with the lock.
    """
    import torch

    made = tmp_path / "in"
    made.mkdir()
    torch.save({"w": torch.ones(2)}, made / "model.pt")
    source.register("digits", made, {})
    with pytest.raises(PickleRefused):
        fetched(documents(root, made / "model.pt"))
    with pytest.raises(PickleRefused):
        update(root)
    write_repository(root, PARAMS.replace("uri:", "allow_pickle: true, uri:"))
    lock = update(root).lock
    bundle = fetched(replace(documents(root, made / "model.pt"), lock=lock))
    assert bundle.manifest.payload["weights.safetensors"] == lock.dense.weights
    with pytest.raises(StaleLock):
        fetched(documents(root, made / "model.pt"))


def test_a_version_without_weights_is_refused(
    root: Path, source: Registry, folder: Callable[..., Path]
) -> None:
    """A model that MLflow logged without safetensors or pickle is no dense version."""
    source.register("digits", folder(MLmodel=b"x"), {})
    weights = write_weights(root / "w.safetensors")
    with pytest.raises(CheckpointError, match="no weights"):
        fetched(documents(root, weights))


def test_no_champion_is_an_explicit_none(pinned: Documents) -> None:
    """Before anything was promoted: no champion, no anchor, no attempts, no history, no payload."""
    found = previous(pinned)
    assert (found.champion, found.anchor, found.attempts, found.history) == (None, None, 0, ())
    assert found.payload == {}
    assert found.dense_version == "1"


def test_a_registry_that_is_gone_is_never_none(pinned: Documents) -> None:
    """Without an answer from the registry there is no Previous at all."""
    lose_registry(pinned.root)
    with pytest.raises(RegistryUnreachable):
        previous(pinned)
