"""Tests marked `alone` have the machine to themselves, however many workers there are, and those that ask
for `quiet` have it for as long as they measure; those marked `deep` run with REPRUNE_DEEP=1 only, those
marked `containers` with REPRUNE_CONTAINERS=1 only.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

TIERS = {"deep": "REPRUNE_DEEP", "containers": "REPRUNE_CONTAINERS"}
# The turnstile and the room of the test that runs, while it shares the room with others.
SHARED = pytest.StashKey[tuple[int, int]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects, and so counts, what is for another tier than the one asked for."""
    others = [marker for marker, variable in TIERS.items() if os.environ.get(variable) != "1"]
    left = [item for item in items if any(item.get_closest_marker(name) for name in others)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Holds the run's lock, shared or alone, from before the test's fixtures until after them.

    Outside of its time limit: tryfirst puts it around pytest-timeout's own wrapper.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return (yield)
    folder = Path(tempfile.gettempdir())
    turnstile = os.open(folder / f"reprune-tests-{run}.turn", os.O_RDWR | os.O_CREAT, 0o600)
    room = os.open(folder / f"reprune-tests-{run}.room", os.O_RDWR | os.O_CREAT, 0o600)
    is_alone = item.get_closest_marker("alone") is not None
    try:
        _enter(turnstile, room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        if not is_alone:
            item.config.stash[SHARED] = turnstile, room
        return (yield)
    finally:
        if not is_alone and SHARED in item.config.stash:
            del item.config.stash[SHARED]
        os.close(turnstile)
        os.close(room)


@pytest.fixture(autouse=True)
def float32_training() -> Iterator[None]:
    """Fails the test that trains in another precision in the tests' own process: Accelerate would refuse
    float32 to every test after it.
    """
    yield
    state = sys.modules.get("accelerate.state")
    left = {} if state is None else state.AcceleratorState._shared_state
    precision = left.get("_mixed_precision", "no")
    if precision != "no":
        left.clear()
        pytest.fail(f"trained in {precision}: use precision 'no', or a process of its own")


@pytest.fixture(scope="session")
def quiet(pytestconfig: pytest.Config) -> Callable[[], AbstractContextManager[None]]:
    """`with quiet():` the machine is the test's own. It waits for the others with nothing held, so
    whatever the test started must stand still meanwhile, and while it leaves.
    """
    return lambda: _emptied(pytestconfig)


def _emptied(config: pytest.Config) -> AbstractContextManager[None]:
    held = config.stash.get(SHARED, None)
    return nullcontext() if held is None else _empty_room(*held)


@contextmanager
def _empty_room(turnstile: int, room: int) -> Iterator[None]:
    # Two that wait for each other's share of the room would wait for ever.
    fcntl.flock(room, fcntl.LOCK_UN)
    _enter(turnstile, room, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(room, fcntl.LOCK_UN)
        _enter(turnstile, room, fcntl.LOCK_SH)


def _enter(turnstile: int, room: int, how: int) -> None:
    """Whoever waits for the whole room keeps the others out of it, so that it gets empty."""
    fcntl.flock(turnstile, fcntl.LOCK_EX)
    fcntl.flock(room, how)
    fcntl.flock(turnstile, fcntl.LOCK_UN)
