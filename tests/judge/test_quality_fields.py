"""Every field of quality and slice rules, from comparisons whose figures are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET

from reprune.core.policy import Margin, Policy, SliceRules
from reprune.judge.binary import BinaryComparison, BinaryLevel, compare_binary
from reprune.judge.comparisons import MarginTest
from reprune.judge.distributions import beta_quantile, critical, tail
from reprune.judge.evidence import QualityEvidence
from reprune.judge.examples import read_examples
from reprune.judge.family import PARENT
from reprune.judge.grouping import TOGETHER, divide
from reprune.judge.metrics import ACCURACY, SHARE, Metric
from reprune.judge.numeric import rounded
from reprune.judge.paired import (
    ASSUMED,
    assumed_differing,
    design_effect,
    error_ratio_limits,
    error_ratio_z,
    tango_upper,
    tango_z,
)
from reprune.judge.quality import (
    Setting,
    flips_in_words,
    limits_in_words,
    quality_drafts,
    setting_of,
    what_decides,
)
from reprune.judge.scores import Scores, read_scores
from reprune.judge.slices import _some, slice_drafts
from tests.building import edit, make_evidence, make_policy, make_quality

ALPHA = 0.025
WRONG = Metric(columns=("wrong",), form="binary", higher_is_better=False)
METRICS = {
    "accuracy": ACCURACY,
    "misses": WRONG,
    "iou": SHARE,
    "wide": replace(SHARE, bounds=(0.0, 100.0)),
    "narrow": replace(SHARE, bounds=(0.0, 0.5)),
}
Z80 = 0.8416212335729143


@dataclass(frozen=True, kw_only=True)
class Known:
    """A comparison (and a level) that says what it was given."""

    examples: int = 400
    units: int = 400
    trusted: bool = True
    baseline: float = 0.9
    candidate: float = 0.88
    loss: float = 0.02
    lost: int = 12
    gained: int = 4
    changed: int | None = None
    spread: float = 0.2
    value: float = 0.88
    drop: tuple[float | None, float | None] = (0.01, 0.03)
    errors: tuple[float | None, float | None, float] = (0.01, 0.03, 0.04)
    p_drop: float = 0.5
    p_errors: float = 0.5
    p_least: float = 0.0
    p_plain: float = 1.0
    asked: list[tuple[str, float, float]] = field(default_factory=list)

    def drop_test(self, limit: float, alpha: float) -> MarginTest:
        self.asked.append(("drop", limit, alpha))
        low, high = self.drop
        shown = {"p_harm": self.p_drop, "p_least": self.p_least, "p_plain": self.p_plain}
        return MarginTest(kind="drop", low=low, high=high, limit=limit, **shown)

    def error_test(self, ratio: float, alpha: float) -> MarginTest:
        self.asked.append(("errors", ratio, alpha))
        low, high, limit = self.errors
        return MarginTest(kind="errors", low=low, high=high, limit=limit, p_harm=self.p_errors)

    def interval(self, alpha: float) -> tuple[float | None, float | None]:
        self.asked.append(("interval", 0.0, alpha))
        return self.drop

    def p_below(self, floor: float) -> float:
        self.asked.append(("below", floor, 0.0))
        return self.p_drop


class KnownScores(Scores):
    """Scores whose comparisons are given, by group and baseline, in place of being computed."""

    known: dict[tuple[str, str], Known]

    def compare(self, group: tuple[str, str], base: str, mine: str) -> Any:
        assert mine.startswith("candidate@")
        return self.known.get((group[1], base), self.known.get((group[1], ""), Known()))

    def level(self, group: tuple[str, str], mine: str) -> Any:
        assert mine.startswith("candidate@")
        return self.known.get((group[1], "level"), Known())


LABELS = tuple("day" if place < 60 else "night" if place < 110 else "dusk" for place in range(120))


def evidence(metric: str = "accuracy", targets: tuple[str, ...] = ("a", "b")) -> Any:
    columns = dict.fromkeys(METRICS[metric].columns, (1,) * 120)
    records = {f"{arm}@{t}": columns for arm in ("candidate", "champion") for t in targets}
    quality: QualityEvidence = make_quality({"dense": columns, **records}, slices={"light": LABELS})
    return edit(make_evidence(targets=dict.fromkeys(targets, 0.5), units=0), "quality", quality)


def policy(metric: str = "accuracy", **rules: Any) -> Policy:
    roles = {"a": "required", "b": "advisory"}
    return make_policy(targets=roles, quality={metric: rules}, latency=None, size=None)


def scores(
    rules: Policy, known: dict[tuple[str, str], Known] | None = None, metric: str = "accuracy"
) -> Scores:
    real = read_scores(evidence(metric), rules, {metric: METRICS[metric]})
    fields = {name: getattr(real, name) for name in ("records", "groups", "slices", "resamples")}
    made = KnownScores(**fields)
    object.__setattr__(made, "known", known or {})
    return made


ARMS = ("candidate", "dense", "champion")


def margin_of(compared: Known, target: str = "a", metric: str = "accuracy", **margin: Any) -> Any:
    rules = policy(metric, vs_parent={"max_drop": 0.05, "max_error_ratio": None, **margin})
    known = {("", "dense"): compared}
    (found,) = quality_drafts(scores(rules, known, metric), rules, target, ARMS, ALPHA)
    return found


# --- margins -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
def test_a_margin_in_full(target: str, required: bool) -> None:
    """A loss is a negative change of a metric of which more is better."""
    one = Known()
    found = margin_of(one, target)
    assert (found.rule, found.baseline, found.target) == ("accuracy.vs_parent", "dense", target)
    assert (found.required, found.unit, found.direction) == (required, "share", "at least")
    assert (found.baseline_value, found.candidate_value, found.change) == (0.9, 0.88, -0.02)
    assert (found.low, found.high, found.limit, found.samples) == (-0.03, -0.01, -0.05, 400)
    assert (found.holds, found.p_harm, found.sure) == (True, 0.5, None)
    assert one.asked == [("drop", 0.05, ALPHA)]


def test_a_margin_of_what_should_be_little() -> None:
    """A loss is a positive change where less is better."""
    found = margin_of(Known(), metric="misses")
    assert (found.rule, found.direction) == ("misses.vs_parent", "at most")
    assert (found.change, found.low, found.high, found.limit) == (0.02, 0.01, 0.03, 0.05)


def test_a_margin_holds_where_all_of_its_tests_do() -> None:
    assert margin_of(Known(drop=(0.01, 0.05))).holds
    assert not margin_of(Known(drop=(0.01, 0.0501))).holds
    good, bad = (0.0, 0.03, 0.04), (0.0, 0.05, 0.04)
    assert margin_of(Known(errors=good), max_error_ratio=1.5).holds
    assert not margin_of(Known(errors=bad), max_error_ratio=1.5).holds
    assert margin_of(Known(errors=bad)).holds


def test_the_test_with_the_least_room_is_shown() -> None:
    """The drop has 0.02 left here; the errors 0.01 or 0.03."""
    one = Known(errors=(-0.01, 0.02, 0.03))
    tight = margin_of(one, max_error_ratio=1.5)
    assert (tight.limit, tight.low, tight.high) == (-0.03, -0.02, 0.01)
    assert one.asked == [("drop", 0.05, ALPHA), ("errors", 1.5, ALPHA)]
    assert tight.allowed == "the policy allows 50 % more errors, here a loss of 3.0 points"
    loose = margin_of(Known(errors=(-0.01, 0.02, 0.05)), max_error_ratio=1.5)
    assert (loose.limit, loose.low, loose.high) == (-0.05, -0.03, -0.01)
    assert loose.allowed == "the policy allows a loss of 5.0 points"


def test_two_tests_of_a_margin_double_the_smaller_p_value() -> None:
    """Bonferroni, never above 1, to nine digits."""
    both = {"max_error_ratio": 1.5}
    assert margin_of(Known(p_drop=0.2, p_errors=0.3), **both).p_harm == 0.4
    assert margin_of(Known(p_drop=0.3, p_errors=0.2), **both).p_harm == 0.4
    assert margin_of(Known(p_drop=0.7, p_errors=0.9), **both).p_harm == 1.0
    assert margin_of(Known(p_drop=1 / 3)).p_harm == 0.333333333
    assert margin_of(Known(p_drop=0.2)).p_harm == 0.2


def test_what_is_not_trusted_is_undecided() -> None:
    found = margin_of(Known(trusted=False, p_drop=0.0))
    assert (found.sure, found.p_harm) == ("inconclusive", 1.0)
    assert found.decide.startswith("At least 20 independent examples; there are 400.")


def test_a_metric_that_knows_no_errors_has_no_error_ratio() -> None:
    """Errors are 1 - metric: of a correlation or a sum there are none."""
    rules = policy(vs_parent={"max_drop": 0.05, "max_error_ratio": 1.5})
    one = Known()
    real = scores(rules, {("", "dense"): one})
    absolute = replace(ACCURACY, relative=False)
    made = replace(real, records=replace(real.records, metrics={"accuracy": absolute}))
    object.__setattr__(made, "known", {("", "dense"): one})
    quality_drafts(made, rules, "a", ARMS, ALPHA)
    assert one.asked == [("drop", 0.05, ALPHA)]


def test_margins_and_floors_in_the_order_of_the_policy() -> None:
    rules = policy(
        vs_champion={"max_drop": 0.02, "max_error_ratio": None},
        vs_parent={"max_drop": 0.05, "max_error_ratio": None},
        floor=0.5,
    )
    known = {("", "champion@a"): Known(loss=0.01), ("", "dense"): Known(), ("", "level"): Known()}
    found = quality_drafts(scores(rules, known), rules, "a", ARMS, ALPHA)
    assert [(one.rule, one.baseline) for one in found] == [
        ("accuracy.vs_parent", "dense"),
        ("accuracy.vs_champion", "champion"),
        ("accuracy.floor", "absolute"),
    ]
    assert found[1].change == -0.01
    assert "against the dense model as trained" in found[0].facts
    assert "against the champion (" in found[1].facts
    assert found[0].short == "accuracy fell by 2.0 points against the dense model"


# --- floors --------------------------------------------------------------------------------------


def floor_of(level: Any, floor: float = 0.85, target: str = "a") -> Any:
    rules = policy(floor=floor)
    (found,) = quality_drafts(scores(rules, {("", "level"): level}), rules, target, ARMS, ALPHA)
    return found


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
def test_a_floor_in_full(target: str, required: bool) -> None:
    one = Known(drop=(0.86, 0.9), p_drop=0.75)
    found = floor_of(one, target=target)
    assert (found.rule, found.baseline, found.target) == ("accuracy.floor", "absolute", target)
    assert (found.required, found.unit, found.direction) == (required, "share", "at least")
    assert (found.baseline_value, found.candidate_value, found.change) == (None, 0.88, None)
    assert (found.low, found.high, found.limit, found.samples) == (0.86, 0.9, 0.85, 400)
    assert (found.holds, found.p_harm, found.sure) == (True, 0.75, None)
    assert one.asked == [("interval", 0.0, ALPHA), ("below", 0.85, 0.0)]


def test_a_floor_is_reached_by_the_lower_limit() -> None:
    assert floor_of(Known(drop=(0.85, 0.9))).holds
    assert not floor_of(Known(drop=(0.8499, 0.9))).holds
    assert not floor_of(Known(drop=(None, None))).holds
    assert floor_of(Known(drop=(0.333333333, 0.9)), floor=1 / 3 + 1e-11).holds
    assert floor_of(Known(), floor=1 / 3).limit == 0.333333333
    few = floor_of(Known(trusted=False, drop=(0.9, 0.9), p_drop=0.0))
    assert (few.sure, few.p_harm) == ("inconclusive", 1.0)
    assert few.decide == "At least 20 independent examples or sources; there are 400."


def test_a_floor_in_words() -> None:
    """One limit or two, or none."""
    both = "On a, accuracy is 88 % on 400 examples (97.5 % sure to be at least 86 % and at most 90 %), and"
    assert floor_of(Known(drop=(0.86, 0.9))).facts.startswith(both)
    lower = both.replace(" and at most 90 %", "")
    assert floor_of(Known(drop=(0.86, None))).facts.startswith(lower)
    assert "sure to be no limit can be given)" in floor_of(Known(drop=(None, None))).facts


def test_what_would_decide_a_floor() -> None:
    """n = f (1 - f) ((z + z80) / distance)^2, less what there is, two digits rounded up."""
    z = critical(ALPHA, None) + Z80
    needed = 0.85 * 0.15 * (z / 0.01) ** 2
    assert floor_of(Known(value=0.86)).decide.startswith("About 9700 more examples")
    assert 9600 < needed - 400 < 9700
    assert floor_of(Known(value=0.84)).decide == floor_of(Known(value=0.86)).decide
    assert floor_of(Known(value=0.85)).decide.startswith("The value lies on the floor")
    assert floor_of(Known(value=0.85 + 1e-4)).decide.startswith("The value lies on the floor")
    assert floor_of(Known(value=0.85 + 1.1e-4)).decide.startswith("About 83000000 more examples")
    assert floor_of(Known(value=0.2)).decide.startswith("About 1 more example,")


# --- what would decide a margin ------------------------------------------------------------------


def open_test(limit: float = 0.05, kind: Any = "drop") -> MarginTest:
    return MarginTest(kind=kind, low=0.0, high=0.1, limit=limit, p_harm=0.5)


def test_what_would_decide_a_margin() -> None:
    """n = ((z + z80) spread / distance)^2, less the units that there are."""
    z = critical(ALPHA, None) + Z80
    needed = (z * 0.2 / 0.01) ** 2
    near = Known(loss=0.04)
    assert 2700 < needed - 400 < 2800
    assert what_decides(near, open_test(), ALPHA).startswith("About 2800 more examples, if")
    assert what_decides(replace(near, loss=0.06), open_test(), ALPHA).startswith("About 2800 more ")
    assert what_decides(replace(near, spread=0.1), open_test(), ALPHA).startswith("About 390 more ")
    assert what_decides(replace(near, loss=0.0), open_test(), ALPHA).startswith(
        "About 1 more example,"
    )
    assert what_decides(replace(near, units=100), open_test(), ALPHA).startswith(
        "About 3100 more sources"
    )
    on_it = what_decides(replace(near, loss=0.05), open_test(), ALPHA)
    assert on_it == "The loss lies on the limit: no number of examples would decide it."
    hardly = what_decides(replace(near, loss=0.05 - 5.5e-5), open_test(), ALPHA)
    assert hardly == on_it
    just = what_decides(replace(near, loss=0.05 - 5.7e-5), open_test(), ALPHA)
    assert just.startswith("About 97000000 more")
    assert what_decides(replace(near, loss=0.05, spread=0.0), open_test(), ALPHA) == on_it
    assert what_decides(replace(near, loss=0.05 - z * 0.2 / 10_000.5), open_test(), ALPHA) == on_it
    assert what_decides(replace(near, trusted=False, units=9), open_test(), ALPHA) == (
        "At least 20 independent sources; there are 9."
    )


def test_a_level_that_is_out_of_reach_says_so() -> None:
    """No number of examples gives a limit that 4,000 resamples cannot; else more of them would."""
    none = replace(open_test(), high=None)
    far, near = 0.999 / 4001, 1.001 / 4001
    assert what_decides(Known(), none, far) == (
        "4000 resamples give no limit at so small a level, however many examples there are: it falls with "
        "each attempt, and a new dense version begins at the first."
    )
    assert what_decides(Known(units=30), none, near) == (
        "More sources: so few of them, or of those that a resample needs, give no limit at this level."
    )
    assert what_decides(Known(loss=0.04), none, near, by="low").startswith("About ")
    low = replace(open_test(), low=None)
    assert what_decides(Known(loss=0.04), low, near, by="low").startswith("More examples: so few")
    assert what_decides(Known(loss=0.04), low, near).startswith("About ")


def test_a_floor_that_is_out_of_reach_says_so() -> None:
    floor = floor_of(Known(value=0.84, drop=(None, None))).decide
    assert floor.startswith("More examples: so few of them")
    assert floor_of(Known(value=0.84, units=30, drop=(None, 0.9))).decide.startswith(
        "More sources:"
    )


def test_a_baseline_without_errors_says_what_to_do() -> None:
    perfect = what_decides(Known(), open_test(0.0, "errors"), ALPHA)
    assert perfect.startswith("The baseline made no error on these examples")
    assert what_decides(Known(), open_test(0.05, "errors"), ALPHA).startswith("About")
    assert what_decides(Known(), open_test(0.0, "drop"), ALPHA).startswith("About")


def test_limits_and_flips_in_words() -> None:
    assert limits_in_words(-0.03, -0.01, ALPHA) == "97.5 % limits -3.0 and -1.0 points"
    assert limits_in_words(None, -0.01, ALPHA) == "no interval can be given"
    assert limits_in_words(-0.03, None, ALPHA) == "no interval can be given"
    assert flips_in_words(Known()) == "12 of 400 examples got worse and 4 got better"
    assert flips_in_words(Known(changed=7)) == "7 of 400 examples have other records"
    assert flips_in_words(Known(changed=0)) == "0 of 400 examples have other records"


def test_a_setting_is_that_of_its_metric_and_target() -> None:
    rules = policy(vs_parent={"max_drop": 0.05})
    found = setting_of(scores(rules), rules, "accuracy", "b", 0.01)
    assert found == Setting(
        metric="accuracy",
        higher_is_better=True,
        target="b",
        required=False,
        alpha=0.01,
        whole=0.05,
        relative=True,
        reach=1.0,
    )
    assert (found.relative, found.reach) == (ACCURACY.relative, ACCURACY.reach) == (True, 1.0)
    assert replace(found, higher_is_better=True).signed(1 / 3) == -0.333333333
    assert replace(found, higher_is_better=False).signed(1 / 3) == 0.333333333


# --- slices --------------------------------------------------------------------------------------


def slices_of(
    known: dict[str, Known], target: str = "a", metric: str = "accuracy", **rules: Any
) -> Any:
    """day (60 examples), night (50) and dusk (10); slices of at least 30 are judged."""
    given = policy(metric, slices={"max_drop": 0.05, **rules})
    by_label = {(f"light={label}", "dense"): one for label, one in known.items()}
    by_label |= {(label, "dense"): one for label, one in known.items()}
    made = scores(given, by_label, metric)
    (draft,), found = slice_drafts(made, given, target, ARMS, ALPHA)
    return draft, {one.slice.removeprefix("light="): one for one in found}


GOOD, BAD = Known(p_drop=0.4), Known(p_drop=0.001, loss=0.2, drop=(0.1, 0.3))


@pytest.mark.parametrize(("target", "required"), [("a", True), ("b", False)])
def test_a_slice_rule_in_full(target: str, required: bool) -> None:
    """It tells its worst slice: the surest harm."""
    draft, found = slices_of({"day": GOOD, "night": BAD}, target)
    assert (draft.rule, draft.baseline, draft.target) == (
        "accuracy.slices.vs_parent",
        "dense",
        target,
    )
    assert (draft.required, draft.unit, draft.direction) == (required, "share", "at least")
    assert (draft.baseline_value, draft.candidate_value, draft.change) == (0.9, 0.88, -0.2)
    assert (draft.low, draft.high, draft.limit, draft.samples) == (-0.3, -0.1, -0.05, 400)
    assert (draft.holds, draft.p_harm, draft.sure) == (False, 0.002, None)
    assert "the worst of 2 slices against the dense model is light=night" in draft.facts
    assert "(98.75 % limits" in draft.facts
    night = found["night"]
    assert (night.rule, night.target, night.slice) == (draft.rule, target, "light=night")
    assert (night.outcome, night.examples, night.required) == ("harm", 400, False)
    assert (night.right_to_wrong, night.wrong_to_right, night.changed) == (12, 4, UNSET)
    assert (night.change, night.low, night.high) == (-0.2, -0.3, -0.1)
    assert found["day"].outcome == "ok"
    assert found["dusk"].outcome == "not judged"


def test_slices_share_the_error() -> None:
    """Limits are at alpha over their number, p-values are Holm's."""
    day, night = replace(GOOD, p_drop=0.02, asked=[]), replace(GOOD, p_drop=0.012, asked=[])
    draft, found = slices_of({"day": day, "night": night})
    assert day.asked == night.asked == [("drop", 0.05, ALPHA / 2)]
    assert [found[one].outcome for one in ("day", "night")] == ["harm", "harm"]
    assert draft.p_harm == 0.024
    draft, found = slices_of({"day": day, "night": replace(night, p_drop=0.013)})
    assert [found[one].outcome for one in ("day", "night")] == ["undecided", "undecided"]
    assert (draft.holds, draft.p_harm) == (False, 0.026)
    third = replace(GOOD, p_drop=1 / 6)
    assert slices_of({"day": third, "night": third})[0].p_harm == 0.333333333


