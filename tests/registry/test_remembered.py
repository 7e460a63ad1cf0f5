"""Many versions are listed once, and then only their end: by numbers of queries, not by seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.engine import Engine

from reprune.core.params import Registry as Section
from reprune.registry.files import FilesRegistry
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry
from reprune.registry.remembered import OVERLAP, WHOLE_S, Known, Remembered
from tests.registry.filling import fill_files, fill_mlflow

MANY = 2_500


@pytest.fixture
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    section: Section = request.getfixturevalue("mlflow_section")
    registry = open_registry(section, tmp_path / "repo")
    fill_mlflow(tmp_path / "repo" / ".reprune" / "registry.db", "digits", MANY)
    registry.alias("digits", "champion")
    return registry


@contextmanager
def counting_queries() -> Iterator[list[str]]:
    """Every SELECT that SQLAlchemy sends meanwhile."""
    sent: list[str] = []

    def before(_: object, __: object, statement: str, *___: object) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            sent.append(statement)

    sqlalchemy.event.listen(Engine, "before_cursor_execute", before)
    try:
        yield sent
    finally:
        sqlalchemy.event.remove(Engine, "before_cursor_execute", before)


def test_a_list_costs_a_few_queries_a_page_and_its_end_costs_those_of_one(
    filled: Registry, tmp_path: Path
) -> None:
    """No query for each version; a second look does not page at all, and sees what is new."""
    view = Remembered(filled, "digits", Known())
    with counting_queries() as whole:
        first = view.versions("digits")
    assert [each.version for each in first] == [str(n) for n in range(1, MANY + 1)]
    fill_mlflow(tmp_path / "repo" / ".reprune" / "registry.db", "digits", 3, first=MANY + 1)
    with counting_queries() as end:
        second = view.versions("digits")
    assert len(second) == MANY + 3
    assert second[:MANY] == first
    # Of three pages at a thousand a page, and of one.
    assert len(whole) <= 20
    assert len(end) <= 5


@pytest.fixture
def files(tmp_path: Path) -> FilesRegistry:
    registry = open_registry(Section(kind="files", uri="registry"), tmp_path)
    assert isinstance(registry, FilesRegistry)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "w").write_bytes(b"1")
    registry.register("digits", tmp_path / "source", {})
    fill_files(registry, "digits", 99, first=2)
    return registry


def numbers(view: Registry) -> list[int]:
    return [int(each.version) for each in view.versions("digits")]


def test_a_late_one_and_a_deleted_one_near_the_end_are_seen(files: FilesRegistry) -> None:
    """A version may come into being after the one behind it, where uploads take their time."""
    late = files.folder / "digits" / "95"
    late.rename(files.folder / "aside")
    view = Remembered(files, "digits", Known())
    assert 95 not in numbers(view)
    (files.folder / "aside").rename(late)
    assert 95 in numbers(view)
    late.rename(files.folder / "aside")
    assert 95 not in numbers(view)


def test_the_newest_deleted_or_replaced_is_looked_at_anew(files: FilesRegistry) -> None:
    """Else a reconciler would run what is not there."""
    view = Remembered(files, "digits", Known())
    assert numbers(view)[-1] == 100
    newest = files.folder / "digits" / "100"
    newest.rename(files.folder / "aside")
    assert numbers(view)[-1] == 99
    fill_files(files, "digits", 1, first=100)
    (newest / "version.json").write_text('{"stamp": "another", "tags": {}}')
    assert view.versions("digits")[-1].stamp == "another"


def test_after_a_while_the_whole_is_listed_again(files: FilesRegistry) -> None:
    """An old version that was deleted is gone by then, and an error leaves nothing remembered."""
    now_s = 0.0
    known = Known(clock=lambda: now_s)
    view = Remembered(files, "digits", known)
    assert len(numbers(view)) == 100
    old = files.folder / "digits" / str(100 - OVERLAP - 5)
    old.rename(files.folder / "aside")
    assert len(numbers(view)) == 100
    now_s = WHOLE_S + 1
    assert len(numbers(view)) == 99


def test_other_names_are_never_remembered(files: FilesRegistry, tmp_path: Path) -> None:
    """What was judged is read in its tags, which change."""
    view = Remembered(files, "digits", Known())
    view.register("digits-compressed", tmp_path / "source", {})
    assert view.versions("digits-compressed")[0].tags == {}
    view.set_tags("digits-compressed", "1", {"a": "b"})
    assert view.versions("digits-compressed")[0].tags == {"a": "b"}
