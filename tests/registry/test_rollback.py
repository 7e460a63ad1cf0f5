"""rollback: only to what was champion, under a signed record, once, and not undone by an old verdict."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from reprune.core.errors import (
    Busy,
    ChampionForeign,
    ChampionMoved,
    InputError,
    RegistryUnreachable,
    VersionNotFound,
)
from reprune.core.lock import ChampionRef
from reprune.core.step import exclusive
from reprune.doors.cli import main
from reprune.registry import links
from reprune.registry.receipts import chain_gaps
from reprune.registry.records import RollbackRecord
from reprune.registry.tags import ROLLED_BACK
from reprune.steps import moving
from reprune.steps import promote as promote_module
from reprune.steps.history import history
from reprune.steps.promoter import read_promoter
from reprune.steps.rollback import RollbackResult, rollback
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    copy_repository,
    flip,
    next_generation,
    promoted,
    ready,
    refused,
    registry_of,
    versions,
)
from tests.registry.stand import Failing, Killed
from tests.registry.test_promote import previous


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
    """Two generations, both promoted; the second serves, and its verdict still lies there."""
    return copy_repository(two_once, tmp_path / "repo")


def back(root: Path, to: str | None = None) -> RollbackResult:
    return rollback(
        root, to=to, by="Ada", reason="wrong labels", now=NOW_S + 60, say=lambda _: None
    )


def alias(root: Path) -> str | None:
    return registry_of(root).alias(COMPRESSED, "champion")


@pytest.mark.slow
def test_the_champion_returns_under_a_signed_record_that_links_the_chain(root: Path) -> None:
    """The record says who, why, from and to; the next lock can pin the old champion."""
    result = back(root)
    assert (result.version, result.before, result.already_done) == ("1", "2", False)
    assert alias(root) == "1"
    keys = read_promoter(root).keys
    found = links.links(registry_of(root), "digits", keys=keys)
    assert chain_gaps([link for _, link in found]) == ()
    info, record = found[-1]
    assert isinstance(record, RollbackRecord)
    told = record.statement.predicate
    assert (told.by, told.reason, told.version, told.before) == ("Ada", "wrong labels", "1", "2")
    assert (info.version, told.predecessor) == (result.record_version, found[1][1].digest)
    tags = {each.version: each.tags for each in registry_of(root).versions(COMPRESSED)}
    assert tags["2"][ROLLED_BACK] == result.record == record.digest
    chain = next_generation(root, dense_version="3")
    champion = chain.documents.lock.champion
    assert isinstance(champion, ChampionRef)
    assert champion.version == "1"
    assert previous(chain).champion == champion
    assert promoted(root).champion_after == "4"
    after = links.links(registry_of(root), "digits", keys=keys)
    assert chain_gaps([link for _, link in after]) == ()


def test_doing_it_again_goes_no_further_back(root: Path) -> None:
    first = back(root)
    for again in (back(root), back(root, "1")):
        assert again.already_done
        assert (again.version, again.record) == ("1", first.record)
    assert versions(root) == ["1", "2", "3"]


@pytest.mark.slow
def test_the_old_verdict_does_not_undo_it(root: Path) -> None:
    """Refused by the record and by the tag, each alone; a named person may still return to it."""
    back(root)
    with refused(root, "rolled_back"):
        promoted(root)
    for version in ("2", "3"):
        path = root / "registry" / COMPRESSED / version / "version.json"
        whole = path.read_text()
        cut = json.loads(whole)
        cut["tags"].pop("reprune.rolled_back", None)
        cut["tags"].pop("reprune.before", None)
        path.write_text(json.dumps(cut))
        with refused(root, "rolled_back"):
            promoted(root)
        path.write_text(whole)
    assert back(root, "2").version == "2"
    assert promoted(root).already_done


@pytest.mark.parametrize("after", [False, True], ids=["before", "answer-lost"])
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("error", [Killed, ConnectionError])
def test_cut_short_anywhere_it_completes(
    root: Path, monkeypatch: pytest.MonkeyPatch, at: int, after: bool, error: type[BaseException]
) -> None:
    failing = Failing(registry_of(root), at=at, after=after, error=error)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(error):
            back(root)
    assert failing.writes == ["register", "set_alias", "set_tags"][:at]
    assert back(root).version == alias(root) == "1"
    assert versions(root) == ["1", "2", "3"]
    with refused(root, "rolled_back"):
        promoted(root)
    assert back(root).already_done


def test_an_alias_that_somebody_moves_meanwhile_stays_theirs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved after the record was made: nothing of theirs is overwritten."""
    chain = next_generation(root, dense_version="3")
    promoted(root)
    original = moving.records.record_tags

    def meanwhile(record: RollbackRecord) -> dict[str, str]:
        registry_of(root).set_alias(COMPRESSED, "champion", "1")
        return original(record)

    assert chain.documents.lock.champion != "none"
    with monkeypatch.context() as patched:
        patched.setattr(moving.records, "record_tags", meanwhile)
        with pytest.raises(ChampionMoved, match="somebody else moved it"):
            back(root)
    assert alias(root) == "1"
    assert back(root, "2").version == alias(root) == "2"


