"""The door from Kubeflow Pipelines: texts to a repository, machines to settings, errors to a last line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprune.core import store
from reprune.core.artifacts import Report
from reprune.core.errors import (
    ArtifactMissing,
    DocumentError,
    InputError,
    ManifestEdited,
    StaleLock,
    UnknownName,
)
from reprune.doors.kfp.machines import ClusterMachine, choose, read_machine
from reprune.doors.kfp.references import hand_on, placed, resolved
from reprune.doors.kfp.run import told
from reprune.doors.kfp.workplace import workplace
from reprune.measure.attempts import ATTEMPTS_FILE
from tests.kubeflow import texts
from tests.repository import Repository, make_repository

pytestmark = pytest.mark.slow

REPORT = Report(outcome="pass", headline="as it was")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = make_repository(tmp_path_factory.mktemp("door") / "repo")
    made.train(epochs=1)
    made.update()
    return made


@pytest.fixture
def project(locked: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    copy = tmp_path / "repo"
    shutil.copytree(locked.root, copy, symlinks=True)
    monkeypatch.setenv("REPRUNE_PROJECT", str(copy))
    return Repository(copy)


def test_a_workplace_holds_the_texts_and_the_project(project: Repository) -> None:
    """Documents as given, the task as it lies there; afterwards the project is what it was."""
    (project.root / ATTEMPTS_FILE).write_text("")
    before = {path: path.read_bytes() for path in store.files(project.root)}
    with workplace(**texts(project)) as documents:
        root = documents.root
        assert documents.lock.name == "digits"
        assert (root / "task" / "digits.py").exists()
        # The count of looks may be added to, and the project's own is not touched.
        (root / ATTEMPTS_FILE).write_text("one look\n")
    assert not root.exists()
    assert {path: path.read_bytes() for path in store.files(project.root)} == before


def test_texts_win_over_the_files_of_the_image(project: Repository) -> None:
    """An image holds the documents of the day it was built; the run has its own."""
    given_texts = texts(project)
    (project.root / "params.yaml").write_text("name: other\n")
    with workplace(**given_texts) as documents:
        assert documents.params.name == "digits"


@pytest.mark.parametrize("name", ["lock", "params", "policy"])
def test_an_empty_text_is_named(project: Repository, name: str) -> None:
    with pytest.raises(InputError, match=name), workplace(**{**texts(project), name: "  \n"}):
        pass


def test_a_lock_of_other_texts_is_stale(project: Repository) -> None:
    """The digest in the lock is of the typed value: a comment changes nothing, a value does."""
    given_texts = texts(project)
    with workplace(**{**given_texts, "params": given_texts["params"] + "# a comment\n"}):
        pass
    changed = given_texts["params"].replace("seed: 0", "seed: 1")
    assert changed != given_texts["params"]
    with pytest.raises(StaleLock), workplace(**{**given_texts, "params": changed}):
        pass


def test_another_task_in_the_image_is_stale(project: Repository) -> None:
    (project.root / "task" / "digits.py").write_text("# not what was locked\n")
    with pytest.raises(StaleLock, match="task"), workplace(**texts(project)):
        pass


def test_with_a_workspace_only_a_note_travels(tmp_path: Path) -> None:
    """Written once below its digest, found by the next step, and refused when it is another's."""
    workspace, out = tmp_path / "volume", tmp_path / "task" / "chosen"
    with placed(out, str(workspace)) as place, store.drafting(place) as draft:
        (draft / "note.txt").write_text("payload")
        made = store.write(draft, REPORT, step="plan", parents={}, out=place)
        hand_on(made, out, str(workspace))
    assert [path.name for path in out.iterdir()] == ["reference.json"]
    found = resolved(out, str(workspace))
    assert store.read(found, Report).digest == made.digest
    with pytest.raises(ArtifactMissing, match="workspace"):
        resolved(out, "")
    (found / store.DIGEST).write_text("sha256:" + "0" * 64)
    with pytest.raises(ManifestEdited):
        resolved(out, str(workspace))
    shutil.rmtree(found)
    with pytest.raises(ArtifactMissing, match="no longer"):
        resolved(out, str(workspace))


def test_tasks_of_a_loop_write_side_by_side(tmp_path: Path) -> None:
    """Two iterations' outputs have one name; each task has a place of its own in the volume."""
    outs = [tmp_path / f"iteration-{number}" / "measure" / "measured" for number in range(2)]
    volume = str(tmp_path / "volume")
    with placed(outs[0], volume) as one, placed(outs[1], volume) as other:
        for place, words in ((one, "one"), (other, "other")):
            with store.drafting(place) as draft:
                (draft / "note.txt").write_text(words)
                store.write(draft, REPORT, step="plan", parents={}, out=place)
        for place, out in ((one, outs[0]), (other, outs[1])):
            hand_on(store.read(place, Report), out, volume)
    found = [store.read(resolved(out, volume), Report).file("note.txt") for out in outs]
    assert [path.read_text() for path in found] == ["one", "other"]
    assert len(list((tmp_path / "volume" / "artifacts").iterdir())) == 2


