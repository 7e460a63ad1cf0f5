"""`reprune update` and the lock: what it pins, when it changes, and who notices that it is stale."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from reprune.core.errors import (
    EXIT_INPUT,
    DocumentError,
    PickleRefused,
    RegistryUnreachable,
    StaleLock,
    VersionNotFound,
)
from reprune.core.lock import DenseRef, Lock, read_lock
from reprune.core.params import read_params
from reprune.core.policy import read_policy
from reprune.core.step import Documents
from reprune.core.store import file_digest
from reprune.doors.cli import main
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry
from reprune.steps.update import check_lock, update
from tests.registry.stand import POLICY, documents, write_repository, write_weights


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_repository(tmp_path)
    return tmp_path


@pytest.fixture
def source(root: Path) -> Registry:
    return open_registry(read_params(root / "params.yaml").registry, root)


def train(source: Registry, root: Path, value: float = 1.0) -> Path:
    weights = write_weights(root / "w.safetensors", value)
    register_dense(source, "digits", weights)
    return weights


def opened(root: Path) -> Documents:
    return Documents(
        root=root,
        params=read_params(root / "params.yaml"),
        policy=read_policy(root / "policy.yaml"),
        lock=read_lock(root / "reprune.lock.yaml"),
    )


def test_the_newest_version_is_pinned(root: Path, source: Registry) -> None:
    """The lock names the newest version, its weights, the world around it, and holds what was returned."""
    train(source, root)
    weights = train(source, root, 2.0)
    done = update(root)
    assert done.changed
    dense = DenseRef(version="2", weights=file_digest(weights))
    assert done.lock == documents(root, weights, dense=dense).lock
    assert done.lock == read_lock(root / "reprune.lock.yaml")
    check_lock(opened(root))


def test_a_given_version_is_pinned(root: Path, source: Registry) -> None:
    """An earlier version can be asked for; one that does not exist is refused with those that do."""
    train(source, root)
    train(source, root, 2.0)
    assert update(root, version="1").lock.dense.version == "1"
    with pytest.raises(VersionNotFound, match="no version 3") as caught:
        update(root, version="3")
    assert "1, 2" in caught.value.fix
    assert read_lock(root / "reprune.lock.yaml").dense.version == "1"


def test_a_metric_that_there_is_not_is_refused(root: Path, source: Registry) -> None:
    """With the nearest, before a registry is asked; no lock is written."""
    train(source, root)
    path = root / "policy.yaml"
    path.write_text("targets: {ort-cpu: required}\nquality: {acuracy: {floor: 0.5}}\n")
    with pytest.raises(DocumentError, match="did you mean 'accuracy'") as caught:
        update(root)
    assert caught.value.where == f"{path} (quality)"
    assert not (root / "reprune.lock.yaml").exists()


def test_speed_of_an_emulation_is_refused(
    root: Path, source: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a model is made that no verdict could be given on: exit 2, and no lock is written."""
    train(source, root)
    given = root / "params.yaml"
    given.write_text(given.read_text() + "targets: {cpu: {}, mcu: {runtime: microcontroller}}\n")
    speed = "targets: {cpu: required, mcu: %s}\nlatency: {vs_parent: {max_ratio: 0.9}}\n"
    (root / "policy.yaml").write_text(speed % "required")
    assert main(["update", "-C", str(root)]) == EXIT_INPUT
    assert "the policy demands speed of 'mcu'" in capsys.readouterr().err
    assert not (root / "reprune.lock.yaml").exists()
    (root / "policy.yaml").write_text(speed % "advisory")
    assert main(["update", "-C", str(root)]) == 0


def test_nothing_new_leaves_the_file_untouched(root: Path, source: Registry) -> None:
    """The second update neither changes the lock nor writes it; a hand edit is written over."""
    train(source, root)
    update(root)
    path = root / "reprune.lock.yaml"
    before = path.stat().st_mtime_ns
    assert not update(root).changed
    assert path.stat().st_mtime_ns == before
    path.write_text("champion: 7\n")
    assert update(root).changed
    assert path.stat().st_mtime_ns != before


