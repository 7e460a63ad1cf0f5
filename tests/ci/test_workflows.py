"""The workflows that `reprune init --ci` writes, and the action: what a linter finds, and what only we ask.

actionlint is asked too (test_actionlint.py); here is what it does not know of, each shown to find its fault.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprune.core.errors import InputError
from reprune.doors.ci import rendered, write_ci
from reprune.doors.cli import main
from tests.ci.workflows import CONTEXTS, EXPRESSION, FUNCTIONS, commands, filled, load, tokens
from tests.report.scenes import SCENES
from tests.report.verdicts import write_verdict

ROOT = Path(__file__).parents[2]
GITHUB = rendered("github", ("self-hosted", "gpu"), "main")
GITLAB = rendered("gitlab", ("gpu",), "main")
WORKFLOWS = {Path(name).stem.removeprefix("reprune-"): text for name, text in GITHUB.items()}
ACTION = (ROOT / "action.yml").read_text(encoding="utf-8")
# All that each job may write; a line more here is a decision.
WRITES = {
    "update/update": set(),
    "update/propose": {"contents", "pull-requests", "actions"},
    "judge/look": {"checks", "pull-requests"},
    "judge/measure": set(),
    "judge/tell": {"contents", "pull-requests", "checks"},
    "fork/tell": {"pull-requests", "checks"},
    "promote/promote": set(),
    "promote/sweep": {"checks"},
}
KEYS = {
    "workflow": {"name", "on", "permissions", "concurrency", "jobs"},
    "job": {
        "needs", "if", "runs-on", "timeout-minutes", "permissions", "outputs", "env", "environment",
        "steps",
    },
    "step": {
        "name", "id", "if", "uses", "with", "run", "env", "continue-on-error", "shell",
        "working-directory",
    },
}  # fmt: skip
PINNED = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def faults(name: str, text: str) -> Iterator[str]:
    """What is wrong with a workflow."""
    workflow = load(text)
    yield from (f"unknown key {key}" for key in set(workflow) - KEYS["workflow"])
    if workflow["permissions"] != {}:
        yield "permissions at the top: each job names its own"
    for line in text.splitlines():
        if "uses:" in line and not PINNED.search(line):
            yield f"not pinned: {line.strip()}"
    for job_name, job in workflow["jobs"].items():
        yield from (f"unknown key {key}" for key in set(job) - KEYS["job"])
        yield from _of_job(f"{name}/{job_name}", job, workflow)


def _of_job(where: str, job: dict[str, Any], workflow: dict[str, Any]) -> Iterator[str]:
    if not 1 <= int(job["timeout-minutes"]) <= 720:
        yield f"{where}: no sensible limit"
    writes = {scope for scope, level in job["permissions"].items() if level == "write"}
    if writes != WRITES[where]:
        yield f"{where}: writes {sorted(writes)}"
    if set(job["permissions"].values()) - {"read", "write"}:
        yield f"{where}: unknown permission"
    needs = job.get("needs", [])
    known = {
        "needs": {
            each: set(workflow["jobs"][each].get("outputs", {}))
            for each in ([needs] if isinstance(needs, str) else needs)
        },
        "steps": {step["id"] for step in job["steps"] if "id" in step},
        "inputs": set[str](),
    }
    for text in _texts(job):
        yield from _of_expressions(where, text, known)
    for step in job["steps"]:
        yield from _of_step(where, step)


def _of_step(where: str, step: dict[str, Any]) -> Iterator[str]:
    yield from (f"{where}: unknown key {key}" for key in set(step) - KEYS["step"])
    if ("run" in step) == ("uses" in step):
        yield f"{where}: a step either runs or uses"
    if "run" in step:
        yield from _of_shell(where, step["run"])
    if any("secrets." in text for text in _texts(step.get("with", {}))):
        yield f"{where}: a secret is handed to an action"


def _of_shell(where: str, script: str) -> Iterator[str]:
    if "${{" in script:
        yield f"{where}: an expression inside a script is code from anybody"
    if re.search(r"set -\w*x|\benv\b\s*$|printenv", script, re.MULTILINE):
        yield f"{where}: prints what is in the environment"
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    if done.returncode:
        yield f"{where}: {done.stderr}"


def _of_expressions(where: str, text: str, known: dict[str, Any]) -> Iterator[str]:
    if text.count("${{") != len(EXPRESSION.findall(text)):
        yield f"{where}: an expression is not closed"
    for expression in EXPRESSION.findall(text):
        try:
            words = tokens(expression)
        except ValueError as error:
            yield f"{where}: {error}"
            continue
        if words.count("(") != words.count(")"):
            yield f"{where}: parentheses in {expression}"
        yield from (
            f"{where}: {word} is not known"
            for word in words
            if word[0].isalpha() and not _is_known(word, known)
        )


def _is_known(word: str, known: dict[str, Any]) -> bool:
    first, *rest = word.split(".")
    if word in FUNCTIONS:
        return True
    if first not in CONTEXTS or not rest:
        return False
    if first == "needs":
        asked = rest[1:2] == ["result"] or rest[1:2] == ["outputs"]
        outputs = known["needs"].get(rest[0])
        return outputs is not None and asked and (rest[1] == "result" or rest[2] in outputs)
    if first == "steps":
        return rest[0] in known["steps"] and rest[1] in ("outputs", "outcome")
    return first != "inputs" or rest[0] in known["inputs"]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from _texts(each)


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_nothing_is_wrong(name: str) -> None:
    """Pinned, bounded, least permissions, expressions that name what there is, scripts that parse."""
    assert list(faults(name, WORKFLOWS[name])) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "found"),
    [
        ("judge", "@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0", "@v5", "not pinned"),
        ("judge", "needs.look.outputs.judge ", "needs.look.outputs.jugde ", "is not known"),
        ("judge", "${{ github.token }}", "${{ gihtub.token }}", "is not known"),
        ("judge", 'if [ -n "$BASE_REF" ]', "if ${{ github.head_ref }}", "code from anybody"),
        ("judge", "          fi\n", "          done\n", "syntax error"),
        ("judge", "      contents: read\n    env", "      contents: write\n    env", "writes"),
        ("promote", "permissions: {}", "permissions: write-all", "at the top"),
        ("fork", "${{ github.token }}", "${{ secrets.TOKEN }}", "handed to an action"),
        ("update", "run: reprune update", "run: printenv", "environment"),
        ("update", "timeout-minutes: 60", "timeout-minutes: 9000", "limit"),
    ],
)
def test_each_check_finds_its_fault(name: str, old: str, new: str, found: str) -> None:
    """A workflow with one fault planted is found out by the words of that fault."""
    planted = WORKFLOWS[name].replace(old, new)
    assert planted != WORKFLOWS[name]
    assert any(found in each for each in faults(name, planted))


def test_the_forks_run_and_what_tells_for_it_are_a_pair() -> None:
    """The second is started by the first's name, checks nothing out, and runs our own words alone."""
    fork, judge = load(WORKFLOWS["fork"]), load(WORKFLOWS["judge"])
    assert fork["on"]["workflow_run"]["workflows"] == [judge["name"]]
    assert "pull_request_target" not in "".join(WORKFLOWS.values())
    (job,) = fork["jobs"].values()
    assert not any("checkout" in step.get("uses", "") for step in job["steps"])
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert all(run.startswith(("python -m pip install", "reprune comment ")) for run in runs)
    assert "--recompute --foreign --judged reprune.lock.yaml" in runs[-1]
    uploaded = next(s for s in judge["jobs"]["measure"]["steps"] if "upload" in s.get("uses", ""))
    downloaded = next(s for s in job["steps"] if "download" in s.get("uses", ""))
    assert uploaded["with"]["name"] == downloaded["with"]["name"]


