"""`reprune init`: a repository in which `reprune update && dvc repro` works at once, on the example."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec

import reprune
from reprune.core import store
from reprune.core.errors import (
    InputError,
    MissingExtra,
    RegistryUnreachable,
    RepruneError,
    VersionNotFound,
)
from reprune.core.params import PARAMS_FILE
from reprune.core.store import files
from reprune.doors import git
from reprune.doors.ci import KINDS, check_place, same, write_ci
from reprune.doors.output import InitOutput
from reprune.doors.root import enter

TEMPLATE = Path(reprune.__file__).parent / "template"
IGNORED = (".reprune/",)
GITIGNORE = ".gitignore"
SCRIPT = "train.py"
# What DVC is told; the last one is about git.
SETTINGS = (("analytics", "false"), ("check_update", "false"), ("autostage", "true"))


def define_init(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """`reprune init [DIR] [--ci github|gitlab]`: writes the files, sets up DVC, trains and registers the
    example's model; with --ci the workflows too, and in a repository that is set up those alone.
    """
    parser.description = (
        "Writes task/, train.py, params.yaml, policy.yaml, dvc.yaml, Containerfile and the lines for "
        ".gitignore, sets up DVC where it is not, makes a local signing key, then trains the example's "
        "dense model and registers it as the first version. With --no-train neither train.py nor a version. "
        "With --ci it writes the workflows that update, judge and promote; where params.yaml is there "
        "already, only them. Never overwrites a file; cut short and run again, it goes on."
    )
    parser.add_argument("directory", nargs="?", default=".", metavar="DIR", type=Path)
    parser.add_argument(
        "--no-train",
        action="store_true",
        help="write the files only, and no train.py; register a model yourself",
    )
    parser.add_argument(
        "--no-scm", action="store_true", help="set up DVC without git, as `dvc init --no-scm` does"
    )
    parser.add_argument("--ci", choices=KINDS, help="the workflows for this CI")
    parser.add_argument(
        "--branch",
        default="",
        metavar="NAME",
        help="what promotes runs on it (default: the remote's own, else main)",
    )

    def execute(parsed: argparse.Namespace) -> int:
        enter(parsed.root)
        if parsed.ci is not None:
            check_place(parsed.directory, parsed.ci)
        there = parsed.ci is not None and _set_up(parsed.directory, train=not parsed.no_train)
        written, version = (
            ([], None)
            if there
            else init(parsed.directory, train=not parsed.no_train, scm=not parsed.no_scm)
        )
        if parsed.ci is not None:
            written = [*written, *write_ci(parsed.directory, parsed.ci, parsed.branch)]
        follow = "git push" if there else "reprune update && dvc repro"
        if parsed.directory != Path():
            follow = f"cd {parsed.directory} && {follow}"
        if parsed.json:
            output = InitOutput(
                root=str(parsed.directory),
                written=tuple(written),
                dense_version=version,
                next=follow,
            )
            print(msgspec.json.encode(output).decode())
        else:
            said = (
                ["wrote:", *(f"  {name}" for name in written)]
                if written
                else ["all is there already"]
            )
            print("\n".join(said))
            if version:
                print(f"trained and registered the example's dense model as version {version}")
            first = "" if there or not parsed.no_train else ", register a version (docs/task.md)"
            print(f"commit these files{first}, then:\n  {follow}")
        return 0

    return execute


def init(root: Path, *, train: bool, scm: bool = True) -> tuple[list[str], str | None]:
    """Afterwards `root` holds the template, DVC, a signing key and, with `train`, a dense version. Without
    `train`, train.py is neither written nor looked at: it is the example's.

    Returns what was not there before, and the dense version if one was trained. What an earlier call left
    when it was cut short is kept. Raises InputError or MissingExtra, having written nothing, if a file of
    the template is there and says something else, or if what this needs is not installed.
    """
    sources = _sources(train=train)
    with store.disk_errors(root):
        other = _other(root, sources)
        if other:
            raise InputError(
                f"these files are already there and are never overwritten: {', '.join(other)}",
                where=str(root),
                fix=_way_out(other),
            )
        _look_for_needed(root, train=train, scm=scm)
    written = [name for name in sources if not (root / name).exists()]
    fresh = PARAMS_FILE in written
    for name in written:
        store.write_bytes(root / name, sources[name].read_bytes())
    if _ignore(root):
        written.append(GITIGNORE)
    if _dvc_init(root, scm=scm, fresh=fresh):
        written.append(".dvc/")
    from reprune.steps.promoter import CONFIG, FOLDER, make_promoter

    if not (root / FOLDER / CONFIG).exists():
        written.append(".reprune/promoter/ (a signing key for this machine; never committed)")
    make_promoter(root)
    return written, _train(root, fresh=fresh) if train else None


def _sources(*, train: bool) -> dict[str, Path]:
    """The files of the template by their paths; train.py only where it is to be run."""
    found = {path.relative_to(TEMPLATE).as_posix(): path for path in files(TEMPLATE)}
    return {name: path for name, path in found.items() if train or name != SCRIPT}


def _way_out(other: list[str]) -> str:
    """What to do about files that are somebody's own."""
    if other == [SCRIPT]:
        return f"run `reprune init --no-train`: {SCRIPT} is the example's, and yours stays as it is"
    return (
        f"{SCRIPT} and what is in task/ are only the example, Containerfile is for Kubernetes alone; "
        "params.yaml, policy.yaml and dvc.yaml are needed. Give them a folder of their own "
        "(`reprune init --no-train compress`), or merge yours with them by hand (docs/task.md)"
    )