def test_a_slice_at_exactly_its_level_is_harmed() -> None:
    at, above = replace(GOOD, p_drop=ALPHA / 2), replace(GOOD, p_drop=ALPHA / 2 + 1e-9)
    draft, found = slices_of({"day": at, "night": replace(GOOD, p_drop=1.0)})
    assert (found["day"].outcome, draft.holds) == ("harm", False)
    draft, found = slices_of({"day": above, "night": replace(GOOD, p_drop=1.0)})
    assert (found["day"].outcome, draft.holds) == ("undecided", False)


def test_a_slice_rule_holds_where_no_harm_shows_at_the_whole_alpha() -> None:
    """Whatever the attempt's level is: at 0.05 a slice is undecided, above it is ok."""
    for p_drop, state in ((0.025, "undecided"), (0.025 + 1e-9, "ok")):
        draft, found = slices_of({"day": replace(GOOD, p_drop=p_drop), "night": GOOD})
        assert (found["day"].outcome, draft.holds) == (state, state == "ok")


def test_the_level_of_slices_has_nine_digits() -> None:
    """A level that is below the p-value in the thirteenth digit is met by it."""
    given = policy(slices={"max_drop": 0.05})
    at = {(label, "dense"): replace(GOOD, p_drop=ALPHA / 2) for label in ("light=day",)}
    made = scores(given, {**at, ("light=night", "dense"): replace(GOOD, p_drop=1.0)})
    (draft,), found = slice_drafts(made, given, "a", ARMS, ALPHA * (1 - 1e-12))
    assert found[0].outcome == "harm"
    assert not draft.holds