# What imports the task, or runs what a stage of dvc.yaml says.
TASK_RUNS = re.compile(r"\bdvc \w|\breprune update\b")


@pytest.mark.parametrize("where", sorted(WRITES))
def test_the_code_under_judgement_never_sees_a_token_that_may_write(where: str) -> None:
    """What runs DVC or imports the task has no credentials in its clone, and no token; what may write runs
    neither, nor pip where the judged commit's files lie.
    """
    job = load(WORKFLOWS[where.partition("/")[0]])["jobs"][where.partition("/")[2]]
    runs = [step.get("run", "") for step in job["steps"]]
    if not WRITES[where]:
        checkout = next(step for step in job["steps"] if "checkout" in step.get("uses", ""))
        assert checkout["with"]["persist-credentials"] == "false"
        assert "github.token" not in str(job)
        return
    assert not TASK_RUNS.search("\n".join(runs))
    assert "secrets.REPRUNE_" not in str(job).replace("secrets.REPRUNE_REGISTRY_TOKEN", "")
    judged = False
    for step in job["steps"]:
        judged = judged or "head.sha" in str(step.get("with", {}).get("ref"))
        before, pip, _ = step.get("run", "").partition("python -m pip")
        assert not (judged and pip) or before.endswith('\ncd "$RUNNER_TEMP/main"\n')