def test_a_version_is_downloaded_once(root: Path, source: Registry) -> None:
    """The weights' digest is kept in the work folder; a registry made anew is looked at again."""
    train(source, root)
    first = update(root).lock.dense.weights
    stored = root / ".reprune" / "registry" / "digits" / "1" / "files" / "weights.safetensors"
    content = stored.read_bytes()
    stored.unlink()
    assert update(root).lock.dense.weights == first
    stored.write_bytes(content)
    shutil.rmtree(root / ".reprune")
    second = train(source, root, 5.0)
    assert update(root).lock.dense.weights == file_digest(second) != first


def test_a_registry_or_version_that_is_not_there(root: Path, source: Registry) -> None:
    """No registry, no model, only pickles: each its own error, and no lock is written."""
    with pytest.raises(RegistryUnreachable):
        update(root)
    weights = write_weights(root / "other" / "w.safetensors")
    source.register("letters", weights.parent, {})
    with pytest.raises(VersionNotFound, match="digits"):
        update(root)
    pickled = root / "pickled"
    pickled.mkdir()
    (pickled / "model.pt").write_bytes(b"x")
    source.register("digits", pickled, {})
    with pytest.raises(PickleRefused):
        update(root)
    assert not (root / "reprune.lock.yaml").exists()


def test_targets_of_policy_and_params_must_agree(root: Path, source: Registry) -> None:
    """A target that the policy misspells, or does not mention, is named before anything is measured."""
    train(source, root)
    (root / "policy.yaml").write_text(POLICY.replace("ort-cpu", "ort-cup"))
    with pytest.raises(DocumentError, match="did you mean 'ort-cpu'"):
        update(root)
    (root / "policy.yaml").write_text(POLICY)
    params = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(params + "targets: {ort-cpu: {}, fast: {threads: 2}}\n")
    with pytest.raises(DocumentError, match="'fast' is required or advisory"):
        update(root)


def change_lock(root: Path, **changes: object) -> None:
    path = root / "reprune.lock.yaml"
    path.write_bytes(msgspec.yaml.encode(msgspec.structs.replace(read_lock(path), **changes)))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("params.yaml", "params.yaml"),
        ("policy.yaml", "policy.yaml"),
        ("task/digits.py", "task"),
        ("targets", "targets"),
        ("reprune", "installed Reprune"),
        ("name", "model name"),
        ("registry", "registry.uri"),
    ],
)
def test_a_stale_lock_says_what_changed(root: Path, source: Registry, name: str, word: str) -> None:
    """Each thing the lock pins, changed beside it: named, with the command that repairs it."""
    train(source, root)
    update(root)
    edits = {
        "params.yaml": "seed: 3\n",
        "policy.yaml": "alpha: 0.1\n",
        "task/digits.py": "# new\n",
    }
    if name in edits:
        append(root / name, edits[name])
    else:
        values: dict[str, object] = {"targets": ("gpu",), "reprune": "9.9", "name": "x"}
        change_lock(root, **{name: values.get(name, "elsewhere")})
    with pytest.raises(StaleLock, match=word) as caught:
        check_lock(opened(root))
    assert "reprune update" in caught.value.fix
    update(root)
    check_lock(opened(root))


def test_formatting_is_no_change(root: Path, source: Registry) -> None:
    """Comments and the order of keys are not part of what is pinned."""
    train(source, root)
    update(root)
    append(root / "params.yaml", "# a remark\n")
    check_lock(opened(root))
    assert not update(root).changed


def test_the_lock_is_a_whole_file_or_the_old_one(
    root: Path, source: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update that fails on the way leaves the lock of before."""
    train(source, root)
    first: Lock = update(root).lock
    train(source, root, 2.0)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(Exception, match="disk is full"):
            update(root)
    assert read_lock(root / "reprune.lock.yaml") == first
    assert list(root.glob(".reprune.lock.yaml.*")) == []
