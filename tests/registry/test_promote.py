"""promote: what it registers, signs and moves, and that doing it again changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprune.core import store
from reprune.core.artifacts import ModelBundle, Previous, Receipt
from reprune.core.errors import (
    ChampionForeign,
    ChampionLost,
    ChampionMoved,
    PayloadCorrupt,
    PromotionRefused,
)
from reprune.core.lock import ChampionRef
from reprune.core.step import run
from reprune.registry import compressed, receipts
from reprune.registry.mlflow_registry import MlflowRegistry
from reprune.registry.tags import TAGS
from reprune.steps import moving
from reprune.steps import promote as promote_module
from reprune.steps.acceptance import COUNT_AGAIN
from reprune.steps.fetch import fetch_previous
from reprune.steps.promoter import make_promoter, read_promoter
from tests.chain import Chain, Story
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    copy_repository,
    next_generation,
    promoted,
    ready,
    refused,
    registry_of,
    versions,
    with_params,
)
from tests.registry.stand import Failing, Killed

BLOCKED = Story(candidate_wrong=70)


def alias(root: Path) -> str | None:
    return registry_of(root).alias(COMPRESSED, "champion")


def previous(chain: Chain) -> Previous:
    run(fetch_previous, {}, chain.documents, chain.root / "prev", say=lambda _: None)
    return store.read(chain.root / "prev", Previous).manifest


def test_a_pass_is_registered_signed_and_becomes_champion(tmp_path: Path) -> None:
    """The version holds every judged file, its tags and receipt agree, and the alias names it."""
    chain = ready(tmp_path)
    result = promoted(tmp_path)
    assert (result.outcome, result.promoted, result.already_done) == ("pass", True, False)
    assert (result.compressed_version, result.champion_after) == ("1", "1")
    assert alias(tmp_path) == "1"
    registry = registry_of(tmp_path)
    (info,) = registry.versions(COMPRESSED)
    verdict = store.read(chain.path("verdict"), store.KINDS["Verdict"])
    assert {name: info.tags[name] for name in TAGS} == {
        "reprune.parent": "1",
        "reprune.verdict": verdict.digest,
        "reprune.lock": chain.documents.lock.digest,
        "reprune.bundle": store.read(chain.path("candidate"), ModelBundle).digest,
        "reprune.outcome": "pass",
        "reprune.attempt": "1",
        "reprune.receipt": result.receipt,
    }
    registry.fetch(COMPRESSED, "1", tmp_path / "back")
    for part, name in (("bundle", "candidate"), ("engines/0", "engines"), ("verdict", "verdict")):
        made = {p.relative_to(chain.path(name)): p.read_bytes() for p in tree(chain.path(name))}
        back = tmp_path / "back" / part
        assert {p.relative_to(back): p.read_bytes() for p in tree(back)} == made
    assert result.artifact.manifest == store.read(result.artifact.path, Receipt).manifest


def tree(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_receipt_names_all_that_was_decided_on(tmp_path: Path) -> None:
    """Signed by our key; its subjects are the registered files, its predicate the grounds."""
    chain = ready(tmp_path)
    result = promoted(tmp_path)
    authority = read_promoter(tmp_path)
    raw = result.artifact.file(receipts.RECEIPT_FILE).read_bytes()
    found = receipts.verify(raw, authority.keys, where="r")
    decision = found.statement.predicate
    assert found.digest == result.receipt == result.artifact.manifest.receipt
    assert decision.dense_weights == chain.documents.lock.dense.weights
    assert decision.machines == ("box-a",)
    assert decision.predecessor is None
    assert decision.signed_at_s == int(NOW_S)
    assert decision.measured_until_s == 1_000_014
    assert decision.latency_ratio == pytest.approx(0.6, rel=0.05)
    assert decision.flips == pytest.approx(1 / 450)
    stored = tmp_path / "registry" / COMPRESSED / "1" / "files"
    listed = receipts.subject_digests(found.statement)
    assert listed == {
        path.relative_to(stored).as_posix(): store.file_digest(path)
        for path in tree(stored)
        if path.name != receipts.RECEIPT_FILE
    }


@pytest.mark.parametrize(
    ("story", "outcome"), [(BLOCKED, "block"), (Story(units=5), "inconclusive")]
)
def test_what_does_not_pass_is_registered_and_moves_nothing(
    tmp_path: Path, story: Story, outcome: str
) -> None:
    """The evidence is kept, the reasons are told, the champion stays what it was."""
    ready(tmp_path, story)
    result = promoted(tmp_path)
    assert (result.outcome, result.promoted, result.champion_after) == (outcome, False, None)
    assert result.reasons
    assert alias(tmp_path) is None
    again = promoted(tmp_path)
    assert (again.already_done, again.compressed_version) == (True, "1")
    assert again.receipt == result.receipt
    assert versions(tmp_path) == ["1"]


def test_promoting_twice_changes_nothing(tmp_path: Path) -> None:
    """The second call finds the first one's version, registers none and writes no tag or alias."""
    ready(tmp_path)
    first = promoted(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tree(tmp_path / "registry" / COMPRESSED)}
    second = promoted(tmp_path, now=NOW_S + 1e9)
    assert second.already_done
    assert (second.receipt, second.champion_after) == (first.receipt, "1")
    assert set(tree(tmp_path / "registry" / COMPRESSED)) == set(before)
    assert versions(tmp_path) == ["1"]


