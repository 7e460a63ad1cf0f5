"""`reprune init`: a repository in which `reprune update && dvc repro` works at once, on the example."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

import reprune
from reprune.core import store
from reprune.core.errors import InputError, MissingExtra, RepruneError
from reprune.core.params import PARAMS_FILE
from reprune.core.store import files
from reprune.doors.ci import KINDS, write_ci
from reprune.doors.output import InitOutput
from reprune.doors.root import enter

TEMPLATE = Path(reprune.__file__).parent / "template"
IGNORED = (".reprune/",)
GITIGNORE = ".gitignore"


def define_init(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """`reprune init [DIR] [--ci github|gitlab]`: writes the files, sets up DVC, trains and registers the
    example's model; with --ci the workflows too, and in a repository that is set up those alone.
    """
    parser.description = (
        "Writes task/, train.py, params.yaml, policy.yaml, dvc.yaml, Containerfile and the lines for "
        ".gitignore, sets up DVC where it is not, makes a local signing key, then trains the example's "
        "dense model and registers it as the first version. With --ci it writes the workflows that update, "
        "judge and promote; where params.yaml is there already, only them. Never overwrites a file."
    )
    parser.add_argument("directory", nargs="?", default=".", metavar="DIR", type=Path)
    parser.add_argument(
        "--no-train", action="store_true", help="write the files only; register a model yourself"
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
        there = parsed.ci is not None and (parsed.directory / PARAMS_FILE).exists()
        written, version = (
            ([], None) if there else init(parsed.directory, train=not parsed.no_train)
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
            print(f"commit these files, then:\n  {follow}")
        return 0

    return execute


def init(root: Path, *, train: bool) -> tuple[list[str], str | None]:
    """Writes the template into `root`; returns what was written and the dense version, if one was trained.

    Raises InputError, having written nothing, if a file of the template is already there.
    """
    sources = {path.relative_to(TEMPLATE).as_posix(): path for path in files(TEMPLATE)}
    there = sorted(name for name in sources if (root / name).exists())
    if there:
        raise InputError(
            f"these files are already there and are never overwritten: {', '.join(there)}",
            where=str(root),
            fix="move them away, or run `reprune init` in another folder",
        )
    for name, source in sources.items():
        store.write_bytes(root / name, source.read_bytes())
    written = [*sources]
    if _ignore(root):
        written.append(GITIGNORE)
    if _dvc_init(root):
        written.append(".dvc/")
    from reprune.steps.promote import make_promoter

    make_promoter(root)
    written.append(".reprune/promoter/ (a signing key for this machine; never committed)")
    return written, _train(root) if train else None


def _ignore(root: Path) -> bool:
    path = root / GITIGNORE
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    missing = [line for line in IGNORED if line not in text.splitlines()]
    if missing:
        separator = "" if not text or text.endswith("\n") else "\n"
        store.write_bytes(path, (text + separator + "\n".join(missing) + "\n").encode())
    return bool(missing)


def _dvc_init(root: Path) -> bool:
    """Sets up DVC in `root` if it is not; below a git root as a sub-folder, without git on its own."""
    if (root / ".dvc").exists():
        return False
    top = subprocess.run(
        ["git", "rev-parse", "--show-toplevel"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    options = ["--no-scm"]
    if top.returncode == 0:
        options = [] if Path(top.stdout.strip()).resolve() == root.resolve() else ["--subdir"]
    _call([sys.executable, "-m", "dvc", "init", "-q", *options], root, "dvc init", extra="dvc")
    settings = {"core.analytics": "false", "core.check_update": "false", "core.autostage": "true"}
    if top.returncode != 0:
        del settings["core.autostage"]
    for key, value in settings.items():
        _call(
            [sys.executable, "-m", "dvc", "config", "-q", key, value],
            root,
            "dvc config",
            extra="dvc",
        )
    return True


def _train(root: Path) -> str:
    _call([sys.executable, "train.py"], root, "train.py", extra="local", show=True)
    from reprune.core.params import PARAMS_FILE, read_params
    from reprune.registry.open import open_registry

    params = read_params(root / PARAMS_FILE)
    return open_registry(params.registry, root).versions(params.name)[-1].version


def _call(words: list[str], root: Path, name: str, *, extra: str, show: bool = False) -> None:
    result = subprocess.run(words, cwd=root, capture_output=not show, text=True, check=False)
    if result.returncode == 0:
        return
    detail = "" if show else result.stderr.strip()
    if "No module named" in detail:
        raise MissingExtra(
            f"{name} needs a package: {detail}", fix=f"pip install 'reprune[{extra}]'"
        )
    raise RepruneError(f"{name} failed. {detail}".strip(), where=str(root))
