"""`reprune comment --registry`, and what a lock that went back promotes: nothing."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from reprune.core.errors import ChampionMoved, PromotionRefused
from reprune.core.lock import LOCK_FILE, lock_text
from reprune.doors.cli import main
from reprune.doors.output import CommentOutput
from reprune.registry.compressed import champion
from tests.chain import Story
from tests.forge_server import ForgeServer, Pull
from tests.registry.promotion import next_generation, promoted, ready, registry_of, write_lock

COMPRESSED = "digits-compressed"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "GITHUB_EVENT_PATH"):
        monkeypatch.delenv(name, raising=False)


def told(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> CommentOutput:
    capsys.readouterr()
    assert main(["comment", "-C", str(root), "--dry-run", "--json", *words]) == 0
    return msgspec.json.decode(capsys.readouterr().out, type=CommentOutput)


@pytest.mark.slow
def test_a_champion_that_moved_meanwhile_asks_for_an_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pass against a champion that no longer serves: action required, and the command to run."""
    root = tmp_path / "r"
    story = Story()
    ready(root, story)
    assert told(root, capsys, "--registry").conclusion == "success"
    promoted(root)
    # This verdict is the one that moved it.
    assert told(root, capsys, "--registry").conclusion == "success"
    shutil.rmtree(root / "artifacts")
    ready(root, replace(story, candidate_wrong=7))
    found = told(root, capsys, "--registry")
    assert found.conclusion == "action_required"
    assert "The champion moved meanwhile" in found.body
    assert "`reprune update`" in found.body
    assert found.body.index("### ") < found.body.index("The champion moved")
    assert told(root, capsys).conclusion == "success"


def test_a_blocked_verdict_stays_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was blocked is no less blocked because the champion moved."""
    root = tmp_path / "r"
    ready(root)
    promoted(root)
    shutil.rmtree(root / "artifacts")
    ready(root, Story(candidate_wrong=200))
    assert told(root, capsys, "--registry").conclusion == "failure"


@pytest.mark.parametrize(
    ("story", "conclusion"),
    [(Story(), "action_required"), (Story(candidate_wrong=200), "failure")],
)
def test_a_registry_that_does_not_answer_leaves_the_verdict_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], story: Story, conclusion: str
) -> None:
    """A pass asks for action, a block stays a failure, and neither is left without its check."""
    root = tmp_path / "r"
    ready(root, story)
    params = (root / "params.yaml").read_text()
    # A file where the registry's folder should be.
    (root / "params.yaml").write_text(re.sub(r"uri: [^,}\n]+", "uri: policy.yaml", params, count=1))
    found = told(root, capsys, "--registry")
    assert found.conclusion == conclusion
    assert "Whether the champion moved is not known" in found.body
    assert any("does not answer" in warning for warning in found.warnings)


@pytest.mark.parametrize("kind", ["kubeflow", "acme"])
def test_a_registry_that_cannot_be_asked_leaves_the_verdict_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its token's file is not mounted here, or its kind is of a package that only the cluster has."""
    root = tmp_path / "r"
    ready(root)
    monkeypatch.setenv("REPRUNE_REGISTRY_TOKEN_FILE", str(tmp_path / "gone"))
    params = (root / "params.yaml").read_text()
    there = f"kind: {kind}, uri: 'http://127.0.0.1:9', artifacts: store"
    (root / "params.yaml").write_text(params.replace("kind: files, uri: registry", there))
    found = told(root, capsys, "--registry")
    assert found.conclusion == "action_required"
    assert "Whether the champion moved is not known" in found.body
    assert any("cannot be asked" in warning for warning in found.warnings)


