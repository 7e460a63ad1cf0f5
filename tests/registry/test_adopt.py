"""adopt: what already serves becomes champion under a signed record, unjudged, and the gate stays closed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from reprune.core import store
from reprune.core.artifacts import ModelBundle
from reprune.core.errors import (
    ChampionForeign,
    ChampionLost,
    ChampionMoved,
    CheckpointError,
    InputError,
    ManifestEdited,
    NonFiniteWeights,
    PayloadCorrupt,
    VersionNotFound,
)
from reprune.core.lock import ChampionRef
from reprune.core.step import run
from reprune.doors.cli import main
from reprune.registry import links
from reprune.registry.compressed import champion
from reprune.registry.receipts import chain_gaps
from reprune.registry.records import AdoptionRecord
from reprune.registry.tags import PROMOTED, VERDICT
from reprune.steps import moving
from reprune.steps.adopt import AdoptResult, adopt
from reprune.steps.fetch import fetch_previous
from reprune.steps.past import champion_newest
from reprune.steps.promoter import read_promoter
from reprune.steps.rollback import rollback
from tests import chain
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    copy_repository,
    flip,
    next_generation,
    promoted,
    redigest,
    refused,
    registry_of,
    versions,
)
from tests.registry.stand import TASK, Failing, Killed, write_weights
from tests.registry.test_override import allow
from tests.registry.test_promote import previous


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A judged generation that nobody promoted, and a model of somebody else's that serves."""
    root = copy_repository(template, tmp_path / "repo")
    foreign(root)
    return root


def other_bundle(root: Path, name: str = "other", *, value: float = 7.0) -> Path:
    """A ModelBundle that no run made: the candidate with other weights."""
    folder = root / "artifacts" / name
    shutil.copytree(root / "artifacts" / "candidate", folder)
    write_weights(folder / "weights.safetensors", value)
    redigest(folder)
    return folder


def foreign(root: Path, *, below: str = "bundle") -> str:
    """The alias names a version that Reprune never saw; returns its number."""
    folder = root / "serving"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(root / "artifacts" / "other", ignore_errors=True)
    shutil.copytree(other_bundle(root), folder / below)
    registry = registry_of(root)
    version = registry.register(COMPRESSED, folder, {"team": "edge"})
    registry.set_alias(COMPRESSED, "champion", version)
    return version


def adopted(root: Path, version: str | None = None, *, by: str = "Ada") -> AdoptResult:
    return adopt(
        root, version=version, by=by, reason="serves since May", now=NOW_S, say=lambda _: None
    )


def alias(root: Path) -> str | None:
    return registry_of(root).alias(COMPRESSED, "champion")


def chain_of(root: Path) -> tuple[links.Place, ...]:
    return links.links(registry_of(root), "digits", keys=read_promoter(root).keys)


@pytest.mark.parametrize("below", ["bundle", "."])
def test_what_serves_is_copied_signed_and_made_champion(root: Path, below: str) -> None:
    """From bundle/ or from the top of the version; the copy is the bundle and nothing else."""
    serving = foreign(root, below=below)
    result = adopted(root)
    assert (result.before, result.version, alias(root)) == (serving, result.version, result.version)
    assert result.version != serving
    info, record = chain_of(root)[-1]
    assert isinstance(record, AdoptionRecord)
    told = record.statement.predicate
    assert (told.by, told.reason, told.source) == ("Ada", "serves since May", "champion")
    assert (told.source_version, told.before, told.predecessor) == (serving, serving, None)
    assert (info.version, info.tags[PROMOTED]) == (result.version, record.digest)
    held = store.read(root / "registry" / COMPRESSED / result.version / "files/bundle", ModelBundle)
    assert held.digest == told.bundle == result.bundle
    assert VERDICT not in info.tags


@pytest.mark.slow
def test_the_first_generation_is_judged_against_it(root: Path) -> None:
    """Lock, fetch-previous and a promotion, as with a judged champion; what it saw is not known."""
    with pytest.raises(ChampionForeign, match="reprune adopt"):
        champion(registry_of(root), "digits")
    result = adopted(root)
    judged = next_generation(root, dense_version="2")
    locked = judged.documents.lock.champion
    assert locked == ChampionRef(
        version=result.version, bundle=result.bundle, receipt=result.record
    )
    found = previous(judged)
    assert found.champion == locked
    assert (found.attempts, found.history, champion_newest(found)) == (0, (), None)
    fetched = root / "fetched"
    run(fetch_previous, {}, judged.documents, fetched, say=lambda _: None)
    assert store.read(fetched / "champion", ModelBundle).digest == result.bundle
    assert not (fetched / "plan").exists()
    after = promoted(root)
    assert after.promoted
    assert chain_gaps([link for _, link in chain_of(root)]) == ()
    # ... and the adopted model is what a rollback returns to.
    back = rollback(root, to=None, by="Ada", reason="x", now=NOW_S, say=lambda _: None)
    assert back.version == result.version == alias(root)


