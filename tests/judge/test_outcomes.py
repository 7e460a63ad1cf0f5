"""How the results of rules become one verdict, and what a verdict always carries."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
import pytest

from reprune.core.artifacts import Expectation, Judgement, Outcome, Waiver
from reprune.core.policy import Policy
from reprune.judge.consequence import BLOCKS_UNDECIDED, consequence, history_notes, holding, opening
from reprune.judge.evidence import Evidence, Problem
from reprune.judge.possible import LATEST_S
from reprune.judge.verdict import judge
from tests.building import edit, make_evidence, make_policy, make_quality

MARGIN = {"accuracy": {"vs_parent": {"max_drop": 0.05, "max_error_ratio": None}}}
WAIVER = Waiver(
    by="Ada",
    reason="why",
    expires="2001-09-09",
    rules=("accuracy.vs_parent on cpu",),
    verdict="sha256:v",
    candidate="sha256:champion",
    policy="sha256:p",
)
OUTCOMES: tuple[Outcome, ...] = ("pass", "block", "inconclusive", "error")


def small(**changes: Any) -> Evidence:
    """Evidence that costs milliseconds to judge, and passes `policy()`."""
    given = {"examples": 300, "errors": 12, "lost": 2, "gained": 2, "units": 8, **changes}
    return make_evidence(**given)


def policy(**sections: Any) -> Policy:
    return make_policy(**{"latency": None, "quality": MARGIN, "size": None, **sections})


def worse(evidence: Evidence, target: str, lost: int = 100) -> Evidence:
    """The candidate is wrong on the last `lost` examples on one target."""
    path = f"quality.arms.candidate@{target}.columns.correct"
    return edit(evidence, path, lambda old: (*old[:-lost], *[0] * lost))


def test_targets_and_metrics_are_judged_in_the_order_of_their_names() -> None:
    """How the policy's file lists them says nothing: the same bytes."""
    evidence = small(targets={"a": 0.6, "b": 0.6})
    columns = {"correct": (1,) * 20, "numerator": (1,) * 20, "denominator": (1,) * 20}
    records = {f"candidate@{target}": columns for target in ("a", "b")} | {"dense": columns}
    evidence = msgspec.structs.replace(evidence, quality=make_quality(records))
    quality = {**MARGIN, "dice": MARGIN["accuracy"]}
    forwards = policy(targets={"a": "required", "b": "advisory"}, quality=quality)
    backwards = policy(
        targets={"b": "advisory", "a": "required"}, quality=dict(reversed(quality.items()))
    )
    found = judge(evidence, forwards)
    assert [(one.target, one.rule) for one in found.rules if one.rule != "parity"] == [
        ("a", "accuracy.vs_parent"),
        ("a", "dice.vs_parent"),
        ("b", "accuracy.vs_parent"),
        ("b", "dice.vs_parent"),
    ]
    assert judge(evidence, backwards) == found


def test_reasons_are_those_of_required_rules() -> None:
    """What an advisory target says is in a note, not among the reasons."""
    evidence = worse(worse(small(targets={"a": 0.6, "b": 0.6}), "a"), "b")
    found = judge(evidence, policy(targets={"a": "required", "b": "advisory"}))
    assert found.outcome == "block"
    assert [one.outcome for one in found.rules if one.rule != "parity"] == ["block", "block"]
    assert found.reasons == (found.rules[0].words,)
    only = judge(worse(small(targets={"a": 0.6, "b": 0.6}), "b"), edit_targets("a", "b"))
    assert only.outcome == "pass"
    assert {one.outcome for one in only.rules if one.target == "b"} == {"block", "pass"}


def edit_targets(required: str, advisory: str) -> Policy:
    return policy(targets={required: "required", advisory: "advisory"})


def test_the_severest_outcome_is_the_verdict() -> None:
    """Error, then block, then inconclusive, then pass; each alone and all together."""
    good = small()
    broken = edit(good, "engines.1.parity.max_abs", 0.5)
    worst = edit(good, "engines.0.parity.max_abs", 0.5)
    undecided = worse(good, "cpu", 15)
    assert judge(good, policy()).outcome == "pass"
    assert judge(undecided, policy()).outcome == "inconclusive"
    assert judge(worst, policy()).outcome == "block"
    assert judge(broken, policy()).outcome == "error"
    both = edit(undecided, "engines.0.parity.max_abs", 0.5)
    assert judge(both, policy()).outcome == "block"
    assert judge(edit(both, "engines.1.parity.max_abs", 0.5), policy()).outcome == "error"