def test_among_slices_alike_the_largest_loss_is_told() -> None:
    sure = replace(GOOD, p_drop=1.0)
    draft, _ = slices_of({"day": replace(sure, loss=0.01), "night": replace(sure, loss=0.03)})
    assert draft.change == -0.03
    draft, _ = slices_of({"day": replace(sure, loss=0.03), "night": replace(sure, loss=0.01)})
    assert draft.change == -0.03


def test_slices_of_what_should_be_little() -> None:
    draft, found = slices_of({"day": GOOD, "night": BAD}, metric="misses")
    assert (draft.direction, draft.change, draft.limit) == ("at most", 0.2, 0.05)
    assert (found["night"].low, found["night"].high) == (0.1, 0.3)


def test_slices_that_are_too_small() -> None:
    """Nothing can be said of them: the interval is everything, and so is what could be seen."""
    one = replace(GOOD, changed=3, loss=0.04)
    draft, found = slices_of({"dusk": one})
    dusk = found["dusk"]
    assert (dusk.rule, dusk.target, dusk.outcome) == (draft.rule, "a", "not judged")
    assert (dusk.examples, dusk.right_to_wrong, dusk.wrong_to_right) == (400, 12, 4)
    assert (dusk.changed, dusk.change, dusk.required) == (3, -0.04, False)
    assert (dusk.low, dusk.high, dusk.detectable) == (-1.0, 1.0, 1.0)
    assert draft.facts.endswith("; 1 slice too small to be judged alone")
    assert slices_of({}, min_examples=10)[0].facts.endswith("on any slice")
    assert slices_of({"dusk": GOOD})[1]["dusk"].changed is UNSET
    assert slices_of({"day": one})[1]["day"].changed == 3