def test_each_workflow_that_runs_the_task_is_known() -> None:
    """The jobs that do are those two, beside promote's `dvc pull`."""
    found = {
        f"{name}/{job_name}"
        for name, text in WORKFLOWS.items()
        for job_name, job in load(text)["jobs"].items()
        if TASK_RUNS.search("\n".join(step.get("run", "") for step in job["steps"]))
    }
    assert found == {"update/update", "judge/measure", "promote/promote"}


def test_the_credentials_of_every_kind_of_registry_are_handed_on() -> None:
    """To whoever reads it, those that read; to promote alone those that write, which nobody else has."""
    names = (
        "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
        "REPRUNE_REGISTRY_TOKEN",
    )  # fmt: skip
    found = {
        f"{name}/{job_name}": [job.get("env", {}).get(each, "") for each in names]
        for name, text in WORKFLOWS.items()
        for job_name, job in load(text)["jobs"].items()
    }
    reads = [f"${{{{ secrets.{name} }}}}" for name in names]
    for where in ("update/update", "judge/measure", "judge/tell", "promote/sweep"):
        assert found.pop(where) == reads, where
    writes = found.pop("promote/promote")
    assert all(each.startswith("${{ secrets.REPRUNE_PROMOTE_") for each in writes)
    assert not any("".join(each) for each in found.values())


def test_promote_measures_nothing() -> None:
    """It fetches all that promote reads, and never runs the pipeline; on both forges."""
    folders = ("verdict", "candidate", "engines", "plan", "profile", "sensitivity", "report")
    job = load(WORKFLOWS["promote"])["jobs"]["promote"]
    github = "\n".join(step.get("run", "") for step in job["steps"])
    gitlab = "\n".join(load(next(iter(GITLAB.values())))["reprune promote"]["script"])
    for script in (github, gitlab):
        assert "repro " not in script.replace("reprune", "")
        assert all(f"artifacts/{folder}" in script for folder in folders)
        assert "reprune promote" in script
    trigger = load(WORKFLOWS["promote"])["on"]["push"]
    assert trigger["branches"] == ["main"]
    assert {"reprune.lock.yaml", "dvc.lock"} <= set(trigger["paths"])


def test_the_runner_is_that_of_params() -> None:
    """The labels of `ci.runner`, and a hosted machine for a stranger's code."""
    runs_on = load(WORKFLOWS["judge"])["jobs"]["measure"]["runs-on"]
    assert """fromJSON('["self-hosted", "gpu"]')""" in runs_on
    assert """fromJSON('["ubuntu-latest"]')""" in runs_on
    assert """fromJSON('["self-hosted", "gpu"]')""" in WORKFLOWS["update"]
    for job in ("reprune measure", "reprune update"):
        assert load(next(iter(GITLAB.values())))[job]["tags"] == ["gpu"]


def test_forks_with_one_name_of_a_branch_do_not_wait_for_each_other() -> None:
    """A run on a branch, by hand or for its pull request, is one of a group; a fork's of another."""
    group = load(WORKFLOWS["judge"])["concurrency"]["group"]

    def named(owner: str) -> str:
        pull = {"head": {"repo": {"full_name": f"{owner}/model"}}}
        here = {"repository": "them/model", "ref_name": "9/merge", "head_ref": "patch-1"}
        return filled(group, {"github": here | {"event": {"pull_request": pull}}})

    by_hand = {"repository": "them/model", "ref_name": "patch-1", "head_ref": "", "event": {}}
    assert filled(group, {"github": by_hand}) == named("them")
    assert len({named("them"), named("stranger"), named("another")}) == 3


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_what_is_judged_is_the_folder_of_params(kind: str, tmp_path: Path) -> None:
    """A change of the task's code is judged wherever params.yaml says that it lies."""
    (tmp_path / "params.yaml").write_text("name: m\ntask: vision.nets.small:Task\n")
    texts = [(tmp_path / name).read_text() for name in write_ci(tmp_path, kind, "main")]
    place = {"github": "dvc.yaml vision\n", "gitlab": 'dvc.yaml, "vision/**/*"]'}[kind]
    assert (
        sum(place in text.replace("; then", "") for text in texts)
        == {"github": 2, "gitlab": 1}[kind]
    )
    assert not any(re.search(r"dvc\.yaml,? \W?task\b|__\w+__", text) for text in texts)


