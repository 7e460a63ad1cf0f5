"""What may be adopted, when, by whom, and what is left behind: against a registry in memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune import __version__
from reprune.core import store
from reprune.core.artifacts import ModelBundle
from reprune.core.errors import (
    ChampionLost,
    ChampionMoved,
    CheckpointError,
    InputError,
    PromotionRefused,
    VersionNotFound,
)
from reprune.core.params import read_params
from reprune.core.policy import read_policy
from reprune.core.step import Documents, run
from reprune.registry.receipts import RECEIPT_FILE
from reprune.registry.records import Adoption, AdoptionRecord, read_record
from reprune.registry.tags import PROMOTED, ROLLED_BACK
from reprune.registry.weights import check_weights
from reprune.steps import adoptable, moving
from reprune.steps.adopt import AdoptResult, adopt
from reprune.steps.adoptable import is_path
from reprune.steps.fetch import fetch_dense
from reprune.steps.project import describe
from reprune.steps.promoter import FOLDER, make_promoter
from reprune.steps.update import update
from reprune.task.load import task_digest
from tests import chain
from tests.registry.memory import KEYS, MODEL, OURS, STRANGER, Memory, sha
from tests.registry.promotion import redigest, registry_of
from tests.registry.stand import PARAMS, write_repository, write_weights

MARK = {PROMOTED: "x"}


@pytest.fixture
def root(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose promoter holds the key that signs in memory, and a bundle `a` of its model."""
    root = tmp_path / "repo"
    write_repository(root)
    make_promoter(root)
    (root / FOLDER / "key.pem").write_bytes(OURS.private_bytes)
    shutil.copytree(template / "artifacts/candidate", root / "a")
    # A process of its own for each look takes half a second.
    monkeypatch.setattr(adoptable, "check_apart", check_weights)
    return root


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Memory:
    found = Memory()
    monkeypatch.setattr(moving, "open_registry", lambda *_: found)
    return found


def taken(
    root: Path, version: str | None = None, *, by: str = " Ada ", now: float = 77.9
) -> AdoptResult:
    return adopt(root, version=version, by=by, reason="it\nserves", now=now, say=lambda _: None)


def refused(reason: str, match: str | None = None) -> Any:
    return pytest.raises(PromotionRefused, match=match, check=lambda error: error.reason == reason)


def allow(root: Path) -> None:
    path = root / FOLDER / "config.yaml"
    path.write_text(path.read_text().replace("allowed_by: []", "allowed_by: [Ada]"))


def other(root: Path, name: str, value: float) -> str:
    """Another bundle beside `a`; returns its path as a person writes it."""
    shutil.copytree(root / "a", root / name)
    write_weights(root / name / "weights.safetensors", value)
    redigest(root / name)
    return f"./{name}"