def test_a_slice_on_which_no_harm_could_show_is_not_judged() -> None:
    """The least p-value there is, times the slices, is above the level; then the rule does not hold."""
    least = ALPHA / 2
    draft, found = slices_of({"day": replace(GOOD, p_least=least), "night": GOOD})
    assert (found["day"].outcome, draft.holds) == ("ok", True)
    blind = replace(GOOD, p_least=least + 1e-9, loss=0.3, p_drop=0.1, p_plain=0.001)
    draft, found = slices_of({"day": blind, "night": GOOD})
    day = found["day"]
    assert (day.outcome, day.change) == ("not judged", -0.3)
    assert (day.low, day.high, day.detectable) == (-1.0, 1.0, 1.0)
    assert (found["night"].outcome, draft.holds, draft.sure) == ("ok", False, None)
    assert (draft.p_harm, draft.change) == (0.4, -0.02)
    assert "the worst of 1 slice against the dense model is light=night" in draft.facts
    assert "(98.75 % limits" in draft.facts
    assert draft.doubt == "no loss on light=day could have been shown to be harm"
    assert draft.facts.endswith(f"; 1 slice too small to be judged alone; {draft.doubt}")
    assert draft.decide.startswith("More examples of light=day, or fewer slices (a larger ")
    assert slices_of({"day": blind, "night": BAD})[0].p_harm == 0.002
    both, _ = slices_of({"day": blind, "night": GOOD}, required=("light=dusk",))
    assert both.doubt.startswith("the required slice light=dusk is too small to be judged and no")
    assert both.decide.startswith("More examples of light=dusk. More examples of light=day, or")
    sure = replace(blind, p_drop=0.001)
    assert slices_of({"day": sure, "night": replace(BAD, p_drop=0.0)})[1]["day"].outcome == "harm"
    none, found = slices_of({"day": blind, "night": blind})
    assert {one.outcome for one in found.values()} == {"not judged"}
    assert (none.holds, none.p_harm, none.samples) == (False, 1.0, 0)


