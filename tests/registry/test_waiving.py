"""Which override counts: each thing that can be wrong with an entry is a refusal with a reason of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as other

from reprune.core.artifacts import Waiver
from reprune.core.errors import PromotionRefused
from reprune.core.overrides import OVERRIDES_FILE, Override, Overrides, overrides_text
from reprune.steps.acceptance import Case
from reprune.steps.promoter import Authority, OverrideTerms
from reprune.steps.waiving import accepted_waiver, stale_words
from tests.registry.test_acceptance import ZERO, Stand, stand

__all__ = ["stand"]
NOW_S = 100 * 86_400.0  # 1970-04-11
RULES = ("accuracy.vs_parent on ort-cpu", "latency.vs_parent on ort-cpu")


@pytest.fixture
def case(stand: Stand) -> Case:
    """Blocked by two required rules."""
    rule = stand.case.judgement.rules[0]
    rules = tuple(
        other(rule, rule=name.split()[0], target="ort-cpu", outcome="block", required=True)
        for name in RULES
    )
    judgement = other(stand.case.judgement, outcome="block", rules=rules)
    return replace(stand.case, judgement=judgement)


@pytest.fixture
def authority(stand: Stand) -> Authority:
    terms = OverrideTerms(allowed_by=("Ada", "Bob"))
    return replace(stand.authority, promoter=other(stand.authority.promoter, overrides=terms))


def entry(case: Case, **changes: Any) -> Override:
    given: dict[str, Any] = {
        "by": "Ada",
        "reason": "because",
        "expires": date(1970, 5, 1),
        "rules": RULES,
        "verdict": case.verdict.digest,
        "candidate": case.evidence.arms["candidate"],
        "policy": case.verdict.manifest.policy,
    }
    return Override(**(given | changes))


def asked(
    case: Case,
    authority: Authority,
    root: Path,
    *entries: Override,
    used: Sequence[Waiver] = (),
) -> Waiver | None:
    (root / OVERRIDES_FILE).write_text(overrides_text(Overrides(overrides=entries)))
    return accepted_waiver(case, authority, root, used=used, now=NOW_S)


def test_an_entry_that_covers_all_is_accepted(
    case: Case, authority: Authority, tmp_path: Path
) -> None:
    """Block or undecided; without an entry, or without a file, there is none, and that is no error."""
    right = entry(case)
    assert asked(case, authority, tmp_path, right) == right.waiver
    undecided = replace(case, judgement=other(case.judgement, outcome="inconclusive"))
    assert asked(undecided, authority, tmp_path, right) == right.waiver
    assert asked(case, authority, tmp_path) is None
    assert asked(case, authority, tmp_path, entry(case, verdict=ZERO)) is None
    (tmp_path / OVERRIDES_FILE).unlink()
    assert accepted_waiver(case, authority, tmp_path, used=(), now=NOW_S) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"candidate": ZERO}, "override_other_candidate"),
        ({"policy": ZERO}, "override_other_policy"),
        ({"rules": RULES[:1]}, "override_incomplete"),
        ({"rules": ("another rule",)}, "override_incomplete"),
        ({"by": "Eve"}, "override_not_allowed"),
        ({"expires": date(1970, 4, 10)}, "override_expired"),
        ({"expires": date(1970, 4, 11)}, ""),
        ({"expires": date(1970, 7, 10)}, ""),
        ({"expires": date(1970, 7, 11)}, "override_too_long"),
        ({"rules": (*RULES, "one more")}, ""),
        ({"by": "Bob"}, ""),
    ],
    ids=str,
)
def test_each_thing_has_its_reason(
    case: Case, authority: Authority, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    found = entry(case, **changes)
    if not reason:
        assert asked(case, authority, tmp_path, found) == found.waiver
        return
    with pytest.raises(PromotionRefused) as caught:
        asked(case, authority, tmp_path, found)
    assert caught.value.reason == reason
    assert caught.value.where == str(tmp_path / OVERRIDES_FILE)
    assert caught.value.fix


@pytest.mark.parametrize("outcome", ["pass", "error"])
def test_only_what_was_judged_and_did_not_pass_is_overridden(
    case: Case, authority: Authority, tmp_path: Path, outcome: Any
) -> None:
    other_case = replace(case, judgement=other(case.judgement, outcome=outcome))
    with pytest.raises(PromotionRefused, match=f"a verdict that is '{outcome}'") as caught:
        asked(other_case, authority, tmp_path, entry(case))
    assert caught.value.reason == "override_of_error"


def test_where_nothing_was_judged_nothing_is_overridden(
    case: Case, authority: Authority, tmp_path: Path
) -> None:
    """A block without a rule that did not hold: no entry can name what it lets through."""
    empty = replace(case, judgement=other(case.judgement, rules=()))
    with pytest.raises(PromotionRefused, match="nothing was judged") as caught:
        asked(empty, authority, tmp_path, entry(case))
    assert caught.value.reason == "override_incomplete"


def test_an_override_promotes_once(case: Case, authority: Authority, tmp_path: Path) -> None:
    """The very same one; another by the same person is another."""
    right = entry(case)
    with pytest.raises(PromotionRefused, match="used before") as caught:
        asked(case, authority, tmp_path, right, used=[right.waiver])
    assert caught.value.reason == "override_used"
    used = entry(case, reason="before").waiver
    assert asked(case, authority, tmp_path, right, used=[used]) == right.waiver


def test_the_newest_entry_that_will_do_counts(
    case: Case, authority: Authority, tmp_path: Path
) -> None:
    """Else the newest one's reason is told."""
    old, new = entry(case, reason="old"), entry(case, reason="new")
    wrong, worse = entry(case, by="Eve"), entry(case, policy=ZERO)
    assert asked(case, authority, tmp_path, old, new) == new.waiver
    assert asked(case, authority, tmp_path, old, wrong) == old.waiver
    for entries, reason in (
        ((wrong, worse), "override_other_policy"),
        ((worse, wrong), "override_not_allowed"),
    ):
        with pytest.raises(PromotionRefused) as caught:
            asked(case, authority, tmp_path, *entries)
        assert caught.value.reason == reason


def test_a_stale_entry_is_told(case: Case, tmp_path: Path) -> None:
    """Of the newest that is for this candidate and another verdict; nothing of any other."""

    def words(*entries: Override) -> str:
        (tmp_path / OVERRIDES_FILE).write_text(overrides_text(Overrides(overrides=entries)))
        return stale_words(case, tmp_path)

    assert words() == words(entry(case)) == words(entry(case, verdict=ZERO, candidate=ZERO)) == ""
    stale = entry(case, verdict=ZERO)
    assert "the override by Ada is for another verdict" in words(stale, entry(case))
    assert "by Bob" in words(stale, entry(case, verdict=ZERO, by="Bob"))