def _other(root: Path, sources: dict[str, Path]) -> list[str]:
    """Which files of the template are there and say something else."""
    return sorted(
        name
        for name, source in sources.items()
        if os.path.lexists(root / name) and not same(root / name, source.read_bytes())
    )


def _set_up(root: Path, *, train: bool) -> bool:
    """Whether somebody works with params.yaml already, and no `init` was cut short before DVC was there."""
    with store.disk_errors(root):
        if not (root / PARAMS_FILE).exists():
            return False
        return (root / ".dvc").exists() or bool(_other(root, _sources(train=train)))


def _look_for_needed(root: Path, *, train: bool, scm: bool) -> None:
    """Raises MissingExtra or InputError for what is needed to go on and is not installed."""
    sets_up = not (root / ".dvc").exists()
    if sets_up and scm and not git.installed():
        raise InputError(
            "git is not installed",
            where="reprune init",
            fix="install git, or run `reprune init --no-scm`, which sets DVC up without it",
        )
    needed = (*(("dvc",) if sets_up else ()), *(("mlflow", "sklearn", "torch") if train else ()))
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"needs packages that are not installed: {', '.join(missing)}",
            where="reprune init",
            fix=f"pip install 'reprune[{'local' if train else 'dvc'}]'",
        )


def _ignore(root: Path) -> bool:
    path = root / GITIGNORE
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    missing = [line for line in IGNORED if line not in text.splitlines()]
    if missing:
        separator = "" if not text or text.endswith("\n") else "\n"
        store.write_bytes(path, (text + separator + "\n".join(missing) + "\n").encode())
    return bool(missing)


def _dvc_init(root: Path, *, scm: bool, fresh: bool) -> bool:
    """Sets up DVC in `root` if it is not; below a git root as a sub-folder, without git on its own.

    A `.dvc` that is there before the template (`fresh`) is somebody's own, and stays as it is. Of one that
    says less than ours and nothing else, it is taken that its settings were cut short.
    """
    top = git.answer(root, "rev-parse", "--show-toplevel") if scm else None
    new = not (root / ".dvc").exists()
    if fresh and not new:
        return False
    if new:
        options = ["--no-scm"]
        if top is not None:
            options = [] if Path(top).resolve() == root.resolve() else ["--subdir"]
        _dvc(root, "init", "-q", *options)
    config = root / ".dvc/config"
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    said = {line.strip() for line in text.splitlines()} - {"", "[core]", "no_scm = True"}
    settings = SETTINGS if top is not None else SETTINGS[:-1]
    ours = {f"{name} = {value}" for name, value in settings}
    unset = settings if said < ours else ()
    for name, value in unset:
        _dvc(root, "config", "-q", f"core.{name}", value)
    return new or bool(unset)


def _dvc(root: Path, *words: str) -> None:
    name = f"dvc {words[0]}"
    result = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 0:
        return
    detail = result.stderr.strip()
    if "No module named" in detail:
        raise MissingExtra(f"{name} needs a package: {detail}", fix="pip install 'reprune[dvc]'")
    raise RepruneError(f"{name} failed. {detail}".strip(), where=str(root))


def _train(root: Path, *, fresh: bool) -> str | None:
    """Trains and registers the example's model, unless that was done; returns the version if it was not."""
    from reprune.core.params import read_params
    from reprune.registry.open import open_registry

    params = read_params(root / PARAMS_FILE)
    if not fresh:
        # Neither is there before a first version.
        with contextlib.suppress(RegistryUnreachable, VersionNotFound):
            if open_registry(params.registry, root).versions(params.name):
                return None
    done = subprocess.run([sys.executable, SCRIPT], cwd=root, check=False)
    if done.returncode != 0:
        raise RepruneError(
            f"{SCRIPT} failed",
            where=str(root),
            fix="its own words are above; once what they name is mended, `reprune init` goes on from here",
        )
    return open_registry(params.registry, root).versions(params.name)[-1].version
