"""The desk: whose registry, under whose keys, one at a time; what is read back, and who is marked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core import store
from reprune.core.errors import Busy, InputError, PromotionRefused, RegistryUnreachable
from reprune.registry import receipts, records
from reprune.registry.links import read_link
from reprune.registry.protocol import VersionInfo
from reprune.registry.receipted import read_receipt
from reprune.registry.tags import PROMOTED, RECORD, tags_of
from reprune.steps.anchor import move_anchor
from reprune.steps.moving import (
    MAX_TEXT,
    Desk,
    at_the_desk,
    check_stored,
    mark_outgoing,
    register_record,
    said,
)
from tests.registry.memory import Memory
from tests.registry.promotion import COMPRESSED, copy_repository, flip, promoted, registry_of

ZERO = "sha256:" + "0" * 64


@pytest.fixture(scope="session")
def served(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One version was promoted."""
    root = copy_repository(template, tmp_path_factory.mktemp("served") / "repo")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        promoted(root)
    return root


@dataclass
class Said:
    words: list[str]

    def __call__(self, words: str) -> None:
        self.words.append(words)


@pytest.fixture
def root(served: Path, tmp_path: Path) -> Path:
    return copy_repository(served, tmp_path / "repo")


@pytest.fixture
def desk(root: Path) -> Iterator[Desk]:
    with at_the_desk(root, what="another promote", now=5.0, say=Said([])) as found:
        yield found


def first(desk: Desk) -> VersionInfo:
    return desk.registry.versions(COMPRESSED)[0]


def test_the_desk_is_the_repositorys(root: Path, desk: Desk) -> None:
    """Its registry, its params, its promoter's keys; the names are those of what is moved."""
    assert desk.root == root
    assert desk.now == 5.0
    assert desk.compressed == COMPRESSED
    assert desk.names == (registry_of(root).identity, "default", "digits")
    assert desk.authority.signer.public_key in desk.authority.keys
    desk.say("hello")
    assert desk.say.words == ["hello"]  # type: ignore[attr-defined]


OTHERS = (
    ("name: digits", "name: letters"),
    # Written one behind the other, these are the names of the desk all the same.
    ("name: digits\n", "name: defaultdigits\n"),
)


def test_one_at_a_time_moves_one_model(desk: Desk, tmp_path: Path, served: Path) -> None:
    """A second desk for the same model is busy, and says with what; for another model it is free."""
    with (
        pytest.raises(Busy, match="a promote of 'digits' is running"),
        at_the_desk(desk.root, what="a promote", now=0.0, say=print),
    ):
        pass
    for number, (old, new) in enumerate(OTHERS):
        other = copy_repository(served, tmp_path / f"other{number}")
        text = (other / "params.yaml").read_text()
        (other / "params.yaml").write_text(text.replace(old, new))
        (other / "registry").rename(other / "aside")
        (other / "registry").symlink_to(desk.root / "registry")
        with at_the_desk(other, what="a promote", now=0.0, say=print):
            pass


def checkout(served: Path, place: Path, registry: Path) -> Path:
    """Another working folder, in whose params.yaml the registry lies at `registry`."""
    root = copy_repository(served, place)
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("uri: registry", f"uri: {registry}"))
    return root


def test_two_checkouts_see_each_other(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a work folder of its own; the registry is one. Two registries do not hold each other up."""
    one = checkout(served, tmp_path / "one", tmp_path / "one" / "registry")
    two = checkout(served, tmp_path / "two", tmp_path / "one" / "registry")
    other = copy_repository(served, tmp_path / "other")
    third = copy_repository(served, tmp_path / "third")
    with ExitStack() as held:
        for number, root in enumerate((one, other, third)):
            monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / f"work{number}"))
            held.enter_context(at_the_desk(root, what="a promote", now=0.0, say=print))
        monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work-two"))
        with (
            pytest.raises(Busy, match="a promote of 'digits' is running"),
            at_the_desk(two, what="a promote", now=0.0, say=print),
        ):
            pass
    with at_the_desk(two, what="a promote", now=0.0, say=print):
        pass


@pytest.mark.parametrize("taken", ["link", "file", "open", "unwritable"])
def test_a_folder_that_others_may_write_holds_no_lock(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    """Somebody was there first, or nothing can be made: the work folder's lock is left, and it is said."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    place = temporary / f"reprune-{os.getuid()}"
    if taken == "link":
        (tmp_path / "theirs").mkdir()
        place.symlink_to(tmp_path / "theirs")
    elif taken == "file":
        place.write_text("")
    elif taken == "open":
        place.mkdir()
        place.chmod(0o777)
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(temporary / "not" / "there"))
    said = Said([])
    with at_the_desk(root, what="a promote", now=0.0, say=said):
        assert any("other working folders" in line for line in said.words)
        with (
            pytest.raises(Busy),
            at_the_desk(root, what="a promote", now=0.0, say=print),
        ):
            pass
    assert not list(tmp_path.glob("theirs/*"))


