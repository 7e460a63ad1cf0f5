"""Who the champion and the anchor are, how often was looked, and what of a version is brought back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from reprune.core.artifacts import Asked, Waiver
from reprune.core.errors import ChampionForeign, ChampionLost, PayloadCorrupt, ReceiptInvalid
from reprune.core.lock import ChampionRef
from reprune.registry import compressed
from reprune.registry.compressed import (
    HISTORY,
    anchor,
    attempts,
    champion,
    check_files,
    fetch_part,
    history,
    summary,
    uses,
)
from reprune.registry.judged import judged
from tests.registry.memory import MODEL, Memory, sha

WAIVER = Waiver(
    by="Ada", reason="r", expires="2026-12-24", rules=("a",), verdict="", candidate="", policy=""
)
BLOCK: dict[str, Any] = {"outcome": "block"}


@pytest.fixture
def held() -> Memory:
    return Memory()


def one(letter: str, **changes: Any) -> dict[str, Any]:
    return {"verdict": sha(letter), "lock": sha(letter)} | changes


# --- champion ------------------------------------------------------------------------------------


def test_nobody_is_champion_before_anything_passed(held: Memory) -> None:
    """No model, or only versions that moved nothing: blocks, dry runs, rollbacks, other people's."""
    assert champion(held, "digits") is None
    held.judge(**one("1", outcome="block"))
    held.judge(**one("2", outcome="error"))
    held.judge(**one("3", dry_run=True))
    held.judge(**one("4", outcome="block", dry_run=True))
    held.roll("1", None)
    held.add({"file": b"x"}, {})
    assert champion(held, "digits") is None


def test_the_champion_is_whom_the_alias_names(held: Memory) -> None:
    held.judge(**one("1"))
    held.judge(**one("2", bundle=sha("b")))
    held.aliases["champion"] = "2"
    holder = champion(held, "digits")
    assert holder is not None
    assert holder.info == held.info("2")
    assert holder.ref == ChampionRef(version="2", bundle=sha("b"), receipt=held.digest("2"))
    held.adopt(bundle=sha("c"))
    held.aliases["champion"] = "3"
    holder = champion(held, "digits")
    assert holder is not None
    assert holder.ref == ChampionRef(version="3", bundle=sha("c"), receipt=held.digest("3"))


@pytest.mark.parametrize(
    ("changes", "served"),
    [
        ({}, True),
        ({"dry_run": True}, False),
        ({"outcome": "block"}, False),
        ({"outcome": "inconclusive"}, False),
        ({"outcome": "block", "waiver": WAIVER}, True),
    ],
    ids=str,
)
def test_an_alias_that_is_gone_is_lost_where_somebody_may_have_served(
    held: Memory, changes: dict[str, Any], served: bool
) -> None:
    """Never `none`: what passed, or was waived, was champion or was to be it."""
    held.judge(**one("1", **changes))
    if not served:
        assert champion(held, "digits") is None
        held.retag("1", **{"reprune.promoted": "x"})
        if changes.get("dry_run"):
            return
    with pytest.raises(ChampionLost, match="but 1 of its versions passed") as caught:
        champion(held, "digits")
    assert caught.value.where == "memory"
    assert "rollback --to 1" in caught.value.fix


def test_an_adoption_may_have_served(held: Memory) -> None:
    held.adopt()
    with pytest.raises(ChampionLost, match="but 1 of its versions passed") as caught:
        champion(held, "digits")
    assert "never adopted, run `reprune adopt`" in caught.value.fix
    assert champion(held, "digits", besides=held.digest("1")) is None


def test_a_dry_run_is_believed_of_its_receipt_alone(held: Memory) -> None:
    """A tag that says so, on a pass that was none, does not make a lost champion `none`."""
    held.judge(**one("1"))
    held.retag("1", **{"reprune.dry_run": "true"})
    with pytest.raises(ChampionLost, match="1 of its versions passed"):
        champion(held, "digits")


def test_its_own_registration_does_not_count(held: Memory) -> None:
    """A promotion that was cut short goes on; of others the newest is named."""
    held.judge(**one("1"))
    assert champion(held, "digits", besides=sha("1")) is None
    held.judge(**one("2"))
    with pytest.raises(ChampionLost, match="1 of its versions passed"):
        champion(held, "digits", besides=sha("1"))
    with pytest.raises(ChampionLost, match="2 of its versions passed") as caught:
        champion(held, "digits", besides=sha("9"))
    assert "if version 2 was never promoted" in caught.value.fix
    assert "begin with it: `reprune rollback --to 2 --by" in caught.value.fix