def files_of(root: Path, name: str = "a", below: str = "bundle/") -> dict[str, bytes]:
    folder = root / name
    return {
        f"{below}{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def digests(files: Mapping[str, bytes], tmp: Path) -> dict[str, str]:
    found = {}
    for name, raw in files.items():
        (tmp / "x").write_bytes(raw)
        found[name] = store.file_digest(tmp / "x")
    return found


def foreign(held: Memory, root: Path, name: str = "a", *, below: str = "bundle/") -> str:
    """The alias names a version that is none of ours."""
    version = held.add(files_of(root, name, below), {}).version
    held.aliases["champion"] = version
    return version


def judged(held: Memory, letter: str, **changes: Any) -> str:
    given: dict[str, Any] = {"verdict": sha(letter), "lock": sha(letter), "listed": {}}
    if held.held and not {"predecessor", "signer"} & set(changes):
        given["predecessor"] = held.digest(held.held[-1][0].version)
    return held.judge(**given | changes).version


def told(held: Memory, version: str) -> Adoption:
    record = read_record(held, held.info(version), keys=KEYS)
    assert isinstance(record, AdoptionRecord)
    return record.statement.predicate


def test_what_serves_is_signed_for(root: Path, held: Memory) -> None:
    """The record says all of it and lists the copy's files; the copy serves, and is marked."""
    foreign(held, root)
    result = taken(root)
    bundle = store.read(root / "a", ModelBundle)
    assert result == AdoptResult(
        name="digits",
        registry="memory",
        version="2",
        before="1",
        origin=f"version 1 of {MODEL}",
        dense_version=bundle.manifest.dense_version,
        bundle=bundle.digest,
        record=held.digest("2"),
        by="Ada",
        reason="it serves",
        already_done=False,
    )
    assert told(held, "2") == Adoption(
        registry="memory",
        workspace="default",
        name="digits",
        source="champion",
        source_version="1",
        dense_version=bundle.manifest.dense_version,
        bundle=bundle.digest,
        before="1",
        by="Ada",
        reason="it serves",
        predecessor=None,
        reprune=__version__,
        signed_at_s=77,
    )
    assert set(held.held[1][1]) == {RECEIPT_FILE, *files_of(root)}
    record = read_record(held, held.info("2"), keys=KEYS)
    listed = {each.name: f"sha256:{each.digest.sha256}" for each in record.statement.subject}
    assert listed == digests(files_of(root), root)
    assert held.aliases == {"champion": "2"}
    assert held.info("2").tags[PROMOTED] == record.digest
    again = taken(root)
    assert (again.already_done, again.version, len(held.held)) == (True, "2", 2)


def test_a_person_says_who_and_why(root: Path, held: Memory) -> None:
    for by, reason, flag in (("", "why", "--by"), ("Ada", " ", "--reason")):
        with pytest.raises(InputError, match=f"{flag} must say something"):
            adopt(root, version="./a", by=by, reason=reason, now=0.0, say=lambda _: None)
    assert held.held == []


def test_time_does_not_run_below_zero(root: Path, held: Memory) -> None:
    assert told(held, taken(root, "./a", now=-4.0).version).signed_at_s == 0


def test_it_is_the_next_of_the_chain(root: Path, held: Memory) -> None:
    """After what we signed; who else signed is none of it, champion or not."""
    first = judged(held, "1", outcome="block")
    foreign_files = files_of(root)
    stranger = judged(held, "2", signer=STRANGER, files=foreign_files)
    held.aliases["champion"] = stranger
    result = taken(root)
    assert told(held, result.version).predecessor == held.digest(first)
    assert result.before == stranger


def test_a_folder_is_copied_as_it_is(root: Path, held: Memory) -> None:
    """While nobody serves; its path begins at the repository."""
    result = taken(root, "a/../a")
    found = told(held, "1")
    assert (found.source, found.source_version, found.before) == ("folder", None, None)
    assert result.origin == "a folder"
    again = taken(root, "./a")
    assert (again.already_done, len(held.held)) == (True, 1)


@pytest.mark.parametrize(
    ("text", "path"),
    [("a", False), ("./a", True), (".", True), ("..", True), ("1", False), ("...", False)],
)
def test_a_path_has_a_slash(text: str, path: bool) -> None:
    assert is_path(text) is path


# --- who serves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("story", "reason", "match"),
    [
        ("judged", "champion_exists", "version 1 is the champion, and was judged"),
        ("blocked", "was_judged", "the alias names version 1"),
        ("record", "not_a_model", "the alias names version 2"),
        ("nobody", "nothing_to_adopt", "no alias 'champion' names a version"),
    ],
)
def test_there_must_be_room(root: Path, held: Memory, story: str, reason: str, match: str) -> None:
    """A judged champion, or what is no model, is not replaced; and somebody must say which one."""
    if story != "nobody":
        held.aliases["champion"] = judged(
            held, "1", outcome="pass" if story == "judged" else "block"
        )
    if story == "record":
        held.aliases["champion"] = held.roll("1", None, predecessor=held.digest("1")).version
    count = len(held.held)
    for version in (None,) if story == "nobody" else (None, "./a"):
        with refused(reason, match) as caught:
            taken(root, version)
        assert caught.value.where == f"memory: {MODEL}"
    assert len(held.held) == count


@pytest.mark.parametrize("version", [None, "./a"])
@pytest.mark.parametrize("alias", [None, "9"])
def test_a_champion_that_was_lost_is_looked_for_first(
    root: Path, held: Memory, version: str | None, alias: str | None
) -> None:
    """The alias was deleted, or the version that it names: neither is room for another."""
    judged(held, "1")
    if alias is not None:
        held.aliases["champion"] = alias
    with pytest.raises(ChampionLost):
        taken(root, version)
    assert len(held.held) == 1


def cut(held: Memory, root: Path, version: str | None) -> str:
    """An adoption that ended before the alias moved; returns its version."""
    before = dict(held.aliases)
    found = taken(root, version).version
    held.aliases = before
    held.retag(found, **{PROMOTED: None})
    return found


def test_one_that_was_cut_short_is_completed(root: Path, held: Memory) -> None:
    """While nobody serves: by asking again, also without its name, and also after a block."""
    version = cut(held, root, "./a")
    judged(held, "1", outcome="block")
    result = taken(root)
    assert (result.version, result.already_done, len(held.held)) == (version, False, 2)
    assert held.aliases["champion"] == version
    assert held.info(version).tags[PROMOTED] == held.digest(version)
    held.aliases.clear()
    held.retag(version, **{PROMOTED: None})
    assert taken(root, "./a").version == version


