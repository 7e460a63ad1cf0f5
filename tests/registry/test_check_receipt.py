"""`reprune check RECEIPT`: what a registered version proves offline, and how each thing fails."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from reprune.core import store
from reprune.doors.cli import main
from reprune.registry.attestations import EVAL_FILE, PROMOTED_FILE
from reprune.registry.receipts import RECEIPT_FILE
from reprune.steps.checking import check_receipt, receipt_path
from reprune.steps.promoter import read_promoter
from tests.chain import Story
from tests.registry.promotion import NOW_S, copy_repository, promoted, ready


@pytest.fixture
def files(template: Path, tmp_path: Path) -> Path:
    """The files of a promoted version, in a repository at `tmp_path / "repo"`."""
    root = copy_repository(template, tmp_path / "repo")
    promoted(root)
    return root / "registry/digits-compressed/1/files"


def held(path: Path, root: Path, *, now: float = NOW_S) -> dict[str, bool | None]:
    found = check_receipt(path, read_promoter(root).keys, minimum=None, now=now)
    return {each.name: each.held for each in found.checks}


def told(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))
    return loaded


def test_a_version_is_checked_in_promotes_order(files: Path, tmp_path: Path) -> None:
    """All that lies there holds; the registry's own questions are left open, and said so."""
    root = tmp_path / "repo"
    assert held(files / RECEIPT_FILE, root) == {
        "form": True, "signature": True, "type": True, "files": True, "evidence": True, "policy": None,
        "validity": True, "chain": None,
    }  # fmt: skip
    assert receipt_path(files) == files / RECEIPT_FILE
    assert receipt_path(root / "artifacts/verdict") is None


def test_a_missing_file_alone_is_told_from_none(files: Path, tmp_path: Path) -> None:
    """A receipt by itself was not compared with files; one beside half of its files does not hold."""
    root = tmp_path / "repo"
    alone = root / "alone.dsse.json"
    alone.write_bytes((files / RECEIPT_FILE).read_bytes())
    assert held(alone, root)["files"] is None
    (files / "plan/plan.yaml").unlink()
    assert held(files / RECEIPT_FILE, root)["files"] is False


def test_a_link_is_no_file(files: Path, tmp_path: Path) -> None:
    """Also to the very bytes."""
    path = files / "bundle/weights.safetensors"
    path.rename(tmp_path / "w")
    path.symlink_to(tmp_path / "w")
    assert held(files / RECEIPT_FILE, tmp_path / "repo")["files"] is False


def test_what_is_said_to_others_is_what_was_decided(files: Path) -> None:
    """The evaluation holds every demand of the verdict; the SVR names its policy and the files by digest."""
    decision = told(files / RECEIPT_FILE)["predicate"]
    measured, verified = told(files / EVAL_FILE), told(files / PROMOTED_FILE)
    rules = json.loads((files / "verdict/manifest.json").read_bytes())["judgement"]["rules"]
    said = measured["predicate"]
    assert [each["metric"] for each in said["results"]] == [each["rule"] for each in rules]
    assert all(each["passed"] for each in said["results"] if each["required"])
    for field in ("policy", "lock", "verdict", "samples", "machines", "valid_for_days", "champion"):
        assert said[field] == decision[field]
    assert said["eval_set"] == decision["eval_digest"]
    policies = {each["uri"]: each["digest"]["sha256"] for each in verified["predicate"]["policies"]}
    assert f"sha256:{policies['verdict/policy.json']}" == decision["policy"]
    assert "REPRUNE_PROMOTED" in verified["predicate"]["properties"]
    names = {each["name"] for each in verified["subject"]}
    assert names == {each["name"] for each in measured["subject"]}
    assert "bundle/weights.safetensors" in names
    assert decision["valid_for_days"] == 14.0