def test_a_pass_that_came_second_never_served(held: Memory) -> None:
    """Another verdict counts for its lock; unless a tag says that it was promoted all the same."""
    held.judge(**one("1", outcome="block"))
    held.judge(verdict=sha("2"), lock=sha("1"))
    assert champion(held, "digits") is None
    held.retag("2", **{"reprune.promoted": "x"})
    with pytest.raises(ChampionLost):
        champion(held, "digits")


def test_a_champion_that_receipts_name_was_there(held: Memory) -> None:
    """Its version deleted, the alias too: the receipts of later ones tell."""
    named = ChampionRef(version="1", bundle=sha("a"), receipt=sha("a"))
    held.judge(**one("2", outcome="block", champion=named))
    with pytest.raises(
        ChampionLost, match="its receipts name a champion: it was deleted"
    ) as caught:
        champion(held, "digits")
    assert (caught.value.where, "backup" in caught.value.fix) == ("memory", True)


def test_what_passed_and_is_there_is_named_first(held: Memory) -> None:
    """Where receipts name a champion and a version that passed is still there, that one is the way back."""
    held.judge(**one("1"))
    named = ChampionRef(version="1", bundle=sha("a"), receipt=held.digest("1"))
    held.judge(**one("2", outcome="block", champion=named))
    with pytest.raises(ChampionLost, match="but 1 of its versions passed"):
        champion(held, "digits")


def test_an_alias_on_what_is_gone_or_not_ours(held: Memory) -> None:
    """Lost where the version is gone; foreign where it has no receipt, or one that does not promote."""
    held.judge(**one("1"))
    held.aliases["champion"] = "7"
    with pytest.raises(ChampionLost, match="names version 7, which is gone") as lost:
        champion(held, "digits")
    assert "rollback --to VERSION" in lost.value.fix
    held.add({"file": b"x"}, {})
    for version, words in (
        (held.add({"file": b"x"}, {}).version, "carries no receipt of ours"),
        (held.judge(**one("3", outcome="block")).version, "was judged 'block'"),
        (held.judge(**one("4", dry_run=True)).version, "was judged in a dry run"),
        (held.roll("1", None).version, "carries no receipt of ours"),
    ):
        held.aliases["champion"] = version
        with pytest.raises(ChampionForeign, match=words) as caught:
            champion(held, "digits")
        assert caught.value.where == f"memory: {MODEL} version {version}"
        assert "reprune adopt" in caught.value.fix


# --- anchor --------------------------------------------------------------------------------------


def test_an_anchor_is_none_until_it_was_set(held: Memory) -> None:
    assert anchor(held, "digits") is None
    held.judge(**one("1"))
    assert anchor(held, "digits") is None
    held.aliases["anchor"] = "1"
    holder = anchor(held, "digits")
    assert holder is not None
    assert holder.info == held.info("1")
    held.aliases.clear()
    held.retag("1", **{"reprune.anchor": "Ada: why"})
    with pytest.raises(ChampionLost, match=r"Ada: why\): the alias was deleted") as caught:
        anchor(held, "digits")
    assert "reprune anchor 1 --by" in caught.value.fix
    held.aliases["anchor"] = "9"
    with pytest.raises(ChampionLost, match=r"the alias 'anchor' .* which is gone") as caught:
        anchor(held, "digits")
    assert "reprune anchor VERSION" in caught.value.fix
    held.add({"file": b"x"}, {})
    held.aliases["anchor"] = "2"
    with pytest.raises(ChampionForeign) as foreign:
        anchor(held, "digits")
    assert "adopt" not in foreign.value.fix


# --- attempts ------------------------------------------------------------------------------------


def test_attempts_are_verdicts_on_record(held: Memory) -> None:
    """Each once, of this dense version; at least as many as the highest that one was judged as."""
    assert attempts(held, "digits", "3") == 0
    held.judge(**one("1", dense_version="3"))
    held.judge(**one("2", dense_version="4", attempt=9))
    assert attempts(held, "digits", "3") == 1
    held.adopt(dense_version="3")
    held.judge(**one("1", dense_version="3", outcome="block"))
    assert attempts(held, "digits", "3") == 1
    held.judge(**one("3", dense_version="3"))
    assert attempts(held, "digits", "3") == 2
    held.judge(**one("4", dense_version="3", attempt=7))
    held.judge(**one("5", dense_version="3", attempt=2))
    assert attempts(held, "digits", "3") == 7
    assert attempts(held, "digits", "3", besides=sha("4")) == 2
    assert attempts(held, "digits", "3", besides=sha("1")) == 0
    assert attempts(held, "digits", "3", besides=sha("9")) == 7
    held.roll("1", None)
    held.adopt(dense_version="3")
    assert attempts(held, "digits", "3") == 7


