"""An identity is (registry, workspace, name): what was signed for another workspace is a stranger's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reprune.core.errors import ChampionForeign, ReceiptInvalid
from reprune.core.params import Registry as Section
from reprune.doors.service.credentials import Introduced
from reprune.registry.compressed import champion, history
from reprune.registry.files import FilesRegistry
from reprune.registry.links import links, read_link
from reprune.registry.open import open_registry
from reprune.registry.receipted import accepted_for
from reprune.registry.remembered import Known, Remembered
from reprune.steps.rollback import rollback
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    next_generation,
    promoted,
    ready,
    registry_of,
)


@pytest.mark.slow
def test_what_was_signed_for_another_workspace_counts_for_nothing(tmp_path: Path) -> None:
    """Verdicts and records alike, and an alias that names one of them names a stranger's version."""
    ready(tmp_path)
    promoted(tmp_path)
    second = next_generation(tmp_path, dense_version="2")
    promoted(tmp_path)
    rollback(tmp_path, to=None, by="Ada", reason="labels", now=NOW_S, say=lambda _: None)
    ours = registry_of(tmp_path)
    assert isinstance(ours, FilesRegistry)
    infos = ours.versions(COMPRESSED)
    lock = second.documents.lock.digest
    assert [info.version for info, _ in links(ours, "digits")] == ["1", "2", "3"]
    assert accepted_for(ours, infos, lock) is not None

    theirs = replace(ours, workspace="team")
    assert links(theirs, "digits") == history(theirs, "digits") == ()
    assert accepted_for(theirs, infos, lock) is None
    for info in infos:
        with pytest.raises(ReceiptInvalid, match="workspace 'default'"):
            read_link(theirs, info)
    with pytest.raises(ChampionForeign, match="workspace 'default'"):
        champion(theirs, "digits")


@pytest.mark.parametrize(
    "section",
    [
        Section(kind="files", uri="registry"),
        Section(kind="mlflow", uri="https://mlflow.example", workspace="team"),
        Section(kind="mlflow", uri="https://mlflow.example"),
        Section(),
        Section(kind="kubeflow", uri="https://registry.example", artifacts="store"),
    ],
)
def test_a_registry_says_the_workspace_that_it_was_opened_with(
    section: Section, tmp_path: Path
) -> None:
    opened = open_registry(section, tmp_path)
    remembered = Remembered(opened, "digits", Known())
    introduced = Introduced(inner=remembered, folder=None)
    assert {each.workspace for each in (opened, remembered, introduced)} == {section.workspace}
