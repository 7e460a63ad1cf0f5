"""A promotion is whole or absent in the registry, at whatever moment the machine lost its power."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reprune.core.errors import RegistryUnreachable, RepruneError, VersionNotFound
from reprune.registry import compressed
from reprune.registry.bounded import Limits
from reprune.registry.files import FilesRegistry
from reprune.registry.links import newest_link
from reprune.registry.protocol import known_versions
from reprune.registry.receipts import subject_digests
from reprune.steps.promoter import read_promoter
from tests.core.crash_model import judge
from tests.core.recording import recording
from tests.registry.promotion import COMPRESSED, next_generation, promoted, ready


def served(root: Path, folder: Path) -> str:
    """The champion with its receipt, verified, and all its files; and that no other version is torn."""
    registry = FilesRegistry(
        identity="registry", workspace="default", folder=folder, limits=Limits()
    )
    keys = read_promoter(root).keys
    try:
        for info in known_versions(registry, COMPRESSED):
            holder = compressed._holder(registry, COMPRESSED, info.version, "champion")
            for part in sorted(
                {path.split("/")[0] for path in subject_digests(holder.receipt.statement)}
            ):
                place = folder.parent / "fetched"
                shutil.rmtree(place, ignore_errors=True)
                compressed.fetch_part(registry, holder, part, place)
        champion = registry.alias(COMPRESSED, "champion")
        link = newest_link(registry, "digits", keys)
    except VersionNotFound:
        return "none"
    except RegistryUnreachable as error:
        return "none" if "no registry" in error.what else f"{type(error).__name__}: {error.what}"
    except RepruneError as error:
        return f"{type(error).__name__}: {error.what}"
    if champion is None:
        return "none"
    newest = link[0].version if link else "none"
    assert newest >= champion
    return f"version {champion}"


@pytest.mark.slow
@pytest.mark.parametrize("generation", [1, 2])
def test_no_crash_while_promoting_moves_the_champion_to_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generation: int
) -> None:
    """The real `promote`, every state of the registry's folder after each of its operations."""
    root = tmp_path / "repo"
    root.mkdir()
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    ready(root)
    if generation == 2:
        promoted(root)
        next_generation(root, dense_version="2")
    before = served(root, root / "registry")
    with recording(root / "registry") as recorder:
        promoted(root)
        recorder.ack("")
    after = served(root, root / "registry")
    assert (before, after) == {1: ("none", "version 1"), 2: ("version 1", "version 2")}[generation]
    scratch = tmp_path / "scratch" / "registry"
    scratch.parent.mkdir()
    found = judge(recorder, [before, after], lambda folder: served(root, folder), scratch)
    assert found.distinct >= 3
    assert (found.wrong, found.lost) == (0, 0), found.examples