def test_what_may_not_serve_is_refused(root: Path) -> None:
    """Changed bytes, a judged but blocked version, a record, a version that is not there."""
    next_generation(root, dense_version="3", candidate_wrong=70)
    promoted(root)
    with refused(root, "not_promoted"):
        back(root, "3")
    with pytest.raises(VersionNotFound, match="has no version 9"):
        back(root, "9")
    flip(root / "registry" / COMPRESSED / "1" / "files" / "bundle" / "weights.safetensors")
    with refused(root, "stored_differs"):
        back(root)


def test_a_gap_in_the_chain_is_refused(root: Path) -> None:
    """A generation between the two was deleted: nobody can say what else was."""
    next_generation(root, dense_version="3")
    promoted(root)
    shutil.rmtree(root / "registry" / COMPRESSED / "2")
    with refused(root, "chain_broken"):
        back(root, "1")


def edit_tags(root: Path, version: str, **changes: str | None) -> None:
    """Sets or deletes tags (`reprune.<name>`) of a version, as whoever may write there can."""
    path = root / "registry" / COMPRESSED / version / "version.json"
    told = json.loads(path.read_text())
    for name, value in changes.items():
        told["tags"].pop(f"reprune.{name}", None)
        if value is not None:
            told["tags"][f"reprune.{name}"] = value
    path.write_text(json.dumps(told))


@pytest.mark.slow
def test_what_was_gone_back_past_does_not_return_by_its_old_verdict(
    root: Path, tmp_path: Path
) -> None:
    """By the signed record alone: without its tags, and though an older record is copied to the end."""
    kept = copy_repository(root, tmp_path / "kept")  # holds the verdict of version 2
    shutil.rmtree(kept / "registry")
    (kept / "registry").symlink_to(root / "registry")
    next_generation(root, dense_version="3")
    promoted(root)
    assert back(root, "2").record_version == "4"
    assert back(root, "1").record_version == "5"
    with refused(kept, "rolled_back"):
        promoted(kept)
    for name in ("before", "record", "record_kind"):
        edit_tags(root, "5", **{name: None})
        edit_tags(root, "2", rolled_back=None)
        with refused(kept, "rolled_back"):
            promoted(kept)
    record = root / "registry" / COMPRESSED / "4" / "files"
    registry_of(root).register(COMPRESSED, record, {})
    with refused(kept, "rolled_back"):
        promoted(kept)
    with refused(root, "rolled_back"):
        promoted(root)


@pytest.mark.slow
def test_a_jump_past_a_version_by_one_rollback_counts(root: Path, tmp_path: Path) -> None:
    kept = copy_repository(root, tmp_path / "kept")
    shutil.rmtree(kept / "registry")
    (kept / "registry").symlink_to(root / "registry")
    next_generation(root, dense_version="3")
    promoted(root)
    back(root, "1")
    with refused(kept, "rolled_back"):
        promoted(kept)
    assert back(root, "2").version == "2"
    assert promoted(kept).already_done


@pytest.mark.slow
def test_without_a_version_it_returns_to_nothing_that_was_taken_back(root: Path) -> None:
    """Version 2 was replaced by 3, and gone back past since: who means it says so."""
    next_generation(root, dense_version="3")
    promoted(root)
    back(root, "1")
    back(root, "3")
    next_generation(root, dense_version="4", candidate_wrong=70)
    promoted(root)
    with refused(root, "rolled_back"):
        back(root)
    assert back(root, "2").version == alias(root) == "2"


