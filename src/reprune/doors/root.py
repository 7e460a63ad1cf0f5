"""`-C DIR`: the folder that a command works in."""

from __future__ import annotations

import os

from reprune.core.errors import InputError


def enter(root: str) -> None:
    """Afterwards this process works in `root`. Raises InputError where that is no folder for it."""
    try:
        os.chdir(root)
    except OSError as error:
        raise InputError(
            f"cannot be worked in: {error.strerror}",
            where=f"-C {root}",
            fix="name a folder that is there and that you may enter",
        ) from error
