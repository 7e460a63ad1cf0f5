"""Only one latency measurement runs on a host, and a dead holder holds nothing."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reprune.core.errors import Busy
from reprune.measure.hostlock import HOST_LOCK, host_lock

HOLD = (
    "import sys, time, pathlib\n"
    "from reprune.measure.hostlock import host_lock\n"
    "with host_lock(path=pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(float(sys.argv[2]))\n"
)


def hold(path: Path, seconds: float) -> subprocess.Popen[bytes]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


@pytest.mark.slow
def test_a_second_measurement_waits_and_says_so(tmp_path: Path) -> None:
    """It gets its turn when the first one has ended, not before."""
    path = tmp_path / "lock"
    said: list[str] = []
    with hold(path, 0.6) as holder, host_lock(said.append, path=path):
        assert holder.wait() == 0
    assert len(said) == 1
    assert "waiting" in said[0]


def test_waiting_has_an_end(tmp_path: Path) -> None:
    """After the limit it is Busy, naming the file."""
    path = tmp_path / "lock"
    with hold(path, 30) as holder:
        with (
            pytest.raises(Busy, match="held this host") as caught,
            host_lock(lambda _: None, path=path, wait_seconds=0.3),
        ):
            pass
        holder.kill()
    assert caught.value.where == str(path)


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    """SIGKILL is enough: the kernel gives the lock back."""
    path = tmp_path / "lock"
    with hold(path, 30) as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        said: list[str] = []
        with host_lock(said.append, path=path):
            assert said == []


def test_the_file_can_be_locked_by_any_user_and_is_nobodys_link(tmp_path: Path) -> None:
    """Readable for all whatever the umask; a symbolic link in its place is refused."""
    path = tmp_path / "lock"
    before = os.umask(0o077)
    try:
        with host_lock(path=path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(before)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(Busy, match="cannot be opened"), host_lock(path=link):
        pass


def test_the_lock_is_the_same_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither TMPDIR nor the repository has a say in where it lies."""
    code = "from reprune.measure.hostlock import HOST_LOCK; print(HOST_LOCK)"
    monkeypatch.setenv("TMPDIR", str(Path.cwd()))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == str(HOST_LOCK)
