"""The command line: light, exact about mistakes, and one exit code for each kind of end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from reprune.doors.cli import COMMANDS, main
from reprune.doors.output import ErrorOutput
from reprune.steps import STEPS

HEAVY = {
    "torch",
    "torch_pruning",
    "onnx",
    "onnxruntime",
    "mlflow",
    "dvc",
    "kfp",
    "great_expectations",
    "pandas",
    "numpy",
    "scipy",
    "accelerate",
}


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


def test_help_is_light() -> None:
    """`reprune --help` loads no heavy library, not even numpy."""
    code = "from reprune.doors.cli import main\nassert main(['--help']) == 0"
    assert not loaded_after(code) & HEAVY


@pytest.mark.slow
def test_importing_every_step_is_light() -> None:
    """torch, kfp, mlflow and dvc come in only when a step's body runs."""
    code = "import reprune.steps as s\n[s.get_step(name) for name in s.STEPS]"
    assert not loaded_after(code) & (HEAVY - {"numpy", "scipy"})


def test_help_names_every_command_and_step(capsys: pytest.CaptureFixture[str]) -> None:
    """What can be typed is listed."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*COMMANDS, *STEPS))


@pytest.mark.parametrize("name", [*COMMANDS, *STEPS])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`reprune NAME -h` exists for each, says more than its flags, and offers --json."""
    with pytest.raises(SystemExit) as left:
        main([name, "-h"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert len(text.split("\n\n")[1]) > 30


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["promot"], "did you mean 'promote'?"),
        (["check", "--recompte"], "did you mean '--recompute'?"),
        (["prune", "--dens", "x"], "required"),
        (["check", "nowhere"], "no such artefact"),
        (["update"], "no such file"),
        (["compile", "--out", "a-file"], "a-file: cannot be written: Not a directory"),
        (["compile", "--out", "a-file/below"], "a-file/below: cannot be written: Not a directory"),
        (["init", "a-file"], "a-file: cannot be written: Not a directory"),
    ],
)
def test_mistakes_are_the_users_and_are_named(
    words: list[str], what: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    """A typo, a missing flag, a wrong path: exit 2, the nearest word, no stack trace."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    assert main(words) == 2
    captured = capsys.readouterr()
    assert what in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("name", [*COMMANDS, *STEPS])
def test_a_folder_that_is_none_is_the_users_mistake(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`-C DIR` of every command: never that we broke, whatever it would have done there."""
    nowhere = tmp_path / "nowhere"
    words = [name, "-C", str(nowhere), "--json"]
    assert main(words) == 2
    _, _, needed = json.loads(capsys.readouterr().out)["what"].partition("are required: ")
    for each in filter(None, needed.split(", ")):
        words += [each, "x"] if each.startswith("-") else ["x"]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    output = msgspec.json.decode(captured.out, type=ErrorOutput)
    assert output.where == f"-C {nowhere}"
    assert output.what == "cannot be worked in: No such file or directory"


def test_failures_are_json_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    """With --json a failure is one object on stdout with code, cause and cure."""
    monkeypatch.chdir(tmp_path)
    assert main(["check", "nowhere", "--json"]) == 2
    output = msgspec.json.decode(capsys.readouterr().out, type=ErrorOutput)
    assert output.code == "artifact_missing"
    assert output.exit_code == 2
    assert output.fix


def test_nothing_typed_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    """`reprune` alone prints the help and exits 2; `--version` exits 0."""
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert "reprune 0." in capsys.readouterr().out


def test_what_we_break_is_said_to_be_ours(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An unforeseen exception ends in 1 and asks for a report; it is never taken for a verdict."""
    monkeypatch.setattr("reprune.doors.cli._dispatch", lambda words: 1 / 0)
    assert main(["check"]) == 1
    assert "Reprune itself failed: ZeroDivisionError" in capsys.readouterr().err
