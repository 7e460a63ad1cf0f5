"""The figures of docs/trust.md are those of the committed result, and nothing in it went through."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common import committed
from benchmarks.trust import MUST_BE_ZERO, PARTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"
# Which of the goal table's rows tells which figures.
TOLD = {
    "G1": ("must_refuse", "must_accept"),
    "G2": ("fields", "mutations"),
    "G3": ("mutants", "equivalent_mutants"),
    "G4": ("tuf_classes", "tuf_cases"),
    "G5": ("swaps", "swaps_files", "swaps_champion", "swaps_calls", "swaps_stored", "race_rounds"),
    "G7": ("ed25519_vectors", "p256_vectors", "p256_valid_refused", "json_must_refuse"),
    "A1": ("crash_states", "crash_scenarios", "crash_disks", "wrong_writers_caught"),
}


def test_nothing_went_through() -> None:
    """In any part, each of which was run whole."""
    held = committed("trust")
    assert {name for name in MUST_BE_ZERO if held["figures"].get(name)} == set()
    assert {row["part"] for row in held["rows"]} == set(PARTS)
    assert [row["part"] for row in held["rows"] if row["quick"]] == []


@pytest.mark.parametrize("row", TOLD)
def test_the_page_tells_what_was_counted(row: str) -> None:
    """Figure by figure."""
    figures = committed("trust")["figures"]
    (line,) = (each for each in PAGE.read_text().splitlines() if each.startswith(f"| {row} |"))
    missing = [name for name in TOLD[row] if f"{int(figures[name]):,}" not in line]
    assert missing == [], line