@pytest.mark.slow
def test_a_dense_version_is_adopted_without_being_run(root: Path) -> None:
    """Nothing served: the dense model itself becomes what the first generation is judged against."""
    (root / "task" / "digits.py").write_text(TASK)
    shutil.rmtree(root / "registry" / COMPRESSED)
    with refused(root, "nothing_to_adopt"):
        adopted(root)
    result = adopted(root, "1")
    assert (result.origin, result.before, result.version) == ("dense version 1", None, "1")
    assert result.dense_version == "1"
    held = root / "registry" / COMPRESSED / "1" / "files" / "bundle"
    dense = root / "registry" / "digits" / "1" / "files" / "weights.safetensors"
    assert (held / "weights.safetensors").read_bytes() == dense.read_bytes()
    assert (held / "task" / "task" / "digits.py").read_text() == TASK
    assert adopted(root, "1").already_done
    assert adopted(root).already_done
    with pytest.raises(VersionNotFound):
        adopted(root, "9")


def test_doing_it_again_changes_nothing(root: Path) -> None:
    first = adopted(root)
    for again in (adopted(root), adopted(root, "artifacts/other", by="Bob")):
        assert (again.version, again.record, again.by) == (first.version, first.record, "Ada")
        assert again.already_done
    assert len(versions(root)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "answer-lost"])
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize(("error", "serves"), [(Killed, True), (ConnectionError, False)])
def test_cut_short_anywhere_it_completes(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    after: bool,
    error: type[BaseException],
    serves: bool,
) -> None:
    version = None
    if not serves:
        shutil.rmtree(root / "registry" / COMPRESSED)
        version = "./artifacts/other"
    failing = Failing(registry_of(root), at=at, after=after, error=error)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(error):
            adopted(root, version)
    assert failing.writes == ["register", "set_alias", "set_tags"][:at]
    if not serves and at == 2 and not after:
        # Between the record and the alias nobody takes it for "nothing was ever promoted".
        with pytest.raises(ChampionLost, match="reprune adopt"):
            champion(registry_of(root), "digits")
        assert adopted(root).version == "1"
    result = adopted(root, version)
    assert alias(root) == result.version
    assert len(versions(root)) == (2 if serves else 1)
    assert adopted(root, version).already_done


def test_an_alias_that_somebody_moves_meanwhile_stays_theirs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = moving.records.record_tags

    def meanwhile(record: AdoptionRecord) -> dict[str, str]:
        foreign(root)
        return original(record)

    with monkeypatch.context() as patched:
        patched.setattr(moving.records, "record_tags", meanwhile)
        with pytest.raises(ChampionMoved, match="somebody else moved it"):
            adopted(root)
    assert alias(root) == "2"


@pytest.mark.slow
def test_a_judged_champion_is_not_replaced(root: Path) -> None:
    adopted(root)
    next_generation(root, dense_version="2")
    promoted(root)
    with refused(root, "champion_exists"):
        adopted(root)
    with refused(root, "champion_exists"):
        adopted(root, "./artifacts/other")


@pytest.mark.slow
def test_a_blocked_model_does_not_come_in_by_this_door(root: Path) -> None:
    """Neither by its own version, nor as a copy, nor from where it lies."""
    allow(root)
    adopted(root)
    next_generation(root, dense_version="2", candidate_wrong=70)
    version = promoted(root).compressed_version
    registry = registry_of(root)
    with refused(root, "was_judged"):
        adopted(root, "./artifacts/candidate")
    registry.set_alias(COMPRESSED, "champion", version)
    with refused(root, "was_judged"):
        adopted(root)
    copy = registry.register(
        COMPRESSED, root / "registry" / COMPRESSED / version / "files", {"team": "edge"}
    )
    registry.set_alias(COMPRESSED, "champion", copy)
    with refused(root, "was_judged"):
        adopted(root)


