"""A device that is not the runner: the same interpreter, another machine id, work folder, PATH and cwd.

It is reached as a real one is: by a command that starts `reprune device-run -` at its other end.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"


def local_device(
    folder: Path, *, identity: str = "device", before: str = "", after: str = ""
) -> str:
    """The `run` of a target whose device lives in `folder`. `before` and `after` are lines of shell
    that its door runs around the work (a banner, a wrong clock, a broken line).
    """
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    door = folder / "door"
    keep = {name: os.environ[name] for name in ("PYTHONPATH", "PROBE_LOG") if name in os.environ}
    paths = os.pathsep.join(filter(None, [str(SRC), keep.pop("PYTHONPATH", "")]))
    words = {
        "PYTHONPATH": paths,
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "REPRUNE_MACHINE_ID": identity,
        "REPRUNE_WORK": str(folder / "work"),
        **keep,
    }
    environment = " ".join(f"{name}={shlex.quote(value)}" for name, value in words.items())
    work = f'env -i {environment} {shlex.quote(sys.executable)} -P -m reprune.doors.cli "$@"'
    door.write_text(
        f"#!/bin/sh\ncd {shlex.quote(str(home))}\n{before}\n{work}\ncode=$?\n{after}\nexit $code\n"
    )
    door.chmod(door.stat().st_mode | stat.S_IXUSR)
    return f"{shlex.quote(str(door))} {{args}}"