def test_one_that_was_cut_short_before_a_champion_is_completed(root: Path, held: Memory) -> None:
    """The same bytes again; other ones are another adoption."""
    foreign(held, root)
    version = cut(held, root, None)
    third = other(root, "c", 3.0)
    result = taken(root)
    assert (result.version, len(held.held)) == (version, 2)
    held.aliases["champion"] = "1"
    held.retag(version, **{PROMOTED: None})
    result = taken(root, third)
    assert (result.version, result.before, held.aliases["champion"]) == ("3", "1", "3")
    assert told(held, "3").predecessor == held.digest(version)


def test_one_is_not_completed_over_what_came_since(root: Path, held: Memory) -> None:
    """A promotion, a rollback, or another champion: it is made anew, if it may be."""
    allow(root)
    foreign(held, root)
    version = cut(held, root, None)
    # Another hand moved the alias, onto the same bytes.
    third = held.add(files_of(root), {}).version
    held.aliases["champion"] = third
    result = taken(root)
    assert (result.version, result.before) == ("4", third)
    assert version != result.version


def test_one_is_not_completed_after_a_rollback(root: Path, held: Memory) -> None:
    allow(root)
    foreign(held, root)
    version = cut(held, root, None)
    held.roll("1", None, predecessor=held.digest(version))
    result = taken(root)
    assert result.version == "4"
    assert told(held, "4").predecessor == held.digest("3")


def test_one_is_not_completed_after_a_promotion(root: Path, held: Memory) -> None:
    allow(root)
    foreign(held, root)
    version = cut(held, root, None)
    judged(held, "1")
    result = taken(root)
    assert (result.version, version) == ("4", "2")


def test_what_serves_is_meant_where_nothing_is_named(root: Path, held: Memory) -> None:
    """Not another model, whose adoption was cut short."""
    foreign(held, root)
    version = cut(held, root, other(root, "c", 3.0))
    result = taken(root)
    assert result.version != version
    assert result.bundle == store.read(root / "a", ModelBundle).digest


def test_what_is_done_is_not_looked_at_again(root: Path, held: Memory) -> None:
    """A champion whose bundle is gone was adopted all the same."""
    taken(root, "./a")
    for name in list(held.held[0][1]):
        if name.startswith("bundle/"):
            del held.held[0][1][name]
    assert taken(root).already_done


def test_one_that_was_marked_and_lost_its_alias_is_not_done(root: Path, held: Memory) -> None:
    taken(root, "./a")
    held.aliases.clear()
    result = taken(root)
    assert (result.version, result.already_done, held.aliases["champion"]) == ("1", False, "1")


def test_an_adopted_one_makes_room_for_another(root: Path, held: Memory) -> None:
    """It is marked as having served, though its own call was cut short before the mark."""
    taken(root, "./a")
    held.retag("1", **{PROMOTED: None})
    result = taken(root, other(root, "c", 3.0))
    assert (result.version, result.before, result.already_done) == ("2", "1", False)
    assert held.info("1").tags[PROMOTED] == held.digest("1")


def test_a_mark_that_is_missing_is_put_on(root: Path, held: Memory) -> None:
    for version in (None, "./a"):
        taken(root, "./a")
        held.retag("1", **{PROMOTED: None})
        result = taken(root, version)
        assert (result.version, result.already_done) == ("1", False)
        assert held.info("1").tags[PROMOTED] == held.digest("1")


@pytest.mark.parametrize("onto", ["theirs", "ours"])
def test_somebody_elses_champion_stays(root: Path, held: Memory, onto: str) -> None:
    """Moved between the record and the alias. Moved onto the very version, it is what was wanted."""
    before = foreign(held, root)
    theirs = held.add({"file": b"x"}, {}).version
    inner = held.register

    def register(name: str, folder: Path, tags: Any) -> str:
        version = inner(name, folder, tags)
        held.aliases["champion"] = theirs if onto == "theirs" else version
        return version

    held.register = register  # type: ignore[method-assign]
    if onto == "ours":
        assert taken(root).version == held.aliases["champion"] == "3"
        assert PROMOTED in held.info("3").tags
        return
    with pytest.raises(ChampionMoved, match=f"was version {before} and is now") as caught:
        taken(root)
    assert (caught.value.where, held.aliases["champion"]) == ("memory", theirs)
    assert PROMOTED not in held.info("3").tags


