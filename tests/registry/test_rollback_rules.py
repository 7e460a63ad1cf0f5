"""To what a person may return, and what is left behind: against a registry in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprune import __version__
from reprune.core.artifacts import Waiver
from reprune.core.errors import (
    ChampionMoved,
    InputError,
    PromotionRefused,
    ReceiptInvalid,
    VersionNotFound,
)
from reprune.core.lock import ChampionRef
from reprune.registry.receipts import RECEIPT_FILE
from reprune.registry.records import Rollback, RollbackRecord, read_record
from reprune.registry.tags import PROMOTED, ROLLED_BACK
from reprune.steps import moving
from reprune.steps.promoter import FOLDER, make_promoter
from reprune.steps.rollback import RollbackResult, rollback
from tests.registry.memory import KEYS, MODEL, OURS, STRANGER, Memory, sha
from tests.registry.stand import write_repository

WAIVER = Waiver(
    by="Ada", reason="r", expires="2026-12-24", rules=("a",), verdict="", candidate="", policy=""
)
MARK = {PROMOTED: "x"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository whose promoter holds the key that signs in memory."""
    root = tmp_path / "repo"
    write_repository(root)
    make_promoter(root)
    (root / FOLDER / "key.pem").write_bytes(OURS.private_bytes)
    return root


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Memory:
    found = Memory()
    monkeypatch.setattr(moving, "open_registry", lambda *_: found)
    return found


def back(root: Path, to: str | None = None, *, now: float = 77.9) -> RollbackResult:
    return rollback(root, to=to, by=" Ada ", reason="bad\nlabels", now=now, say=lambda _: None)


def refused(reason: str, match: str | None = None) -> Any:
    return pytest.raises(PromotionRefused, match=match, check=lambda error: error.reason == reason)


def ref(held: Memory, version: str) -> ChampionRef:
    return ChampionRef(version=version, bundle=sha("a"), receipt=held.digest(version))


def judge(held: Memory, letter: str, *, mark: bool = True, **changes: Any) -> str:
    """A judged version of nothing but its receipt, with a verdict and a lock of its own."""
    given: dict[str, Any] = {"verdict": sha(letter), "lock": sha(letter)}
    if held.held:
        given["predecessor"] = held.digest(held.held[-1][0].version)
    info = held.judge(listed={}, **given | changes)
    if mark:
        held.retag(info.version, **MARK)
    return info.version


def two(held: Memory) -> None:
    """1 was champion, 2 replaced it and serves."""
    judge(held, "1")
    judge(held, "2", champion=ref(held, "1"))
    held.aliases["champion"] = "2"


def test_it_returns_to_what_the_champion_replaced(root: Path, held: Memory) -> None:
    """The record says all of it, is the newest of the chain, and both versions are marked."""
    two(held)
    held.retag("1", **{PROMOTED: None})
    result = back(root)
    assert result == RollbackResult(
        name="digits",
        registry="memory",
        version="1",
        before="2",
        record=held.digest("3"),
        record_version="3",
        by="Ada",
        reason="bad labels",
        already_done=False,
    )
    record = read_record(held, held.info("3"), keys=KEYS)
    assert isinstance(record, RollbackRecord)
    assert record.statement.predicate == Rollback(
        registry="memory",
        workspace="default",
        name="digits",
        version="1",
        receipt=held.digest("1"),
        bundle=sha("a"),
        before="2",
        before_receipt=held.digest("2"),
        by="Ada",
        reason="bad labels",
        predecessor=held.digest("2"),
        reprune=__version__,
        signed_at_s=77,
    )
    listed = {each.name: f"sha256:{each.digest.sha256}" for each in record.statement.subject}
    assert listed == {"bundle": sha("a"), "receipt": held.digest("1")}
    assert list(held.held[2][1]) == [RECEIPT_FILE]
    assert held.aliases == {"champion": "1"}
    assert held.info("2").tags[ROLLED_BACK] == record.digest
    assert held.info("1").tags[PROMOTED] == held.digest("1")
    assert ROLLED_BACK not in held.info("1").tags


def test_doing_it_again_is_told_as_done(root: Path, held: Memory) -> None:
    two(held)
    first = back(root)
    for to in (None, "1"):
        again = back(root, to)
        assert (again.already_done, again.record, again.before) == (True, first.record, "2")
    assert len(held.held) == 3
    assert held.info("1").tags[PROMOTED] == "x"


def test_who_was_named_is_asked_again(root: Path, held: Memory) -> None:
    """Another version than the last record's, or another champion since: a record of its own."""
    two(held)
    back(root)
    result = back(root, "2")
    assert (result.version, result.before, result.record_version) == ("2", "1", "4")
    judge(held, "5", champion=ref(held, "2"))
    held.aliases["champion"] = "5"
    result = back(root)
    assert (result.version, result.before, result.record_version) == ("2", "5", "6")