def test_the_anchor_is_moved_at_the_same_desk(desk: Desk) -> None:
    """Who moves the anchor waits for whoever moves the champion."""
    with pytest.raises(Busy, match="a promote of 'digits' is running"):
        move_anchor(desk.root, version="1", by="Ada", reason="why")


def test_what_is_stored_is_what_the_receipt_lists(desk: Desk, root: Path) -> None:
    """Every file of it, the receipt itself among them; one that was changed, added or taken is refused."""
    info = first(desk)
    link = read_receipt(desk.registry, info)
    check_stored(desk.registry, info, link)
    files = root / "registry" / COMPRESSED / "1" / "files"

    def differs(name: str) -> None:
        with pytest.raises(PromotionRefused, match=name) as caught:
            check_stored(desk.registry, info, link)
        assert caught.value.reason == "stored_differs"
        assert caught.value.where == f"{COMPRESSED} version 1"

    for name in ("bundle/weights.safetensors", receipts.RECEIPT_FILE):
        kept = (files / name).read_bytes()
        flip(files / name)
        differs(name)
        (files / name).unlink()
        differs(name)
        (files / name).write_bytes(kept)
    check_stored(desk.registry, info, link)
    (files / "more").write_bytes(b"x")
    differs("more")
    # Another registry says of one without any file that it is not there.
    with pytest.raises(
        PromotionRefused, match=r"lists: bundle/manifest.digest, bundle/manifest.json"
    ):
        check_stored(Memory(held=[(info, {})]), info, link)


def untagged(desk: Desk, **changes: Any) -> VersionInfo:
    """The first version's receipt changed, signed, and registered without the mark of who served."""
    link = read_receipt(desk.registry, first(desk))
    told = msgspec.structs.replace(link.statement.predicate, **changes)
    statement = msgspec.structs.replace(link.statement, predicate=told)
    raw = receipts.sign(statement, desk.authority.signer)
    folder = desk.root / "untagged"
    folder.mkdir()
    (folder / receipts.RECEIPT_FILE).write_bytes(raw)
    tags = tags_of(receipts.decode(raw, where="r"))
    version = desk.registry.register(COMPRESSED, folder, tags)
    shutil.rmtree(folder)
    return VersionInfo(name=COMPRESSED, version=version, tags=tags, stamp="")


def marks(desk: Desk) -> dict[str, str | None]:
    return {each.version: each.tags.get(PROMOTED) for each in desk.registry.versions(COMPRESSED)}


def test_who_is_replaced_is_marked(desk: Desk) -> None:
    """With its own receipt, where that lets it be champion; nobody else, and not twice."""
    mark = marks(desk)["1"]
    passed, blocked = untagged(desk, verdict=ZERO), untagged(desk, verdict=ZERO, outcome="block")
    stranger = desk.registry.register(COMPRESSED, desk.root / "task", {})
    for serving in (None, "1", blocked.version, stranger, "99"):
        mark_outgoing(desk, serving)
        assert marks(desk) == {
            "1": mark,
            passed.version: None,
            blocked.version: None,
            stranger: None,
        }
    mark_outgoing(desk, passed.version)
    assert marks(desk)[passed.version] == read_receipt(desk.registry, passed).digest
    desk.registry.set_tags(COMPRESSED, passed.version, {PROMOTED: "kept"})
    mark_outgoing(desk, passed.version)
    assert marks(desk)[passed.version] == "kept"