def test_the_alias_moves_only_onto_what_was_read_back(root: Path, held: Memory) -> None:
    before = foreign(held, root)
    inner = held.register

    def register(name: str, folder: Path, tags: Any) -> str:
        version = inner(name, folder, tags)
        held.held[-1][1]["more"] = b"x"
        return version

    held.register = register  # type: ignore[method-assign]
    with refused("stored_differs"):
        taken(root)
    assert held.aliases["champion"] == before


# --- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("story", "free"),
    [
        ("promoted", False),
        ("not marked", False),
        ("adopted", False),
        ("adopted, not marked", True),
        ("blocked", True),
        ("record", True),
        ("stranger", True),
    ],
)
def test_where_something_of_ours_served_it_is_an_override(
    root: Path, held: Memory, story: str, free: bool
) -> None:
    """Only who may override may then adopt; what never served takes nobody's right."""
    if story in ("promoted", "not marked"):
        judged(held, "1")
    elif story.startswith("adopted"):
        held.adopt()
    elif story == "record":
        held.roll("7", None)
    else:
        changes = {"signer": STRANGER} if story == "stranger" else {"outcome": "block"}
        judged(held, "1", **changes)
    if story != "not marked" and "not" not in story:
        held.retag("1", **MARK)
    served = foreign(held, root)
    if free:
        assert taken(root, by="Bob").before == served
        return
    with refused("adoption_not_allowed", "version 1 was champion before") as caught:
        taken(root)
    assert caught.value.where == f"memory: {MODEL}"
    allow(root)
    with refused("adoption_not_allowed"):
        taken(root, by="ada")
    assert taken(root).before == served


# --- what ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["bundle/", ""])
def test_the_bundle_of_a_version_lies_in_its_folder_or_at_the_top(
    root: Path, held: Memory, below: str
) -> None:
    foreign(held, root, below=below)
    assert taken(root).bundle == store.read(root / "a", ModelBundle).digest
    assert set(held.held[-1][1]) == {RECEIPT_FILE, *files_of(root)}


def test_a_version_without_a_bundle_is_not_adopted(root: Path, held: Memory) -> None:
    held.aliases["champion"] = held.add({"model.onnx": b"x"}, {}).version
    with refused("no_bundle", "version 1 holds no ModelBundle") as caught:
        taken(root)
    assert caught.value.where == f"memory: {MODEL}"


def add_files(**files: bytes) -> Any:
    def change(folder: Path) -> None:
        for name, raw in files.items():
            path = folder / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
        redigest(folder)

    return change


def without_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    redigest(folder)


def other_task(folder: Path) -> None:
    path = next(path for path in (folder / "task").rglob("*.py") if path.stat().st_size)
    path.write_text("import os\n")
    redigest(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add_files(extra_dot_pt=b"x"), "pickled"),
        (add_files(more__task__extra_dot_pkl=b"x"), "pickled"),
        (lambda folder: chain.reencode(folder, name="letters"), "other_model"),
        (other_task, "other_task"),
        (without_weights, None),
        (add_files(weights_dot_safetensors=b"x"), None),
        (add_files(masks_dot_safetensors=b"x"), None),
    ],
)
def test_what_cannot_be_an_arm_is_refused_where_it_lies(
    root: Path, held: Memory, change: Any, reason: str | None
) -> None:
    """In a folder, and in the version that serves; nothing is registered."""
    change(root / "a")
    expected = refused(reason) if reason else pytest.raises(CheckpointError)
    with expected as caught:
        taken(root, "./a")
    if "safetensors" not in str(caught.value.where):
        assert caught.value.where == "the given folder"
    foreign(held, root)
    with refused(reason) if reason else pytest.raises(CheckpointError) as caught:
        taken(root)
    assert len(held.held) == 1


def test_where_a_version_is_wrong_is_said(root: Path, held: Memory) -> None:
    chain.reencode(root / "a", name="letters")
    foreign(held, root)
    with refused("other_model") as caught:
        taken(root)
    assert caught.value.where == "version 1"


def test_what_is_no_weights_may_have_any_name(root: Path, held: Memory) -> None:
    """What the model was trained on is kept in a file of its own; its text is no pickle."""
    add_files(trained_on_dot_bin=b"x")(root / "a")
    assert taken(root, "./a").version == "1"


def weights_of(root: Path, name: str = "a") -> dict[str, str]:
    digest = store.file_digest(root / name / "weights.safetensors")
    return {"bundle/weights.safetensors": digest}