def test_a_person_says_who_and_why(root: Path, held: Memory) -> None:
    two(held)
    for by, reason, flag in (("", "why", "--by"), ("Ada", " ", "--reason")):
        with pytest.raises(InputError, match=f"{flag} must say something"):
            rollback(root, to=None, by=by, reason=reason, now=0.0, say=lambda _: None)


def test_where_nothing_was_registered_there_is_nothing_before(root: Path, held: Memory) -> None:
    with refused("nothing_before"):
        back(root)
    with pytest.raises(VersionNotFound):
        back(root, "1")
    assert held.held == []


def test_who_is_gone_back_from_is_marked(root: Path, held: Memory) -> None:
    """A promotion that was cut short after the alias moved: it was champion, and is marked so."""
    two(held)
    held.retag("2", **{PROMOTED: None})
    back(root)
    assert held.info("2").tags[PROMOTED] == held.digest("2")


@pytest.mark.parametrize("what", ["bytes", "chain"])
def test_a_record_is_completed_only_onto_what_is_whole(root: Path, held: Memory, what: str) -> None:
    """The bytes are read back again, and the chain looked at, before the alias moves."""
    two(held)
    back(root)
    held.aliases["champion"] = "2"
    if what == "bytes":
        held.held[0][1]["more"] = b"x"
    else:
        judge(held, "4", champion=ref(held, "2"), predecessor=sha("e"))
        held.held.insert(2, held.held.pop())
    with refused({"bytes": "stored_differs", "chain": "chain_broken"}[what]):
        back(root)
    assert held.aliases["champion"] == "2"


def test_what_was_champion_is_returned_to_by_name(root: Path, held: Memory) -> None:
    """Though it was rolled back: a person names it, and it was champion once; also while nobody is."""
    two(held)
    back(root)
    held.aliases.clear()
    result = back(root, "2")
    assert (result.version, result.before) == ("2", None)


@pytest.mark.parametrize(
    ("tags", "version"), [({ROLLED_BACK: None}, "2"), ({PROMOTED: None}, "1")], ids=["back", "mark"]
)
def test_a_mark_that_is_missing_is_put_on(
    root: Path, held: Memory, tags: dict[str, Any], version: str
) -> None:
    """A call that was cut short after the alias moved is completed by the next."""
    two(held)
    first = back(root)
    (name,) = tags
    mark = {ROLLED_BACK: first.record, PROMOTED: held.digest("1")}[name]
    held.retag(version, **tags)
    again = back(root)
    assert (again.already_done, again.record) == (False, first.record)
    assert held.info(version).tags[name] == mark


def test_an_alias_that_did_not_move_is_moved(root: Path, held: Memory) -> None:
    two(held)
    first = back(root)
    held.aliases["champion"] = "2"
    again = back(root)
    assert (again.already_done, again.record, held.aliases["champion"]) == (
        False,
        first.record,
        "1",
    )
    assert len(held.held) == 3


def test_a_champion_of_a_third_hand_is_gone_back_from(root: Path, held: Memory) -> None:
    """Moved by hand since, onto neither of the two that the record names: a record of its own."""
    two(held)
    judge(held, "3", champion=ref(held, "2"))
    held.aliases["champion"] = "3"
    assert back(root).record_version == "4"
    held.aliases["champion"] = "1"
    result = back(root, "2")
    assert (result.version, result.before, result.record_version) == ("2", "1", "5")


def test_what_is_gone_needs_no_mark(root: Path, held: Memory) -> None:
    """The alias names it already, and there is no version to mark: nothing is left to do."""
    two(held)
    first = back(root)
    held.drop("1")
    again = back(root)
    assert (again.already_done, again.record) == (True, first.record)
    assert [info.version for info, _ in held.held] == ["2", "3"]


def test_one_is_not_completed_onto_another_receipt(root: Path, held: Memory) -> None:
    """What the record named has been exchanged: by another that we signed, too."""
    judge(held, "1")
    judge(held, "2", champion=ref(held, "1"), predecessor=None)
    held.aliases["champion"] = "2"
    back(root)
    held.aliases["champion"] = "2"
    info = held.judge(listed={}, verdict=sha("7"), lock=sha("7"))
    (_, files), _ = held.held[-1], held.held.pop()
    held.held[0] = (type(info)(name=MODEL, version="1", tags=info.tags | MARK, stamp=""), files)
    with refused("stored_differs", "names another receipt"):
        back(root)
    assert held.aliases["champion"] == "2"


