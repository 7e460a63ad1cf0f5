"""The conformance pack: what must be refused is refused for its reason, what is right is let through.

`make test` plays a part of the table, spread over all of it, and a few cases in processes of their own;
`make test-deep` plays all of it. `python -m tests.conformance --cli reprune` plays it against any build.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conformance.table import ACCEPT, ATTACKS, REFUSE, attacks
from tests.conformance.world import CLI, Case, Worlds, play, wrong

DEEP = os.environ.get("REPRUNE_DEEP") == "1"
STEP = 1 if DEEP or CLI else 6
PARTS = 4


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    with pytest.MonkeyPatch.context() as patched:
        # Nothing here pulls the plug.
        patched.setattr(os, "fsync", lambda _: None)
        yield Worlds(tmp_path_factory.mktemp("worlds"))


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REPRUNE_PROMOTER", raising=False)
    monkeypatch.chdir(tmp_path)


def played(
    cases: Sequence[Case], worlds: Worlds, root: Path, *, moves: bool, cli: str = CLI
) -> list[str]:
    """What is wrong with any of them, in words."""
    found = (wrong(case, play(case, worlds, root, cli=cli), moves=moves) for case in cases)
    return [words for words in found if words]


def test_the_table_is_what_was_promised() -> None:
    """Enough cases of either kind, each attack class often enough, and no name twice."""
    assert len(REFUSE) >= 120
    assert len(ACCEPT) >= 40
    assert set(attacks()) == set(ATTACKS)
    assert min(attacks().values()) >= 5
    names = [(case.world, case.name) for case in (*REFUSE, *ACCEPT)]
    assert len(set(names)) == len(names)
    print(f"{len(REFUSE)} must-refuse, {len(ACCEPT)} must-accept, by class: {dict(attacks())}")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_what_must_be_refused_is(worlds: Worlds, tmp_path: Path, part: int) -> None:
    """With the exit code and the typed reason of the table, and the champion serves what it served."""
    cases = REFUSE[part * STEP :: PARTS * STEP] if STEP > 1 else REFUSE[part::PARTS]
    assert played(cases, worlds, tmp_path / "r", moves=False) == []
    print(f"{len(cases)} of {len(REFUSE)} must-refuse cases, 0 wrong")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_right_is_let_through(worlds: Worlds, tmp_path: Path, part: int) -> None:
    """However it is laid out, signed or repeated."""
    cases = ACCEPT[part * STEP :: PARTS * STEP] if STEP > 1 else ACCEPT[part::PARTS]
    assert played(cases, worlds, tmp_path / "a", moves=True) == []
    print(f"{len(cases)} of {len(ACCEPT)} must-accept cases, 0 wrong")


@pytest.mark.slow
def test_the_same_in_processes_of_their_own(worlds: Worlds, tmp_path: Path) -> None:
    """One of each attack class, and the two plain passes, as any executable would be driven."""
    cli = CLI or f"{sys.executable} -c 'import reprune.doors.cli as c, sys; sys.exit(c.main())'"
    one = {case.attack: case for case in REFUSE if case.attack}
    refuse = list(one.values()) if DEEP else list(one.values())[:2]
    assert played(refuse, worlds, tmp_path / "r", moves=False, cli=cli) == []
    assert played(ACCEPT[:1], worlds, tmp_path / "a", moves=True, cli=cli) == []


def test_a_wrong_answer_would_be_seen(worlds: Worlds, tmp_path: Path) -> None:
    """The pack is no rubber stamp: the plain pass, listed as a refusal, is told as wrong; so is a reason."""
    case = ACCEPT[0]
    seen = play(case, worlds, tmp_path / "r", cli="")
    assert wrong(case, seen, moves=True) == ""
    assert "changed" in wrong(case, seen, moves=False)
    other = Case(name="x", world=case.world, change=case.change, typed="lock_changed")
    assert "not 2 'lock_changed'" in wrong(other, seen, moves=False)