@pytest.mark.slow
def test_generations_follow_each_other(tmp_path: Path) -> None:
    """Passed, passed, blocked: each receipt follows the last, and fetch-previous brings all of it."""
    ready(tmp_path)
    first = promoted(tmp_path)
    next_generation(tmp_path, dense_version="2")
    second = promoted(tmp_path)
    chain = next_generation(tmp_path, dense_version="3", candidate_wrong=70)
    third = promoted(tmp_path)
    assert [first.champion_after, second.champion_after, third.champion_after] == ["1", "2", "2"]
    assert second.artifact.manifest.predecessor == first.receipt
    assert third.artifact.manifest.predecessor == second.receipt
    found = previous(chain)
    assert found.champion == ChampionRef(
        version="2",
        bundle=second.artifact.manifest.bundle,
        receipt=second.receipt,
    )
    assert found.attempts == 1
    assert [(s.compressed_version, s.outcome, s.promoted) for s in found.history] == [
        ("1", "pass", True),
        ("2", "pass", True),
        ("3", "block", False),
    ]
    assert found.history[2].reasons == third.reasons
    stored = tmp_path / "prev"
    assert store.read(stored / "champion", ModelBundle).digest == found.champion.bundle
    parts = {path.split("/")[0] for path in found.payload}
    assert parts == {"champion", "plan", "profile", "sensitivity"}


@pytest.mark.slow
def test_attempts_on_one_dense_version_are_counted(tmp_path: Path) -> None:
    """Each judged verdict counts once; a later verdict that claims to be an earlier attempt is refused."""
    ready(tmp_path, BLOCKED)
    promoted(tmp_path)
    promoted(tmp_path)
    chain = ready(tmp_path, Story(seed=1, look=2))
    assert previous(chain).attempts == 1
    with refused(tmp_path, "attempt_understated"):
        promoted(tmp_path)
    with pytest.raises(PromotionRefused, match="1 other attempts") as caught:
        promoted(tmp_path)
    assert caught.value.fix == COUNT_AGAIN
    ready(tmp_path, Story(seed=1, look=2, attempt=2, attempts_before=1))
    assert promoted(tmp_path).promoted
    assert compressed.attempts(registry_of(tmp_path), "digits", "1") == 2
    assert compressed.attempts(registry_of(tmp_path), "digits", "2") == 0


def test_an_attempt_that_was_not_registered_counts_through_the_next(tmp_path: Path) -> None:
    """A verdict judged as the third attempt makes three, whatever else is on record."""
    ready(tmp_path, Story(candidate_wrong=70, attempt=3))
    promoted(tmp_path)
    assert compressed.attempts(registry_of(tmp_path), "digits", "1") == 3


@pytest.mark.parametrize("after", [False, True], ids=["before", "answer-lost"])
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("error", [Killed, ConnectionError])
def test_a_promotion_cut_short_anywhere_completes(
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    after: bool,
    error: type[BaseException],
) -> None:
    """Stopped before or after any write, with the answer lost or not: run again, it completes."""
    root = copy_repository(template, tmp_path / "repo")
    failing = Failing(registry_of(root), at=at, after=after, error=error)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(error):
            promoted(root)
    assert failing.writes == ["register", "set_alias", "set_tags"][:at]
    result = promoted(root)
    assert result.promoted
    assert versions(root) == ["1"]
    assert alias(root) == "1"
    (info,) = registry_of(root).versions(COMPRESSED)
    assert info.tags["reprune.promoted"] == info.tags["reprune.receipt"] == result.receipt
    assert promoted(root).already_done
    assert not list((tmp_path / "work").glob("promote-*"))


