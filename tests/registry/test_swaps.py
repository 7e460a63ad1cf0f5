"""What was judged is what is promoted, whatever is swapped, and whenever.

`make test` takes some of the moments, of every kind and every file at least one, and races for a few
rounds; `make test-deep` takes all and 1,000 rounds.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from reprune.core import plugins
from tests import swap_kinds, swap_plans, swaps
from tests.chain import Story
from tests.registry.promotion import copy_repository, next_generation, promoted, ready

DEEP = os.environ.get("REPRUNE_DEEP") == "1"
EVERY = 1 if DEEP else 90
ROUNDS = 1_000 if DEEP else 8


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another judged run: of the same model, and not the one that is promoted."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        patched.setattr(os, "fsync", lambda _: None)
        root = tmp_path_factory.mktemp("other")
        ready(root, Story(seed=7, dense_version="8"))
    return root


@pytest.fixture(autouse=True)
def _asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed stays so; asking for it again would be half of what a promote takes."""
    monkeypatch.setattr(plugins, "entry_points", lru_cache(plugins.entry_points))


@pytest.fixture
def played() -> Iterator[Path]:
    """Where the repository is played through: in memory where there is such a place, for it is made anew
    for each swap.
    """
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="reprune-swaps-", dir=place) as folder:
        yield Path(folder) / "repo"


@pytest.fixture
def second(template: Path, tmp_path: Path) -> Path:
    """A judged run beside a champion."""
    root = copy_repository(template, tmp_path / "second")
    promoted(root)
    next_generation(root, dense_version="2")
    return root


@pytest.mark.slow
def test_nothing_that_was_not_judged_is_promoted(template: Path, other: Path, played: Path) -> None:
    """Each kind of swap, and a byte of each file: refused, or it came too late and changed nothing."""
    found = swap_plans.files(template, other, played, every=EVERY)
    assert found.wrong == []
    assert found.refused > found.tried // 3, "few swaps were ever seen: they do nothing"
    read = {f"a byte of {path}" for path in swap_kinds.at_rest(template / "artifacts/verdict")}
    assert len(read) > 15
    assert {name.replace("artifacts/verdict/", "") for name in found.kinds} >= read
    assert set(found.kinds) >= set(swap_kinds.kinds(other))
    say(found)


@pytest.mark.slow
def test_a_champion_that_moved_voids_the_decision(second: Path, played: Path) -> None:
    """Moved, marked or taken away by somebody else before the last look: nothing is promoted over it."""
    found = swap_plans.champion(second, played, every=EVERY)
    assert found.wrong == []
    assert found.refused == found.tried >= len(swap_kinds.champion_kinds())
    say(found)


@pytest.mark.slow
def test_around_each_call_of_the_registry(
    template: Path, second: Path, other: Path, played: Path
) -> None:
    """Champion, anchor, policy, lock, params and verdict."""
    found = swap_plans.calls(template, second, other, played, every=EVERY)
    assert found.wrong == []
    assert set(found.kinds) == set(swap_kinds.call_kinds(other))
    say(found)


@pytest.mark.slow
def test_a_registered_byte_that_turns_is_not_promoted(template: Path, played: Path) -> None:
    """Each file of the version, before it is read back."""
    found = swap_plans.stored(template, played, every=EVERY)
    assert found.wrong == []
    say(found)


@pytest.mark.slow
def test_a_racer_changes_nothing(template: Path, other: Path, played: Path) -> None:
    """Files swapped to and fro by a process beside it."""
    done, refused, wrong = swaps.raced(template, other, played, ROUNDS)
    assert done + refused == ROUNDS
    assert wrong == []
    print(f"{ROUNDS} rounds: {done} promoted as judged, {refused} refused, 0 of other bytes")


def test_a_swap_that_went_through_would_be_seen(template: Path, played: Path) -> None:
    """The measure is no rubber stamp: other bytes in the registry are told from those that were judged."""
    root = played
    judged = swaps.judged_files(template, root)
    swap_kinds.flipped("registry/digits-compressed/1/files/bundle/weights.safetensors")(root)
    assert swaps.served(root) != judged


def say(found: swap_plans.Counted) -> None:
    print(f"{found.tried} swaps of {len(found.kinds)} kinds, {found.refused} refused, 0 wrong")
