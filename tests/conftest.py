"""Tests marked `alone` have the machine to themselves, however many workers there are; those marked `deep`
run with REPRUNE_DEEP=1 only, those marked `containers` with REPRUNE_CONTAINERS=1 only.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

TIERS = {"deep": "REPRUNE_DEEP", "containers": "REPRUNE_CONTAINERS"}


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
        # Whoever waits for the whole room keeps the others out of it, so that it gets empty.
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        return (yield)
    finally:
        os.close(turnstile)
        os.close(room)
