"""What git says of a folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def installed() -> bool:
    return shutil.which("git") is not None


def answer(folder: Path, *words: str) -> str | None:
    """What git answers in `folder`; None where that is in no repository, git refuses, or there is no git."""
    if not installed():
        return None
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
