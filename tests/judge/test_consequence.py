"""What the policy makes of an outcome, and what a report must always say about the past."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.artifacts import Expectation, Judgement, Waiver
from reprune.core.documents import canonical
from reprune.judge.consequence import BLOCKS_UNDECIDED
from reprune.judge.evidence import Evidence, Problem
from reprune.judge.verdict import judge
from tests.building import edit, make_evidence, make_policy, notes_of

SEVERITY = ("pass", "inconclusive", "block", "error")
UNDECIDED = {"lost": 30, "gained": 5}
WAIVER = Waiver(
    by="Ada",
    reason="the old model is worse still",
    expires="2001-09-09",
    rules=("accuracy.vs_parent on cpu",),
    verdict="sha256:v",
    candidate="sha256:champion",
    policy="sha256:p",
)


def judged(evidence: Evidence, **changes: Any) -> Judgement:
    return judge(evidence, make_policy(**changes))


def test_what_is_undecided_blocks_where_the_policy_says_so() -> None:
    """The rule stays undecided, the verdict is a block, and headline and reasons say why."""
    held = judged(make_evidence(**UNDECIDED))
    blocked = judged(make_evidence(**UNDECIDED), on_inconclusive="block")
    assert (held.outcome, blocked.outcome) == ("inconclusive", "block")
    assert blocked.rules == held.rules
    assert blocked.reasons == (*held.reasons, BLOCKS_UNDECIDED)
    assert blocked.headline.startswith("Blocked: accuracy fell by 2.5 points")
    assert "not certain yet, and the policy blocks what is not decided" in blocked.headline


def test_a_policy_that_could_judge_nothing_blocks_as_well() -> None:
    """No baseline exists for the only rule: not decided, so a block."""
    rule = {"accuracy": {"vs_champion": {"max_drop": 0.03}}}
    evidence = make_evidence(arms=("candidate", "dense"))
    found = judged(evidence, quality=rule, latency=None, size=None, on_inconclusive="block")
    assert found.outcome == "block"
    assert found.reasons[-1] == BLOCKS_UNDECIDED
    assert found.headline.startswith("Blocked: No rule of the policy could be judged")


EVIDENCE = st.builds(
    make_evidence,
    examples=st.just(200),
    errors=st.just(20),
    lost=st.integers(0, 40),
    gained=st.integers(0, 20),
    units=st.sampled_from([0, 5, 15]),
    targets=st.sampled_from([{"cpu": 0.6}, {"cpu": 0.79}, {"cpu": 1.3}]),
    attempt=st.sampled_from([0, 1, 4]),
)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(EVIDENCE)
def test_blocking_is_never_more_lenient(evidence: Evidence) -> None:
    """A law: whatever the evidence, `on_inconclusive: block` gives the same outcome or a severer one."""
    held = judged(evidence)
    blocked = judged(evidence, on_inconclusive="block")
    assert SEVERITY.index(blocked.outcome) >= SEVERITY.index(held.outcome)
    assert blocked.outcome == {"inconclusive": "block"}.get(held.outcome, held.outcome)


@settings(max_examples=12, deadline=None)
@given(EVIDENCE)
def test_a_dry_run_judges_the_same(evidence: Evidence) -> None:
    """A law: a dry run changes the first words and its mark, and nothing of the judgement."""
    real, dry = judged(evidence), judged(evidence, mode="dry-run")
    assert dry.dry_run is True
    assert real.dry_run is msgspec.UNSET
    assert dry.headline.startswith("Dry run: would ")
    assert dry.headline.partition(": ")[2].partition(": ")[2] == real.headline.partition(": ")[2]
    same = msgspec.structs.replace(dry, headline=real.headline, dry_run=msgspec.UNSET)
    assert same == real


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Dry run: would pass: "),
        ({"lost": 100}, "Dry run: would block: "),
        (UNDECIDED, "Dry run: would be inconclusive: "),
        ({"attempt": 0}, "Dry run: would be an error: "),
    ],
)
def test_a_dry_run_says_what_it_would_do(changes: dict[str, int], words: str) -> None:
    assert judged(make_evidence(**changes), mode="dry-run").headline.startswith(words)  # type: ignore[arg-type]


def test_an_override_is_shown_until_it_expires() -> None:
    """The evidence's own date decides; its last day still counts; without a date it is shown."""
    evidence = edit(make_evidence(), "waivers", (WAIVER,))
    found = judged(evidence)
    assert found.waivers == (WAIVER,)
    assert found.notes[0] == (
        "The champion was promoted by an override of Ada (the old model is worse still), until "
        "2001-09-09: accuracy.vs_parent on cpu did not hold."
    )
    gone = edit(evidence, "waivers.0.expires", "2001-09-08")
    assert judged(gone).waivers is msgspec.UNSET
    assert notes_of(judged(gone)) == ()
    undated = edit(edit(gone, "targets.0.units", ()), "problems", ())
    assert judged(undated).waivers == (msgspec.structs.replace(WAIVER, expires="2001-09-08"),)
    other = edit(evidence, "waivers.0.candidate", "sha256:x")
    assert judged(other).notes[0].startswith("An earlier champion was promoted by an override")


def test_an_error_still_shows_who_overrode() -> None:
    """Evidence that cannot be used hides no override and no dry run."""
    evidence = edit(make_evidence(), "waivers", (WAIVER,))
    broken = edit(evidence, "problems", (Problem(code="x", words="It broke."),))
    found = judged(broken, mode="dry-run")
    assert (found.outcome, found.waivers, found.dry_run) == ("error", (WAIVER,), True)


def test_a_worn_eval_split_is_warned_about() -> None:
    """Above the policy's number, and where nobody counted; it decides nothing."""
    fresh = judged(edit(make_evidence(), "uses", 20))
    worn = judged(edit(make_evidence(), "uses", 21))
    unknown = judged(edit(make_evidence(), "uses", 0))
    assert notes_of(fresh) == ()
    assert worn.notes[0].startswith("This eval split has been judged on 21 times")
    assert "eval.max_uses" in worn.notes[0]
    assert notes_of(unknown) == ("Nobody knows how often this eval split has been judged on.",)
    assert worn.outcome == unknown.outcome == "pass"
    assert notes_of(judged(edit(make_evidence(), "uses", 0), quality={})) == ()
    assert notes_of(judged(edit(make_evidence(), "uses", 3), eval={"max_uses": 2}))


def test_warnings_of_the_data_contract_are_notes() -> None:
    """What failed as a warning is said; what held is not."""
    found = Expectation(
        name="no class is rare", split="train", severity="warning", success=False, observed="8 is"
    )
    held = msgspec.structs.replace(found, name="ids are unique", success=True)
    notes = notes_of(judged(edit(make_evidence(), "contract", (held, found))))
    assert notes == ("The data contract warns of train: no class is rare (8 is).",)


def test_old_judgements_keep_their_bytes() -> None:
    """Nothing of this is in the bytes of a judgement that has none of it."""
    raw = canonical(judged(make_evidence()))
    assert b"waivers" not in raw
    assert b"dry_run" not in raw
