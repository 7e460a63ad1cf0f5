"""What a person took back, and somebody's alias names all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprune.core.errors import ChampionForeign
from reprune.core.lock import LOCK_FILE
from reprune.core.step import run
from reprune.steps.fetch import fetch_previous
from reprune.steps.promoter import read_promoter
from reprune.steps.rollback import rollback
from reprune.steps.update import update
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    copy_repository,
    next_generation,
    promoted,
    ready,
    registry_of,
)
from tests.registry.test_fetch_signed import fetched, trusting

TAKEN_BACK = "version 2, was rolled back"


@pytest.fixture(scope="module")
def two_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        root = tmp_path_factory.mktemp("two")
        ready(root)
        promoted(root)
        next_generation(root, dense_version="2")
        promoted(root)
    return root


@pytest.fixture
def root(two_once: Path, tmp_path: Path) -> Path:
    """Two generations; the verdict of the second lies there."""
    return copy_repository(two_once, tmp_path / "repo")


def back(root: Path, to: str | None = None) -> str:
    return rollback(root, to=to, by="Ada", reason="labels", now=NOW_S, say=lambda _: None).version


@pytest.mark.slow
def test_no_step_goes_on_with_a_champion_that_was_taken_back(root: Path) -> None:
    """Promote does not call its old verdict done because of its mark; fetch and update refuse it, too."""
    back(root)
    registry_of(root).set_alias(COMPRESSED, "champion", "2")
    with pytest.raises(ChampionForeign, match=TAKEN_BACK):
        promoted(root)
    documents = next_generation(root, dense_version="3").documents
    before = (root / LOCK_FILE).read_bytes()
    with pytest.raises(ChampionForeign, match=TAKEN_BACK):
        update(root)
    assert (root / LOCK_FILE).read_bytes() == before
    key = read_promoter(root).signer.public_key.keyval["public"]
    with pytest.raises(ChampionForeign, match=TAKEN_BACK):
        run(fetch_previous, {}, documents, root / "previous", say=lambda _: None)
    # As in a cluster, where the promoter is out of reach and params.yaml names its key.
    (root / ".reprune" / "promoter").rename(root / "away")
    with pytest.raises(ChampionForeign, match=TAKEN_BACK):
        fetched(trusting(documents, key))
    (root / "away").rename(root / ".reprune" / "promoter")
    assert back(root, "2") == "2"
    assert fetched(documents) == []