def test_many_slices_on_which_no_harm_could_show_are_counted() -> None:
    assert _some(["a", "b", "c"]) == "a, b, c"
    assert _some(["a", "b", "c", "d"]) == "a, b, c and 1 more slice"
    assert _some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more slices"


def test_what_makes_harm_harder_to_show_clears_no_slice() -> None:
    """Without corrections the p-value is at most the whole alpha: undecided, told as the worst slice."""
    doubtful = replace(GOOD, p_plain=0.025, loss=0.3)
    draft, found = slices_of({"day": doubtful, "night": replace(GOOD, p_drop=0.3)})
    assert (found["day"].outcome, found["night"].outcome) == ("undecided", "ok")
    assert (draft.holds, draft.change, draft.p_harm) == (False, -0.3, 0.6)
    draft, found = slices_of({"day": replace(doubtful, p_plain=0.025 + 1e-9), "night": GOOD})
    assert (found["day"].outcome, draft.holds) == ("ok", True)
    draft, found = slices_of({"day": doubtful, "night": BAD})
    assert (found["night"].outcome, draft.change, draft.p_harm) == ("harm", -0.2, 0.002)


def test_no_slice_large_enough() -> None:
    """Nothing holds and nothing is harmed: undecided."""
    draft, found = slices_of({}, min_examples=200)
    assert {one.outcome for one in found.values()} == {"not judged"}
    assert (draft.holds, draft.p_harm, draft.sure, draft.samples) == (False, 1.0, None, 0)
    values = draft.baseline_value, draft.candidate_value, draft.change, draft.low, draft.high
    assert values == (None,) * 5
    assert draft.short == "no slice judged"
    together, found = slices_of({}, min_examples=60)
    assert found[TOGETHER].outcome == "ok"
    assert together.holds


