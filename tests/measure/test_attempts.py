"""The ledger of looks: nothing that was looked at is forgotten, whatever happens to the file."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.errors import RepruneError
from reprune.measure.attempts import (
    ATTEMPTS_FILE,
    Look,
    local_attempts,
    local_uses,
    next_attempt,
)


def look(version: str = "1", *, weights: str = "w", candidate: str = "c") -> Look:
    return Look(
        name="digits", dense_version=version, weights=weights, eval_digest="e", candidate=candidate
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("12"), st.integers(0, 4)), max_size=12))
def test_attempts_only_rise_and_count_each_dense_model_apart(steps: list[tuple[str, int]]) -> None:
    """The number is one above the larger of what the ledger and the registry know."""
    with TemporaryDirectory() as folder:
        ledger = Path(folder) / ATTEMPTS_FILE
        seen = {"1": 0, "2": 0}
        for version, registered in steps:
            attempt = next_attempt(ledger, look(version), registered=registered)
            assert attempt == max(seen[version], registered) + 1
            seen[version] += 1
        assert {v: local_attempts(ledger, look(v)) for v in seen} == seen
        lines = ledger.read_bytes().splitlines() if steps else []
        assert len(lines) == len(steps)


def test_another_candidate_is_another_attempt_at_the_same_dense_model(tmp_path: Path) -> None:
    """Trying again with other widths is not free; other weights under one version are another model."""
    ledger = tmp_path / ATTEMPTS_FILE
    assert next_attempt(ledger, look(candidate="a")) == 1
    assert next_attempt(ledger, look(candidate="b")) == 2
    assert next_attempt(ledger, look(weights="other")) == 1


def test_every_look_at_the_same_examples_is_a_use_of_them(tmp_path: Path) -> None:
    """Whatever the model, other examples apart; a line that nobody can read may have been one."""
    ledger = tmp_path / ATTEMPTS_FILE
    assert local_uses(ledger, "e") == 0
    next_attempt(ledger, look("1"))
    next_attempt(ledger, look("2"))
    next_attempt(ledger, msgspec.structs.replace(look("2"), eval_digest="f"))
    assert (local_uses(ledger, "e"), local_uses(ledger, "f"), local_uses(ledger, "g")) == (2, 1, 0)
    ledger.write_bytes(ledger.read_bytes() + b'{"name":"dig')
    assert (local_uses(ledger, "e"), local_uses(ledger, "f")) == (3, 2)


def test_earlier_lines_are_never_touched(tmp_path: Path) -> None:
    """The file only grows at its end, and each line says what was looked at."""
    ledger = tmp_path / ATTEMPTS_FILE
    next_attempt(ledger, look("1"))
    before = ledger.read_bytes()
    next_attempt(ledger, look("2"))
    assert ledger.read_bytes().startswith(before)
    assert [msgspec.json.decode(line)["attempt"] for line in ledger.read_bytes().splitlines()] == [
        1,
        1,
    ]


@pytest.mark.parametrize("torn", [b'{"name":"dig', b"\x00\x00", b"[]", b"{}", b"\xff\xfe\n"])
def test_a_torn_line_counts_and_spoils_nothing(tmp_path: Path, torn: bytes) -> None:
    """What may have been a look counts for every model, and the next line is whole again."""
    ledger = tmp_path / ATTEMPTS_FILE
    next_attempt(ledger, look())
    with ledger.open("ab") as stream:
        stream.write(torn)
    assert next_attempt(ledger, look()) == 3
    assert next_attempt(ledger, look("other")) == 2
    assert next_attempt(ledger, look()) == 4


@pytest.mark.slow
def test_two_benchmarks_at_once_never_share_a_number(tmp_path: Path) -> None:
    """Processes that race for the ledger get different attempts."""
    ledger, go = tmp_path / ATTEMPTS_FILE, tmp_path / "go"
    code = (
        "import sys, pathlib\n"
        "from reprune.measure.attempts import Look, next_attempt\n"
        "look = Look(name='n', dense_version='1', weights='w', eval_digest='e', candidate='c')\n"
        "while not pathlib.Path(sys.argv[2]).exists(): pass\n"
        "for _ in range(20): print(next_attempt(pathlib.Path(sys.argv[1]), look))\n"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(ledger), str(go)], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    time.sleep(0.5)
    go.touch()
    numbers = [int(line) for racer in racers for line in racer.communicate()[0].split()]
    assert sorted(numbers) == list(range(1, 61))


def test_a_ledger_that_cannot_be_written_stops_the_look(tmp_path: Path) -> None:
    """No number is given for a look that would not be remembered."""
    (tmp_path / ATTEMPTS_FILE).mkdir()
    with pytest.raises(RepruneError):
        next_attempt(tmp_path / ATTEMPTS_FILE, look())
