"""What promote leaves behind and says, piece by piece: the artefact, the statements, the sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from reprune.core import store
from reprune.core.artifacts import Receipt, Verdict, Waiver
from reprune.core.errors import ChampionForeign, PromotionRefused
from reprune.core.policy import POLICY_FILE
from reprune.registry import attestations, receipts
from reprune.registry.receipted import read_receipt
from reprune.registry.tags import PROMOTED
from reprune.steps.promote import RECEIPTS, PromoteResult, _promotes, _same, _words
from reprune.steps.promoter import read_promoter
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    copy_repository,
    promoted,
    registry_of,
)
from tests.registry.test_acceptance import Stand, stand
from tests.registry.test_moving import served
from tests.registry.test_receipts import statement

__all__ = ["served", "stand"]
WAIVER = Waiver(
    by="Ada", reason="r", expires="2026-12-24", rules=("a",), verdict="", candidate="", policy=""
)


@pytest.fixture
def root(served: Path, tmp_path: Path) -> Path:
    """One was promoted, and its run lies there still."""
    return copy_repository(served, tmp_path / "repo")


def files(root: Path) -> Path:
    return root / "registry" / COMPRESSED / "1" / "files"


def read(root: Path, name: str, kind: type[receipts.S]) -> receipts.S:
    raw = (files(root) / name).read_bytes()
    return receipts.verify_statement(raw, kind, read_promoter(root).keys, where=name)[0]


def test_the_local_receipt_says_what_was_done(root: Path) -> None:
    """Every field is the signed receipt's own; it lies below `.reprune/receipts` by its digest."""
    result = promoted(root)
    assert result.already_done
    info = registry_of(root).versions(COMPRESSED)[0]
    signed = read_receipt(registry_of(root), info)
    stated = signed.statement.predicate
    digest = signed.digest.removeprefix("sha256:")
    assert result.artifact.path == root / ".reprune/receipts" / digest[:24]
    kept = store.read(result.artifact.path, Receipt)
    manifest = kept.manifest
    assert (manifest.producer.step, manifest.parents) == ("promote", {"verdict": stated.verdict})
    assert (kept.path / receipts.RECEIPT_FILE).read_bytes() == signed.raw
    told = {
        "name": "digits",
        "outcome": "pass",
        "compressed_version": "1",
        "promoted": True,
        "champion_after": "1",
        "verdict": stated.verdict,
        "bundle": stated.bundle,
        "receipt": signed.digest,
        "predecessor": None,
        "signer": read_promoter(root).signer.public_key.keyid,
    }
    assert {name: getattr(manifest, name) for name in told} == told
    assert result == PromoteResult(
        outcome="pass",
        promoted=True,
        already_done=True,
        compressed_version="1",
        champion_after="1",
        receipt=signed.digest,
        reasons=stated.reasons,
        words="pass: registered as version 1 of digits-compressed, which is now the champion. "
        "Nothing had to be done.",
        artifact=result.artifact,
        waived_by=None,
        dry_run=False,
    )


def test_a_promotion_without_its_mark_is_completed(root: Path) -> None:
    """The alias names it, and only the mark is missing: it is set, if what is on record lets it serve."""
    path = root / "registry" / COMPRESSED / "1" / "version.json"
    text = path.read_text()
    mark = registry_of(root).versions(COMPRESSED)[0].tags[PROMOTED]
    path.write_text(text.replace(PROMOTED, "elsewhere"))
    result = promoted(root)
    assert (result.promoted, result.already_done) == (True, False)
    assert registry_of(root).versions(COMPRESSED)[0].tags[PROMOTED] == mark == result.receipt
    assert not result.words.endswith("Nothing had to be done.")
    path.write_text(text.replace(PROMOTED, "reprune.rolled_back"))
    with pytest.raises(ChampionForeign, match="was rolled back"):
        promoted(root)


