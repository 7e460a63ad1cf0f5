"""The lock: what it may name, how a set is written, and how often one version can be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from reprune.core.accepted import accepted
from reprune.core.documents import digest_of
from reprune.core.errors import DocumentError
from reprune.core.lock import (
    LOCK_FILE,
    DenseRef,
    Lock,
    MemberRef,
    first_look,
    fresh_look,
    label_of,
    lock_text,
    read_lock,
)

DIGEST = "sha256:" + "a" * 64


def lock(**changes: Any) -> Lock:
    values: dict[str, Any] = {
        "reprune": "0.1.0",
        "registry": "files",
        "workspace": "default",
        "name": "digits",
        "dense": DenseRef(version="3", weights=DIGEST),
        "champion": "none",
        "targets": ("ort-cpu",),
        "params": DIGEST,
        "policy": DIGEST,
        "task": DIGEST,
        "data_version": "1",
    }
    return Lock(**(values | changes))


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    """In its order, one field a line, under a word that nobody should edit it."""
    path = tmp_path / LOCK_FILE
    for made in (lock(), lock(look=2), lock(images={"control": DIGEST})):
        path.write_text(lock_text(made))
        assert read_lock(path) == made
        assert made.digest == digest_of(made)
    text = lock_text(lock(data_version="v " * 900 + "v"))
    assert f"\ndata_version: {'v ' * 900}v\n" in text
    assert text.startswith("# Written by `reprune update`. Its digest names the run")
    lines = text.splitlines()
    assert [line.partition(":")[0] for line in lines if line[0] not in " #-"] == [
        "schema", "reprune", "registry", "workspace", "name", "dense", "champion", "anchor", "targets",
        "params", "policy", "task", "data_version", "images",
    ]  # fmt: skip
    assert LOCK_FILE == "reprune.lock.yaml"


def test_a_set_says_which_members_it_has(tmp_path: Path) -> None:
    """Its version is their label, in the order of their names; another text is refused."""
    assert label_of({"b": "2", "a": "1"}) == "a=1+b=2"
    assert label_of({}) == ""
    members = {
        name: MemberRef(name=name, version=version, weights=DIGEST)
        for name, version in (("b", "2"), ("a", "1"))
    }
    DenseRef(version="a=1+b=2", weights=DIGEST, members=members)
    with pytest.raises(ValueError, match=r"the members are a=1\+b=2, the version says b=2"):
        DenseRef(version="b=2", weights=DIGEST, members=members)
    with pytest.raises(ValueError, match="the members are none, the version says 1"):
        DenseRef(version="1", weights=DIGEST, members={})
    path = tmp_path / LOCK_FILE
    path.write_text(lock_text(lock()).replace("version: '3'", "version: '3'\n  members: {}"))
    with pytest.raises(DocumentError, match="the members are none"):
        read_lock(path)


def test_each_look_has_a_lock_of_its_own() -> None:
    """The first without a number, the next from 2 on; the lowest that is not taken."""
    made = lock(look=5)
    assert first_look(made).look is UNSET
    assert first_look(lock()) == lock()
    looks = [lock(), lock(look=2), lock(look=3)]
    taken: list[str] = []
    for each in looks:
        assert fresh_look(made, taken) == each
        taken.append(each.digest)
    assert len(set(taken)) == 3
    assert fresh_look(lock(), [looks[0].digest, looks[2].digest]) == looks[1]


class Row(msgspec.Struct):
    lock: str
    verdict: str
    place: int


def test_the_first_verdict_of_each_lock_is_accepted() -> None:
    """Rows without a lock, or without a verdict, decide nothing."""
    rows = [("a", ""), ("", "v"), ("", ""), ("a", "v"), ("b", "w"), ("a", "x"), ("b", "w")]
    found = accepted(Row(*each, place) for place, each in enumerate(rows))
    assert {lock: row.place for lock, row in found.items()} == {"a": 3, "b": 4}