def test_gitlab_waits_for_no_machine_of_githubs(tmp_path: Path) -> None:
    """Where params.yaml names none, its own hosted machines take the jobs, which have no tags."""
    (tmp_path / "params.yaml").write_text("name: m\ntask: task.m:T\n")
    (name,) = write_ci(tmp_path, "gitlab", "main")
    jobs = load((tmp_path / name).read_text())
    assert all(job.get("tags", []) == [] for job in jobs.values())


def test_update_starts_the_judge_that_there_is() -> None:
    """The file's name, and the event that `reprune serve` sends."""
    from reprune.doors.service.dispatching import EVENT

    assert f"--start {Path(next(n for n in GITHUB if 'judge' in n)).name}" in WORKFLOWS["update"]
    triggers = load(WORKFLOWS["update"])["on"]
    assert triggers["repository_dispatch"]["types"] == [EVENT]
    assert set(triggers) == {"schedule", "repository_dispatch", "workflow_dispatch"}


def test_gitlab_is_whole() -> None:
    """Every job's script parses, and `extends` and `needs` name jobs; the one base is a hidden job."""
    jobs = load(next(iter(GITLAB.values())))
    for name, job in jobs.items():
        if name.startswith("."):
            continue
        assert job["extends"] in jobs
        assert set(job.get("needs", [])) <= set(jobs)
        assert job["rules"]
        for line in job["script"]:
            assert list(_of_shell(name, line)) == []
        assert "resource_group" in job or name == "reprune tell"


def test_the_action_is_whole() -> None:
    """Scripts parse and hold no expression, each input is declared and used, nothing is unpinned."""
    action = load(ACTION)
    inputs = set(action["inputs"])
    known = {"inputs": inputs, "needs": {}, "steps": {"run", "check"}}
    for text in _texts(action):
        assert list(_of_expressions("action", text, known)) == []
    for step in action["runs"]["steps"]:
        assert list(_of_step("action", step)) == []
        assert step["shell"] == "bash"
    assert all(f"inputs.{name}" in ACTION for name in inputs)
    assert not re.search(r"^\s*-? ?uses:(?!.*@[0-9a-f]{40} #)", ACTION, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scene", "outcome", "code"),
    [
        ("pass", "pass", 0),
        ("block", "block", 3),
        ("inconclusive", "inconclusive", 4),
        ("error", "error", 2),
        ("none", "", 2),
        ("broken", "", 2),
    ],
)
def test_the_action_says_the_verdict_and_nothing_where_there_is_none(
    scene: str, outcome: str, code: int, tmp_path: Path
) -> None:
    """`reprune check` ends in 2 for an error verdict and for none; whoever reads the output can tell them."""
    if scene != "none":
        known = write_verdict(SCENES.get(scene, SCENES["pass"]), tmp_path)
        known.path.rename(tmp_path / "at")
    if scene == "broken":
        (tmp_path / "at" / "manifest.json").write_text("{}")
    check = next(step for step in load(ACTION)["runs"]["steps"] if step.get("id") == "check")
    programs = commands(tmp_path / "programs", ROOT / "src")
    for fail in ("true", "false"):
        written = tmp_path / f"output-{fail}"
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", check["run"]],
            cwd=tmp_path,
            env=os.environ
            | {"PATH": f"{programs}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(written)}
            | {"VERDICT": "at", "FAIL": fail},
            check=False,
        )
        assert written.read_text() == f"outcome={outcome}\nexit-code={code}\n"
        assert done.returncode == (code if fail == "true" else 0)