def test_weights_that_were_judged_stay_out(root: Path, held: Memory) -> None:
    """Whatever came after them, and whatever else lay beside them."""
    blocked = judged(held, "1", outcome="block", listed=weights_of(root))
    judged(held, "2", outcome="block", listed={"bundle/weights.safetensors": sha("1")})
    with refused("was_judged", f"judged as version {blocked}: block") as caught:
        taken(root, "./a")
    assert caught.value.where == "the given folder"
    assert taken(root, other(root, "c", 3.0)).version == "3"


def test_who_judged_last_is_told(root: Path, held: Memory) -> None:
    judged(held, "1", outcome="block", listed=weights_of(root))
    judged(held, "2", outcome="inconclusive", listed=weights_of(root))
    with refused("was_judged", "judged as version 2: inconclusive"):
        taken(root, "./a")


def test_the_task_may_bring_files_of_its_own(root: Path, held: Memory) -> None:
    """They are no weights, and nobody reads them here."""
    add_files(task__task__words_dot_pkl=b"x")(root / "a")
    fact = store.read(root / "a", ModelBundle).manifest.task
    digest = task_digest(fact.entry, root / "a/task")
    chain.reencode(root / "a", task=msgspec.to_builtins(fact) | {"digest": digest})
    assert taken(root, "./a").version == "1"


def test_weights_under_another_name_are_others(root: Path, held: Memory) -> None:
    judged(held, "1", outcome="block", listed={"else": next(iter(weights_of(root).values()))})
    assert taken(root, "./a").version == "2"


def test_weights_that_were_rolled_back_stay_out(root: Path, held: Memory) -> None:
    """By a tag or by a record; those that were adopted and served may come back."""
    allow(root)
    taken(root, "./a")
    taken(root, other(root, "c", 3.0))
    held.retag("1", **{ROLLED_BACK: "x"})
    with refused("rolled_back", "these weights are version 1") as caught:
        taken(root, "./a")
    assert caught.value.where == "the given folder"
    held.retag("1", **{ROLLED_BACK: None})
    assert taken(root, "./a").version == "3"
    held.roll("2", "3", predecessor=held.digest("3"))
    held.aliases["champion"] = "2"
    with refused("rolled_back", "these weights are version 3"):
        taken(root, "./a")


# --- a dense version -----------------------------------------------------------------------------


@pytest.fixture
def dense(template: Path, root: Path) -> Path:
    """A repository with a dense version and nothing compressed."""
    (root / "params.yaml").write_text(PARAMS.replace(".reprune/registry", "registry"))
    shutil.copytree(template / "registry", root / "registry")
    return root


@pytest.mark.slow
def test_a_dense_version_becomes_the_bundle_that_a_run_fetches(dense: Path) -> None:
    """Byte for byte; the task is asked for its data, or the project's file where it is of this task."""
    lock = update(dense).lock
    given, policy = read_params(dense / "params.yaml"), read_policy(dense / "policy.yaml")
    documents = Documents(root=dense, params=given, policy=policy, lock=lock)
    run(fetch_dense, {}, documents, dense / "fetched", say=lambda _: None)
    wanted = store.read(dense / "fetched", ModelBundle)
    assert wanted.manifest.task.data_version == "data-1"
    with pytest.raises(VersionNotFound):
        taken(dense, "9")
    said: list[str] = []
    result = adopt(dense, version="1", by="Ada", reason="why", now=77.9, say=said.append)
    assert any("fetching digits version 1" in each for each in said)
    assert (result.origin, result.dense_version, result.version) == ("dense version 1", "1", "1")
    assert result.bundle == wanted.digest
    (serving,) = registry_of(dense).versions(MODEL)
    out = dense / "out"
    registry_of(dense).fetch(MODEL, serving.version, out)
    for path in store.files(dense / "fetched"):
        name = path.relative_to(dense / "fetched")
        assert (out / "bundle" / name).read_bytes() == path.read_bytes(), name
    assert taken(dense, "1").already_done


@pytest.mark.parametrize("stale", [False, True])
def test_the_project_knows_the_data_of_its_task(dense: Path, stale: bool) -> None:
    """Written for the task as it is, it is believed and nothing is imported; for another, it is not."""
    describe(dense)
    path = dense / "reprune.project.yaml"
    path.write_text(path.read_text().replace("data-1", "data-9"))
    if stale:
        code = dense / "task/digits.py"
        code.write_text(f"{code.read_text()}\n# another\n")
    taken(dense, "1")
    registry_of(dense).fetch(MODEL, "1", dense / "out")
    found = store.read(dense / "out/bundle", ModelBundle).manifest.task.data_version
    assert found == ("data-1" if stale else "data-9")
