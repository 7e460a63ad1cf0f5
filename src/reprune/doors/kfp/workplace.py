"""A repository made of three texts: in a pipeline the lock, params and policy arrive as parameters.

Text, because a dictionary that crosses Kubeflow Pipelines comes back with 15 turned into 15.0, and
its digest is then another one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reprune.core.errors import InputError, RepruneError
from reprune.core.lock import LOCK_FILE, read_lock
from reprune.core.params import PARAMS_FILE, read_params
from reprune.core.policy import POLICY_FILE, read_policy
from reprune.core.step import Documents
from reprune.core.store import disk_errors, write_bytes
from reprune.measure.attempts import ATTEMPTS_FILE

PROJECT_VARIABLE = "REPRUNE_PROJECT"


def project() -> Path:
    """The folder that holds the user's `task/`: $REPRUNE_PROJECT, else the working directory."""
    return Path(os.environ.get(PROJECT_VARIABLE) or ".").resolve()


@contextmanager
def workplace(lock: str, params: str, policy: str) -> Iterator[Documents]:
    """A folder that looks like the project with these three texts in it; gone afterwards.

    What else lies in the project is linked, so nothing of it is written, except the count of looks,
    which is copied: a container's project is read-only. Raises DocumentError for a text that is none
    of ours, StaleLock where the lock does not describe the texts and the project's task.
    """
    from reprune.steps.update import check_lock

    texts = {LOCK_FILE: lock, PARAMS_FILE: params, POLICY_FILE: policy}
    for name, text in texts.items():
        if not text.strip():
            raise InputError(
                f"the text of {name} is empty",
                where=f"parameter '{name.split('.')[-2]}'",
                fix="pass the whole text of the file: `reprune submit` does",
            )
    root = Path(tempfile.mkdtemp(prefix="reprune-"))
    try:
        with disk_errors(root):
            for name, text in texts.items():
                write_bytes(root / name, text.encode())
            _link(project(), root)
        documents = Documents(
            root=root,
            params=read_params(root / PARAMS_FILE),
            policy=read_policy(root / POLICY_FILE),
            lock=read_lock(root / LOCK_FILE),
        )
        check_lock(documents)
        yield documents
    except RepruneError as error:
        # Gone when it is read; the file's name says which text it was.
        error.where = error.where.replace(f"{root}{os.sep}", "")
        raise
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _link(source: Path, root: Path) -> None:
    for each in source.iterdir():
        if (root / each.name).exists():
            continue
        if each.name == ATTEMPTS_FILE:
            shutil.copyfile(each, root / each.name)
        else:
            (root / each.name).symlink_to(each)
