"""What promote stores beside a champion comes back with it, so that the next generation can begin from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprune.core import store
from reprune.core.artifacts import ModelBundle, Plan, Previous, Profile, Sensitivity
from reprune.core.step import run
from reprune.steps.fetch import fetch_previous
from reprune.steps.inheriting import stored_part
from tests.registry.promotion import next_generation, promoted, ready, with_params

DEFAULT = "name: digits\ntask: task.digits:DigitsTask\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "mlflow"])
def test_the_next_generation_finds_the_champions_plan_profile_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, request: pytest.FixtureRequest
) -> None:
    """Byte for byte: each has the digest that it had when it was judged. What is not there is None."""
    if kind == "mlflow":
        request.getfixturevalue("mlflow_section")
        with_params(monkeypatch, DEFAULT)
    root = tmp_path / "repo"
    first = ready(root)
    digests = {
        part: store.read(first.path(name), of).digest
        for part, name, of in (
            ("champion", "candidate", ModelBundle),
            ("plan", "plan", Plan),
            ("profile/0", "profile", Profile),
            ("sensitivity", "sensitivity", Sensitivity),
        )
    }
    assert promoted(root).promoted
    judged = next_generation(root, dense_version="2")
    run(fetch_previous, {}, judged.documents, root / "fetched", say=lambda _: None)
    fetched = store.read(root / "fetched", Previous)
    for part, of in (
        ("champion", ModelBundle),
        ("plan", Plan),
        ("profile/0", Profile),
        ("sensitivity", Sensitivity),
    ):
        found = stored_part(fetched, part, of)  # type: ignore[type-var]
        assert found is not None
        assert found.digest == digests[part]
    assert stored_part(fetched, "profile/1", Profile) is None
