"""Records of what a person did: their tags, their kinds, and what does not pass for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core.errors import ReceiptInvalid
from reprune.registry.protocol import VersionInfo
from reprune.registry.receipts import decode_statement
from reprune.registry.records import (
    ADOPTION,
    ROLLBACK,
    AdoptionRecord,
    RollbackRecord,
    RollbackStatement,
    decode_record,
    is_adoption,
    read_adoption,
    read_record,
)
from reprune.steps.moving import Desk, at_the_desk, register_record
from tests.registry.promotion import COMPRESSED, copy_repository
from tests.registry.test_moving import ZERO, adopted, rolled, served

__all__ = ["served"]

KINDS = [rolled, adopted]
EMPTY = VersionInfo(name=COMPRESSED, version="1", tags={}, stamp="")


@pytest.fixture
def desk(served: Path, tmp_path: Path) -> Iterator[Desk]:
    root = copy_repository(served, tmp_path / "repo")
    with at_the_desk(root, what="a test", now=5.0, say=lambda _: None) as found:
        yield found


def made(desk: Desk, kind: Any, **changes: Any) -> tuple[VersionInfo, Any]:
    folder = desk.root / "record"
    folder.mkdir(exist_ok=True)
    return register_record(desk, kind(desk, **changes), folder)


def retagged(desk: Desk, info: VersionInfo, **tags: str) -> VersionInfo:
    named = {f"reprune.{name}": value for name, value in tags.items()}
    return VersionInfo(name=info.name, version=info.version, tags=info.tags | named, stamp="")


def test_the_tags_say_what_was_done(desk: Desk) -> None:
    """Of a rollback from where to where, and only to where, if the alias was gone; of an adoption of what."""
    info, record = made(desk, rolled)
    assert info.tags == {
        "reprune.record": record.digest,
        "reprune.record_kind": "rollback",
        "reprune.returned_to": "1",
        "reprune.before": "2",
    }
    assert not is_adoption(info)
    info, record = made(desk, rolled, before=None)
    assert "reprune.before" not in info.tags
    info, record = made(desk, adopted)
    assert info.tags == {
        "reprune.record": record.digest,
        "reprune.record_kind": "adoption",
        "reprune.adopted_from": "a folder",
        "reprune.parent": "4",
        "reprune.bundle": ZERO,
    }
    assert is_adoption(info)
    assert record.statement.predicate.promotes is True
    assert (ROLLBACK, ADOPTION) == ("rollback", "adoption")


@pytest.mark.parametrize(
    ("source", "version", "words"),
    [
        ("champion", "3", "version 3 of digits-compressed"),
        ("dense", "9", "dense version 9"),
        ("folder", None, "a folder"),
    ],
)
def test_where_a_model_came_from(desk: Desk, source: str, version: str | None, words: str) -> None:
    statement = adopted(desk, source=source, source_version=version)
    assert statement.predicate.origin == words


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_read_with_and_without_keys(desk: Desk, kind: Any) -> None:
    """The same either way, but for who signed it; a key that did not is refused."""
    info, record = made(desk, kind)
    assert read_record(desk.registry, info, keys=desk.authority.keys) == record
    unchecked = read_record(desk.registry, info)
    assert type(unchecked) is type(record)
    assert (unchecked.statement, unchecked.digest, unchecked.raw) == (
        record.statement,
        record.digest,
        record.raw,
    )
    assert (unchecked.signer, record.signer) == ("", desk.authority.signer.public_key.keyid)
    with pytest.raises(ReceiptInvalid, match="not signed by a key"):
        read_record(desk.registry, info, keys=())


@pytest.mark.parametrize(
    ("kind", "tags"),
    [
        (rolled, {"record": ZERO}),
        (rolled, {"returned_to": "3"}),
        (rolled, {"before": "3"}),
        (adopted, {"record": ZERO}),
        (adopted, {"parent": "5"}),
        (adopted, {"bundle": "sha256:" + "1" * 64}),
        (adopted, {"adopted_from": "the moon"}),
    ],
)
def test_tags_do_not_say_otherwise(desk: Desk, kind: Any, tags: dict[str, str]) -> None:
    """Each of them is as the record says, and the refusal names it."""
    info, _ = made(desk, kind)
    (name,) = tags
    with pytest.raises(ReceiptInvalid, match=rf"contradicts its tags \(reprune\.{name}\)"):
        read_record(desk.registry, retagged(desk, info, **tags))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes", [{"registry": "x"}, {"workspace": "team"}, {"name": "letters"}], ids=str
)
def test_a_record_is_of_this_registry(desk: Desk, kind: Any, changes: dict[str, str]) -> None:
    """One that was copied from another registry, workspace or model is none of this one."""
    statement = kind(desk)
    other = msgspec.structs.replace(
        statement, predicate=msgspec.structs.replace(statement.predicate, **changes)
    )
    folder = desk.root / "record"
    folder.mkdir()
    info, _ = register_record(desk, other, folder)
    with pytest.raises(ReceiptInvalid, match="its receipt is for"):
        read_record(desk.registry, info, keys=desk.authority.keys)


def test_the_kind_is_the_one_of_the_tags(desk: Desk) -> None:
    """A record of one kind does not decode as the other; a kind that nobody knows is refused."""
    info, record = made(desk, rolled)
    for kind, words in (("adoption", None), ("promotion", "of the kind 'promotion'")):
        with pytest.raises(ReceiptInvalid, match=words):
            read_record(desk.registry, retagged(desk, info, record_kind=kind))
    with pytest.raises(ReceiptInvalid, match="of the kind 'None'"):
        decode_record(record.raw, EMPTY, keys=None, where="r")
    with pytest.raises(ReceiptInvalid, match="carries no receipt"):
        read_record(desk.registry, EMPTY)
    with pytest.raises(ReceiptInvalid, match="was not adopted") as caught:
        read_adoption(desk.registry, info)
    assert caught.value.where.endswith(f"{COMPRESSED} version {info.version}")
    statement, digest = decode_statement(record.raw, RollbackStatement, where="r")
    assert RollbackRecord(statement=statement, digest=digest, raw=record.raw).signer == ""


def test_an_adoption_is_read_as_one(desk: Desk) -> None:
    info, record = made(desk, adopted)
    found = read_adoption(desk.registry, info)
    assert (found.statement, found.signer) == (record.statement, "")
    assert isinstance(record, AdoptionRecord)
    assert AdoptionRecord(statement=found.statement, digest="", raw=b"").signer == ""