def test_the_statements_are_about_what_will_serve(root: Path) -> None:
    """Bundle and engines by digest, and nothing that only judged them; no minimum was demanded."""
    listed = {
        path.relative_to(files(root)).as_posix(): store.file_digest(path)
        for path in files(root).rglob("*")
        if path.is_file() and path.relative_to(files(root)).parts[0] in ("bundle", "engines")
    }
    assert listed
    evaluated = read(root, attestations.EVAL_FILE, attestations.EvalStatement)
    verified = read(root, attestations.VERIFIED_FILE, attestations.VerifiedStatement)
    assert receipts.subject_digests(evaluated) == listed
    assert receipts.subject_digests(verified) == listed
    assert "REPRUNE_MINIMUM_POLICY_MET" not in verified.predicate.properties
    receipt = read(root, receipts.RECEIPT_FILE, receipts.Statement)
    said = receipts.subject_digests(receipt)
    for name in (attestations.EVAL_FILE, attestations.VERIFIED_FILE):
        assert said[name] == store.file_digest(files(root) / name)
    assert receipts.RECEIPT_FILE not in said
    assert receipt.predicate.valid_for_days == 14.0
    assert receipt.predicate.registry == registry_of(root).identity
    verdict = store.read(root / "artifacts" / "verdict", Verdict)
    assert evaluated.predicate.alpha == verdict.manifest.judgement.alpha


def test_a_minimum_that_was_met_is_said(template: Path, tmp_path: Path) -> None:
    root = copy_repository(template, tmp_path / "repo")
    config = root / ".reprune" / "promoter" / "config.yaml"
    policy = (root / POLICY_FILE).read_text().strip().replace("\n", "\n  ")
    config.write_text(config.read_text() + f"minimum_policy:\n  {policy}\n")
    assert promoted(root).promoted
    verified = read(root, attestations.VERIFIED_FILE, attestations.VerifiedStatement)
    assert "REPRUNE_MINIMUM_POLICY_MET" in verified.predicate.properties


def test_a_champion_that_is_moved_back_at_once_is_seen(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read after the move: another champion than the one just made is a refusal, and no success."""
    from reprune.steps import moving
    from tests.registry.stand import Failing

    class Stubborn(Failing):
        def set_alias(self, name: str, alias: str, version: str) -> None:
            """Somebody else's hand is quicker."""

    root = copy_repository(template, tmp_path / "repo")
    stubborn = Stubborn(registry_of(root), at=99, after=False)
    monkeypatch.setattr(moving, "open_registry", lambda *_: stubborn)
    with pytest.raises(PromotionRefused, match="reads as version None, not 1") as caught:
        promoted(root)
    assert caught.value.reason == "alias_not_moved"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "pass: HERE, which is now the champion."),
        ({"outcome": "block"}, "block: HERE; the champion stays 3."),
        (
            {"dry_run": True},
            "dry run: pass, so enforcing would have made it the champion; HERE, the ",
        ),
        (
            {"dry_run": True, "outcome": "block"},
            "dry run: block, so enforcing would not promote it; ",
        ),
        ({"dry_run": False}, "pass: HERE, which is now the champion."),
        (
            {"outcome": "block", "waiver": WAIVER},
            "block, overridden by Ada until 2026-12-24: HERE, which is now the champion.",
        ),
    ],
)
def test_it_is_said_in_a_sentence(changes: dict[str, Any], words: str) -> None:
    stated = statement(**changes).predicate
    assert _words(stated, "HERE", "3").startswith(words)
    if not stated.promotes:
        assert "the champion stays none" in _words(stated, "HERE", None)


@pytest.mark.parametrize("outcome", ["pass", "block", "inconclusive", "error"])
@pytest.mark.parametrize("waived", [False, True])
@pytest.mark.parametrize("dry_run", [UNSET, False, True])
def test_what_is_promoted(stand: Stand, outcome: Any, waived: bool, dry_run: Any) -> None:
    """A pass, or what an accepted override names; never a dry run."""
    judgement = msgspec.structs.replace(stand.case.judgement, outcome=outcome, dry_run=dry_run)
    case = replace(stand.case, judgement=judgement)
    expected = (outcome == "pass" or waived) and dry_run is not True
    assert _promotes(case, WAIVER if waived else None) is expected


def test_a_version_is_the_same_under_the_same_override() -> None:
    assert Path(".reprune/receipts") == RECEIPTS
    info: Any = None
    for made in (UNSET, WAIVER):
        raw = statement(waiver=made)
        receipt = receipts.Receipted(statement=raw, digest="", raw=b"")
        assert _same((info, receipt), None) is (made is UNSET)
        assert _same((info, receipt), WAIVER) is (made is WAIVER)


def test_times_are_whole_seconds(root: Path) -> None:
    receipt = read(root, receipts.RECEIPT_FILE, receipts.Statement)
    assert receipt.predicate.signed_at_s == int(NOW_S)