@pytest.mark.parametrize("number", ["", "many", "-4", None])
def test_an_attempt_without_a_number_still_counts(held: Memory, number: str | None) -> None:
    held.judge(**one("1", dense_version="3"))
    held.retag("1", **{"reprune.attempt": number})
    assert attempts(held, "digits", "3") == 1


def test_uses_are_verdicts_given_on_the_same_examples(held: Memory) -> None:
    """By tag; of versions from before the tag, by receipt."""
    held.judge(**one("1", eval_digest="b"))
    held.judge(**one("2", eval_digest="b"))
    held.judge(**one("2", eval_digest="b", outcome="block"))
    held.judge(**one("3", eval_digest="a"))
    held.roll("1", None)
    assert list(uses(held, "digits").items()) == [("a", 1), ("b", 2)]
    held.retag("1", **{"reprune.eval": None})
    held.retag("2", **{"reprune.eval": "b"})
    assert uses(held, "digits") == {"a": 1, "b": 2}
    held.retag("4", **{"reprune.eval": None})
    assert uses(held, "digits") == {"a": 1, "b": 2}
    assert uses(held, "letters") == {}


def test_one_version_without_the_tag_counts_through_its_receipt(held: Memory) -> None:
    """Alone, too; a tag without a verdict is none of ours."""
    held.judge(**one("1", eval_digest="b"))
    held.retag("1", **{"reprune.eval": None})
    assert uses(held, "digits") == {"b": 1}
    held.add({"file": b"x"}, {"reprune.eval": "z"})
    assert uses(held, "digits") == {"b": 1}


def test_history_is_long_and_keeps_what_was_overridden(held: Memory) -> None:
    """The newest ones, oldest first; besides those, every override, and the one that is asked for."""
    held.judge(**one("1", outcome="block", waiver=WAIVER))
    held.judge(**one("2"))
    held.judge(**one("3"))
    for number in range(HISTORY - 1):
        held.judge(**one("4", attempt=number + 1))
    held.add({"file": b"x"}, {})
    held.judge(**one("5"))
    newest = [str(4 + i) for i in range(HISTORY - 1)] + [str(HISTORY + 4)]
    assert [info.version for info, _ in history(held, "digits")] == ["1", *newest]
    found = history(held, "digits", always="3")
    assert [info.version for info, _ in found] == ["1", "3", *newest]
    assert HISTORY == 50
    assert found[0][1].digest == held.digest("1")


def test_a_line_of_history(held: Memory) -> None:
    """What the receipt says; promoted is what serves, or was marked, and may be champion at all."""
    figures = {"latency_ratio": 0.5, "quality_drop": 0.25, "flips": 0.1}
    later = {"quality_drops": {"a": 0.25}, "latency_ratios": {"cpu": 0.5}, "predicted_loss": 0.1}
    asked = Asked(allocator="latency", budget="macs", fraction=0.5)
    figures |= later | {"kept": {"conv": 0.5}, "asked": asked}
    grounds = {"dense_version": "7", "reasons": ("r",), "eval_digest": "e", "newest_time": "t"}
    held.judge(**one("1", **figures, **grounds))
    held.aliases["champion"] = "1"
    holder = champion(held, "digits")
    assert holder is not None
    ((info, receipt),) = history(held, "digits")
    told = summary(info, receipt, holder)
    decision = receipt.statement.predicate
    for field in (
        "dense_version", "outcome", "verdict", "reasons", "latency_ratio", "quality_drop", "flips",
        "eval_digest", "newest_time", "waiver", "quality_drops", "latency_ratios", "predicted_loss", "kept",
        "asked",
    ):  # fmt: skip
        assert getattr(told, field) == getattr(decision, field), field
    assert (told.compressed_version, told.promoted, told.waiver) == ("1", True, UNSET)
    assert summary(info, receipt, None).promoted is False
    waived = held.judge(**one("9", outcome="block", waiver=WAIVER))
    assert summary(waived, compressed.read_receipt(held, waived), None).waiver == WAIVER
    held.drop(waived.version)
    held.judge(**one("2"))
    held.judge(**one("3", outcome="block"))
    held.retag("2", **{"reprune.promoted": "x"})
    held.retag("3", **{"reprune.promoted": "x"})
    marked = {i.version: summary(i, r, None).promoted for i, r in history(held, "digits")}
    assert marked == {"1": False, "2": True, "3": False}
    assert summary(*history(held, "digits")[1], holder).promoted is True
    held.retag("2", **{"reprune.promoted": None})
    assert summary(*history(held, "digits")[1], holder).promoted is False