def test_slices_that_must_be_judged() -> None:
    """Absent is an error; too small keeps the rule from holding and leaves harm elsewhere harm."""
    draft, found = slices_of({}, required=("light=day",))
    assert (draft.holds, draft.sure) == (True, None)
    assert (found["day"].required, found["night"].required) == (True, False)
    absent, _ = slices_of({}, required=("light=noon", "light=dusk"))
    assert absent.sure == "error"
    assert absent.short == "the required slice light=noon is not among the examples"
    small, found = slices_of({"day": GOOD, "night": GOOD}, required=("light=dusk",))
    assert (small.holds, small.sure, small.p_harm) == (False, None, 0.8)
    assert small.decide == "More examples of light=dusk."
    assert found["dusk"].required
    assert slices_of({"night": BAD}, required=("light=dusk",))[0].p_harm == 0.002


def test_limits_that_cannot_be_given_are_everything() -> None:
    _, found = slices_of({"day": replace(GOOD, drop=(None, None))})
    assert (found["day"].low, found["day"].high) == (-1.0, 1.0)


def detectable(one: Known, metric: str = "accuracy", **rules: Any) -> float:
    found: float = slices_of({"day": one}, metric=metric, **rules)[1]["day"].detectable
    return found


def test_the_smallest_harm_that_would_be_seen() -> None:
    """d - margin = (z + z80) sqrt(max(spread^2, d (1 - d)) / n) at level alpha over the slices."""
    reach = (critical(ALPHA / 2, None) + Z80) / math.sqrt(400)
    noisy = detectable(replace(GOOD, spread=0.6))
    assert noisy == pytest.approx(0.05 + reach * 0.6)
    steady = detectable(replace(GOOD, spread=0.0))
    assert steady - 0.05 == pytest.approx(reach * math.sqrt(steady * (1 - steady)))
    assert detectable(replace(GOOD, spread=0.0), max_drop=0.2) > 0.2
    assert detectable(replace(GOOD, spread=9.0)) == 1.0
    assert steady == rounded(steady)
    ratio = detectable(replace(GOOD, spread=0.0), "iou")
    assert ratio == 0.05
    assert detectable(replace(GOOD, spread=9.0), "wide") == pytest.approx(0.05 + reach * 9.0)
    assert detectable(replace(GOOD, spread=9.0 / reach), "wide") == pytest.approx(9.05)
    assert detectable(GOOD, "narrow", max_drop=0.9) == 0.5
    fewer = detectable(replace(GOOD, spread=0.6, units=100))
    assert fewer == pytest.approx(0.05 + 2 * reach * 0.6)


