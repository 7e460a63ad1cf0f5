"""No champion yet, and a first one that was cut short: what each refusal prints leads to one that serves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from reprune.core.errors import ChampionLost, RepruneError
from reprune.registry.compressed import champion
from reprune.registry.tags import PROMOTED
from reprune.steps import moving
from reprune.steps.rollback import RollbackResult, rollback
from tests.chain import Story
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    copy_repository,
    next_generation,
    promoted,
    ready,
    refused,
    registry_of,
)
from tests.registry.stand import Failing, Killed
from tests.registry.test_adopt import adopted, other_bundle
from tests.registry.test_promote import alias

LATE_S = NOW_S + 60 * 86_400


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A judged generation that passed, and that nobody promoted."""
    return copy_repository(template, tmp_path / "repo")


def cut_short(root: Path, monkeypatch: pytest.MonkeyPatch, *, adopting: str | None = None) -> None:
    """Registered, and killed before the alias moved."""
    failing = Failing(registry_of(root), at=2, after=False)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(Killed):
            adopted(root, adopting) if adopting else promoted(root)


def follow(root: Path, error: RepruneError) -> RollbackResult:
    """Runs the `reprune rollback` that the error prints with a number."""
    found = re.search(r"`reprune rollback --to (\d+) --by NAME --reason TEXT`", error.fix)
    assert found is not None, error.fix
    return back(root, found[1])


def back(root: Path, to: str | None) -> RollbackResult:
    return rollback(root, to=to, by="Ada", reason="evidence lost", now=LATE_S, say=lambda _: None)


def works(root: Path, version: str) -> None:
    """The version serves, is marked, and the next generation is judged against it and promoted."""
    assert alias(root) == version
    (info,) = [each for each in registry_of(root).versions(COMPRESSED) if each.version == version]
    assert PROMOTED in info.tags
    next_generation(root, dense_version="8")
    assert promoted(root).promoted


@pytest.mark.slow
def test_a_first_pass_whose_evidence_grew_too_old(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(root, monkeypatch)
    with refused(root, "evidence_too_old"):
        promoted(root, now=LATE_S)
    ready(root, Story(seed=1, attempt=2, attempts_before=1))
    with refused(root, "lock_taken"):
        promoted(root)
    with pytest.raises(ChampionLost) as caught:
        champion(registry_of(root), "digits")
    result = follow(root, caught.value)
    assert (result.version, result.before) == ("1", None)
    works(root, "1")


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("after", [False, True])
def test_that_rollback_too_completes(
    root: Path, monkeypatch: pytest.MonkeyPatch, at: int, after: bool
) -> None:
    cut_short(root, monkeypatch)
    failing = Failing(registry_of(root), at=at, after=after)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(Killed):
            back(root, "1")
    assert failing.writes == ["register", "set_alias", "set_tags"][:at]
    assert back(root, "1").version == "1"
    assert back(root, "1").already_done
    works(root, "1")


@pytest.mark.slow
def test_two_first_passes_that_see_each_other(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two machines, each registered before either alias moved."""
    cut_short(root, monkeypatch)
    other = tmp_path / "other"
    shutil.copytree(root / ".reprune", other / ".reprune")
    ready(other, Story(dense_version="2"))
    shutil.rmtree(other / "registry")
    (other / "registry").symlink_to(root / "registry")
    with monkeypatch.context() as patched:
        # It looked before the first one was there.
        patched.setattr("reprune.steps.promote.check_acceptance", lambda *_, **__: None)
        patched.setattr("reprune.steps.promote.newest_link", lambda *_: None)
        with pytest.raises(ChampionLost):
            promoted(other)
    with pytest.raises(ChampionLost) as caught:
        promoted(root)
    assert follow(root, caught.value).version == "2"
    works(root, "2")


@pytest.mark.slow
def test_an_adoption_that_a_block_came_after(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_bundle(root)
    cut_short(root, monkeypatch, adopting="./artifacts/other")
    ready(root, Story(candidate_wrong=70))
    promoted(root)
    with pytest.raises(ChampionLost, match="cut short") as caught:
        champion(registry_of(root), "digits")
    assert "reprune adopt" in caught.value.fix
    assert adopted(root).version == "1"
    works(root, "1")


@pytest.mark.slow
def test_an_adoption_that_a_pass_came_after_is_begun_with(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_bundle(root)
    cut_short(root, monkeypatch, adopting="./artifacts/other")
    with pytest.raises(ChampionLost) as caught:
        promoted(root)
    assert follow(root, caught.value).version == "1"
    works(root, "1")


@pytest.mark.slow
def test_only_what_is_accepted_begins(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block, a pass that came second for its lock, and what was taken back: none of them does."""
    ready(root, Story(candidate_wrong=70))
    promoted(root)
    with refused(root, "not_promoted"):
        back(root, "1")
    ready(root, Story(seed=1, attempt=2, attempts_before=1))
    with monkeypatch.context() as patched:
        patched.setattr("reprune.steps.promote.check_first", lambda *_, **__: None)
        cut_short(root, monkeypatch)
    with refused(root, "not_promoted"):
        back(root, "2")
    registry_of(root).set_alias(COMPRESSED, "champion", "2")
    with refused(root, "not_promoted"):
        back(root, "2")
