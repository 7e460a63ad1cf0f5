"""Memory that stays with a process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Takes and frees 64 MB, each page written to; prints how many pages the system had to give for the last five.
CHILD = """
import resource
from reprune.core.memory import keep_freed

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if {keep}:
    keep_freed()
for _ in range(2):
    bytearray(b"1") * (64 << 20)
before = faults()
for _ in range(5):
    bytearray(b"1") * (64 << 20)
print(faults() - before)
"""


def pages(*, keep: bool, **environment: str) -> int:
    free = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(keep=keep)],
        env=free | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_what_was_freed_is_used_again() -> None:
    """Without a page from the system, where each block was all new pages before."""
    assert platform.libc_ver()[0] == "glibc", "keep_freed does nothing here: test it on glibc"
    assert pages(keep=False) > 1000 * max(pages(keep=True), 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("MALLOC_MMAP_MAX_", "65536"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072"),
    ],
)
def test_the_environment_is_obeyed(name: str, value: str) -> None:
    assert pages(keep=True, **{name: value}) > 10_000


@pytest.mark.parametrize("why", [OSError, TypeError, AttributeError])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, why: type) -> None:
    from reprune.core import memory

    def absent(_: None) -> None:
        raise why("no such thing here")

    monkeypatch.setattr(memory.ctypes, "CDLL", absent)
    memory.keep_freed()