def test_a_kill_before_the_local_receipt_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last thing to happen is the local copy of the receipt; the next call makes it."""
    ready(tmp_path)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(store, "write", die)
        with pytest.raises(Killed):
            promoted(tmp_path)
    assert not list((tmp_path / ".reprune" / "receipts").glob("*"))
    assert promoted(tmp_path).already_done
    assert len(list((tmp_path / ".reprune" / "receipts").iterdir())) == 1


def test_the_lost_first_champion_has_a_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut between registering and the alias: nobody may take it for "no champion"; promote repairs it."""
    chain = ready(tmp_path)
    failing = Failing(registry_of(tmp_path), at=2, after=False)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(Killed):
            promoted(tmp_path)
    with pytest.raises(ChampionLost, match="cut short") as caught:
        previous(chain)
    assert "reprune promote" in caught.value.fix
    assert promoted(tmp_path).champion_after == "1"


def delete_alias(root: Path) -> None:
    (root / "registry" / COMPRESSED / "aliases.json").write_text("{}")


@pytest.mark.slow
def test_an_alias_deleted_by_hand_is_lost_and_not_none(tmp_path: Path) -> None:
    """fetch-previous and promote both refuse to go on as if there had never been a champion."""
    chain = ready(tmp_path)
    promoted(tmp_path)
    delete_alias(tmp_path)
    with pytest.raises(ChampionLost, match="alias was deleted"):
        previous(chain)
    ready(tmp_path, Story(dense_version="2"))
    with pytest.raises(ChampionLost):
        promoted(tmp_path)
    assert versions(tmp_path) == ["1"]
    registry_of(tmp_path).set_alias(COMPRESSED, "champion", "1")
    next_generation(tmp_path, dense_version="2")
    assert promoted(tmp_path).champion_after == "2"


@pytest.mark.slow
def test_a_champion_that_moved_since_the_lock_voids_the_verdict(tmp_path: Path) -> None:
    """Two generations judged against the same champion: the second to be promoted must judge again."""
    ready(tmp_path)
    promoted(tmp_path)
    next_generation(tmp_path, dense_version="2")
    promoted(tmp_path)
    registry_of(tmp_path).set_alias(COMPRESSED, "champion", "1")
    chain = next_generation(tmp_path, dense_version="3")
    registry_of(tmp_path).set_alias(COMPRESSED, "champion", "2")
    for call in (lambda: promoted(tmp_path), lambda: previous(chain)):
        with pytest.raises(ChampionMoved, match="now it is version 2") as caught:
            call()
        assert "reprune update" in caught.value.fix
    assert versions(tmp_path) == ["1", "2"]
    assert alias(tmp_path) == "2"


@pytest.mark.slow
def test_a_champion_that_moves_while_promoting_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved after the first check: the last look before the alias refuses, and their alias stays."""
    ready(tmp_path)
    promoted(tmp_path)
    next_generation(tmp_path, dense_version="2")
    promoted(tmp_path)
    next_generation(tmp_path, dense_version="3")
    original = promote_module.Statement

    def meanwhile(**values: object) -> object:
        registry_of(tmp_path).set_alias(COMPRESSED, "champion", "1")
        return original(**values)  # type: ignore[arg-type]

    monkeypatch.setattr(promote_module, "Statement", meanwhile)
    with pytest.raises(ChampionMoved):
        promoted(tmp_path)
    assert alias(tmp_path) == "1"


def test_a_champion_set_by_hand_is_foreign(tmp_path: Path) -> None:
    """A version without our receipt, one that was blocked, and one with borrowed tags: none is a champion."""
    chain = ready(tmp_path, BLOCKED)
    promoted(tmp_path)
    registry = registry_of(tmp_path)
    tags = registry.versions(COMPRESSED)[0].tags
    registry.register(COMPRESSED, chain.path("candidate"), {})
    registry.register(COMPRESSED, chain.path("candidate"), dict(tags))
    for version, word in (("1", "judged 'block'"), ("2", "no receipt"), ("3", "receipt is gone")):
        registry.set_alias(COMPRESSED, "champion", version)
        with pytest.raises(ChampionForeign, match=word) as caught:
            previous(chain)
        assert "reprune rollback --to" in caught.value.fix
    ready(tmp_path, Story(attempt=3, look=2))
    with pytest.raises(ChampionForeign):
        promoted(tmp_path)


def test_a_champion_signed_by_a_stranger_is_foreign_until_trusted(tmp_path: Path) -> None:
    """Another promoter's receipt counts only once its key is in `trusted_keys`."""
    ready(tmp_path)
    promoted(tmp_path)
    folder = tmp_path / ".reprune" / "promoter"
    theirs = read_promoter(tmp_path).signer.public_key.keyval["public"]
    (folder / "key.pem").unlink()
    (folder / "config.yaml").unlink()
    next_generation(tmp_path, dense_version="2")
    with pytest.raises(ChampionForeign, match="trusts"):
        promoted(tmp_path)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("[]", f"['{theirs}']", 1))
    assert promoted(tmp_path).champion_after == "2"