def test_slices_are_judged_against_everybody() -> None:
    rules = policy(
        vs_parent={"max_drop": 0.05}, vs_champion={"max_drop": 0.05}, slices={"max_drop": 0.05}
    )
    known = {("light=day", "champion@a"): BAD}
    drafts, found = slice_drafts(scores(rules, known), rules, "a", ARMS, ALPHA)
    assert [(one.rule, one.sure, one.holds) for one in drafts] == [
        ("accuracy.slices.vs_parent", None, True),
        ("accuracy.slices.vs_champion", None, False),
    ]
    assert len(found) == 6
    assert slice_drafts(scores(policy(floor=0.5)), policy(floor=0.5), "a", ARMS, ALPHA) == ([], [])
    assert PARENT.name == "vs_parent"
    assert Margin().max_drop < SliceRules().max_drop


def divided(
    of_day: int,
    sources: int | None,
    undefined: str = "",
    *,
    at_least: int = 50,
    resampled: bool = False,
) -> tuple[set[str], set[str]]:
    """Which slices of 100 examples are judged, and which are too small: 50 examples must be in one.

    The slice `day` has the first examples, each of so many sources in turn; `night` has the others, which
    come from another source each.
    """
    labels = ["day"] * of_day + ["night"] * (100 - of_day)
    named = [f"s{i % sources}" if i < of_day else f"n{i}" for i in range(100)] if sources else None
    quality = make_quality({"dense": {"correct": (1,) * 100}}, slices={"t": labels}, sources=named)
    examples = read_examples(quality, None)
    known = examples.slices
    found = divide(
        examples,
        SliceRules(min_examples=at_least),
        lambda members: not undefined or not np.array_equal(members, known[f"t={undefined}"]),
        resampled=resampled,
    )
    return set(found.judged), set(found.small)


def test_which_slices_are_judged_by_themselves() -> None:
    """Large enough, of enough sources, and with a value; the others are judged together if they can be."""
    day, night = "t=day", "t=night"
    assert divided(50, None) == ({day, night}, set())
    assert divided(51, None) == ({day}, {night})
    assert divided(49, None) == ({night}, {day})
    assert divided(50, 20) == ({day, night}, set())
    assert divided(50, 19) == ({night}, {day})
    assert divided(50, None, "day") == ({night}, {day})
    assert divided(99, 19) == ({TOGETHER}, {day, night})
    assert divided(100, 19) == (set(), {day})
    for resampled, judged in ((True, {night}), (False, {day, night})):
        assert divided(19, None, at_least=10, resampled=resampled)[0] == judged
        assert divided(20, None, at_least=10, resampled=resampled)[0] == {day, night}


# --- right and wrong -----------------------------------------------------------------------------


def test_a_binary_comparison_counts_flips() -> None:
    base, mine = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 0, 1])
    found = compare_binary(base, mine, None)
    assert (found.examples, found.lost, found.gained, found.both_wrong) == (6, 2, 1, 1)
    assert (found.baseline, found.candidate) == (0.666666667, 0.5)
    assert found.loss == pytest.approx(1 / 6)
    assert (found.units, found.trusted, found.changed) == (6, True, None)
    by_source = compare_binary(base, mine, np.array([5, 5, 7, 7, 7, 9]))
    assert by_source.clusters is not None
    assert by_source.clusters.tolist() == [[2, 1, 0, 0], [3, 1, 1, 1], [1, 0, 0, 0]]
    assert (by_source.units, by_source.trusted) == (3, False)


@pytest.mark.parametrize(("sources", "trusted"), [(19, False), (20, True)])
def test_twenty_sources_are_trusted(sources: int, trusted: bool) -> None:
    codes = np.arange(sources).repeat(2)
    right = np.ones(2 * sources, dtype=np.int64)
    assert compare_binary(right, right, codes).trusted is trusted
    clusters = np.array([[2, 2]] * sources)
    assert BinaryLevel(examples=2 * sources, right=0, clusters=clusters).trusted is trusted