def test_a_verdict_that_its_samples_do_not_give_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--recompute`: a forged outcome becomes no comment that says pass."""
    from tests.chain import reencode

    root = tmp_path / "r"
    chain = ready(root, Story(candidate_wrong=200))
    found = told(root, capsys, "--recompute")
    assert found.conclusion == "failure"
    assert "gave no verdict" not in found.body
    manifest = msgspec.json.decode((chain.path("verdict") / "manifest.json").read_bytes())
    reencode(chain.path("verdict"), judgement={**manifest["judgement"], "outcome": "pass"})
    found = told(root, capsys, "--recompute")
    assert (found.conclusion, "gave no verdict" in found.body) == ("failure", True)


@pytest.mark.slow
def test_a_lock_that_went_back_promotes_nothing(tmp_path: Path) -> None:
    """Two generations served in turn; the first one's lock and verdict, put back, move nothing."""
    root, before = tmp_path / "r", tmp_path / "before"
    ready(root)
    promoted(root)
    shutil.copytree(root / "artifacts", before / "artifacts")
    shutil.copy(root / LOCK_FILE, before / LOCK_FILE)
    shutil.rmtree(root / "artifacts")
    next_generation(root, candidate_wrong=5, attempt=2, attempts_before=1)
    second = promoted(root)
    assert second.promoted
    shutil.rmtree(root / "artifacts")
    shutil.copytree(before / "artifacts", root / "artifacts")
    shutil.copy(before / LOCK_FILE, root / LOCK_FILE)
    with pytest.raises((ChampionMoved, PromotionRefused)):
        promoted(root)
    assert registry_of(root).alias(COMPRESSED, "champion") == second.compressed_version


def test_a_verdict_of_a_run_elsewhere_comes_from_the_registry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a run in a cluster left for this lock is told; nothing there is overwritten, and a lock that
    nothing was judged for is told as such.
    """
    root = tmp_path / "r"
    chain = ready(root)
    promoted(root)
    shutil.rmtree(root / "artifacts")
    found = told(root, capsys, "--from-registry", "--recompute")
    assert found.conclusion == "success"
    assert main(["check", "-C", str(root)]) == 0
    assert main(["comment", "-C", str(root), "--dry-run", "--from-registry"]) == 2
    shutil.rmtree(root / "artifacts")
    write_lock(root, msgspec.structs.replace(chain.documents.lock, data_version="data-2"))
    found = told(root, capsys, "--from-registry")
    assert (found.conclusion, "gave no verdict" in found.body) == ("failure", True)


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_a_pull_request_from_before_the_lock_was_merged_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its lock is not the base's any more, and it is not its own either: it changes nothing judged."""
    root = tmp_path / "r"
    merged = ready(root).documents.lock
    promoted(root)
    for name in ("GITHUB_TOKEN", "GITLAB_TOKEN"):
        monkeypatch.setenv(name, "secret-token")
    before = msgspec.structs.replace(merged, data_version="data-0")
    words_only, relocked = "d" * 40, "e" * 40
    with ForgeServer() as forge:
        forge.world.pulls = [
            Pull(5, "words", words_only, began="b" * 40),
            Pull(6, "relock", relocked, began="b" * 40),
        ]
        for ref, lock in (
            ("main", merged),
            ("b" * 40, before),
            (words_only, before),
            (relocked, msgspec.structs.replace(before, data_version="data-2")),
        ):
            forge.world.files[(LOCK_FILE, ref)] = lock_text(lock).encode()
        where = (forge.github, "them/model") if kind == "github" else (forge.gitlab, "7")
        words = ["comment", "-C", str(root), "--json", "--sweep", "main", "--on", kind]
        words += ["--api", where[0], "--repository", where[1], "--order", "5"]
        capsys.readouterr()
        assert main(words) == 0
        found = msgspec.json.decode(capsys.readouterr().out, type=CommentOutput)
        assert (found.swept, found.warnings) == ((6,), ())


def test_open_pull_requests_are_told_that_the_champion_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose own lock names another champion; not one up to date, and none without a lock of its own."""
    root = tmp_path / "r"
    old = ready(root).documents.lock
    promoted(root)
    holder = champion(registry_of(root), "digits")
    assert holder is not None
    monkeypatch.setenv("GITHUB_TOKEN", "secret-token")
    heads = {name: name[0] * 40 for name in ("stale", "current", "plain", "broken", "other")}
    data_2 = msgspec.structs.replace(old, data_version="data-2")
    with ForgeServer() as forge:
        forge.world.pulls = [Pull(i, n, h) for i, (n, h) in enumerate(heads.items(), 1)]
        forge.world.pulls.append(Pull(9, "else", heads["stale"], base="another"))
        for ref, lock in (
            ("main", old),
            (heads["stale"], data_2),
            (heads["current"], msgspec.structs.replace(old, champion=holder.ref)),
            (heads["plain"], old),
            (heads["other"], msgspec.structs.replace(data_2, name="another-model")),
        ):
            forge.world.files[(LOCK_FILE, ref)] = lock_text(lock).encode()
        forge.world.files[(LOCK_FILE, heads["broken"])] = b"schema: ["
        words = ["comment", "-C", str(root), "--json", "--sweep", "main", "--on", "github"]
        words += ["--api", forge.github, "--repository", "them/model", "--order", "5"]
        capsys.readouterr()
        assert main(words) == 0
        found = msgspec.json.decode(capsys.readouterr().out, type=CommentOutput)
        assert found.swept == (1,)
        (check,) = forge.world.checks
        assert (check["head_sha"], check["conclusion"]) == (heads["stale"], "action_required")
        assert "reprune update" in check["output"]["title"]
        forge.world.denied = ("/check-runs", "/statuses")
        assert main(words) == 0
        assert "checks: write" in capsys.readouterr().out
