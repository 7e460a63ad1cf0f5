"""Which verdict may be promoted for a lock, where others lie beside it: against a registry in memory."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from reprune.core.errors import PromotionRefused
from reprune.steps.fencing import check_first
from reprune.steps.moving import Desk
from tests.registry.memory import KEYS, MODEL, STRANGER, Memory, sha
from tests.registry.test_acceptance import Stand, stand

__all__ = ["stand"]
LOCK = sha("1")


@pytest.fixture
def held() -> Memory:
    return Memory()


@pytest.fixture
def desk(held: Memory, stand: Stand) -> Desk:
    return Desk(
        root=stand.root,
        given=stand.given,
        registry=held,
        authority=replace(stand.authority, keys=KEYS),
        now=0.0,
        say=lambda _: None,
    )


def asked(desk: Desk, letter: str = "a", *, registered: str | None = None) -> None:
    """Whether the verdict of this letter is the first for LOCK."""
    manifest = SimpleNamespace(lock=LOCK)
    case: Any = SimpleNamespace(verdict=SimpleNamespace(manifest=manifest, digest=sha(letter)))
    check_first(desk, case, registered=registered)


def refused(reason: str, match: str) -> Any:
    return pytest.raises(PromotionRefused, match=match, check=lambda error: error.reason == reason)


def test_the_first_of_a_lock_is_let_through(held: Memory, desk: Desk) -> None:
    """Nothing there; only other locks; this very verdict, once or twice."""
    asked(desk)
    held.judge(lock=sha("9"), verdict=sha("9"))
    asked(desk)
    info = held.judge(lock=LOCK, verdict=sha("a"))
    asked(desk)
    asked(desk, registered=info.version)
    held.judge(lock=LOCK, verdict=sha("b"))
    asked(desk, registered=info.version)


@pytest.mark.parametrize(
    ("changes", "mark", "words"),
    [
        ({}, {}, "pass, and its promotion was cut short or is under way"),
        ({}, {"reprune.promoted": "x"}, "pass, promoted"),
        ({"outcome": "block"}, {}, "counts: block"),
        ({"dry_run": True}, {}, "counts: pass"),
    ],
)
def test_another_that_came_first_counts(
    held: Memory, desk: Desk, changes: dict[str, Any], mark: dict[str, str], words: str
) -> None:
    """Whatever it says, and also after this one was registered."""
    held.judge(lock=LOCK, verdict=sha("b"), **changes)
    held.retag("1", **mark)
    with refused("lock_taken", words) as caught:
        asked(desk)
    assert caught.value.where == f"memory: {MODEL} version 1"
    assert "reprune update --again" in caught.value.fix
    info = held.judge(lock=LOCK, verdict=sha("a"))
    with refused("lock_taken", "version 1 holds another verdict"):
        asked(desk, registered=info.version)


def test_what_was_registered_must_be_shown(held: Memory, desk: Desk) -> None:
    """No version of the lock after one was registered: the registry does not show it."""
    with refused("not_listed", "version 4 was registered") as caught:
        asked(desk, registered="4")
    assert caught.value.where == f"memory: {MODEL}"
    held.judge(lock=LOCK, verdict=sha("a"), signer=STRANGER)
    with refused("not_listed", "version 4 was registered"):
        asked(desk, registered="4")


def test_what_a_stranger_signed_decides_nothing(held: Memory, desk: Desk) -> None:
    held.judge(lock=LOCK, verdict=sha("b"), signer=STRANGER)
    asked(desk)
    held.judge(lock=LOCK, verdict=sha("c"), signer=STRANGER)
    held.retag("2", **{"reprune.outcome": "block"})
    asked(desk)
    info = held.judge(lock=LOCK, verdict=sha("a"))
    asked(desk, registered=info.version)


def test_a_receipt_that_is_gone_holds_the_lock(held: Memory, desk: Desk) -> None:
    """Nobody can tell any more whose it was; what came after the accepted one decides nothing."""
    held.judge(lock=LOCK, verdict=sha("b"))
    held.held[0][1].clear()
    held.held[0][1]["file"] = b"x"
    with refused("receipt_gone", r"version 1 says .* its receipt is gone") as caught:
        asked(desk)
    assert caught.value.where == f"memory: {MODEL} version 1"


def test_this_very_verdict_is_registered_anew_where_its_receipt_is_gone(
    held: Memory, desk: Desk
) -> None:
    """It decides nothing else, unless it served, or was taken back, or its receipt was replaced."""
    held.judge(lock=LOCK, verdict=sha("a"))
    kept = dict(held.held[0][1])
    held.held[0][1].clear()
    asked(desk)
    with refused("receipt_gone", f"promote the verdict that its tags name .*{sha('a')[:19]}"):
        asked(desk, "b")
    held.retag("1", **{"reprune.promoted": "x"})
    with refused("receipt_gone", "its receipt is gone"):
        asked(desk)
    held.retag("1", **{"reprune.promoted": None})
    held.held[0][1].update(kept)
    held.retag("1", **{"reprune.receipt": sha("0")})
    with refused("receipt_gone", "is not the one that its tag names"):
        asked(desk)


@pytest.mark.parametrize("to", ["0", "1"])
def test_a_receipt_that_is_gone_holds_the_lock_of_what_a_person_decided_on(
    held: Memory, desk: Desk, to: str
) -> None:
    """It was returned to, or rolled back from: that is signed, whatever became of its marks."""
    held.judge(lock=LOCK, verdict=sha("a"))
    held.held[0][1].clear()
    held.roll(to, "1" if to == "0" else "7")
    with refused("receipt_gone", "its receipt is gone"):
        asked(desk)


def test_a_receipt_that_is_another_holds_the_lock(held: Memory, desk: Desk) -> None:
    held.judge(lock=LOCK, verdict=sha("b"))
    held.retag("1", **{"reprune.receipt": sha("0")})
    with refused("receipt_gone", "its receipt is not the one that its tag names"):
        asked(desk)


def test_a_receipt_of_ours_that_contradicts_its_tags_holds_the_lock(
    held: Memory, desk: Desk
) -> None:
    held.judge(lock=LOCK, verdict=sha("b"))
    held.retag("1", **{"reprune.outcome": "block"})
    with refused("receipt_gone", "contradicts its tags"):
        asked(desk)


def test_what_came_after_the_accepted_one_holds_up_nobody(held: Memory, desk: Desk) -> None:
    """Junk of the same lock, before and after: only what came before is asked about."""
    held.judge(lock=LOCK, verdict=sha("a"))
    held.judge(lock=LOCK, verdict=sha("b"))
    held.retag("2", **{"reprune.receipt": sha("0")})
    asked(desk, registered="1")
    held.judge(lock=sha("9"), verdict=sha("9"))
    held.retag("3", **{"reprune.receipt": sha("0")})
    asked(desk)


def test_what_came_before_the_accepted_one_is_asked_about(held: Memory, desk: Desk) -> None:
    """It may have been ours, and the one that counts; somebody else's between them holds up nobody."""
    held.judge(lock=LOCK, verdict=sha("c"), signer=STRANGER)
    held.judge(lock=LOCK, verdict=sha("b"))
    held.judge(lock=LOCK, verdict=sha("a"))
    held.retag("2", **{"reprune.receipt": sha("0")})
    with refused("receipt_gone", "version 2 says"):
        asked(desk, registered="3")


def test_a_tag_without_a_receipt_holds_up_nobody(held: Memory, desk: Desk) -> None:
    """Junk that somebody tagged with a lock, and that never had a receipt."""
    held.add({"file": b"x"}, {"reprune.lock": LOCK})
    held.add({"file": b"x"}, {"reprune.receipt": sha("0")})
    asked(desk)