def test_somebody_elses_champion_stays(root: Path, held: Memory) -> None:
    """Moved between the record and the alias: told, and left there."""
    two(held)
    judge(held, "3", champion=ref(held, "2"))
    held.aliases["champion"] = "2"
    inner = held.register

    def register(name: str, folder: Path, tags: Any) -> str:
        version = inner(name, folder, tags)
        held.aliases["champion"] = "3"
        return version

    held.register = register  # type: ignore[method-assign]
    with pytest.raises(ChampionMoved, match="was version 2 and is now version 3") as caught:
        back(root)
    assert caught.value.where == "memory"
    assert held.aliases["champion"] == "3"


@pytest.mark.parametrize(
    ("story", "reason", "match"),
    [
        ("no champion", "nothing_before", "there is no champion"),
        ("gone", "nothing_before", "the champion, version 9, is gone"),
        ("foreign", "nothing_before", "the champion, version 3, carries no receipt"),
        ("first", "nothing_before", "version 1 was the first champion"),
        ("adopted", "nothing_before", "was adopted, and no alias named one before"),
        ("taken back", "rolled_back", "version 1, which it replaced, was rolled back"),
    ],
)
def test_without_a_version_the_champion_must_say_what_was_before(
    root: Path, held: Memory, story: str, reason: str, match: str
) -> None:
    two(held)
    if story == "no champion":
        held.aliases.clear()
    elif story == "gone":
        held.aliases["champion"] = "9"
    elif story == "foreign":
        held.aliases["champion"] = held.add({"file": b"x"}, {}).version
    elif story == "first":
        held.aliases["champion"] = "1"
    elif story == "adopted":
        held.aliases["champion"] = held.adopt(predecessor=held.digest("2")).version
    else:
        held.retag("1", **{ROLLED_BACK: "x"})
    count = len(held.held)
    with refused(reason, match) as caught:
        back(root)
    assert caught.value.where == f"memory: {MODEL}"
    assert len(held.held) == count


def test_what_never_served_is_not_returned_to(root: Path, held: Memory) -> None:
    """While somebody serves: without a mark, blocked, a dry run, a record, unknown, or a stranger's."""
    two(held)
    made = {
        "cut": judge(held, "3", mark=False),
        "blocked": judge(held, "4", outcome="block"),
        "dry": judge(held, "5", dry_run=True),
    }
    for version in made.values():
        with refused("not_promoted", f"version {version} never was the champion"):
            back(root, version)
    made["record"] = held.roll("1", "9", predecessor=held.digest("5")).version
    with refused("not_promoted", "is a record, not a model"):
        back(root, made["record"])
    with pytest.raises(VersionNotFound, match=f"'{MODEL}' has no version 77") as caught:
        back(root, "77")
    assert caught.value.where == "memory"
    stranger = held.judge(signer=STRANGER, verdict=sha("8"), lock=sha("8"))
    held.retag(stranger.version, **MARK)
    with pytest.raises(ReceiptInvalid, match="not signed"):
        back(root, stranger.version)


def test_the_champion_is_not_returned_to(root: Path, held: Memory) -> None:
    """Unless it takes a record for it to be one: then that is made, and nobody was before."""
    two(held)
    with refused("already_serves", "version 2 is the champion"):
        back(root, "2")
    held.retag("2", **{ROLLED_BACK: "x"})
    result = back(root, "2")
    assert (result.version, result.before) == ("2", None)
    record = read_record(held, held.info(result.record_version), keys=KEYS)
    assert isinstance(record, RollbackRecord)
    assert record.statement.predicate.before_receipt is None
    assert back(root, "2").already_done


@pytest.mark.parametrize("adopted", [False, True])
def test_where_nobody_serves_one_that_was_cut_short_may_begin(
    root: Path, held: Memory, adopted: bool
) -> None:
    """A pass, or an adoption, that was to be champion: named by a person, while nobody is."""
    version = held.adopt().version if adopted else judge(held, "1", mark=False)
    held.retag(version, **{})
    if adopted:
        # Its record lists a file that is not there.
        with refused("stored_differs"):
            back(root, version)
        return
    result = back(root, version)
    assert (result.version, result.before, held.aliases["champion"]) == (version, None, version)
    assert ROLLED_BACK not in held.info(version).tags


def test_what_came_second_or_was_taken_back_does_not_begin(root: Path, held: Memory) -> None:
    judge(held, "1", outcome="block")
    second = judge(held, "2", lock=sha("1"), mark=False)
    with refused("not_promoted"):
        back(root, second)
    taken = judge(held, "3", mark=False)
    held.roll("1", taken, predecessor=held.digest(taken))
    with refused("not_promoted"):
        back(root, taken)


def test_a_tag_alone_does_not_keep_one_from_beginning(root: Path, held: Memory) -> None:
    """Who can write to the registry can write a tag; only what is signed takes back."""
    version = judge(held, "1", mark=False)
    held.retag(version, **{ROLLED_BACK: "x"})
    assert back(root, version).version == version


