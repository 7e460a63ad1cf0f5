"""What was judged is what is promoted, whatever is swapped, and whenever.

`make test` swaps at some of the moments and races for a few rounds, `make test-deep` at all and 1,000 rounds.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import swaps
from tests.chain import Story
from tests.registry.promotion import copy_repository, next_generation, promoted, ready

DEEP = os.environ.get("REPRUNE_DEEP") == "1"
MOMENTS = 1 if DEEP else 60
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


def test_nothing_that_was_not_judged_is_promoted(
    template: Path, other: Path, tmp_path: Path
) -> None:
    """Each kind of swap at each moment: refused, or it came too late and changed nothing."""
    root = tmp_path / "repo"
    whole = swaps.promoted_with(template, root, at=0, swap=None)
    assert whole.served
    assert len(whole.opened) > 100
    tried, refused, wrong = 0, 0, []
    for kind, swap in swaps.kinds(other).items():
        for at in range(1, len(whole.opened) + 1, MOMENTS):
            came = swaps.promoted_with(template, root, at=at, swap=swap)
            tried += 1
            refused += bool(came.refused)
            if came.served is not None and came.served != whole.served:
                wrong.append(f"{kind} at {at}: {whole.opened[at - 1]}")
    assert wrong == []
    assert refused > tried // 10, "no swap was ever seen: they do nothing"
    print(f"{tried} swaps, {refused} refused, 0 promoted of what was not judged")


def test_a_champion_that_moved_voids_the_decision(
    template: Path, other: Path, tmp_path: Path
) -> None:
    """The alias set by somebody else at any moment before the last look: nothing is promoted over it."""
    second = copy_repository(template, tmp_path / "second")
    promoted(second)
    next_generation(second, dense_version="2")
    root = tmp_path / "repo"
    whole = swaps.promoted_with(second, root, at=0, swap=None)
    last, tried, wrong = swaps.last_look(whole), 0, []
    for at in range(1, last + 1, max(1, MOMENTS // 2)):
        came = swaps.promoted_with(second, root, at=at, swap=swaps.aliased("77"))
        tried += 1
        if not came.refused or came.served:
            wrong.append(at)
    assert wrong == []
    print(f"{tried} moved champions, {tried} refused")


def test_a_racer_changes_nothing(template: Path, other: Path, tmp_path: Path) -> None:
    """Files swapped to and fro by a process beside it."""
    done, refused, wrong = swaps.raced(template, other, tmp_path / "repo", ROUNDS)
    assert done + refused == ROUNDS
    assert wrong == []
    print(f"{ROUNDS} rounds: {done} promoted as judged, {refused} refused, 0 of other bytes")


def test_a_swap_that_went_through_would_be_seen(template: Path, tmp_path: Path) -> None:
    """The measure is no rubber stamp: other bytes in the registry are told from those that were judged."""
    root = tmp_path / "repo"
    judged = swaps.judged_files(template, root)
    swaps.flipped("registry/digits-compressed/1/files/bundle/weights.safetensors")(root)
    assert swaps.served(root) != judged