def test_the_spread_of_one_example() -> None:
    """The variance of lost less gained; where no flip was seen, one is assumed."""
    some = BinaryComparison(
        examples=100, baseline=0.9, candidate=0.88, lost=5, gained=3, both_wrong=7
    )
    assert some.spread == pytest.approx(math.sqrt(0.08 - 0.02**2))
    none = replace(some, lost=0, gained=0)
    assert none.spread == pytest.approx(math.sqrt(0.01))
    one = replace(some, lost=100, gained=0)
    assert one.spread == pytest.approx(math.sqrt(1.0 / 100))


CLUSTERS = np.array([[5, 2, 0, 1], [7, 1, 3, 2], [4, 0, 0, 0], [9, 4, 1, 3]])
ALIKE = BinaryComparison(
    examples=25, baseline=0.6, candidate=0.5, lost=7, gained=4, both_wrong=6, clusters=CLUSTERS
)
SIZES = [5, 7, 4, 9]


def effect_of(weights: tuple[float, float, float], assumed: float) -> float:
    """The design effect of weighted flips, written out from the table of sources."""
    totals = [float(sum(w * n for w, n in zip(weights, row[1:], strict=True))) for row in CLUSTERS]
    squares = sum(n * w * w for n, w in zip((7, 4, 6), weights, strict=True))
    return design_effect(SIZES, totals, squares, assumed)


def test_the_spread_of_one_source() -> None:
    effect = effect_of((1.0, -1.0, 0.0), assumed_differing(7, 4))
    variance = 11 / 25 - (3 / 25) ** 2
    assert ALIKE.spread == pytest.approx(math.sqrt(variance * effect * 4 / 25))


def test_the_drop_of_sources() -> None:
    """Each limit has its own design effect, and Student's t has a degree less than there are sources."""
    t = critical(0.05, 3)
    up = effect_of((1.0, -1.0, 0.0), assumed_differing(7, 4))
    down = effect_of((1.0, -1.0, 0.0), assumed_differing(4, 7))
    found = ALIKE.drop_test(0.1, 0.05)
    assert found.kind == "drop"
    assert found.high == rounded(tango_upper(7 / up, 4 / up, 25 / up, t))
    assert found.low == rounded(-tango_upper(4 / down, 7 / down, 25 / down, t))
    assert found.p_harm == rounded(tail(tango_z(7 / down, 4 / down, 25 / down, 0.1), 3))
    two = replace(ALIKE, clusters=CLUSTERS[:2])
    wide = design_effect([5, 7], [2.0, -2.0], 11, assumed_differing(7, 4))
    upper = tango_upper(7 / wide, 4 / wide, 25 / wide, critical(0.05, 1))
    assert two.drop_test(0.1, 0.05).high == rounded(min(1.0, upper))


def test_the_error_ratio_of_sources() -> None:
    for ratio in (1.25, 2.0):
        effect = effect_of((1.0, -ratio, 1.0 - ratio), ASSUMED)
        table = 7 / effect, 4 / effect, 6 / effect, 8 / effect
        found = ALIKE.error_test(ratio, 0.05)
        low, high = error_ratio_limits(*table, critical(0.05, 3))
        assert found.kind == "errors"
        assert found.limit == rounded((ratio - 1) * 0.4)
        assert found.low == pytest.approx(max(-1.0, (low - 1) * 0.4))
        assert found.high == pytest.approx(min(1.0, (high - 1) * 0.4))
        assert found.p_harm == pytest.approx(tail(error_ratio_z(*table, ratio), 3))
    perfect = replace(ALIKE, gained=0, both_wrong=0, clusters=None)
    test = perfect.error_test(1.25, 0.05)
    assert (test.kind, test.limit) == ("errors", 0.0)
    assert test.high == perfect.drop_test(0.3, 0.05).high


def test_values_and_levels_of_arms_have_nine_digits() -> None:
    third = np.array([1, 0, 0])
    assert compare_binary(third, third, None).candidate == 0.333333333
    by_source = compare_binary(third, third, np.array([0, 0, 1])).clusters
    assert by_source is not None
    assert by_source.dtype == np.int64
    level = BinaryLevel(examples=30, right=20)
    shown = [*level.interval(0.05), level.p_below(0.8), level.value]
    assert shown == [float(f"{number:.9g}") for number in shown]
    clusters = np.array([[20, 15], [10, 5]])
    two = BinaryLevel(examples=30, right=20, clusters=clusters)
    effect = design_effect([20, 10], [15.0, 5.0], 20)
    effect *= (critical(0.05, 1) / critical(0.05, None)) ** 2
    right, n = 20 / effect, 30 / effect
    assert two.interval(0.05)[0] == rounded(beta_quantile(0.05, right, n - right + 1))


def test_what_is_assumed_of_few_flips() -> None:
    """0.5 where they balance, 14 more where all are losses, however few; spread below one flip counts."""
    assert assumed_differing(1, 0) == assumed_differing(9, 0) == 14.5
    assert assumed_differing(0.5, 0) == 7.5
    assert assumed_differing(3, 3) == assumed_differing(0, 4) == assumed_differing(0, 0) == 0.5
    assert design_effect([10, 10], [0.0, 0.0], 0.2, 3.0) == pytest.approx(30.0 / 3.2)
