"""Whatever is left after a crash: what a reader sees is whole, and what was acknowledged is there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from reprune.core import durable
from tests.core.crash_scenarios import SCENARIOS, WRONG, run, written_wrongly
from tests.core.crash_states import FILES, NOTHING, counts_of, counts_of_wrong
from tests.core.injecting import inject


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_crash_shows_what_is_wrong_or_loses_what_was_acknowledged(name: str) -> None:
    """All states of the write path, each read by the reader that decides."""
    found = counts_of(name)
    assert found.states >= 10
    assert found.distinct >= 2
    assert (found.wrong, found.lost) == (0, 0), found.examples


@pytest.mark.parametrize("how", WRONG)
def test_a_writer_that_is_wrong_is_found_out(how: str) -> None:
    """In place, renamed without fsync, renamed in a folder that was not synced."""
    found = counts_of_wrong(how)
    assert found.wrong + found.lost > 0
    if how == "fsync of the file and not of its folder":
        assert (found.wrong, found.lost > 0) == (0, True)
    else:
        assert found.wrong > 0


QUICK = ("a registry, versions and champions", "the ledger of attempts", "overrides", "a key")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_write_that_is_killed_or_refused_leaves_all_or_nothing(name: str) -> None:
    """At each write: SIGKILL, EIO, ENOSPC. The error is ours, and the next run succeeds."""
    found = inject(name)
    assert found.pop("injected") >= 12
    assert found == {"partial": 0, "untyped": 0, "stuck": 0}


@pytest.mark.deep
@pytest.mark.parametrize("name", [each for each in SCENARIOS if each not in QUICK])
def test_every_write_of_everything_that_is_killed_or_refused(name: str) -> None:
    """As above, for all that is written."""
    found = inject(name)
    assert found.pop("injected") >= 12
    assert found == {"partial": 0, "untyped": 0, "stuck": 0}


@pytest.mark.slow
def test_an_artefact_on_a_disk_that_fails_is_old_or_new() -> None:
    """EIO at each write of one that takes another's place."""
    found = inject("an artefact in the place of another", ("EIO",))
    assert found.pop("injected") >= 20
    assert found == {"partial": 0, "untyped": 0, "stuck": 0}


def test_what_killed_writers_left_is_swept_after_a_day(tmp_path: Path) -> None:
    """A temporary of today may be another process's; one of yesterday is nobody's."""
    for age_s, name in ((0.0, "new"), (2 * durable.STALE_S, "old")):
        left = tmp_path / f".lock.{name}.tmp"
        left.write_bytes(b"half")
        then = time.time() - age_s
        os.utime(left, (then, then))
    durable.write_file(tmp_path / "lock", b"whole")
    assert sorted(os.listdir(tmp_path)) == [".lock.new.tmp", "lock"]


@pytest.mark.slow
def test_the_registry_is_not_saved_by_luck(tmp_path: Path) -> None:
    """A wrong writer of its small files loses champions too."""
    with written_wrongly("renamed without fsync"):
        found = run(SCENARIOS["a registry, versions and champions"], tmp_path)
    assert found.wrong + found.lost > 0
    assert set(FILES) <= set(SCENARIOS)
    assert NOTHING + found == found
