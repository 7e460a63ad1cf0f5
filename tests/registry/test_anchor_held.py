"""promote looks at the anchor as it looks at the champion: who set it, who signed it, whether it moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from reprune.core.errors import PromotionRefused
from reprune.core.lock import ChampionRef
from reprune.core.params import read_params
from reprune.registry.compressed import anchor, champion
from reprune.steps import promote as promote_module
from reprune.steps.acceptance import check_integrity, check_registry_anchor
from reprune.steps.anchor import move_anchor
from reprune.steps.promoter import make_promoter, read_promoter
from reprune.steps.staging import stage
from tests.chain import POLICY, Story
from tests.registry.promotion import (
    COMPRESSED,
    copy_repository,
    evidence,
    promoted,
    ready,
    refused,
    registry_of,
)
from tests.registry.test_promote import alias

WHO = {"by": "Ada", "reason": "the first one in the field"}
ANCHORED = POLICY.replace(
    "    floor: 0.9", "    vs_anchor: {max_drop: 0.05, max_error_ratio: null}\n    floor: 0.9"
)


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """One generation was promoted, and made the anchor."""
    root = copy_repository(template, tmp_path / "repo")
    promoted(root)
    move_anchor(root, version=None, **WHO)
    return root


def following(root: Path, dense_version: str, **story: object) -> None:
    """The next generation, locked to champion and anchor as the registry names them now."""
    registry = registry_of(root)
    held: list[ChampionRef | None] = []
    for holder in (champion(registry, "digits"), anchor(registry, "digits")):
        held.append(holder.ref if holder else None)
    ready(
        root,
        Story(
            champion=held[0],
            anchor=held[1],
            dense_version=dense_version,
            policy=ANCHORED,
            **story,  # type: ignore[arg-type]
        ),
    )


def set_anchor(root: Path, version: str) -> None:
    registry_of(root).set_alias(COMPRESSED, "anchor", version)


@pytest.mark.slow
def test_an_anchor_that_moved_since_the_lock_is_refused(root: Path) -> None:
    following(root, "2")
    assert promoted(root).champion_after == "2"
    following(root, "3")
    move_anchor(root, version="2", **WHO)
    with refused(root, "anchor_moved"):
        promoted(root)
    following(root, "3")
    assert promoted(root).champion_after == "3"


@pytest.mark.slow
def test_an_anchor_that_appeared_since_the_lock_is_refused(root: Path) -> None:
    """The verdict's rules about an anchor were not judged."""
    aliases = root / "registry" / COMPRESSED / "aliases.json"
    aliases.write_text(json.dumps({"champion": "1"}))
    told = root / "registry" / COMPRESSED / "1" / "version.json"
    told.write_text(told.read_text().replace("reprune.anchor", "team.anchor"))
    following(root, "2")
    move_anchor(root, version="1", **WHO)
    with refused(root, "anchor_moved"):
        promoted(root)


@pytest.mark.slow
def test_an_anchor_that_moves_while_promoting_is_seen(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following(root, "2")
    promoted(root)
    following(root, "3")
    original = promote_module.Statement

    def meanwhile(**values: object) -> object:
        set_anchor(root, "2")
        return original(**values)  # type: ignore[arg-type]

    monkeypatch.setattr(promote_module, "Statement", meanwhile)
    with pytest.raises(PromotionRefused) as caught:
        promoted(root)
    assert (caught.value.reason, alias(root)) == ("anchor_foreign", "2")


@pytest.mark.slow
def test_an_anchor_that_nobody_answers_for_is_refused(root: Path) -> None:
    """Set by hand on a weaker pass, and locked; the cure is to name one, and judge again."""
    following(root, "2", candidate_wrong=10)
    promoted(root)
    set_anchor(root, "2")
    following(root, "3")
    with refused(root, "anchor_foreign"):
        promoted(root)
    with pytest.raises(PromotionRefused, match="nobody answers") as caught:
        promoted(root)
    assert "reprune anchor VERSION" in caught.value.fix
    # Who means that very version says so, though the alias names it already.
    assert move_anchor(root, version="2", **WHO).before == "2"
    assert promoted(root).champion_after == "3"


@pytest.mark.slow
def test_an_anchor_that_a_stranger_signed_is_refused_until_another_is_named(root: Path) -> None:
    """A copy of a version with another's receipt, one without any, and an alias on nothing at all."""
    following(root, "2")
    files = root / "registry" / COMPRESSED / "1" / "files"
    version = registry_of(root).register(COMPRESSED, files, {"reprune.anchor": "Eve: mine"})
    set_anchor(root, version)
    with refused(root, "anchor_foreign"):
        promoted(root)
    shutil.rmtree(root / "registry" / COMPRESSED / version)
    with refused(root, "anchor_lost"):
        promoted(root)
    assert move_anchor(root, version="1", **WHO).moved
    assert promoted(root).promoted


def test_an_anchor_under_a_key_that_we_do_not_trust_is_refused(root: Path) -> None:
    """The receipt is whole and agrees with its tags: only who signed it tells."""
    following(root, "2")
    (root / "staged").mkdir()
    given = read_params(root / "params.yaml")
    case = check_integrity(stage(evidence(root), root / "staged"), given)
    check_registry_anchor(case, read_promoter(root), registry_of(root))
    (root / ".reprune" / "promoter").rename(root / "theirs")
    make_promoter(root)
    with pytest.raises(PromotionRefused, match="trusts") as caught:
        check_registry_anchor(case, read_promoter(root), registry_of(root))
    assert caught.value.reason == "anchor_foreign"