def test_a_required_target_must_be_held_to_something() -> None:
    """Parity alone is no demand, nor is what only an advisory target is held to."""
    alone = small(arms=("candidate", "dense"))
    champion = {"accuracy": {"vs_champion": {"max_drop": 0.05}}}
    found = judge(alone, policy(quality=champion))
    assert (found.outcome, len(found.rules)) == ("inconclusive", 2)
    assert found.reasons == (
        "No rule of the policy could be judged: its baselines do not exist yet.",
    )
    assert judge(alone, policy()).outcome == "pass"
    watched = judge(alone, policy(targets={"cpu": "advisory"}))
    assert (watched.outcome, watched.reasons) == ("inconclusive", found.reasons)
    bad = edit(alone, "engines.0.parity.max_abs", 0.5)
    broken = judge(bad, policy(quality=champion))
    assert (broken.outcome, len(broken.reasons)) == ("block", 2)
    assert broken.reasons[0] == next(one.words for one in broken.rules if one.outcome == "block")
    assert broken.reasons[1:] == found.reasons
    assert "baselines" not in broken.headline
    blocked = judge(alone, policy(quality=champion, on_inconclusive="block"))
    assert (blocked.outcome, blocked.reasons[1:]) == ("block", (BLOCKS_UNDECIDED,))


def test_a_verdict_tells_its_level_to_nine_digits() -> None:
    """alpha / (i (i + 1)) at the i-th attempt; an error that has no attempt is told as a first one."""
    assert judge(small(attempt=1), policy()).alpha == 0.025
    assert judge(small(attempt=2), policy()).alpha == 0.00833333333
    assert judge(small(attempt=2), policy()).attempt == 2
    refused = edit(small(attempt=2), "seed", "")
    assert judge(refused, policy()).alpha == 0.00833333333
    assert judge(refused, policy()).attempt == 2
    assert judge(small(attempt=0), policy()).alpha == 0.025
    assert judge(small(attempt=0), policy()).attempt == 0
    assert judge(small(attempt=-1), policy()).alpha == 0.025


def test_a_dry_run_is_marked_and_nothing_else_is() -> None:
    refused = edit(small(), "seed", "")
    for evidence in (small(), refused):
        assert judge(evidence, policy()).dry_run is msgspec.UNSET
        assert judge(evidence, policy()).waivers is msgspec.UNSET
        assert judge(evidence, policy(mode="dry-run")).dry_run is True
        overridden = edit(evidence, "waivers", (WAIVER,))
        assert judge(overridden, policy()).waivers == (WAIVER,)


def test_an_error_tells_its_problems_once_and_nothing_more() -> None:
    problems = tuple(Problem(code="x", words=words) for words in ("One.", "Two.", "One."))
    found = judge(edit(small(), "problems", problems), policy())
    assert found == Judgement(
        procedure="3",
        outcome="error",
        headline="Error: One. (1 more)",
        reasons=("One.", "Two."),
        attempt=1,
        alpha=0.025,
        rules=(),
        slices=(),
        notes=(),
    )
    one = judge(edit(small(), "problems", problems[:1]), policy())
    assert (one.headline, one.reasons) == ("Error: One.", ("One.",))


def test_every_kind_of_rule_reaches_the_verdict() -> None:
    """In one order, target by target, with guards and slices beside them."""
    rules = make_policy(
        targets={"a": "required", "b": "required"},
        latency={"vs_parent": {"max_ratio": 0.8}},
        throughput={"vs_parent": {"min_ratio": 1.2}},
        quality={"accuracy": {**MARGIN["accuracy"], "slices": {"max_drop": 0.5}}},
        memory={"ceiling_bytes": 100},
        size={"ceiling_bytes": 1000},
    )
    evidence = small(targets={"a": 0.6, "b": 0.6})
    for place in (0, 1):
        evidence = edit(evidence, f"targets.{place}.memory", {"candidate": (50 + place,)})
    found = judge(evidence, rules)
    of_each = [
        "accuracy.vs_parent",
        "accuracy.slices.vs_parent",
        "latency.vs_parent",
        "throughput.vs_parent",
        "size.ceiling",
        "memory.ceiling",
        *["parity"] * 3,
    ]
    assert [one.rule for one in found.rules] == of_each * 2
    assert [one.target for one in found.rules] == ["a"] * 9 + ["b"] * 9
    assert {one.target for one in found.slices} == {"a", "b"}
    assert isinstance(found.guards, tuple)
    assert {one.target for one in found.guards} == {"a", "b"}
    memory = [one.candidate_value for one in found.rules if one.rule == "memory.ceiling"]
    assert memory == [50.0, 51.0]
    assert len([note for note in found.notes if "two sessions of one model" in note]) == 2


def test_a_guard_makes_passes_of_its_own_target_undecided() -> None:
    """No control was measured on one target, which the policy demands on both."""
    rules = make_policy(
        targets={"a": "required", "b": "required"},
        latency={"vs_parent": {"max_ratio": 0.8}},
        quality={},
        size=None,
    )
    evidence = small(targets={"a": 0.6, "b": 0.6})
    bare = [
        msgspec.structs.replace(
            unit, arms={arm: taken for arm, taken in unit.arms.items() if arm != "control"}
        )
        for unit in evidence.targets[1].units
    ]
    found = judge(edit(evidence, "targets.1.units", tuple(bare)), rules)
    times = {one.target: one.outcome for one in found.rules if one.rule == "latency.vs_parent"}
    assert times == {"a": "pass", "b": "inconclusive"}


