"""One call at a time moves a model's aliases: the locks that promote, rollback, adopt and anchor take.

One lock lies in the work folder, and counts for whoever shares that, on whatever machine. The other lies in
a folder of this user's alone below the system's temporary one, so that two checkouts on one machine see
each other. Another user, and another container, has another such folder.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from reprune.core import params
from reprune.core.http import is_address
from reprune.core.step import exclusive


@contextmanager
def holding(
    root: Path, given: params.Params, *, what: str, say: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Nobody else who asks for it here moves an alias of this model meanwhile. Raises Busy if one does.

    Where this user has no folder to share, only the work folder's lock is held, and `say` hears why.
    """
    registry, folder = given.registry, shared_folder()
    names = f"{registry.workspace}|{given.name}"
    shared = (
        nullcontext()
        if folder is None
        else exclusive(f"promote:{_located(registry.uri, root)}|{names}", what=what, folder=folder)
    )
    if folder is None and say:
        say(
            "warning: calls from other working folders are not kept out: no temporary folder is ours alone"
        )
    with exclusive(f"promote:{registry.uri}|{names}", what=what), shared:
        yield


def shared_folder() -> Path | None:
    """A folder that is the same for all working folders of this user, and that nobody else may write."""
    folder = Path(tempfile.gettempdir()) / f"reprune-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        # Anybody may make something of this name there first: a link, or a folder of their own.
        found = folder.lstat()
    except OSError:
        return None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if ours and not found.st_mode & 0o022 else None


def _located(uri: str, root: Path) -> str:
    """The registry, told apart from another checkout's: what lies on this machine starts at `root`."""
    if is_address(uri):
        return uri
    return str((root / uri.removeprefix("sqlite:///").removeprefix("file://")).resolve())
