"""The real promote and rollback under crashes, lost answers and each other, at every call."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.errors import PromotionRefused
from reprune.registry.compressed import champion
from reprune.steps import moving
from reprune.steps.promote import PromoteResult
from reprune.steps.promoter import VARIABLE
from tests.chain import Story
from tests.registry.interleaving import (
    FAULTS,
    ROLLBACK,
    Fault,
    Judged,
    World,
    judge_again,
    promoting,
)
from tests.registry.promotion import next_generation, promoted, ready, registry_of
from tests.registry.stand import Failing, Killed

DEEP = os.environ.get("REPRUNE_DEEP") == "1"
EXAMPLES = 400 if DEEP else 10
# More than a promote makes.
MOST_CALLS = 40
_NUMBERS = count()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generations were promoted, the second cut short before its mark. For a third, `one` and `two` hold
    a pass, `blocked` a block: three verdicts of one lock. `copy` is `one` on another machine.
    """
    folder = tmp_path_factory.mktemp("interleaved")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(folder / "work"))
        patched.setattr(os, "fsync", lambda _: None)
        base = folder / "base"
        ready(base)
        promoted(base)
        next_generation(base, dense_version="2")
        failing = Failing(registry_of(base), at=3, after=False)
        with patched.context() as once:
            once.setattr(moving, "open_registry", lambda *_: failing)
            with pytest.raises(Killed):
                promoted(base)
        assert failing.writes == ["register", "set_alias", "set_tags"]
        holder = champion(registry_of(base), "digits")
        assert holder is not None
        for seed, name in enumerate(("one", "two", "blocked")):
            story = Story(
                champion=holder.ref,
                dense_version="3",
                candidate_wrong=70 if name == "blocked" else 6,
                seed=seed,
                attempt=2,
                attempts_before=1,
            )
            ready(folder / name, story)
        shutil.copytree(folder / "one", folder / "copy")
    return folder


@pytest.fixture(scope="module")
def judged(made: Path) -> dict[str, Judged]:
    names = ("one", "two", "blocked", "copy")
    return {name: judge_again(made / name, made / "staged" / name) for name in names}


def played(
    made: Path,
    judged: Mapping[str, Judged],
    names: Iterable[str],
    schedule: Iterable[tuple[int, Fault]],
) -> World:
    """The world after the schedule, in which nothing was wrong; without "rollback" nobody rolls back."""
    folder = made / "plays" / str(next(_NUMBERS))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(made / "work"))
        patched.setenv(VARIABLE, str(made / "base" / ".reprune" / "promoter" / "config.yaml"))
        patched.setattr(os, "fsync", lambda _: None)
        shutil.copytree(made / "base", folder, ignore=shutil.ignore_patterns("artifacts", "digits"))
        chosen = {name: judged[name] for name in names if name != ROLLBACK}
        world = promoting(patched, chosen, folder)
        if ROLLBACK not in names:
            world.actors.pop()
        world.run(schedule)
        world.check_end()
        if ROLLBACK not in names:
            check_answers(world)
    return world


def check_answers(world: World) -> None:
    """One verdict is accepted, and whoever asks for the other one again is told so."""
    assert sum(isinstance(each.done, PromoteResult) for each in world.actors) == 1
    for actor in world.actors:
        if not isinstance(actor.done, PromoteResult):
            actor.done = None
            world.run(())
            assert isinstance(actor.done, PromotionRefused), actor.done
            assert actor.done.reason == "lock_taken"


steps = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(("",) * 12 + FAULTS)), min_size=10, max_size=120
)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("one", "two"), ("blocked", "one")])
def test_a_second_verdict_comes_between_any_two_calls(
    made: Path, judged: dict[str, Judged], names: tuple[str, str]
) -> None:
    """The first one's promote stands still at each call in turn, while the other's runs to its end."""
    faults: tuple[Fault, ...] = ("", *FAULTS) if DEEP else ("",)
    winners = set()
    for fault in faults:
        for place in count():
            before: list[tuple[int, Fault]] = [(0, "")] * place
            schedule = [*before, (0, fault), *[(1, "")] * MOST_CALLS]
            world = played(made, judged, names, schedule)
            winners.add(tuple(isinstance(each.done, PromoteResult) for each in world.actors))
            if place >= world.actors[0].calls:
                break
    assert winners == {(True, False), (False, True)}


@pytest.mark.slow
@pytest.mark.parametrize("names", [("one", "two"), ("one", "two", "copy", ROLLBACK)])
def test_no_schedule_accepts_two_verdicts(
    made: Path, judged: dict[str, Judged], names: tuple[str, ...]
) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(steps)
    def play(schedule: list[tuple[int, Fault]]) -> None:
        played(made, judged, names, schedule)

    play()
