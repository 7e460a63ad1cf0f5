"""anchor: only what was promoted, only by somebody with a reason, and the next lock pins it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reprune.core.errors import ChampionLost, InputError, ReceiptInvalid, VersionNotFound
from reprune.doors.cli import main
from reprune.registry import compressed, tags
from reprune.steps.anchor import move_anchor
from tests.chain import Story
from tests.registry.promotion import COMPRESSED, next_generation, promoted, ready, registry_of

WHO = {"by": "Ada Lovelace", "reason": "the first one in the field"}


def alias(root: Path) -> str | None:
    return registry_of(root).alias(COMPRESSED, "anchor")


def test_the_champion_becomes_the_anchor_and_stays_it(tmp_path: Path) -> None:
    """The next promotion moves the champion, not the anchor; who and why is on the version."""
    ready(tmp_path)
    promoted(tmp_path)
    result = move_anchor(tmp_path, version=None, **WHO)
    assert (result.version, result.before, result.moved) == ("1", None, True)
    assert move_anchor(tmp_path, version="1", **WHO).moved is False
    (info,) = registry_of(tmp_path).versions(COMPRESSED)
    assert info.tags[tags.ANCHORED] == "Ada Lovelace: the first one in the field"
    holder = compressed.anchor(registry_of(tmp_path), "digits")
    assert holder is not None
    assert holder.ref.version == "1"


def test_what_was_not_promoted_is_refused(tmp_path: Path) -> None:
    """Judged and blocked, unknown, or nothing there at all; the alias does not appear."""
    ready(tmp_path, Story(candidate_wrong=70))
    with pytest.raises(VersionNotFound, match="nothing was promoted yet"):
        move_anchor(tmp_path, version=None, **WHO)
    promoted(tmp_path)
    with pytest.raises(ReceiptInvalid, match="never promoted"):
        move_anchor(tmp_path, version="1", **WHO)
    with pytest.raises(VersionNotFound, match="has no version 7"):
        move_anchor(tmp_path, version="7", **WHO)
    with pytest.raises(VersionNotFound, match="nothing was promoted yet"):
        move_anchor(tmp_path, version=None, **WHO)
    assert alias(tmp_path) is None


def test_an_anchor_that_is_gone_is_not_none(tmp_path: Path) -> None:
    """Else the rules about it would quietly not be judged any more; setting it again mends it."""
    ready(tmp_path)
    promoted(tmp_path)
    move_anchor(tmp_path, version=None, **WHO)
    aliases = tmp_path / "registry" / COMPRESSED / "aliases.json"
    aliases.write_text(json.dumps({"champion": "1"}))
    with pytest.raises(ChampionLost, match="the alias was deleted"):
        compressed.anchor(registry_of(tmp_path), "digits")
    assert move_anchor(tmp_path, version="1", **WHO).moved
    assert compressed.anchor(registry_of(tmp_path), "digits") is not None


@pytest.mark.parametrize("text", ["", "  ", "a\x1b[31mb", "x" * 501])
def test_nobody_and_nothing_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="must say something"):
        move_anchor(tmp_path, version=None, by=text, reason="why")


@pytest.mark.slow
def test_the_command_moves_it_back_and_forth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the command changes the folder; this changes it back
    ready(tmp_path)
    promoted(tmp_path)
    next_generation(tmp_path, dense_version="2")
    promoted(tmp_path)
    words = ["anchor", "-C", str(tmp_path), "--by", "Ada", "--reason", "new camera"]
    assert main(words) == 0
    assert alias(tmp_path) == "2"
    assert main([*words, "1"]) == 0
    assert alias(tmp_path) == "1"
    assert "the anchor is version 1, and was 2" in capsys.readouterr().err
    assert main(words[:-2]) == 2