def test_an_overridden_block_was_champion(root: Path, held: Memory) -> None:
    judge(held, "1", outcome="block", waiver=WAIVER)
    judge(held, "2", champion=ref(held, "1"))
    held.aliases["champion"] = "2"
    assert back(root).version == "1"


def test_a_gap_since_the_target_is_refused(root: Path, held: Memory) -> None:
    """One before it is not: the target's own receipt may follow what is gone."""
    two(held)
    judge(held, "3", champion=ref(held, "2"))
    judge(held, "4", champion=ref(held, "3"), predecessor=held.digest("3"))
    held.aliases["champion"] = "4"
    held.drop("3")
    with refused("chain_broken", "since version 2 is not whole: receipt") as caught:
        back(root, "2")
    assert caught.value.where == f"memory: {MODEL} version 2"
    held.drop("1")
    held.drop("2")
    judge(held, "5", champion=ref(held, "4"))
    held.aliases["champion"] = held.held[-1][0].version
    assert back(root, "4").version == "4"


def test_one_that_was_under_way_is_no_gap(root: Path, held: Memory) -> None:
    """Registered after the target, it may name any receipt from before it, and the first one's too."""
    judge(held, "1", predecessor=sha("e"))
    judge(held, "2")
    judge(held, "3", predecessor=held.digest("1"))
    judge(held, "4", predecessor=sha("e"))
    held.aliases["champion"] = "4"
    assert back(root, "2").version == "2"


def test_a_gap_before_the_target_is_no_matter(root: Path, held: Memory) -> None:
    """What it followed may be gone; and what nobody we trust signed tells of no gap."""
    judge(held, "1")
    judge(held, "2", predecessor=sha("e"))
    judge(held, "3", champion=ref(held, "2"))
    held.judge(signer=STRANGER, verdict=sha("8"), lock=sha("8"), predecessor=sha("f"))
    held.aliases["champion"] = "3"
    assert back(root).version == "2"


def test_only_the_first_of_all_excuses_what_is_gone(root: Path, held: Memory) -> None:
    """What another one before the target followed, and is gone, is a gap where a later one names it."""
    judge(held, "1")
    judge(held, "2", predecessor=sha("e"))
    judge(held, "3")
    judge(held, "4", champion=ref(held, "3"), predecessor=sha("e"))
    held.aliases["champion"] = "4"
    with refused("chain_broken"):
        back(root)


def test_an_adopted_champion_has_a_record_to_name(root: Path, held: Memory) -> None:
    two(held)
    adopted = held.adopt(predecessor=held.digest("2"))
    held.retag(adopted.version, **MARK)
    held.aliases["champion"] = adopted.version
    result = back(root, "1")
    record = read_record(held, held.info(result.record_version), keys=KEYS)
    assert isinstance(record, RollbackRecord)
    assert record.statement.predicate.before_receipt == held.digest(adopted.version)
    assert held.info(adopted.version).tags[ROLLED_BACK] == record.digest


def test_the_target_is_read_back(root: Path, held: Memory) -> None:
    two(held)
    held.held[0][1]["more"] = b"x"
    with refused("stored_differs"):
        back(root)
    assert held.aliases["champion"] == "2"


def test_a_champion_that_is_not_ours_has_no_receipt_to_name(root: Path, held: Memory) -> None:
    """The record says who served, and that nothing of ours did."""
    two(held)
    held.aliases["champion"] = held.add({"file": b"x"}, {}).version
    result = back(root, "1")
    record = read_record(held, held.info(result.record_version), keys=KEYS)
    assert isinstance(record, RollbackRecord)
    told = record.statement.predicate
    assert (told.before, told.before_receipt) == ("3", None)
    assert ROLLED_BACK not in held.info("3").tags
    assert back(root, "1").already_done


def test_time_does_not_run_below_zero(root: Path, held: Memory) -> None:
    two(held)
    record = read_record(held, held.info(back(root, now=-4.0).record_version))
    assert record.statement.predicate.signed_at_s == 0


def test_from_an_adopted_champion_it_returns_to_what_served_before(
    root: Path, held: Memory
) -> None:
    """As the record of the adoption says, which a key of ours signed."""
    held.adopt(listed={})
    held.retag("1", **MARK)
    held.adopt(before="1", predecessor=held.digest("1"))
    held.aliases["champion"] = "2"
    result = back(root)
    assert (result.version, result.before) == ("1", "2")


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (None, "the champion was adopted, and no alias named one before"),
        ("1", "adopted in place of version 1, which carries no receipt of ours"),
        ("9", "adopted in place of version 9, which is gone"),
    ],
)
def test_before_an_adopted_champion_may_be_nothing_of_ours(
    root: Path, held: Memory, before: str | None, words: str
) -> None:
    held.add({"model": b"x"}, {})
    held.adopt(before=before)
    held.aliases["champion"] = "2"
    with refused("nothing_before", words):
        back(root)
    assert len(held.held) == 2
