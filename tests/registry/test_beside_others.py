"""Others' versions beside ours that cannot be read, and those that only say that they are ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reprune.core.errors import RegistryError
from reprune.registry.files import FilesRegistry
from reprune.registry.receipts import RECEIPT_FILE
from reprune.registry.tags import RECORD
from reprune.steps.history import history
from tests.registry.promotion import COMPRESSED, NOW_S, next_generation, promoted, registry_of
from tests.registry.test_taken_back import back, root, two_once

__all__ = ["root", "two_once"]
Folder = Callable[..., Path]


@pytest.mark.slow
def test_a_version_of_somebody_elses_that_cannot_be_read_holds_up_nobody(
    root: Path, folder: Folder
) -> None:
    """A link, or a folder, where a receipt would lie, in a version without a tag of ours."""
    registry = registry_of(root)
    assert isinstance(registry, FilesRegistry)
    link = registry.register(COMPRESSED, folder("theirs", model=b"x"), {"team": "b"})
    (registry.folder / COMPRESSED / link / "files" / RECEIPT_FILE).symlink_to("/etc/hostname")
    odd = registry.register(COMPRESSED, folder("odd", model=b"x"), {})
    (registry.folder / COMPRESSED / odd / "files" / RECEIPT_FILE).mkdir()
    next_generation(root, dense_version="3")
    assert promoted(root).champion_after == "5"
    assert [each.state for each in history(root, now=NOW_S).generations[1:3]] == ["not ours"] * 2
    assert back(root) == "2"


@pytest.mark.slow
def test_a_version_that_says_it_is_ours_and_cannot_be_read_stops_all_in_words(
    root: Path, folder: Folder
) -> None:
    """It may hold the record that takes the champion back. The history lists it, and says what waits."""
    registry = registry_of(root)
    assert isinstance(registry, FilesRegistry)
    version = registry.register(COMPRESSED, folder("junk", model=b"x"), {RECORD: "sha256:0"})
    (registry.folder / COMPRESSED / version / "files" / RECEIPT_FILE).symlink_to("/etc/hostname")
    next_generation(root, dense_version="3")
    for stopped in (lambda: promoted(root), lambda: back(root)):
        with pytest.raises(RegistryError, match=r"its receipt cannot be read: .*links") as caught:
            stopped()
        assert f"{COMPRESSED} version {version}" in caught.value.where
        assert "restore that version's files" in caught.value.fix
        assert "delete it" in caught.value.fix
    told = history(root, now=NOW_S)
    assert [each.state for each in told.generations[:1]] == ["not trusted"]
    assert [(each.why, each.version) for each in told.waiting] == [("champion_foreign", "2")]
    assert "cannot be told" in told.waiting[0].words
