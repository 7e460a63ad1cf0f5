"""The real service, killed at random moments. More, with a real MLflow: `benchmarks/trigger_kills.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service_kills import Order, drill


@pytest.mark.slow
def test_a_service_that_is_killed_leaves_nothing_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    found = drill(tmp_path, Order(kills=5, seed=1, mlflow=False, poll_s=10.0))
    assert found.violations == []
    assert found.kills == 5
    assert found.versions > 1
    assert sum(found.states.values()) == found.versions
