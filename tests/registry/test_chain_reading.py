"""How versions are read: which receipt is one's own, which verdict of a lock counts, what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from reprune.core.errors import ChampionForeign, ReceiptInvalid
from reprune.registry.links import (
    gaps_since,
    links,
    newest_link,
    read_link,
    records,
    rolled_back,
    verified,
)
from reprune.registry.receipted import accepted_for, read_receipt, taken_locks
from reprune.registry.standing import check_standing, standing
from tests.registry.memory import KEYS, MODEL, OURS, STRANGER, Memory, sha

VERDICT, LOCK, RECEIPT, RECORD = (
    "reprune.verdict",
    "reprune.lock",
    "reprune.receipt",
    "reprune.record",
)


@pytest.fixture
def held() -> Memory:
    return Memory()


# --- one receipt ---------------------------------------------------------------------------------


def test_a_receipt_is_the_one_that_the_tags_name(held: Memory) -> None:
    info = held.judge()
    found = read_receipt(held, info)
    assert found.digest == info.tags[RECEIPT]
    assert found.statement.predicate.name == "digits"


@pytest.mark.parametrize(
    "tag",
    ["parent", "verdict", "lock", "bundle", "outcome", "attempt", "receipt", "waiver", "dry_run"],
)
@pytest.mark.parametrize("value", ["other", None])
def test_every_tag_is_as_the_receipt_says(held: Memory, tag: str, value: str | None) -> None:
    """Changed, taken away, or put on where the receipt has none: refused, and named."""
    held.judge()
    if value is None and tag in ("waiver", "dry_run"):
        return
    held.retag("1", **{f"reprune.{tag}": value})
    words = "no receipt of ours" if (tag, value) == ("receipt", None) else rf"\(reprune\.{tag}\)"
    with pytest.raises(ReceiptInvalid, match=words) as caught:
        read_receipt(held, held.info("1"))
    assert caught.value.where == f"memory: {MODEL} version 1"


@pytest.mark.parametrize(
    "changes", [{"registry": "x"}, {"workspace": "team"}, {"name": "letters"}], ids=str
)
def test_a_receipt_is_of_this_registry_and_model(held: Memory, changes: dict[str, str]) -> None:
    with pytest.raises(ReceiptInvalid, match="its receipt is for"):
        read_receipt(held, held.judge(**changes))


def test_a_receipt_that_is_gone_is_told(held: Memory) -> None:
    info = held.add({"file": b"x"}, held.judge().tags)
    with pytest.raises(ReceiptInvalid, match="its receipt is gone"):
        read_receipt(held, info)


# --- which verdict counts ------------------------------------------------------------------------


def test_the_first_verdict_of_a_lock_counts(held: Memory) -> None:
    """Under a key that we trust, with a receipt that is whole; whatever came later."""
    lock = sha("1")
    assert accepted_for(held, (), lock) is None
    held.judge(lock=sha("9"), verdict=sha("9"))
    held.judge(lock=lock, verdict=sha("2"), signer=STRANGER)
    held.add({}, {LOCK: lock, VERDICT: sha("3")})
    held.add({}, {LOCK: lock})
    first = held.judge(lock=lock, verdict=sha("4"))
    held.judge(lock=lock, verdict=sha("5"))
    versions = held.versions(MODEL)
    found = accepted_for(held, versions, lock, KEYS)
    assert found is not None
    assert (found.info, found.lock, found.verdict) == (first, lock, sha("4"))
    unchecked = accepted_for(held, versions, lock)
    assert unchecked is not None
    assert unchecked.info.version == "2"
    assert accepted_for(held, versions, sha("7"), KEYS) is None
    held.add({"file": b"x"}, {})
    assert taken_locks(held, "digits") == {lock, sha("9")}
    assert taken_locks(held, "letters") == frozenset()


def test_a_version_without_a_verdict_is_none_of_a_lock(held: Memory) -> None:
    """Tags decide which receipts are fetched; a record has none of either."""
    info = held.judge(lock=sha("1"))
    held.retag(info.version, **{VERDICT: None})
    assert accepted_for(held, held.versions(MODEL), sha("1")) is None


# --- links ---------------------------------------------------------------------------------------


def filled(held: Memory) -> None:
    """1 judged, 2 a stranger's, 3 rolled back to 1, 4 somebody's files, 5 adopted, 6 a torn record."""
    held.judge()
    held.judge(signer=STRANGER, verdict=sha("2"), predecessor=held.digest("1"))
    held.roll("1", "9", predecessor=held.digest("1"))
    held.add({"file": b"x"}, {})
    held.adopt(predecessor=held.digest("3"))
    held.add({"file": b"x"}, {RECORD: sha("0"), "reprune.record_kind": "rollback"})


def numbers(found: Any) -> list[str]:
    return [info.version for info, _ in found]


def test_links_are_ours_and_in_order(held: Memory) -> None:
    filled(held)
    assert numbers(links(held, "digits", keys=KEYS)) == ["1", "3", "5"]
    assert numbers(links(held, "digits")) == ["1", "2", "3", "5"]
    assert numbers(links(held, "digits", since="3", keys=KEYS)) == ["3", "5"]
    assert numbers(links(held, "digits", since="4", keys=KEYS)) == ["5"]
    assert numbers(links(held, "digits", since="99")) == []
    assert links(held, "letters") == ()
    assert numbers(records(held, "digits")) == ["3", "5"]
    assert newest_link(held, "digits", KEYS) == links(held, "digits", keys=KEYS)[-1]
    assert newest_link(held, "digits", (STRANGER.public_key,)) is not None
    assert newest_link(held, "digits", ()) is None
    assert newest_link(held, "letters", KEYS) is None


def test_a_link_is_verified_where_keys_are_given(held: Memory) -> None:
    filled(held)
    for version in ("1", "3", "5"):
        info = held.info(version)
        link = read_link(held, info, KEYS)
        assert link.signer == OURS.public_key.keyid
        assert read_link(held, info).signer == ""
        assert verified(held, info, read_link(held, info), KEYS) == link
        for check in (read_link, lambda h, i, k: verified(h, i, read_link(h, i), k)):
            with pytest.raises(ReceiptInvalid, match="not signed"):
                check(held, info, (STRANGER.public_key,))
    with pytest.raises(ReceiptInvalid, match=f"memory: {MODEL} version 2|not signed") as caught:
        read_link(held, held.info("2"), KEYS)
    assert caught.value.where == f"memory: {MODEL} version 2"


def test_who_was_rolled_back_is_marked_on_either_side(held: Memory) -> None:
    filled(held)
    held.retag("5", **{"reprune.rolled_back": "x"})
    assert rolled_back(held.versions(MODEL)) == {"5", "9"}
    assert rolled_back(()) == frozenset()


def test_a_whole_chain_has_no_gap(held: Memory) -> None:
    """From the first on or from any, with strangers between; overlapping promotes name the same one."""
    filled(held)
    held.judge(verdict=sha("7"), predecessor=held.digest("5"))
    held.judge(verdict=sha("8"), predecessor=held.digest("5"))
    for since in ("", "1", "3", "5"):
        assert gaps_since(held, "digits", since, KEYS) == ()


def test_a_link_that_a_stranger_holds_is_there(held: Memory) -> None:
    """A key that is trusted no more does not tear the chain; one whose file is gone does."""
    filled(held)
    held.judge(verdict=sha("7"), predecessor=held.digest("2"))
    held.judge(verdict=sha("8"), predecessor=held.digest("5"))
    assert gaps_since(held, "digits", "3", KEYS) == ()
    held.held[1][1].clear()
    held.held[1][1]["file"] = b"x"
    (gap,) = gaps_since(held, "digits", "3", KEYS)
    assert held.digest("7")[:19] in gap


def test_a_record_before_the_version_is_there(held: Memory) -> None:
    """A promote that overlapped names a record from before the champion, and from before what that names."""
    held.roll("1", None)
    held.roll("1", None, predecessor=held.digest("1"))
    held.judge(predecessor=held.digest("2"))
    held.judge(verdict=sha("7"), predecessor=held.digest("1"))
    assert gaps_since(held, "digits", "3", KEYS) == ()
    held.drop("1")
    assert len(gaps_since(held, "digits", "3", KEYS)) == 1


def test_who_we_do_not_trust_tells_of_no_gap(held: Memory) -> None:
    """A stranger can name whatever they like as what was there."""
    held.judge()
    held.judge(signer=STRANGER, verdict=sha("2"), predecessor=sha("e"))
    assert gaps_since(held, "digits", "1", KEYS) == ()
    assert gaps_since(held, "digits", "", KEYS) == ()


def test_junk_with_the_tag_of_a_receipt_hides_none(held: Memory) -> None:
    """Before the real one, and before real records."""
    held.judge()
    held.judge(verdict=sha("2"), predecessor=held.digest("1"))
    held.judge(verdict=sha("3"), predecessor=held.digest("2"))
    held.judge(verdict=sha("4"), predecessor=held.digest("1"))
    held.add({"file": b"x"}, {RECEIPT: held.digest("1")})
    held.held.insert(0, held.held.pop())
    assert gaps_since(held, "digits", "3", KEYS) == ()
    held.add({"file": b"x"}, {RECORD: sha("0"), "reprune.record_kind": "rollback"})
    held.roll("1", "9")
    assert numbers(records(held, "digits")) == ["7"]


def test_a_deleted_link_is_a_gap(held: Memory) -> None:
    """In the middle of the chain; the first may follow what is before the version that is asked for."""
    held.judge()
    held.judge(verdict=sha("2"), predecessor=held.digest("1"))
    held.judge(verdict=sha("3"), predecessor=held.digest("2"))
    held.drop("2")
    assert len(gaps_since(held, "digits", "1", KEYS)) == 1
    assert len(gaps_since(held, "digits", "", KEYS)) == 1
    assert gaps_since(held, "digits", "3", KEYS) == ()


def test_only_the_first_of_all_follows_nothing(held: Memory) -> None:
    """Since a version, one that overlapped with the very first may; from the first on, nothing may."""
    held.judge()
    held.judge(verdict=sha("2"))
    assert gaps_since(held, "digits", "1", KEYS) == ()
    held.judge(verdict=sha("3"), predecessor=held.digest("1"))
    assert gaps_since(held, "digits", "2", KEYS) == ()
    held.drop("1")
    (gap,) = gaps_since(held, "digits", "", KEYS)
    assert "a registered version was deleted" in gap
    other = Memory()
    other.judge(predecessor=sha("5"))
    other.judge(verdict=sha("2"))
    (gap,) = gaps_since(other, "digits", "", KEYS)
    assert "names no predecessor, but is not the first" in gap
    assert gaps_since(other, "digits", "1", KEYS) == ()


# --- standing ------------------------------------------------------------------------------------


def stands(held: Memory, version: str, *, tags: bool = True) -> str:
    return standing(held, held.versions(MODEL), version, KEYS, tags=tags)


def three(held: Memory) -> None:
    for letter in "123":
        held.judge(verdict=sha(letter), lock=sha(letter))


def test_what_nobody_took_back_stands(held: Memory) -> None:
    three(held)
    assert [stands(held, each) for each in ("1", "2", "3", "99")] == [""] * 4


def test_one_that_was_champion_and_is_gone_back_from(held: Memory) -> None:
    """From 3 to 1: 3 was rolled back, 2 was gone back past, 1 was returned to."""
    three(held)
    held.roll("1", "3")
    assert [stands(held, each) for each in ("1", "2", "3")] == [
        "returned to",
        "rolled back",
        "rolled back",
    ]


def test_one_that_never_served_is_passed_over(held: Memory) -> None:
    """From nobody, or from an older one, to an older one: what came between did not serve."""
    three(held)
    held.roll("1", None)
    assert [stands(held, each) for each in ("1", "2", "3")] == [
        "returned to",
        "passed over",
        "passed over",
    ]
    held.roll("1", "2")
    assert stands(held, "3") == "passed over"
    assert stands(held, "2") == "rolled back"
    held.roll("3", "1")
    assert stands(held, "3") == "returned to"
    assert stands(held, "2") == "rolled back"


def test_what_was_rolled_back_is_not_merely_passed_over_later(held: Memory) -> None:
    three(held)
    held.roll("2", "3")
    held.roll("1", "2")
    assert stands(held, "3") == "rolled back"
    held.roll("3", None)
    assert stands(held, "3") == "returned to"
    assert stands(held, "1") == "returned to"
    held.roll("2", "3")
    assert [stands(held, each) for each in "123"] == ["returned to", "returned to", "rolled back"]


def test_a_rollback_to_something_newer_says_nothing_of_older_ones(held: Memory) -> None:
    three(held)
    held.roll("3", "1")
    assert stands(held, "2") == ""
    assert stands(held, "1") == "rolled back"


def test_a_rollback_to_or_from_what_is_gone_counts(held: Memory) -> None:
    """A version that was deleted is no newer one: what it was returned past was passed over."""
    three(held)
    held.roll("gone", "lost")
    assert [stands(held, each) for each in "123"] == ["passed over"] * 3


def test_a_record_counts_once(held: Memory) -> None:
    """A copy of it that is put behind a later one does not undo that."""
    three(held)
    held.roll("1", "3", signed_at_s=1)
    held.roll("3", "1", signed_at_s=2)
    info, files = held.held[3]
    held.add(files, info.tags)
    assert stands(held, "3") == "returned to"


@pytest.mark.parametrize(
    "changes",
    [{"signer": STRANGER}, {"registry": "x"}, {"name": "letters"}],
    ids=["stranger", "registry", "name"],
)
def test_a_record_of_others_counts_by_its_tags_alone(held: Memory, changes: Any) -> None:
    """Fail closed where tags are believed; not at all where only what is signed is."""
    three(held)
    held.roll("1", "3", **changes)
    assert stands(held, "3") == "rolled back"
    assert stands(held, "2") == ""
    assert [stands(held, each, tags=False) for each in "123"] == [""] * 3


def test_a_tag_is_enough_until_a_record_returns(held: Memory) -> None:
    three(held)
    held.retag("2", **{"reprune.rolled_back": "x"})
    assert (stands(held, "2"), stands(held, "2", tags=False)) == ("rolled back", "")
    assert standing(held, held.versions(MODEL), "2", KEYS) == "rolled back"
    held.roll("2", "3")
    assert stands(held, "2") == "returned to"


def test_a_record_before_a_version_is_not_about_it(held: Memory) -> None:
    held.judge()
    held.roll("1", "9")
    held.judge(verdict=sha("2"), lock=sha("2"))
    assert stands(held, "3") == ""


def test_who_may_be_champion(held: Memory) -> None:
    """The accepted verdict of its lock, and not rolled back; or what a signed record returned to."""
    three(held)
    held.judge(verdict=sha("8"), lock=sha("3"))
    held.adopt()

    def check(version: str) -> None:
        info = held.info(version)
        check_standing(held, info, read_link(held, info), KEYS)  # type: ignore[arg-type]

    for version in ("1", "2", "3", "5"):
        check(version)
    with pytest.raises(
        ChampionForeign, match="version 4, does not hold the accepted verdict"
    ) as told:
        check("4")
    assert told.value.where == "memory"
    held.roll("4", "3")
    check("4")
    with pytest.raises(ChampionForeign, match="version 3, was rolled back, and nobody"):
        check("3")
    held.roll("4", "5")
    with pytest.raises(ChampionForeign, match="version 5, was rolled back"):
        check("5")


def test_what_was_gone_back_past_may_not_be_champion(held: Memory) -> None:
    """A person began again with an older one: an alias that was set on it by hand is nobody's."""
    three(held)
    held.roll("1", None)

    def check(version: str) -> None:
        info = held.info(version)
        check_standing(held, info, read_link(held, info), KEYS)  # type: ignore[arg-type]

    with pytest.raises(ChampionForeign, match="version 2, was passed over by a rollback"):
        check("2")
    check("1")
    held.roll("2", "1")
    check("2")


def test_a_champion_that_nobody_we_trust_judged_is_none(held: Memory) -> None:
    """Its own lock has no accepted verdict under our keys."""
    info = held.judge(signer=STRANGER)
    with pytest.raises(ChampionForeign, match="does not hold the accepted verdict"):
        check_standing(held, info, read_receipt(held, info), KEYS)
