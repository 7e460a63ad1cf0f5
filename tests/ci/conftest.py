"""What several of these tests run against."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ci.world import World, made


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A repository with its workflows, a forge, and what its pipeline will measure."""
    with made(tmp_path, monkeypatch) as found:
        yield found
