"""How a measured rule is decided, alone and together with the others of its verdict."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest

from reprune.judge.comparisons import MarginTest, margin_test
from reprune.judge.drafts import Draft, decide, decide_all
from reprune.judge.numeric import halve, rounded, seed_number

DRAFT = Draft(
    rule="accuracy.vs_parent",
    baseline="dense",
    target="cpu",
    required=True,
    unit="share",
    baseline_value=0.9,
    candidate_value=0.8,
    change=-0.1,
    low=-0.2,
    high=-0.05,
    limit=-0.01,
    direction="at least",
    samples=100,
    facts="Facts",
    short="short",
    allowed="allowed",
)
SHOWN = [
    field.name
    for field in fields(Draft)
    if field.name not in ("facts", "short", "allowed", "decide", "holds", "p_harm", "sure", "doubt")
]
BARELY = 1e-12  # below what nine digits show


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("direction", ["at least", "at most"])
def test_a_result_tells_what_was_measured(required: bool, direction: Any) -> None:
    found = decide(replace(DRAFT, required=required, direction=direction), 1.0, 0.05)
    assert {name: getattr(found, name) for name in SHOWN} == {
        **{name: getattr(DRAFT, name) for name in SHOWN},
        "required": required,
        "direction": direction,
    }


def test_a_draft_of_which_nothing_is_known_does_not_hold() -> None:
    """What is left out speaks for nobody: neither a pass nor a block."""
    found = decide(replace(DRAFT, decide="More."), 1.0, 0.05)
    assert (found.outcome, found.decide) == ("inconclusive", "More.")
    assert DRAFT.p_harm is None
    assert decide(DRAFT, 1.0, 0.05).decide == ""


def test_digits_beyond_the_ninth_decide_nothing() -> None:
    assert decide(DRAFT, 0.025 * (1 + BARELY), 0.025).outcome == "block"
    assert decide(DRAFT, 0.025, 0.025 * (1 - BARELY)).outcome == "block"
    assert decide(DRAFT, 0.025 * (1 + 1e-6), 0.025).outcome == "inconclusive"


def test_what_holds_passes_whatever_its_p_value() -> None:
    found = decide(replace(DRAFT, holds=True, decide="More."), 0.0, 0.05)
    assert (found.outcome, found.decide) == ("pass", "")


def outcomes(*drafts: Draft, alpha: float = 0.05) -> list[str]:
    return [found.outcome for found in decide_all(drafts, alpha)]


def harmed(p_harm: float | None, **changes: Any) -> Draft:
    return replace(DRAFT, p_harm=p_harm, **changes)


def test_rules_that_chance_could_break_share_the_error() -> None:
    """Holm: of two rules the smaller p-value counts twice, the larger one once, if the smaller blocks."""
    assert outcomes(harmed(0.03)) == ["block"]
    assert outcomes(harmed(0.03), harmed(0.03)) == ["inconclusive"] * 2
    assert outcomes(harmed(0.04), harmed(0.02)) == ["block"] * 2
    assert outcomes(harmed(0.04), harmed(0.03)) == ["inconclusive"] * 2


def test_what_chance_cannot_break_takes_no_share() -> None:
    """Sizes and parity are certain: they make no other rule harder to break, and keep their outcome."""
    certain = [harmed(None, sure="pass"), harmed(None, sure="block"), harmed(None, sure="error")]
    assert outcomes(harmed(0.03), *certain) == ["block", "pass", "block", "error"]
    assert outcomes(*certain, harmed(0.03)) == ["pass", "block", "error", "block"]


def test_advisory_rules_are_a_family_of_their_own() -> None:
    """However many there are, they neither weaken a required rule nor are weakened by it."""
    watched = harmed(0.03, required=False)
    assert outcomes(harmed(0.03), watched) == ["block", "block"]
    assert outcomes(watched, watched, harmed(0.03)) == ["inconclusive", "inconclusive", "block"]
    assert outcomes(harmed(0.03), harmed(0.03), watched) == ["inconclusive"] * 2 + ["block"]


# --- margins -------------------------------------------------------------------------------------


def margin(low: float | None, high: float | None, **changes: Any) -> MarginTest:
    given = {"limit": 0.02, "p_harm": 0.5, **changes}
    reach = {"reach": given.pop("reach")} if "reach" in given else {}
    return margin_test("drop", (low, high), given["limit"], given["p_harm"], **reach)


def test_a_margin_holds_up_to_its_limit() -> None:
    """At the limit it holds; without an upper limit it does not, and leaves no room at all."""
    assert margin(0.0, 0.02).holds
    assert not margin(0.0, 0.0201).holds
    assert not margin(0.0, None).holds
    assert margin(0.0, None).room == -1.0
    assert margin(0.0, 0.005).room == pytest.approx(0.015)
    assert margin(0.0, 0.05).room == pytest.approx(-0.03)


def test_a_margin_is_rounded_and_within_reach() -> None:
    """No limit lies beyond what the metric can lose, and no p-value above 1."""
    wide = margin(-1.5, 1.5, p_harm=1.7)
    assert (wide.low, wide.high, wide.p_harm) == (-1.0, 1.0, 1.0)
    far = margin(-1.5, 3.5, reach=2.0)
    assert (far.low, far.high) == (-1.5, 2.0)
    third = margin(1 / 3, 2 / 3, limit=1 / 7, p_harm=1 / 9)
    assert (third.low, third.high) == (0.333333333, 0.666666667)
    assert (third.limit, third.p_harm) == (0.142857143, 0.111111111)
    assert margin(None, 0.1).low is None
    assert (wide.kind, margin_test("errors", (0.0, 0.0), 0.0, 1.0).kind) == ("drop", "errors")


# --- numbers -------------------------------------------------------------------------------------


def test_nine_digits_and_no_minus_zero() -> None:
    assert rounded(1 / 3) == 0.333333333
    assert rounded(123456789.4) == 123456789.0
    assert rounded(2 / 3 * 1e-20) == 6.66666667e-21
    assert math.copysign(1.0, rounded(-0.0)) == 1.0
    assert math.copysign(1.0, rounded(-1e-400)) == 1.0
    assert rounded(-5.0) == -5.0


def test_halving_finds_the_last_digit() -> None:
    """The smallest number on which it does not hold any more, whatever the ends are."""
    root = halve(lambda x: x * x < 2.0, 0.0, 2.0)
    assert root * root >= 2.0
    assert math.nextafter(root, 0.0) ** 2 < 2.0
    assert halve(lambda x: x < -3.0, -10.0, 7.0) == -3.0
    assert halve(lambda x: True, 0.0, 1.0) == 1.0
    assert halve(lambda x: False, 0.0, 1.0) == 5e-324
    asked: list[float] = []
    halve(lambda x: bool(asked.append(x)) or x < 0.5, 0.0, 1.0)
    assert 0.0 < min(asked) <= max(asked) < 1.0


def test_a_seed_is_the_first_half_of_its_digest() -> None:
    """SHA-256 of the empty text and of 'abc' are published (FIPS 180-4)."""
    assert seed_number("") == 0xE3B0C44298FC1C149AFBF4C8996FB924
    assert seed_number("abc") == 0xBA7816BF8F01CFEA414140DE5DAE2223
