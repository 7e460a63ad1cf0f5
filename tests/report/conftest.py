from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reprune.report.facts import ReportFacts
from tests.report.scenes import SCENES
from tests.report.verdicts import facts


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ReportFacts]:
    """The facts of a scene by name, read from a verdict directory that is written once."""
    known: dict[str, ReportFacts] = {}

    def tell(name: str) -> ReportFacts:
        if name not in known:
            folder: Path = tmp_path_factory.mktemp(name)
            known[name] = facts(SCENES[name], folder)
        return known[name]

    return tell
