"""One lock has one accepted verdict: promote refuses any other, before it registers and after."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.accepted import accepted
from reprune.core.errors import ChampionForeign, ChampionLost, PromotionRefused, ReceiptInvalid
from reprune.core.lock import LOCK_FILE, first_look, fresh_look, lock_text, read_lock
from reprune.orchestrate.reconcile_seen import Row
from reprune.registry.compressed import champion
from reprune.registry.judged import judged
from reprune.registry.protocol import Registry, VersionInfo
from reprune.registry.receipts import RECEIPT_FILE
from reprune.registry.tags import BUNDLE, LOCK, OUTCOME, PROMOTED, RECEIPT
from reprune.steps import moving
from reprune.steps.promoter import make_promoter
from reprune.steps.rollback import rollback
from reprune.steps.update import look_again
from tests.chain import Story
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    next_generation,
    promoted,
    ready,
    refused,
    registry_of,
    versions,
)
from tests.registry.stand import Failing, Killed
from tests.registry.test_promote import previous

BLOCKED = Story(candidate_wrong=70)
SECOND = {"seed": 1, "attempt": 2, "attempts_before": 1}


def alias(root: Path) -> str | None:
    return registry_of(root).alias(COMPRESSED, "champion")


def cut_short(root: Path, monkeypatch: pytest.MonkeyPatch, story: Story) -> None:
    """A pass that was registered, and whose promote died before the alias moved."""
    ready(root, story)
    failing = Failing(registry_of(root), at=2, after=False)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(Killed):
            promoted(root)


@pytest.mark.slow
@pytest.mark.parametrize("worse", [{}, {"candidate_wrong": 80}, {"units": 5}])
def test_another_verdict_for_the_lock_is_refused_whatever_it_says(
    tmp_path: Path, worse: dict[str, int]
) -> None:
    """Counted as another attempt it is none: who wants another look says so in the lock."""
    ready(tmp_path, BLOCKED)
    promoted(tmp_path)
    chain = ready(tmp_path, Story(**SECOND, **worse))
    with refused(tmp_path, "lock_taken"):
        promoted(tmp_path)
    with pytest.raises(PromotionRefused, match="version 1 holds another verdict") as caught:
        promoted(tmp_path)
    assert "reprune update --again" in caught.value.fix
    found = judged(registry_of(tmp_path), "digits", chain.documents.lock.digest)
    assert found is not None
    assert (found.version, found.outcome) == ("1", "block")


def test_a_second_look_has_a_lock_of_its_own(tmp_path: Path) -> None:
    """It is the lowest that has no verdict; asking again before there is one changes nothing."""
    chain = ready(tmp_path, BLOCKED)
    assert look_again(chain.documents) == chain.documents
    promoted(tmp_path)
    written = look_again(chain.documents)
    assert written.lock.look == 2
    assert read_lock(tmp_path / LOCK_FILE) == written.lock == look_again(written).lock
    ready(tmp_path, Story(look=2, **SECOND))
    assert promoted(tmp_path).champion_after == "2"
    assert look_again(chain.documents).lock.look == 3


def test_a_lock_from_before_reads_and_digests_as_it_did(tmp_path: Path) -> None:
    lock = ready(tmp_path).documents.lock
    assert "look" not in lock_text(lock)
    assert b"look" not in msgspec.json.encode(lock)
    second = fresh_look(lock, {lock.digest})
    assert lock_text(second) == lock_text(lock) + "look: 2\n"
    assert first_look(second) == lock
    assert second.digest != lock.digest


@dataclass
class Late(Failing):
    """Shows version 1 only from when a version was read back, as a slow commit of a lower number would."""

    shown: bool = False

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        found = self.inner.versions(name)
        return found if self.shown else tuple(info for info in found if info.version != "1")

    def fetch(self, name: str, version: str, destination: Path, *, part: str = "") -> None:
        self.inner.fetch(name, version, destination, part=part)
        self.shown = self.shown or (not part and version == "2")


def test_a_lower_number_that_is_shown_late_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looks at registering saw nothing; the one before the alias moves does."""
    ready(tmp_path, BLOCKED)
    promoted(tmp_path)
    ready(tmp_path, Story(**SECOND))
    late = Late(registry_of(tmp_path), at=0, after=False)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: late)
        with pytest.raises(PromotionRefused) as caught:
            promoted(tmp_path)
    assert (caught.value.reason, late.writes) == ("lock_taken", ["register"])
    assert (versions(tmp_path), alias(tmp_path)) == (["1", "2"], None)
    with refused(tmp_path, "lock_taken"):
        promoted(tmp_path)