# --- files ---------------------------------------------------------------------------------------


def digest(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


FILES = {"bundle/a": b"alpha", "bundle/b/c": b"beta", "bundles/d": b"delta", "plan/e": b"eps"}
LISTED = {name: digest(raw) for name, raw in FILES.items()}


def test_a_part_is_brought_as_the_receipt_lists_it(held: Memory, tmp_path: Path) -> None:
    held.judge(files=FILES, listed=LISTED)
    held.aliases["champion"] = "1"
    holder = champion(held, "digits")
    assert holder is not None
    assert fetch_part(held, holder, "bundle", tmp_path / "out")
    out = tmp_path / "out"
    found = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }
    assert found == {"a": b"alpha", "b/c": b"beta"}
    assert fetch_part(held, holder, "report", tmp_path / "none") is False
    asked: list[str] = []
    inner = held.fetch

    def fetch(name: str, version: str, destination: Path, *, part: str = "") -> None:
        asked.append(part)
        inner(name, version, destination, part=part)

    held.fetch = fetch  # type: ignore[method-assign]
    assert fetch_part(held, holder, "plan", tmp_path / "plan") is True
    assert asked == ["plan"]
    assert not (tmp_path / "none").exists()
    gone = {path: None for path, _ in held.held[0][1].items() if path.startswith("bundle/")}
    for change in ({"bundle/a": b"other"}, {"bundle/more": b"x"}, {"bundle/a": None}, gone):
        files = {k: v for k, v in {**held.held[0][1], **change}.items() if v is not None}
        broken = Memory(held=[(holder.info, files)])
        with pytest.raises(PayloadCorrupt, match="is not what its receipt lists: ") as caught:
            fetch_part(broken, holder, "bundle", tmp_path / "broken")
        assert caught.value.where == f"{MODEL} version 1, bundle"
        assert not (tmp_path / "broken").exists()


def test_wrong_files_are_named_in_order(tmp_path: Path) -> None:
    """At most five; what is right is not among them."""
    for name in "abcdefg":
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    listed = {name: digest(name.encode()) for name in "abcdefg"}
    check_files(tmp_path, listed, where="w")
    wrong = {**listed, **dict.fromkeys("cba", sha("0"))}
    with pytest.raises(PayloadCorrupt, match=r"lists: a, b, c\n") as caught:
        check_files(tmp_path, wrong, where="w")
    assert caught.value.where == "w"
    with pytest.raises(PayloadCorrupt, match=r"lists: a, b, c, d, e\n"):
        check_files(tmp_path, {}, where="w")
    (tmp_path / "a").unlink()
    with pytest.raises(PayloadCorrupt, match=r"lists: a\n"):
        check_files(tmp_path, listed, where="w")


# --- what a run came to --------------------------------------------------------------------------


def test_what_a_run_came_to(held: Memory) -> None:
    """The newest version with the accepted verdict for the lock, and who serves now."""
    assert judged(held, "digits", sha("1")) is None
    held.judge(**one("1", outcome="block", reasons=("slow",), signed_at_s=100))
    held.judge(**one("1", outcome="block", waiver=WAIVER, signed_at_s=200))
    held.judge(verdict=sha("2"), lock=sha("1"), signed_at_s=300)
    held.aliases["champion"] = "2"
    found = judged(held, "digits", sha("1"))
    assert found is not None
    assert (found.version, found.outcome, found.promoted) == ("2", "block", True)
    assert (found.dry_run, found.waived_by, found.champion) == (False, "Ada", "2")
    assert found.signed_at_s == 200
    assert judged(held, "digits", sha("1"), since_s=200.9) == found
    assert judged(held, "digits", sha("1"), since_s=201) is None
    assert judged(held, "digits", sha("7")) is None
    held.judge(**one("3", dry_run=True, reasons=("fine",)))
    dry = judged(held, "digits", sha("3"))
    assert dry is not None
    assert (dry.dry_run, dry.waived_by, dry.promoted, dry.reasons) == (True, None, False, ("fine",))
    assert judged(held, "digits", sha("1")) == found
    assert compressed.BUNDLE_PART == "bundle"


def test_a_run_that_was_cut_short_is_told(held: Memory) -> None:
    """It passed, nobody serves, and that is no lost champion; torn receipts are told as that."""
    held.judge(**one("1"))
    found = judged(held, "digits", sha("1"))
    assert found is not None
    assert (found.promoted, found.champion) == (False, None)
    held.retag("1", **{"reprune.outcome": "block"})
    with pytest.raises(ReceiptInvalid, match="contradicts its tags"):
        judged(held, "digits", sha("1"))