@pytest.mark.slow
def test_where_something_served_only_who_may_override_may_adopt(root: Path) -> None:
    first = adopted(root)
    next_generation(root, dense_version="2")
    promoted(root)
    shutil.rmtree(root / "artifacts" / "other")
    other = other_bundle(root, "third", value=3.0)
    folder = root / "third"
    shutil.copytree(other, folder / "bundle")
    registry = registry_of(root)
    by_hand = registry.register(COMPRESSED, folder, {})
    registry.set_alias(COMPRESSED, "champion", by_hand)
    with refused(root, "adoption_not_allowed"):
        adopted(root)
    allow(root)
    with refused(root, "adoption_not_allowed"):
        adopted(root, by="Bob")
    second = adopted(root)
    assert second.version not in (first.version, by_hand)
    assert chain_gaps([link for _, link in chain_of(root)]) == ()


@pytest.mark.slow
def test_what_was_rolled_back_stays_away(root: Path) -> None:
    allow(root)
    first = adopted(root)
    other_bundle(root, "third", value=3.0)
    second = adopted(root, "./artifacts/third")
    assert second.version == alias(root)
    rollback(root, to=first.version, by="Ada", reason="x", now=NOW_S, say=lambda _: None)
    with refused(root, "rolled_back"):
        adopted(root, "./artifacts/third")


@pytest.mark.slow
def test_what_cannot_be_an_arm_is_refused(root: Path) -> None:
    """Edited, cut off, pickled, not finite, another model's, another task's; nothing is registered."""
    count = len(versions(root))
    broken = root / "artifacts" / "broken"
    shutil.copytree(root / "artifacts" / "other", broken)
    flip(broken / "weights.safetensors")
    with pytest.raises(PayloadCorrupt):
        adopted(root, "./artifacts/broken")
    redigest(broken)
    with pytest.raises(CheckpointError):
        adopted(root, "./artifacts/broken")
    write_weights(broken / "weights.safetensors", float("nan"))
    redigest(broken)
    with pytest.raises(NonFiniteWeights):
        adopted(root, "./artifacts/broken")
    write_weights(broken / "weights.safetensors", 2.0)
    (broken / "extra.pt").write_bytes(b"\x80\x04")
    redigest(broken)
    with refused(root, "pickled"):
        adopted(root, "./artifacts/broken")
    (broken / "extra.pt").unlink()
    (broken / "task" / "task" / "digits.py").write_text("import os\n")
    redigest(broken)
    with refused(root, "other_task"):
        adopted(root, "./artifacts/broken")
    chain.reencode(broken, name="letters")
    with refused(root, "other_model"):
        adopted(root, "./artifacts/broken")
    manifest = broken / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"letters"', '"digits"'))
    with pytest.raises(ManifestEdited):
        adopted(root, "./artifacts/broken")
    assert len(versions(root)) == count


def test_a_version_without_a_bundle_says_what_can_be_done(root: Path) -> None:
    folder = root / "onnx"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"x")
    registry = registry_of(root)
    registry.set_alias(COMPRESSED, "champion", registry.register(COMPRESSED, folder, {}))
    with refused(root, "no_bundle"):
        adopted(root)


@pytest.mark.slow
def test_a_stranger_takes_no_adoption_for_ours(root: Path) -> None:
    """Files that changed, a record moved to another version, tags alone: each is foreign."""
    result = adopted(root)
    place = root / "registry" / COMPRESSED / result.version
    flip(place / "files" / "bundle" / "weights.safetensors")
    judged = next_generation(root, dense_version="2")
    with pytest.raises(PayloadCorrupt):
        previous(judged)
    flip(place / "files" / "bundle" / "weights.safetensors")
    told = json.loads((place / "version.json").read_text())
    told["tags"]["reprune.bundle"] = "sha256:" + "0" * 64
    (place / "version.json").write_text(json.dumps(told))
    with pytest.raises(ChampionForeign, match="contradicts its tags"):
        champion(registry_of(root), "digits")


def test_nobody_is_no_answer(root: Path) -> None:
    with pytest.raises(InputError, match="must say something"):
        adopted(root, by=" ")


def test_the_command(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    words = ["adopt", "-C", str(root), "--by", "Ada", "--reason", "serves since May", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["before"], told["already_done"]) == ("2", "1", False)
    assert main([*words, "--version", "9"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "version_not_found"