def test_a_version_that_the_registry_does_not_show_is_not_moved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(tmp_path)
    late = Late(registry_of(tmp_path), at=0, after=False)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: late)
        with pytest.raises(PromotionRefused) as caught:
            promoted(tmp_path)
    assert (caught.value.reason, late.writes) == ("not_listed", ["register"])
    assert promoted(tmp_path).champion_after == "1"


@pytest.mark.slow
def test_a_pass_that_came_second_is_passed_over_where_there_is_no_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never served, so nothing was lost; a pass that came first and was cut short still holds all up."""
    chain = ready(tmp_path, BLOCKED)
    promoted(tmp_path)
    ready(tmp_path, Story(**SECOND))
    late = Late(registry_of(tmp_path), at=0, after=False)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: late)
        with pytest.raises(PromotionRefused):
            promoted(tmp_path)
    assert champion(registry_of(tmp_path), "digits") is None
    assert previous(chain).champion is None
    # Set by hand it is none either, and neither its own promote nor the next one takes it for one.
    registry_of(tmp_path).set_alias(COMPRESSED, "champion", "2")
    with pytest.raises(ChampionForeign, match="version 2, does not hold the accepted verdict"):
        promoted(tmp_path)
    assert marks(tmp_path) == {"1": False, "2": False}
    next_generation(tmp_path, dense_version="2")
    with pytest.raises(ChampionForeign, match="does not hold the accepted verdict"):
        promoted(tmp_path)
    (tmp_path / "registry" / COMPRESSED / "aliases.json").write_text("{}")
    ready(tmp_path, Story(dense_version="2"))
    assert promoted(tmp_path).champion_after == "3"
    other = tmp_path / "other"
    cut_short(other, monkeypatch, Story())
    with pytest.raises(ChampionLost, match="cut short"):
        champion(registry_of(other), "digits")


def test_what_a_stranger_signed_takes_no_lock(tmp_path: Path) -> None:
    """Nor do tags without a receipt: whoever may write into the registry holds up nothing."""
    ready(tmp_path, BLOCKED)
    promoted(tmp_path)
    promoter = tmp_path / ".reprune" / "promoter"
    promoter.rename(tmp_path / ".reprune" / "theirs")
    make_promoter(tmp_path)
    ready(tmp_path, Story(**SECOND))
    assert promoted(tmp_path).champion_after == "2"


def stored(root: Path, version: str) -> Path:
    return root / "registry" / COMPRESSED / version


def lose_receipt(root: Path) -> None:
    """As retention of artefacts does, which spares the tags."""
    (stored(root, "1") / "files" / RECEIPT_FILE).unlink()


def swap_receipt(root: Path) -> None:
    (stored(root, "1") / "files" / RECEIPT_FILE).write_text("{}")


def edit_tag(root: Path) -> None:
    registry_of(root).set_tags(COMPRESSED, "1", {BUNDLE: "another"})


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [lose_receipt, swap_receipt, edit_tag])
def test_a_verdict_whose_receipt_is_gone_still_holds_its_lock(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """Who could make it disappear could run a candidate until it passes; another look is counted."""
    ready(tmp_path, BLOCKED)
    promoted(tmp_path)
    spoil(tmp_path)
    ready(tmp_path, Story(**SECOND))
    with refused(tmp_path, "receipt_gone"):
        promoted(tmp_path)
    with pytest.raises(PromotionRefused, match="version 1 says") as caught:
        promoted(tmp_path)
    assert "reprune update --again" in caught.value.fix
    chain = ready(tmp_path, BLOCKED)
    assert look_again(chain.documents).lock.look == 2
    ready(tmp_path, Story(look=2, **SECOND))
    assert promoted(tmp_path).champion_after == "2"


@pytest.mark.slow
def test_a_first_promotion_that_lost_its_receipt_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was champion yet: the same verdict again, and the model serves. Words say the rest."""
    cut_short(tmp_path, monkeypatch, Story())
    shutil.rmtree(stored(tmp_path, "1") / "files")
    (stored(tmp_path, "1") / "files").mkdir()
    with pytest.raises(ReceiptInvalid, match="its receipt is gone") as caught:
        rollback(tmp_path, to="1", by="Ada", reason="r", now=NOW_S, say=lambda _: None)
    for words in ("from a backup", "`reprune promote` of the verdict", "its tags `reprune.*`"):
        assert words in caught.value.fix
    assert promoted(tmp_path).champion_after == "2"
    assert promoted(tmp_path).already_done


