"""`reprune init --ci`: the workflows that update, judge and promote, for the CI of a repository."""

from __future__ import annotations

import json
import re
from pathlib import Path

import reprune
from reprune.core import store
from reprune.core.errors import InputError
from reprune.core.params import PARAMS_FILE, CiParams, read_params
from reprune.core.store import files
from reprune.doors import git

TEMPLATES = Path(reprune.__file__).parent / "template-ci"
# What a person can do by hand for a project that is one folder of a repository.
BY_HAND = {
    "github": "write a workflow at its root whose step `uses:` the action with `working-directory: {prefix}`",
    "gitlab": "write jobs at its root whose scripts begin with `cd {prefix}`",
}
PLACES = {"github": ".github/workflows", "gitlab": ".gitlab"}
KINDS = tuple(PLACES)
# A hosted machine of GitHub's. GitLab's own take the jobs without a tag, and no machine has this one.
HOSTED = CiParams().runner
MAIN = "main"
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}")


def write_ci(root: Path, kind: str, branch: str = "") -> list[str]:
    """Writes the workflows for `kind` into `root`; returns those that were not there before.

    The runner's labels and the task's folder are those of params.yaml, the Reprune that they install is this
    one, and what promotes runs on `branch` (default: the remote's own, else main). Raises InputError, having
    written nothing, where one of the files is there and says something else, or where no forge would read it.
    """
    check_place(root, kind)
    named = branch or _default_branch(root)
    if not _BRANCH.fullmatch(named):
        raise InputError(f"'{named}' is no name of a branch that a workflow can hold")
    params = read_params(root / PARAMS_FILE)
    runner = params.ci.runner if params.ci else HOSTED
    wanted = rendered(kind, runner, named, params.task.partition(":")[0].partition(".")[0])
    other = sorted(
        name
        for name, text in wanted.items()
        if (root / name).exists() and not same(root / name, text.encode())
    )
    if other:
        raise InputError(
            f"these files are already there and are never overwritten: {', '.join(other)}",
            where=str(root),
            fix="move them away, run it again, and put back what you had changed",
        )
    new = [name for name in wanted if not (root / name).exists()]
    for name in new:
        store.write_bytes(root / name, wanted[name].encode())
    return new


def check_place(root: Path, kind: str) -> None:
    """Raises InputError where `root` is, or would be, a folder below the root of a git repository."""
    place = root.resolve()
    with store.disk_errors(root):
        there = next(each for each in (place, *place.parents) if each.is_dir())
    top = git.answer(there, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() == place:
        return
    prefix = place.relative_to(Path(top).resolve()).as_posix()
    raise InputError(
        f"is the folder {prefix} of the git repository {top}, and a forge reads and runs workflows at its "
        "root alone",
        where=str(root),
        fix=f"make it a repository of its own, or {BY_HAND[kind].format(prefix=prefix)} (docs/ci.md)",
    )


def rendered(kind: str, runner: tuple[str, ...], branch: str, task: str = "task") -> dict[str, str]:
    """The workflows by path from the repository's root; `task` is the folder of the task's code."""
    folder = TEMPLATES / kind
    labels = () if kind == "gitlab" and runner == HOSTED else runner
    values = {
        "__VERSION__": reprune.__version__,
        "__RUNNER__": json.dumps(list(labels)),
        "__BRANCH__": json.dumps(branch),
        "__TASK__": task,
    }
    found = {}
    for path in files(folder):
        text = path.read_text(encoding="utf-8")
        for word, value in values.items():
            text = text.replace(word, value)
        found[f"{PLACES[kind]}/{path.relative_to(folder).as_posix()}"] = text
    return found


def same(path: Path, content: bytes) -> bool:
    """Whether `path` is a file that holds exactly this."""
    return path.is_file() and path.read_bytes() == content


def _default_branch(root: Path) -> str:
    found = git.answer(root, "symbolic-ref", "--short", "refs/remotes/origin/HEAD")
    return found.removeprefix("origin/") if found else MAIN
