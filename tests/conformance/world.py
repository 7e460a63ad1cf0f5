"""The worlds that a case begins in, and how a case is run and looked at from outside.

A world is a repository with a `files` registry, a promoter's key and a judged generation, made once by the
real gate and copied for each case. The command is either this checkout's `main()` in this process, or any
executable (`REPRUNE_CONFORMANCE_CLI`, or `python -m tests.conformance --cli PATH`) in one of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprune.core.lock import ChampionRef
from reprune.doors.cli import main
from reprune.steps.promote import promote
from reprune.steps.rollback import rollback
from tests.chain import POLICY, Story
from tests.registry.promotion import copy_repository, evidence, next_generation, ready

CLI = os.environ.get("REPRUNE_CONFORMANCE_CLI", "")
NAME = "digits-compressed"
HOUR_S = 3600.0
DAY_S = 86_400.0
PROMOTE = ("promote",)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table. `code` and `typed` are what the command must end with: the exit code, and
    the reason of a refusal (or its error code), or the outcome. `attack` names TUF's class, if it is of one.
    """

    name: str
    world: str
    change: Callable[[Path], object]
    typed: str
    code: int = 2
    words: tuple[str, ...] = PROMOTE
    attack: str = ""
    # Set for the command alone; "{root}" in a value stands for the repository.
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came of a case: `typed` as in Case; `served` is what the champion's alias names, byte by byte."""

    code: int
    typed: str
    text: str
    before: str
    served: str


def nothing(_: Path) -> None:
    """Changes nothing."""


# --- worlds --------------------------------------------------------------------------------------


def _fresh(root: Path, **story: Any) -> None:
    root.mkdir(parents=True, exist_ok=True)
    ready(root, Story(**{"started_s": time.time() - HOUR_S} | story))


def _next(root: Path, **story: Any) -> None:
    next_generation(root, **{"started_s": time.time() - HOUR_S} | story)


def _promote(root: Path) -> None:
    promote(root, evidence(root), now=time.time(), say=lambda _: None)


def _promoted(root: Path) -> None:
    _fresh(root)
    _promote(root)


def _second(root: Path) -> None:
    _promoted(root)
    _next(root, dense_version="2")


def _two(root: Path) -> None:
    _second(root)
    _promote(root)


def _third(root: Path) -> None:
    _two(root)
    _next(root, dense_version="3")


def _rolled(root: Path) -> None:
    """Two were promoted, a person returned to the first; the second one's verdict still lies there."""
    _two(root)
    rollback(root, to="1", by="Ada", reason="labels", now=time.time(), say=lambda _: None)


def _tried(root: Path) -> None:
    """One is champion, one was blocked since and is on record, and the next of that version is ready."""
    _promoted(root)
    _next(root, dense_version="2", candidate_wrong=70)
    _promote(root)
    _next(root, dense_version="2", seed=3, attempts_before=1, attempt=2, look=2)


def _torn(root: Path) -> None:
    """One is champion, two were blocked since and are on record, and a fourth is ready."""
    _promoted(root)
    for dense in ("2", "3"):
        _next(root, dense_version=dense, candidate_wrong=70)
        _promote(root)
    _next(root, dense_version="4")


_GONE = ChampionRef(version="1", bundle="sha256:" + "1" * 64, receipt="sha256:" + "2" * 64)
WORLDS: dict[str, Callable[[Path], None]] = {
    "first": _fresh,
    "other": lambda root: _fresh(root, seed=7, dense_version="8", candidate_wrong=7),
    "promoted": _promoted,
    "second": _second,
    "two": _two,
    "third": _third,
    "rolled": _rolled,
    "tried": _tried,
    "tried-further": _torn,
    "blocked": lambda root: _fresh(root, candidate_wrong=70),
    "slow": lambda root: _fresh(root, ratio=1.2),
    "floor": lambda root: _fresh(root, candidate_wrong=120, dense_wrong=119),
    "undecided": lambda root: _fresh(root, units=5),
    "stale": lambda root: _fresh(root, started_s=time.time() - 15 * DAY_S),
    "ancient": lambda root: _fresh(root, started_s=1_000_000.0),
    "aged": lambda root: _fresh(root, started_s=time.time() - 13 * DAY_S),
    "future": lambda root: _fresh(root, started_s=time.time() + HOUR_S),
    "far": lambda root: _fresh(root, started_s=4e11),
    "early": lambda root: _fresh(root, started_s=time.time() + 60.0),
    "invented": lambda root: _fresh(root, champion=_GONE),
    "mixed": lambda root: _fresh(root, engines_machine="box-b"),
    "failed-data": lambda root: _fresh(root, passed=False),
    "dry": lambda root: _fresh(root, policy=POLICY + "mode: dry-run\n"),
    "short": lambda root: _fresh(root, policy=POLICY + "valid_for_days: 0.01\n"),
    "long": lambda root: _fresh(
        root, policy=POLICY + "valid_for_days: 365\n", started_s=time.time() - 20 * DAY_S
    ),
    "dry-blocked": lambda root: _fresh(root, policy=POLICY + "mode: dry-run\n", candidate_wrong=70),
}