@pytest.mark.slow
def test_junk_that_names_a_lock_holds_up_nobody_for_long(tmp_path: Path) -> None:
    """Deleted, it is forgotten; and what is registered after the verdict that counts does nothing."""
    chain = ready(tmp_path)
    junk = {
        LOCK: chain.documents.lock.digest,
        RECEIPT: "sha256:" + "0" * 64,
        OUTCOME: "block",
    }
    registry = registry_of(tmp_path)
    registry.register(COMPRESSED, chain.path("dense"), junk)
    with refused(tmp_path, "receipt_gone"):
        promoted(tmp_path)
    shutil.rmtree(stored(tmp_path, "1"))
    assert promoted(tmp_path).promoted
    registry.register(COMPRESSED, chain.path("dense"), junk)
    assert promoted(tmp_path).already_done
    ready(tmp_path, Story(**SECOND))
    with refused(tmp_path, "lock_taken"):
        promoted(tmp_path)


@pytest.mark.slow
def test_who_served_is_marked_before_the_next_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion that was cut short after its alias is remembered, by promote and by rollback alike."""
    failing = Failing(registry_of_new(tmp_path), at=3, after=False)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(Killed):
            promoted(tmp_path)
    assert marks(tmp_path) == {"1": False}
    next_generation(tmp_path, dense_version="2")
    failing = Failing(registry_of(tmp_path), at=4, after=False)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(Killed):
            promoted(tmp_path)
    assert failing.writes == ["register", "set_tags", "set_alias", "set_tags"]
    assert marks(tmp_path) == {"1": True, "2": False}
    rollback(tmp_path, to=None, by="Ada", reason="labels", now=NOW_S, say=lambda _: None)
    assert alias(tmp_path) == "1"
    assert marks(tmp_path) == {"1": True, "2": True, "3": False}


def registry_of_new(root: Path) -> Registry:
    ready(root)
    return registry_of(root)


def marks(root: Path) -> dict[str, bool]:
    return {
        info.version: info.tags.get(PROMOTED, "x") == info.tags.get("reprune.receipt")
        for info in registry_of(root).versions(COMPRESSED)
    }


@given(st.lists(st.tuples(st.sampled_from("ab "), st.sampled_from("vw "))))
def test_what_is_accepted_stays_it_whatever_comes_later(pairs: list[tuple[str, str]]) -> None:
    rows = [
        Row(version=str(place), lock=lock.strip(), verdict=verdict.strip())
        for place, (lock, verdict) in enumerate(pairs)
    ]
    for end in range(len(rows)):
        before, after = accepted(rows[:end]), accepted(rows[: end + 1])
        assert before.items() <= after.items()
    for lock, row in accepted(rows).items():
        earlier = [each for each in rows[: int(row.version)] if each.lock == lock and each.verdict]
        assert (row.lock, bool(row.verdict), earlier) == (lock, True, [])