def test_what_could_not_be_read_is_no_answer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that is away, or a disk that fails, is neither "not ours" nor "other bytes"."""
    passed = untagged(desk, verdict=ZERO)
    link = read_receipt(desk.registry, passed)

    def away(*_: object, **__: object) -> None:
        raise RegistryUnreachable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(type(desk.registry), "fetch", away)
        with pytest.raises(RegistryUnreachable):
            mark_outgoing(desk, passed.version)
        with pytest.raises(RegistryUnreachable):
            check_stored(desk.registry, passed, link)
    monkeypatch.setattr(
        store, "file_digest", lambda _: (_ for _ in ()).throw(OSError(5, "bad disk"))
    )
    with pytest.raises(OSError, match="bad disk"):
        check_stored(desk.registry, first(desk), read_receipt(desk.registry, first(desk)))


def test_what_a_stranger_signed_is_not_marked(desk: Desk) -> None:
    passed = untagged(desk, verdict=ZERO)
    nobody = replace(desk, authority=replace(desk.authority, keys=()))
    mark_outgoing(nobody, passed.version)
    assert marks(desk)[passed.version] is None


ROLLBACK = {
    "version": "1", "receipt": ZERO, "bundle": ZERO, "before": "2", "before_receipt": None, "by": "Ada",
    "reason": "why", "predecessor": None, "reprune": "0", "signed_at_s": 3, "name": "digits",
    "workspace": "default",
}  # fmt: skip
ADOPTION = {
    "source": "folder", "source_version": None, "dense_version": "4", "bundle": ZERO, "before": "1",
    "by": "Ada", "reason": "why", "predecessor": None, "reprune": "0", "signed_at_s": 3, "name": "digits",
    "workspace": "default",
}  # fmt: skip


def rolled(desk: Desk, **changes: Any) -> records.RollbackStatement:
    told = records.Rollback(registry=desk.registry.identity, **{**ROLLBACK, **changes})  # type: ignore[arg-type]
    return records.RollbackStatement(subject=receipts.subjects({"a": ZERO}), predicate=told)


def adopted(desk: Desk, **changes: Any) -> records.AdoptionStatement:
    told = records.Adoption(registry=desk.registry.identity, **{**ADOPTION, **changes})  # type: ignore[arg-type]
    return records.AdoptionStatement(subject=receipts.subjects({"a": ZERO}), predicate=told)


@pytest.mark.parametrize("kind", [rolled, adopted])
def test_a_record_is_a_version_of_its_own(desk: Desk, tmp_path: Path, kind: Any) -> None:
    """Signed, beside the files of the folder, with its tags from the start, and read back as what it is."""
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "file").write_bytes(b"x")
    statement = kind(desk)
    info, record = register_record(desk, statement, folder)
    assert record.statement == statement
    assert record.signer == desk.authority.signer.public_key.keyid
    assert record.raw == (folder / receipts.RECEIPT_FILE).read_bytes()
    assert (info.name, info.stamp) == (COMPRESSED, "")
    assert info.tags == records.record_tags(record)
    found = desk.registry.versions(COMPRESSED)[-1]
    assert (found.version, found.tags) == (info.version, info.tags)
    assert info.tags[RECORD] == record.digest
    assert read_link(desk.registry, found, desk.authority.keys) == record
    out = tmp_path / "out"
    desk.registry.fetch(COMPRESSED, info.version, out)
    assert sorted(path.name for path in out.iterdir()) == ["file", receipts.RECEIPT_FILE]


def test_a_record_of_a_rollback_is_no_champion_to_mark(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    info, _ = register_record(desk, rolled(desk), tmp_path / "a")
    mark_outgoing(desk, info.version)
    assert marks(desk)[info.version] is None
    info, record = register_record(desk, adopted(desk), tmp_path / "b")
    mark_outgoing(desk, info.version)
    assert marks(desk)[info.version] == record.digest


def test_what_a_person_says_is_one_line() -> None:
    """Spaces are single, the limit is kept, and what does not print is refused."""
    assert MAX_TEXT == 500
    assert said("  Ada \n\t Lovelace ", "--by") == "Ada Lovelace"
    assert said("x" * 500, "--by") == "x" * 500
    for text in ("", " \n", "x" * 501, "a\x07b", "a\u202eb"):
        with pytest.raises(InputError, match="--reason must say something, in at most 500"):
            said(text, "--reason")
