"""A lock from a project's file and a registry: the one that `update` writes, without the task's code."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprune.core.errors import DocumentError, StaleLock
from reprune.core.lock import LOCK_FILE, read_lock
from reprune.core.params import read_params
from reprune.doors.cli import main
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry
from reprune.steps.project import PROJECT_FILE, check, describe, pin
from reprune.steps.update import update
from tests.registry import stand

PARAMS = stand.PARAMS + "targets: {ort-cpu: {runtime: onnxruntime}}\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "repo"
    stand.write_repository(root, PARAMS)
    return root


@pytest.fixture
def registry(root: Path) -> Registry:
    registry = open_registry(read_params(root / "params.yaml").registry, root)
    for value in (1.0, 2.0):
        register_dense(
            registry, "digits", stand.write_weights(root / f"{value}.safetensors", value)
        )
    return registry


def test_the_lock_is_the_one_that_update_writes(root: Path, registry: Registry) -> None:
    assert describe(root).changed
    assert not describe(root).changed
    update(root)
    assert pin(root, registry).lock == read_lock(root / LOCK_FILE)
    assert pin(root, registry, "1").lock.dense.version == "1"


def test_no_code_of_the_project_is_run(root: Path, registry: Registry) -> None:
    (root / "task" / "digits.py").write_text(stand.TASK + "\nimport os\nos.environ['RAN'] = '1'\n")
    describe(root)
    broken = (root / "task" / "digits.py").read_text()
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.delenv("RAN")
        pin(root, registry)
        import os

        assert "RAN" not in os.environ
    assert (root / "task" / "digits.py").read_text() == broken


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("task/digits.py", "# more\n", "task's code"),
        ("params.yaml", "seed: 5\n", "params.yaml changed"),
        ("policy.yaml", "valid_for_days: 3\n", "policy.yaml changed"),
        (PROJECT_FILE, None, "installed Reprune"),
    ],
)
def test_a_project_that_changed_since_gives_no_lock(
    root: Path, registry: Registry, file: str, text: str | None, words: str
) -> None:
    describe(root)
    path = root / file
    before = path.read_text()
    path.write_text(before + text if text else before.replace("reprune: ", "reprune: 9"))
    with pytest.raises(StaleLock, match=words):
        pin(root, registry)
    with pytest.raises(StaleLock, match=words):
        check(root)


def test_without_the_file_there_is_no_lock(root: Path, registry: Registry) -> None:
    with pytest.raises(DocumentError, match="no such file"):
        pin(root, registry)


def test_the_command_writes_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["project", "-C", str(root), "--json"]) == 0
    assert '"data_version":"data-1"' in capsys.readouterr().out
    assert (root / PROJECT_FILE).is_file()


def test_the_command_checks_it_without_the_tasks_code(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a build does, which has neither the data nor what the task imports."""
    task = root / "task" / "digits.py"
    task.write_text("import os\nif 'BUILDING' in os.environ: raise SystemExit\n" + stand.TASK)
    assert main(["project", "-C", str(root), "--check"]) == 2
    assert "no such file" in capsys.readouterr().err
    describe(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILDING", "1")
        before = (root / PROJECT_FILE).read_bytes()
        assert main(["project", "-C", str(root), "--check"]) == 0
        assert "true of what lies beside it" in capsys.readouterr().err
        task.write_text(task.read_text() + "# changed\n")
        assert main(["project", "-C", str(root), "--check"]) == 2
        assert (root / PROJECT_FILE).read_bytes() == before
    assert "the task's code changed" in capsys.readouterr().err
