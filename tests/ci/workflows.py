"""Workflows as GitHub reads them: their expressions, and a runner that carries out a job's steps here.

It knows what our workflows use of GitHub, and raises for anything else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CONTEXTS = ("github", "needs", "steps", "secrets", "inputs")
FUNCTIONS = ("fromJSON", "cancelled")
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_TOKEN = re.compile(r"'(?:[^']|'')*'|&&|\|\||==|!=|!|\(|\)|[A-Za-z_][\w-]*(?:\.[\w-]+)*|\s+")


def load(text: str) -> dict[str, Any]:
    """The workflow, `on` staying a word and every value a text."""
    value = yaml.load(text, Loader=yaml.BaseLoader)
    assert isinstance(value, dict)
    return value


def tokens(expression: str) -> list[str]:
    """The parts of an expression. Raises ValueError for what is none."""
    found, place = [], 0
    while place < len(expression):
        match = _TOKEN.match(expression, place)
        if match is None:
            raise ValueError(f"not understood: {expression[place:]!r}")
        place = match.end()
        if not match[0].isspace():
            found.append(match[0])
    return found


def evaluate(expression: str, context: dict[str, Any]) -> Any:
    """The value of an expression; what a context does not hold is None."""
    words = tokens(expression)
    found = _either(words, context)
    if words:
        raise ValueError(f"not understood: {words}")
    return found


def _either(words: list[str], context: dict[str, Any]) -> Any:
    left = _both(words, context)
    while words[:1] == ["||"]:
        words.pop(0)
        right = _both(words, context)
        left = left or right
    return left


def _both(words: list[str], context: dict[str, Any]) -> Any:
    left = _equal(words, context)
    while words[:1] == ["&&"]:
        words.pop(0)
        right = _equal(words, context)
        left = left and right
    return left


def _equal(words: list[str], context: dict[str, Any]) -> Any:
    left = _single(words, context)
    while words[:1] in (["=="], ["!="]):
        same = words.pop(0) == "=="
        left = (left == _single(words, context)) is same
    return left


def _single(words: list[str], context: dict[str, Any]) -> Any:
    word = words.pop(0)
    if word == "!":
        return not _single(words, context)
    if word == "(":
        inner = _either(words, context)
        assert words.pop(0) == ")"
        return inner
    if word.startswith("'"):
        return word[1:-1].replace("''", "'")
    if word in FUNCTIONS:
        assert words.pop(0) == "("
        given = [] if words[0] == ")" else [_either(words, context)]
        assert words.pop(0) == ")"
        return json.loads(given[0]) if word == "fromJSON" else context.get("cancelled", False)
    value: Any = context
    for part in word.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def filled(text: str, context: dict[str, Any]) -> str:
    """A text with its expressions replaced."""

    def one(match: re.Match[str]) -> str:
        value = evaluate(match[1], context)
        return "" if value is None else value if isinstance(value, str) else json.dumps(value)

    return EXPRESSION.sub(one, text)


@dataclass
class Job:
    """What a job came to: success, failure or skipped; its outputs; what its steps printed; and `site`, where
    what it installed from lists lies.
    """

    result: str
    outputs: dict[str, str] = field(default_factory=dict)
    log: str = ""
    site: Path = Path("nowhere")


@dataclass
class Runner:
    """Runs jobs in fresh folders below `root`, cloning from `remote`; artefacts go through `artifacts`.

    `commands` is a folder whose programs come first in the path: what a runner would have installed.
    """

    root: Path
    remote: Path
    commands: Path
    environment: dict[str, str]
    secrets: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def workflow(
        self, workflow: dict[str, Any], github: dict[str, Any], *, only: tuple[str, ...] = ()
    ) -> dict[str, Job]:
        """All jobs in their order, as far as `only` names them."""
        done: dict[str, Job] = {}
        for name, job in workflow["jobs"].items():
            if only and name not in only:
                continue
            needs = job.get("needs", [])
            needs = [needs] if isinstance(needs, str) else needs
            context = {
                "github": github,
                "secrets": self.secrets,
                "needs": {
                    each: {"result": done[each].result, "outputs": done[each].outputs}
                    for each in needs
                    if each in done
                },
            }
            condition = job.get("if", "")
            unmet = any(each["result"] != "success" for each in context["needs"].values())
            wanted = not unmet or "cancelled()" in condition
            if condition:
                wanted = wanted and bool(evaluate(_inner(condition), context))
            done[name] = self._job(job, context) if wanted else Job("skipped")
        return done

    def _job(self, job: dict[str, Any], context: dict[str, Any]) -> Job:
        self.count += 1
        place = self.root / f"job-{self.count}"
        (place / "work").mkdir(parents=True)
        (place / "temp").mkdir()
        variables = {k: filled(v, context) for k, v in job.get("env", {}).items()}
        found = Job("success", site=place / "temp" / "site")
        context = context | {"steps": {}}
        for step in job["steps"]:
            condition = step.get("if", "")
            wanted = found.result == "success" or "cancelled()" in condition
            if condition:
                wanted = wanted and bool(evaluate(_inner(condition), context))
            if not wanted:
                continue
            fine = self._step(step, place, variables, context, found)
            if not fine and step.get("continue-on-error") != "true":
                found.result = "failure"
        found.outputs = {k: filled(v, context) for k, v in job.get("outputs", {}).items()}
        return found

    def _step(
        self,
        step: dict[str, Any],
        place: Path,
        variables: dict[str, str],
        context: dict[str, Any],
        found: Job,
    ) -> bool:
        given = {k: filled(v, context) for k, v in step.get("with", {}).items()}
        if "uses" in step:
            return self._uses(step["uses"].partition("@")[0], given, place, context)
        own = {k: filled(v, context) for k, v in step.get("env", {}).items()}
        files = {n: place / f"{n}.{len(context['steps'])}" for n in ("output", "env", "summary")}
        for file in files.values():
            file.touch()
        event = place / "event.json"
        event.write_text(json.dumps(context["github"]["event"]))
        done = subprocess.run(
            # Where a step names no shell, GitHub does not ask for pipefail.
            ["bash", "-e", "-c", step["run"]],
            cwd=place / "work",
            env=self.environment
            | {
                "PATH": f"{self.commands}:{os.environ['PATH']}",
                "RUNNER_TEMP": str(place / "temp"),
                "GITHUB_ACTIONS": "true",
                "GITHUB_EVENT_PATH": str(event),
                "GITHUB_EVENT_NAME": context["github"]["event_name"],
                "GITHUB_REF_NAME": context["github"]["ref_name"],
                "GITHUB_SHA": context["github"]["sha"],
                "GITHUB_RUN_ID": str(context["github"]["run_id"]),
                "GITHUB_RUN_ATTEMPT": "1",
                "GITHUB_OUTPUT": str(files["output"]),
                "GITHUB_ENV": str(files["env"]),
                "GITHUB_STEP_SUMMARY": str(files["summary"]),
            }
            | variables
            | own,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        found.log += f"--- {step.get('name')} ({done.returncode})\n{done.stdout}{done.stderr}"
        variables |= _pairs(files["env"])
        if "id" in step:
            context["steps"][step["id"]] = {"outputs": _pairs(files["output"])}
        return done.returncode == 0

    def _uses(
        self, action: str, given: dict[str, str], place: Path, context: dict[str, Any]
    ) -> bool:
        work, kept = place / "work", self.root / "artifacts"
        if action == "actions/setup-python":
            return True
        if action == "actions/checkout":
            ref = given.get("ref") or context["github"]["sha"]
            subprocess.run(["git", "clone", "-q", str(self.remote), str(work)], check=True)
            branch = context["github"]["ref_name"]
            how = ["-B", branch, ref] if "ref" not in given else ["--detach", ref]
            subprocess.run(["git", "checkout", "-q", *how], cwd=work, check=True)
            return True
        if action == "actions/upload-artifact":
            shutil.rmtree(kept / given["name"], ignore_errors=True)
            for path in given["path"].split():
                _copy(work / path, kept / given["name"] / path)
            return (kept / given["name"]).exists()
        if action == "actions/download-artifact":
            if not (kept / given["name"]).exists():
                return False
            _copy(kept / given["name"], work / given.get("path", "."))
            return True
        raise ValueError(f"an action that this runner does not know: {action}")


def commands(folder: Path, source: Path) -> Path:
    """`reprune` and `dvc` as programs, and a `python` that installs what lists name (`-r`), from disk and for
    its job alone, and nothing else.
    """
    folder.mkdir()
    site = '"$RUNNER_TEMP/site"'
    python = f'PYTHONPATH="{source}":{site} exec "{sys.executable}"'
    install = f'exec "{sys.executable}" -m pip install -q --no-index --target {site} -r "$5"'
    texts = {
        "reprune": f'{python} -m reprune.doors.cli "$@"',
        "dvc": f'{python} -m dvc "$@"',
        "python": f'if [ "$1 $2 $4" = "-m pip -r" ]; then {install}; fi\n'
        f'if [ "$1 $2" = "-m pip" ]; then exit 0; fi\n{python} "$@"',
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def _inner(condition: str) -> str:
    match = EXPRESSION.fullmatch(condition.strip())
    return match[1] if match else condition


def _pairs(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