class Worlds:
    """Each world made once below `folder`, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def template(self, name: str) -> Path:
        root = self.folder / name
        if not root.exists():
            draft = self.folder / f"{name}.draft"
            with _work(self.folder / "work"):
                WORLDS[name](draft)
            draft.rename(root)
        return root

    def copy(self, name: str, root: Path) -> Path:
        """A copy of the world at `root`, with the world "other" beside it for cases that mix the two."""
        found = copy_repository(self.template(name), root)
        (root / ".other").symlink_to(self.template("other"))
        return found


class _work:  # noqa: N801 - a context manager named for what it does
    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, os.environ.get("REPRUNE_WORK")

    def __enter__(self) -> None:
        os.environ["REPRUNE_WORK"] = str(self.folder)

    def __exit__(self, *_: object) -> None:
        os.environ.pop("REPRUNE_WORK")
        if self.before is not None:
            os.environ["REPRUNE_WORK"] = self.before


# --- running -------------------------------------------------------------------------------------


def play(case: Case, worlds: Worlds, root: Path, *, cli: str = CLI) -> Seen:
    """The case, in a copy of its world at `root`, which is removed again."""
    try:
        worlds.copy(case.world, root)
        case.change(root)
        before = served(root)
        env = {key: value.replace("{root}", str(root)) for key, value in case.env.items()}
        run = outside if cli else inside
        code, text = run(case.words, root, env | {"REPRUNE_WORK": str(root / ".work")}, cli)
        return Seen(code=code, typed=typed(text), text=text, before=before, served=served(root))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def wrong(case: Case, seen: Seen, *, moves: bool) -> str:
    """What is wrong with what came of a case, in words; empty if it is as the table says."""
    if (seen.code, seen.typed) != (case.code, case.typed):
        return (
            f"{case.name}: ended {seen.code} '{seen.typed}', not {case.code} '{case.typed}': "
            f"{seen.text[:300]}"
        )
    if not moves and seen.served != seen.before:
        return f"{case.name}: what the champion serves has changed"
    return ""


def inside(words: Sequence[str], root: Path, env: dict[str, str], _: str) -> tuple[int, str]:
    """The command in this process; exit code and standard output."""
    kept, here, text = dict(os.environ), Path.cwd(), io.StringIO()
    os.environ.update(env)
    try:
        with redirect_stdout(text), redirect_stderr(io.StringIO()):
            code = main([words[0], "-C", str(root), "--json", *words[1:]])
        return code, text.getvalue()
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(kept)


def outside(words: Sequence[str], root: Path, env: dict[str, str], cli: str) -> tuple[int, str]:
    """The command as a process of its own, of whatever build `cli` names."""
    done = subprocess.run(
        [*shlex.split(cli), words[0], "-C", str(root), "--json", *words[1:]],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def typed(text: str) -> str:
    """The typed cause in what a command printed: reason, error code, first failed check, or outcome."""
    try:
        said = json.loads(text)
    except ValueError:
        return "not JSON"
    failed = [each["name"] for each in said.get("checks", ()) if each["held"] is False]
    judged = said.get("judgement") or {}
    found = next(iter(failed), "")
    if "code" in said:
        found = said["reason"] or said["code"]
    return str(found or said.get("outcome") or judged.get("outcome") or "done")


def served(root: Path) -> str:
    """A digest of all that the champion's alias names, read without any code of the build under test."""
    model = root / "registry" / NAME
    try:
        version = json.loads((model / "aliases.json").read_bytes())["champion"]
    except (OSError, ValueError, KeyError):
        return "none"
    found = hashlib.sha256(version.encode())
    for path in sorted((model / version / "files").rglob("*")):
        if path.is_file() and path.stat().st_size < 2**26:
            found.update(path.relative_to(model).as_posix().encode())
            found.update(path.read_bytes())
    return f"{version}:{found.hexdigest()}"