@pytest.mark.parametrize(
    ("fails", "remote", "ran", "told"),
    [
        ("", "s3", 0, True),
        ("push", "s3", 1, False),
        ("push", "", 0, True),
        ("repro", "s3", 1, False),
        ("pull", "s3", 0, True),
        ("packageless pull", "s3", 1, False),
    ],
)
def test_the_action_tells_no_verdict_of_a_run_that_failed(
    fails: str, remote: str, ran: int, told: bool, tmp_path: Path
) -> None:
    """It may have judged before: what could not be kept cannot be promoted, so no check is green by it."""
    programs = tmp_path / "programs"
    programs.mkdir()
    said = "s3 is supported, but requires 'dvc-s3' to be installed" if " " in fails else "no"
    fault = fails.removeprefix("packageless ") or "nothing"
    dvc = f'case "$1" in\nremote) echo "{remote}" ;;\n{fault}) echo "{said}" >&2; exit 1 ;;\nesac\n'
    for name, text in {"dvc": dvc, "reprune": 'echo "$@" > "$CALLED"\n'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}")
        (programs / name).chmod(0o755)
    (tmp_path / "at").mkdir()
    steps = {step["name"]: step["run"] for step in load(ACTION)["runs"]["steps"]}
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "RUNNER_TEMP": str(tmp_path)}
    env |= {"CALLED": str(tmp_path / "called"), "VERDICT": "at", "RUN": "dvc"}

    def run(name: str, **more: str) -> int:
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", steps[name]]
        return subprocess.run(
            words, cwd=tmp_path, env=os.environ | env | more, check=False
        ).returncode

    found = run("Run the pipeline")
    assert found == ran
    outcome = "failure" if found else "success"
    assert run("Tell the verdict", RAN=outcome, CHECK="", REGISTRY="true") == 0
    words = (tmp_path / "called").read_text().split()
    assert (tmp_path / words[words.index("--verdict") + 1]).is_dir() == told


def test_init_writes_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a repository that is set up only they are written; again they are there; changed ones are kept."""
    monkeypatch.chdir(tmp_path)
    params = "name: m\ntask: task.m:T\nci: {runner: [self-hosted, box-1]}\n"
    (tmp_path / "params.yaml").write_text(params)
    assert main(["init", "--ci", "github", "--branch", "trunk"]) == 0
    written = sorted(path.name for path in (tmp_path / ".github" / "workflows").iterdir())
    assert [name.removeprefix("reprune-") for name in written] == [
        "fork.yml", "judge.yml", "promote.yml", "update.yml",
    ]  # fmt: skip
    judge = tmp_path / ".github" / "workflows" / "reprune-judge.yml"
    assert '["self-hosted", "box-1"]' in judge.read_text()
    assert '["trunk"]' in (judge.parent / "reprune-promote.yml").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".github", "params.yaml"]
    assert write_ci(tmp_path, "github", "trunk") == []
    judge.write_text(judge.read_text() + "# mine\n")
    capsys.readouterr()
    assert main(["init", "--ci", "github", "--branch", "trunk"]) == 2
    assert "reprune-judge.yml" in capsys.readouterr().err
    assert judge.read_text().endswith("# mine\n")


@pytest.mark.parametrize("kind", ["github", "gitlab"])
@pytest.mark.parametrize("new", [True, False])
def test_below_the_root_of_a_repository_nothing_is_written(
    kind: str,
    new: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No forge reads workflows there; the folder is named as somebody has to write it."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    project = tmp_path / "models" / "digits"
    if not new:
        project.mkdir(parents=True)
        (project / "params.yaml").write_text("name: m\ntask: task.m:T\n")
    assert main(["init", "models/digits", "--ci", kind, "--no-train"]) == 2
    said = capsys.readouterr().err
    assert "is the folder models/digits of the git repository" in said
    assert {"github": "`working-directory: models/digits`", "gitlab": "`cd models/digits`"}[
        kind
    ] in said
    assert {path.name for path in tmp_path.iterdir()} == ({".git"} if new else {".git", "models"})
    assert [path.name for path in project.glob("*")] == ([] if new else ["params.yaml"])
    if not new:
        # The same folder as a repository of its own.
        subprocess.run(["git", "init", "-q"], cwd=project, check=True)
        assert main(["init", "models/digits", "--ci", kind]) == 0


@pytest.mark.parametrize("branch", ["-x", "a b", 'm"]', "${{ x }}", "a\nb"])
def test_a_branch_is_a_word(branch: str, tmp_path: Path) -> None:
    """What could end the line of a workflow is refused, and nothing is written."""
    (tmp_path / "params.yaml").write_text("name: m\ntask: task.m:T\n")
    with pytest.raises(InputError, match="branch"):
        write_ci(tmp_path, "github", branch)
    assert not (tmp_path / ".github").exists()


@pytest.mark.parametrize("label", ["", "a b", "x'", "${{ x }}", "a', 'b"])
def test_a_label_is_a_word(label: str, tmp_path: Path) -> None:
    """So is what could end the expression that the runner's labels stand in."""
    text = f"name: m\ntask: task.m:T\nci: {{runner: [{json.dumps(label)}]}}\n"
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(InputError):
        write_ci(tmp_path, "github", "main")