# --- what the policy makes of it -----------------------------------------------------------------


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_only_what_is_undecided_becomes_a_block(outcome: Outcome) -> None:
    assert consequence(outcome, policy()) == outcome
    blocking = consequence(outcome, policy(on_inconclusive="block"))
    assert blocking == ("block" if outcome == "inconclusive" else outcome)


def test_the_first_words_of_a_headline() -> None:
    assert [opening(one, policy()) for one in OUTCOMES] == [
        "Passed",
        "Blocked",
        "Inconclusive",
        "Error",
    ]
    assert [opening(one, policy(mode="dry-run")) for one in OUTCOMES] == [
        "Dry run: would pass",
        "Dry run: would block",
        "Dry run: would be inconclusive",
        "Dry run: would be an error",
    ]


# --- overrides that still hold -------------------------------------------------------------------

NINTH = 1_000_000_000.0  # 2001-09-09 01:46:40 UTC
DAY = 86_400.0


def measured(*started: float, expires: str = "2001-09-09") -> tuple[Waiver, ...]:
    """The overrides that hold for units which began then."""
    evidence = small(units=len(started))
    for place, when in enumerate(started):
        evidence = edit(evidence, f"targets.0.units.{place}.started_s", when)
    return holding(edit(evidence, "waivers", (edit(WAIVER, "expires", expires),)))


def test_an_override_holds_to_the_end_of_its_last_day() -> None:
    """The newest unit's day in UTC decides."""
    assert measured(NINTH)
    assert measured(NINTH - DAY)
    assert not measured(NINTH + DAY)
    assert not measured(NINTH, NINTH + DAY)
    assert not measured(NINTH + DAY, NINTH)
    assert measured(999_993_600.0 + DAY - 1)
    assert not measured(999_993_600.0 + DAY)


def test_the_day_is_that_of_no_place() -> None:
    """Wherever it is judged: the day begins and ends in UTC."""
    before = os.environ.get("TZ")
    try:
        for zone in ("UTC-14", "UTC+12"):
            os.environ["TZ"] = zone
            time.tzset()
            assert measured(999_993_600.0 + DAY - 1)
            assert not measured(999_993_600.0 + DAY)
    finally:
        del os.environ["TZ"]
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


def test_times_that_no_clock_shows_hide_no_override() -> None:
    """They are an error elsewhere; here they are no date. The last possible second is one."""
    assert measured()
    assert measured(0.0, expires="1969-12-31")
    assert measured(-1.0)
    assert measured(LATEST_S)
    assert measured(2 * LATEST_S)
    assert not measured(LATEST_S - 1.0)
    assert not measured(0.5, expires="1969-12-31")
    assert measured(0.5, expires="1970-01-01")


# --- what is said of the past --------------------------------------------------------------------


def said(evidence: Evidence, rules: Policy | None = None) -> list[str]:
    return list(history_notes(evidence, rules or policy()))


def test_warnings_of_the_data_contract_are_said() -> None:
    """Only those that are warnings, and that were found; a critical one stopped the run long before."""

    def contract(success: bool, severity: str) -> Evidence:
        found = msgspec.convert(
            {
                "name": "nulls",
                "split": "eval",
                "severity": severity,
                "success": success,
                "observed": "3",
            },
            Expectation,
        )
        return edit(small(), "contract", (found,))

    assert said(contract(False, "warning")) == ["The data contract warns of eval: nulls (3)."]
    assert said(contract(True, "warning")) == []
    assert said(contract(False, "critical")) == []


def test_overrides_are_said_with_whose_they_are() -> None:
    overridden = edit(small(), "waivers", (WAIVER,))
    assert said(overridden)[0].startswith("The champion was promoted by an override of Ada")
    other = edit(small(), "waivers", (edit(WAIVER, "candidate", "sha256:x"),))
    assert said(other)[0].startswith("An earlier champion was promoted by an override of Ada")
    nobody = edit(small(arms=("candidate", "dense")), "waivers", (edit(WAIVER, "candidate", ""),))
    assert said(nobody)[0].startswith("The champion was promoted")


def test_how_worn_the_eval_split_is() -> None:
    """At the policy's number nothing is said; without quality rules nothing is judged on it."""
    rules = policy(eval={"max_uses": 7})
    assert said(edit(small(), "uses", 7), rules) == []
    assert said(edit(small(), "uses", 8), rules)[0].startswith(
        "This eval split has been judged on 8 times, and the policy warns above 7 (eval.max_uses)"
    )
    assert said(edit(small(), "uses", 1), rules) == []
    unknown = edit(small(), "uses", 0)
    assert said(unknown) == ["Nobody knows how often this eval split has been judged on."]
    assert said(edit(small(), "uses", -1)) == said(unknown)
    assert said(unknown, policy(quality={}, size={"ceiling_bytes": 5})) == []