def test_a_step_that_failed_leaves_nothing_in_the_workspace(tmp_path: Path) -> None:
    workspace = tmp_path / "volume"
    with pytest.raises(KeyError), placed(tmp_path / "task" / "x", str(workspace)) as place:
        place.mkdir()
        raise KeyError
    assert list((workspace / "artifacts").iterdir()) == []


@pytest.fixture
def a_task(tmp_path: Path) -> Iterator[None]:
    """This process as the user of our images, where it may be anybody."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(10001)
    yield
    os.seteuid(was)


@pytest.mark.parametrize("begun", [False, True])
def test_a_workspace_that_is_somebody_elses_is_named(
    tmp_path: Path, begun: bool, a_task: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a volume is where no fsGroup is set: the input is wrong, and the last line says what to do."""
    workspace = tmp_path / "volume"
    was, now = os.getuid(), os.geteuid()
    os.seteuid(was)
    (workspace / "artifacts" if begun else workspace).mkdir(parents=True)
    for folder in (workspace, *workspace.iterdir()):
        folder.chmod(0o555)
    os.seteuid(now)
    with (
        pytest.raises(SystemExit) as ended,
        told("prune"),
        placed(tmp_path / "out", str(workspace)),
    ):
        pass
    os.seteuid(was)
    assert ended.value.code == InputError.exit_code
    last = capsys.readouterr().err.rstrip().rpartition("\n")[2]
    assert f"user {now} may not write in the workspace" in last
    assert "fsGroup" in last


def test_without_a_workspace_an_artefact_lies_where_it_is_handed_over(tmp_path: Path) -> None:
    with placed(tmp_path / "out", "") as place:
        assert place == tmp_path / "out"
    assert resolved(place, "") == place


def test_a_machine_is_spread_into_settings(project: Repository) -> None:
    """What a loop hands on has lost its whole numbers; they come back."""
    project.edit("params.yaml", lambda value: value["targets"]["ort-cpu"].update(machine="jetson"))
    params = texts(project)["params"]
    entry = {
        "name": "jetson",
        "image": "mine@sha256:1",
        "accelerator_type": "nvidia.com/gpu",
        "accelerator_count": 1.0,
        "node_selector": {"kubernetes.io/hostname": "jetson-7"},
        "tolerations": [{"key": "edge", "operator": "Exists", "tolerationSeconds": 30.0}],
    }
    chosen = choose(params, entry, "usual")
    assert chosen.accelerator_count == "1"
    assert chosen.node_selector == {"kubernetes.io/hostname": "jetson-7"}
    assert chosen.tolerations == [{"key": "edge", "operator": "Exists", "tolerationSeconds": 30}]
    assert choose(params, {"name": "jetson"}, "usual").image == "usual"
    with pytest.raises(SystemExit) as ended:
        choose(params, {"name": "jetsno"}, "usual")
    assert ended.value.code == 2
    assert isinstance(ended.value.__cause__, UnknownName)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a", "imagee": "x"},
        {"name": "a", "image": "x", "accelerator_type": "nvidia.com/gpu"},
        {"name": "a", "image": "x", "accelerator_count": 1},
        {"name": "a", "image": "x", "accelerator_count": 0.5},
        {"name": "a", "image": "x", "node_selector": ["x"]},
        {"name": "a", "image": "x", "tolerations": [{"keyy": "x"}]},
        "a",
    ],
    ids=str,
)
def test_a_wrong_machine_is_an_error(wrong: object) -> None:
    with pytest.raises(DocumentError):
        read_machine(wrong)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.builds(
        ClusterMachine,
        name=st.sampled_from(["", "a", "jetson"]),
        image=st.sampled_from(["x", "y@sha256:1"]),
        node_selector=st.dictionaries(
            st.text("abc/.", min_size=1, max_size=5), st.text("xy1", max_size=3)
        ),
    )
)
def test_a_machine_survives_its_own_plain_form(machine: ClusterMachine) -> None:
    assert read_machine(msgspec.to_builtins(machine)) == machine


@pytest.mark.parametrize(
    ("raised", "code"), [(InputError("wrong", fix="do right"), 2), (ValueError("ours"), 1)]
)
def test_an_error_is_the_last_line(
    raised: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, told("plan"):
        raise raised
    assert ended.value.code == code
    said = capsys.readouterr().err.strip()
    last = said.splitlines()[-1]
    assert last.startswith("error: plan: ")
    assert "wrong" in last or "Reprune itself failed: ValueError: ours" in last
    assert "To fix: do right" in last or "To fix: run the task again" in last
