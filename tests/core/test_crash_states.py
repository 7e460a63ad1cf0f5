"""Whatever is left after a crash: what a reader sees is whole, and what was acknowledged is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.crash_scenarios import SCENARIOS, WRONG, run, written_wrongly
from tests.core.crash_states import FILES, NOTHING, counts_of, counts_of_wrong


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


def test_the_registry_is_not_saved_by_luck(tmp_path: Path) -> None:
    """A wrong writer of its small files loses champions too."""
    with written_wrongly("renamed without fsync"):
        found = run(SCENARIOS["a registry, versions and champions"], tmp_path)
    assert found.wrong + found.lost > 0
    assert set(FILES) <= set(SCENARIOS)
    assert NOTHING + found == found