def test_what_was_blocked_is_not_said_to_be_promoted(tmp_path: Path) -> None:
    """It has an evaluation that says which demand failed, and no SVR."""
    ready(tmp_path, Story(candidate_wrong=70))
    promoted(tmp_path)
    files = tmp_path / "registry/digits-compressed/1/files"
    assert not (files / PROMOTED_FILE).exists()
    results = told(files / EVAL_FILE)["predicate"]["results"]
    assert {each["outcome"] for each in results if not each["passed"]} >= {"block"}


@pytest.mark.parametrize(("wrong", "outcome", "code"), [(70, "block", 3), (None, "pass", 0)])
def test_an_evaluation_ends_as_what_it_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: int | None,
    outcome: str,
    code: int,
) -> None:
    """As the receipt beside it does; and says so."""
    ready(tmp_path, None if wrong is None else Story(candidate_wrong=wrong))
    promoted(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in (RECEIPT_FILE, EVAL_FILE):
        path = tmp_path / "registry/digits-compressed/1/files" / name
        assert main(["check", "-C", str(tmp_path), "--json", str(path)]) == code
        said = json.loads(capsys.readouterr().out)
        assert (said["ok"], said["outcome"]) == (True, outcome)


def said_by(
    capsys: pytest.CaptureFixture[str], root: Path, *words: str | Path
) -> tuple[int, dict[str, Any]]:
    code = main(["check", "-C", str(root), "--json", *map(str, words)])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("taken", [(), (store.MANIFEST,), (store.DIGEST,)])
def test_a_receipt_in_a_verdict_does_not_speak_for_it(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    taken: tuple[str, ...],
) -> None:
    """A whole verdict or what is left of one, with a receipt that holds put into it: neither counts."""
    root = tmp_path / "repo"
    monkeypatch.chdir(root)
    verdict = root / "artifacts/verdict"
    assert said_by(capsys, root, verdict)[0] == 0
    assert said_by(capsys, root, files / RECEIPT_FILE)[0] == 0
    (verdict / RECEIPT_FILE).write_bytes((files / RECEIPT_FILE).read_bytes())
    for name in taken:
        assert (verdict / name).exists()
        (verdict / name).unlink()
    for words in ((), ("--recompute",)):
        code, said = said_by(capsys, root, verdict, *words)
        assert (code, said["ok"], said["code"]) == (2, False, "artifact")
    (verdict / store.MANIFEST).write_text("{}")
    assert said_by(capsys, root, verdict)[0] == 2


def test_the_record_of_a_promotion_is_checked_by_its_receipt(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an artefact with a receipt in it, and has to be whole."""
    root = tmp_path / "repo"
    monkeypatch.chdir(root)
    (record,) = (root / ".reprune/receipts").iterdir()
    code, said = said_by(capsys, root, record)
    assert (code, said["outcome"], said["promotes"]) == (0, "pass", True)
    other = (files / EVAL_FILE).read_bytes()
    (record / RECEIPT_FILE).write_bytes(other)
    assert said_by(capsys, root, record)[0] == 2


def test_a_receipt_is_not_judged_again_by_a_flag(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag that would do nothing is refused."""
    monkeypatch.chdir(tmp_path / "repo")
    for place in (files, files / RECEIPT_FILE):
        code, said = said_by(capsys, tmp_path / "repo", place, "--recompute")
        assert (code, said["code"]) == (2, "input")
        assert "--recompute" in said["what"]


def test_evidence_that_was_too_old_when_it_was_signed(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt of a promoter that did not look at the age is told by its own dates."""
    from msgspec import structs

    from reprune.registry.receipts import Statement, decode, sign

    root = tmp_path / "repo"
    whole: Statement = decode((files / RECEIPT_FILE).read_bytes(), where="r").statement
    late = structs.replace(whole.predicate, signed_at_s=whole.predicate.signed_at_s + 15 * 86_400)
    alone = root / "late.dsse.json"
    alone.write_bytes(sign(structs.replace(whole, predicate=late), read_promoter(root).signer))
    assert held(alone, root)["validity"] is False