def test_tags_without_a_receipt_do_not_pass_for_a_registration(tmp_path: Path) -> None:
    """Somebody registers a version that carries our verdict's tag: promote does not take it for its own."""
    chain = ready(tmp_path)
    verdict = store.read(chain.path("verdict"), store.KINDS["Verdict"])
    registry = registry_of(tmp_path)
    registry.register(COMPRESSED, chain.path("dense"), {"reprune.verdict": verdict.digest})
    result = promoted(tmp_path)
    assert (result.compressed_version, result.champion_after) == ("2", "2")


def test_a_registration_that_a_stranger_signed_is_not_ours(tmp_path: Path) -> None:
    """The same verdict, registered and receipted under a key we do not trust, is registered again."""
    ready(tmp_path, BLOCKED)
    theirs = promoted(tmp_path)
    for name in ("key.pem", "config.yaml"):
        (tmp_path / ".reprune" / "promoter" / name).unlink()
    make_promoter(tmp_path)
    ours = promoted(tmp_path)
    assert (ours.already_done, ours.compressed_version) == (False, "2")
    assert ours.receipt != theirs.receipt
    assert ours.artifact.manifest.predecessor is None
    assert compressed.attempts(registry_of(tmp_path), "digits", "1") == 1


def test_what_is_registered_is_the_copy_that_was_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files swapped after promote has read them do not reach the registry."""
    chain = ready(tmp_path)
    weights = chain.path("candidate") / "weights.safetensors"
    judged = weights.read_bytes()
    original = promote_module.check_integrity

    def swap(*given: object) -> object:
        weights.write_bytes(b"swapped")
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(promote_module, "check_integrity", swap)
    assert promoted(tmp_path).promoted
    registry_of(tmp_path).fetch(COMPRESSED, "1", tmp_path / "back", part="bundle")
    assert (tmp_path / "back" / "bundle" / "weights.safetensors").read_bytes() == judged


def test_a_registry_that_stores_other_bytes_gets_no_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored is read back and compared before the alias moves."""
    ready(tmp_path)
    stored = tmp_path / "registry" / COMPRESSED / "1" / "files" / "bundle" / "weights.safetensors"
    original = promote_module.VersionInfo

    def corrupt(**values: object) -> object:
        stored.write_bytes(b"other")
        return original(**values)  # type: ignore[arg-type]

    monkeypatch.setattr(promote_module, "VersionInfo", corrupt)
    with pytest.raises(promote_module.PromotionRefused) as caught:
        promoted(tmp_path)
    assert caught.value.reason == "stored_differs"
    assert alias(tmp_path) is None


def test_a_champion_whose_files_rotted_is_not_fetched(tmp_path: Path) -> None:
    """One changed byte in the registry's copy of the champion stops the next run before it starts."""
    ready(tmp_path)
    promoted(tmp_path)
    stored = tmp_path / "registry" / COMPRESSED / "1" / "files" / "bundle" / "weights.safetensors"
    stored.write_bytes(stored.read_bytes()[:-1] + b"\x01")
    chain = next_generation(tmp_path, dense_version="2")
    with pytest.raises(PayloadCorrupt, match=r"weights\.safetensors"):
        previous(chain)


def test_an_anchor_is_fetched_when_it_is_the_locked_one(tmp_path: Path) -> None:
    """The alias `anchor` brings its bundle along; one that the lock does not name is refused."""
    ready(tmp_path)
    promoted(tmp_path)
    registry_of(tmp_path).set_alias(COMPRESSED, "anchor", "1")
    chain = next_generation(tmp_path, dense_version="2")
    with pytest.raises(ChampionMoved, match="anchor"):
        previous(chain)
    registry_of(tmp_path).set_alias(COMPRESSED, "champion", "1")


@pytest.mark.slow
def test_promote_on_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_section: object
) -> None:
    """The same on a real MLflow database: registered, aliased, fetched back, blocked next time."""
    root = tmp_path / "repo"
    with_params(monkeypatch, "name: digits\ntask: task.digits:DigitsTask\n")
    ready(root)
    assert isinstance(registry_of(root), MlflowRegistry)
    assert promoted(root).champion_after == "1"
    assert promoted(root).already_done
    chain = next_generation(root, dense_version="2", candidate_wrong=70)
    found = previous(chain)
    assert found.champion is not None
    assert (found.champion.version, found.attempts, len(found.history)) == ("1", 0, 1)
    result = promoted(root)
    assert (result.outcome, result.champion_after) == ("block", "1")
    assert versions(root) == ["1", "2"]
