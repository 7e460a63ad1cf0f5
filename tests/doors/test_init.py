"""`reprune init`: nothing is written that cannot be finished, and what was cut short is finished."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reprune.doors.cli import main
from reprune.doors.init import TEMPLATE, init

FILES = ("Containerfile", "params.yaml", "policy.yaml", "dvc.yaml", "train.py", "task/digits.py")
KEY = ".reprune/promoter/key.pem"
TRAIN = """
import pathlib, sys
from reprune.core.params import read_params
from reprune.registry.open import open_registry

root = pathlib.Path(__file__).parent
if (root / "fail").exists():
    sys.exit("the data is not there")
weights = root / "weights"
weights.mkdir()
(weights / "weights.safetensors").write_bytes(b"x")
params = read_params(root / "params.yaml")
open_registry(params.registry, root).register(params.name, weights, {})
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_git(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without git; DVC is started by its path."""
    monkeypatch.setenv("PATH", str(here / "nothing"))


def test_without_git_nothing_is_written(
    no_git: None, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a traceback, after the template was written."""
    assert main(["init", "at", "--no-train"]) == 2
    assert "git is not installed" in (said := capsys.readouterr().err)
    assert "--no-scm" in said
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_without_git_there_is_a_way(no_git: None, here: Path) -> None:
    assert main(["init", "at", "--no-train", "--no-scm"]) == 0
    assert (here / "at" / KEY).exists()
    assert "no_scm = True" in (here / "at/.dvc/config").read_text()


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [("dvc", "dvc", ["--no-train"]), ("torch", "local", []), ("sklearn", "local", [])],
)
def test_a_package_that_is_missing_is_named_before_anything_is_written(
    module: str,
    extra: str,
    words: list[str],
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without torch the end was "train.py failed.", exit 1, and files that a second try tripped over."""
    monkeypatch.setattr(
        "reprune.doors.init.find_spec", lambda name: None if name == module else object()
    )
    assert main(["init", "at", *words]) == 2
    assert f"needs packages that are not installed: {module}" in (said := capsys.readouterr().err)
    assert f"pip install 'reprune[{extra}]'" in said
    assert list(here.iterdir()) == []


def test_a_name_that_no_folder_can_have_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "a" * 300, "--no-train"]) == 2
    assert "File name too long" in capsys.readouterr().err
    assert main(["init", "a" * 300, "--ci", "github"]) == 2


@pytest.mark.parametrize("name", ["params.yaml", "task/digits.py"])
def test_what_somebody_wrote_is_never_overwritten(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine\n")
    assert main(["init", "--no-train"]) == 2
    assert f"never overwritten: {name}" in capsys.readouterr().err
    assert [each for each in here.rglob("*") if each.is_file()] == [path]
    assert path.read_text() == "mine\n"


@pytest.mark.parametrize(
    ("name", "words", "out"),
    [
        ("train.py", [], "run `reprune init --no-train`"),
        ("dvc.yaml", [], "`reprune init --no-train compress`"),
        ("params.yaml", ["--no-train"], "params.yaml, policy.yaml and dvc.yaml are needed"),
        ("task/__init__.py", ["--no-train"], "what is in task/ are only the example"),
    ],
)
def test_a_way_out_of_what_is_there_is_named(
    name: str, words: list[str], out: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What of the template is needed, and what is only the example."""
    path = here / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine\n")
    assert main(["init", *words]) == 2
    assert out in (said := capsys.readouterr().err)
    assert f"never overwritten: {name}" in said


@pytest.mark.slow
def test_ones_own_training_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A repository with a train.py of its own is the usual one: the template's is only the example's."""
    (here / "train.py").write_text("mine\n")
    assert main(["init", "--no-train", "--no-scm"]) == 0
    assert "register a version (docs/task.md), then:" in capsys.readouterr().out
    assert (here / "train.py").read_text() == "mine\n"
    assert all((here / name).exists() for name in FILES)


@pytest.mark.slow
def test_a_folder_of_its_own_lies_beside_somebodys_pipeline(here: Path) -> None:
    """Below a repository with DVC and files of the same names, of which none changes; no train.py comes."""
    subprocess.run(["git", "init", "-q"], cwd=here, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=here, check=True)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        (here / name).write_text("{}\n" if name != ".dvcignore" else "")
    before = {path: path.read_bytes() for path in here.glob("*.*") if path.is_file()}
    assert main(["init", "--no-train", "compress"]) == 0
    assert {path: path.read_bytes() for path in here.glob("*.*") if path.is_file()} == before
    assert not (here / "compress/train.py").exists()
    told = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    for folder, stages in ((here, 0), (here / "compress", 12)):
        found = subprocess.run(told, cwd=folder, check=True, capture_output=True, text=True)
        assert len(found.stdout.split()) == stages


def _cut_short(at: Path, where: str) -> None:
    """What `init` leaves when it is ended there."""
    if where == "in the template":
        at.mkdir()
        shutil.copy(TEMPLATE / "params.yaml", at)
        shutil.copy(TEMPLATE / "train.py", at)
        return
    shutil.copytree(TEMPLATE, at, ignore=shutil.ignore_patterns("__pycache__"))
    if where == "before dvc":
        return
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--subdir"], cwd=at, check=True)
    if where == "among dvc's settings":
        words = ["config", "-q", "core.analytics", "false"]
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=at, check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", ["in the template", "before dvc", "after dvc init", "among dvc's settings"]
)
def test_what_was_cut_short_goes_on(where: str, here: Path) -> None:
    """The same command again: afterwards all is as if it had not been; and once more changes nothing."""
    subprocess.run(["git", "init", "-q"], cwd=here, check=True)
    at = here / "at"
    _cut_short(at, where)
    words = ["init", "at", "--no-train", "--json"]
    assert main(words) == 0
    assert all((at / name).exists() for name in FILES)
    assert (at / KEY).exists()
    for line in ("analytics = false", "check_update = false", "autostage = true"):
        assert line in (at / ".dvc/config").read_text()
    assert ".reprune/" in (at / ".gitignore").read_text()
    key = (at / KEY).read_bytes()
    assert init(at, train=False) == ([], None)
    assert (at / KEY).read_bytes() == key


@pytest.mark.slow
def test_the_settings_of_somebodys_own_dvc_stay(here: Path) -> None:
    """It was there before the template, and says nothing: that is not ours cut short."""
    subprocess.run(["git", "init", "-q"], cwd=here, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=here, check=True)
    before = (here / ".dvc/config").read_bytes()
    assert main(["init", "--no-train"]) == 0
    assert (here / ".dvc/config").read_bytes() == before


@pytest.mark.slow
def test_a_training_that_failed_is_done_once_more(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And one that ended well is not."""
    template = here / "template"
    shutil.copytree(TEMPLATE, template, ignore=shutil.ignore_patterns("__pycache__"))
    params = "name: m\ntask: task.digits:DigitsTask\nregistry: {kind: files, uri: registry}\n"
    (template / "params.yaml").write_text(params)
    (template / "train.py").write_text(TRAIN)
    monkeypatch.setattr("reprune.doors.init.TEMPLATE", template)
    fail = here / "at" / "fail"
    fail.parent.mkdir()
    fail.touch()
    assert main(["init", "at", "--no-scm"]) == 1
    said = capfd.readouterr().err
    assert "the data is not there" in said
    assert "train.py failed" in said
    assert "goes on from here" in said
    fail.unlink()
    assert init(here / "at", train=True, scm=False) == ([], "1")
    assert init(here / "at", train=True, scm=False) == ([], None)