@pytest.mark.slow
def test_an_alias_set_by_hand_on_what_was_rolled_back_is_foreign(root: Path) -> None:
    """Neither promote nor a missing mark makes it one of ours; a named person does."""
    back(root)
    kept = (root / "artifacts").rename(root / "kept")
    registry_of(root).set_alias(COMPRESSED, "champion", "2")
    edit_tags(root, "2", promoted=None)
    next_generation(root, dense_version="3")
    for _ in range(2):
        with pytest.raises(ChampionForeign, match="version 2, was rolled back"):
            promoted(root)
        waiting = history(root, now=NOW_S).waiting
        assert [(each.why, each.version) for each in waiting] == [("champion_foreign", "2")]
        # ... nor does the very verdict that it was promoted by, though the alias names it.
        (root / "artifacts").rename(root / "third")
        kept.rename(root / "artifacts")
        with pytest.raises(ChampionForeign, match="version 2, was rolled back"):
            promoted(root)
        (root / "artifacts").rename(kept)
        (root / "third").rename(root / "artifacts")
        edit_tags(root, "2", rolled_back=None)
    assert tags_of(root, "2").get("reprune.promoted") is None
    assert back(root).version == alias(root) == "1"
    assert history(root, now=NOW_S).waiting == ()
    assert back(root, "2").version == alias(root) == "2"
    assert history(root, now=NOW_S).waiting == ()
    assert promoted(root).champion_after == "5"


def tags_of(root: Path, version: str) -> Mapping[str, str]:
    return {info.version: info.tags for info in registry_of(root).versions(COMPRESSED)}[version]


@pytest.mark.slow
def test_a_rollback_that_came_to_nothing_is_taken_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died between record and alias, and the champion is to stay after all."""
    failing = Failing(registry_of(root), at=2, after=False)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(Killed):
            back(root)
    next_generation(root, dense_version="3")
    with pytest.raises(ChampionForeign, match="cut short"):
        promoted(root)
    assert back(root, "2").version == alias(root) == "2"
    assert back(root, "2").already_done
    assert promoted(root).champion_after == "5"
    with refused(root, "already_serves"):
        back(root, "5")


@pytest.mark.slow
def test_promotes_that_overlapped_are_no_gap(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both read the same newest receipt, before either was registered."""
    registry, keys = registry_of(root), read_promoter(root).keys
    newest = links.newest_link(registry, "digits", keys)
    next_generation(root, dense_version="3")
    promoted(root)
    next_generation(root, dense_version="4")
    with monkeypatch.context() as patched:
        patched.setattr(promote_module, "newest_link", lambda *_: newest)
        assert promoted(root).champion_after == "4"
    for to in ("3", "1", "4"):
        assert back(root, to).version == to
    shutil.rmtree(root / "registry" / COMPRESSED / "2")
    with refused(root, "chain_broken"):
        back(root, "1")


def test_the_first_champion_has_nothing_before_it(root: Path) -> None:
    """Nor has a record: an alias that was set on one by hand is left by naming a version."""
    back(root)
    with refused(root, "not_promoted"):
        back(root, "3")
    registry_of(root).set_alias(COMPRESSED, "champion", "3")
    with refused(root, "nothing_before"):
        back(root)
    assert back(root, "1").before == "3"


def test_one_at_a_time_and_never_without_a_registry(root: Path) -> None:
    name = "|".join(("registry", "default", "digits"))
    with exclusive(f"promote:{name}", what="held"), pytest.raises(Busy):
        back(root)
    shutil.rmtree(root / "registry")
    with pytest.raises(RegistryUnreachable):
        back(root)


def test_nobody_is_no_answer(root: Path) -> None:
    with pytest.raises(InputError, match="must say something"):
        rollback(root, to=None, by=" ", reason="x", now=NOW_S, say=lambda _: None)


def test_the_command(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    words = ["rollback", "-C", str(root), "--by", "Ada", "--reason", "wrong labels", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["before"], told["already_done"]) == ("1", "2", False)
    assert main([*words, "--to", "9"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "version_not_found"
