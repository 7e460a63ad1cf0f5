"""`.ci/docker.sh` ends the dockerd that it started, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def stop(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Stops the dockerd of the folder, whose file names this process."""
    (folder / "dockerd.pid").write_text(str(process.pid))
    with subprocess.Popen([ROOT / ".ci" / "docker.sh", "stop", folder]) as stopping:
        # What has ended stays there until its parent, which is this test, has heard of it.
        while stopping.poll() is None:
            process.poll()
    assert stopping.returncode == 0


@pytest.mark.parametrize(("name", "ended"), [("dockerd", True), ("sleep", False)])
def test_a_stale_file_ends_nobody_elses_process(tmp_path: Path, name: str, ended: bool) -> None:
    sleep = shutil.which("sleep")
    assert sleep
    shutil.copy(sleep, tmp_path / name)
    with subprocess.Popen([tmp_path / name, "60"]) as process:
        stop(tmp_path, process)
        assert (process.poll() is not None) == ended
        process.kill()


def test_a_file_that_names_no_process_is_fine(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    stop(tmp_path, process)
