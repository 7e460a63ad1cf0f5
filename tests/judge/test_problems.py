"""What makes evidence unusable, sentence by sentence: each fault alone, and what just is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from reprune.core.artifacts import Parity
from reprune.core.documents import canonical
from reprune.core.errors import DocumentError
from reprune.core.policy import Policy
from reprune.judge.bootstrap import EXACT
from reprune.judge.checks import find_metrics, find_problems
from reprune.judge.evidence import BatchUnits, Conditions, Evidence, decode_units
from reprune.judge.latency import unit_problems
from reprune.judge.memory_rules import memory_problems
from reprune.judge.metrics import ACCURACY, SHARE, Metric
from reprune.judge.possible import LATEST_S, impossible, impossible_parity
from reprune.judge.record_checks import metric_problems
from reprune.judge.verdict import judge
from reprune.judge.weighted import MOST_WEIGHT
from tests.building import edit, make_evidence, make_policy, make_quality, make_units

MARGIN = {"max_drop": 0.05, "max_error_ratio": None}


def evidence(**changes: Any) -> Evidence:
    return make_evidence(examples=40, errors=4, lost=1, gained=1, units=2, **changes)


GOOD = evidence()


def policy(**sections: Any) -> Policy:
    given = {"latency": None, "size": None, "quality": {"accuracy": {"vs_parent": MARGIN}}}
    return make_policy(**{**given, **sections})


def problems(found: Evidence, rules: Policy | None = None) -> list[str]:
    rules = rules or policy()
    metrics, unknown = find_metrics(rules)
    return [*unknown, *find_problems(found, rules, metrics)]


def after(path: str, value: Any, rules: Policy | None = None) -> list[str]:
    return problems(edit(GOOD, path, value), rules)


def test_evidence_without_faults_has_no_problems() -> None:
    assert problems(evidence()) == []
    assert problems(evidence(), policy(quality={})) == []


# --- who was measured ----------------------------------------------------------------------------


def without(name: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda old: {key: value for key, value in old.items() if key != name}


def test_the_arms_that_must_be_there() -> None:
    assert after("seed", "") == ["The evidence names no seed."]
    assert after("attempt", 0) == ["The evidence is of attempt 0; the first one is 1."]
    assert after("attempt", 1) == []
    assert "The candidate is missing among the arms." in after("arms", without("candidate"))
    assert "The dense model is missing among the arms." in after("arms", without("dense"))
    assert "Nobody knows the arm 'a'." in after("arms", lambda old: {**old, "a": "", "b": ""})
    contradict = "The champion's version and the measured arms contradict each other."
    assert after("champion_version", None) == [contradict]
    assert contradict in after("arms", without("champion"))
    first = evidence(arms=("candidate", "dense"))
    assert problems(first) == []
    assert problems(edit(first, "champion_version", "1")) == [contradict]


def test_unknown_arms_are_named_in_their_order() -> None:
    more = dict.fromkeys("fdbace", "")
    found = after("arms", lambda old: {**more, **old})
    named = [words for words in found if words.startswith("Nobody knows")]
    assert named == [f"Nobody knows the arm '{name}'." for name in "abcdef"]


# --- targets -------------------------------------------------------------------------------------


def test_the_targets_are_the_policys() -> None:
    assert "A target was measured twice." in after("targets", lambda old: old * 2)
    none = after("targets", ())
    assert none == ["The policy judges the targets cpu; measured were none."]
    two = policy(targets={"cpu": "required", "b": "advisory", "a": "advisory"})
    assert problems(evidence(), two)[0] == (
        "The policy judges the targets a, b, cpu; measured were cpu."
    )
    more = evidence(targets={"cpu": 0.5, "y": 0.5, "x": 0.5})
    assert problems(more)[0] == "The policy judges the targets cpu; measured were cpu, x, y."


def test_samples_that_cannot_be_used_name_their_target() -> None:
    late = after("targets.0.units.0.started_s", 0.0)
    assert late == [
        "The latency samples of cpu cannot be used: a unit began at no time that a clock shows."
    ]
    gone = after("targets.0.units", lambda old: old[1:])
    assert gone == [
        "The latency samples of cpu cannot be used: units are missing, doubled or out of order."
    ]


def batches(*sizes: int) -> tuple[BatchUnits, ...]:
    units = GOOD.targets[0].units
    return tuple(BatchUnits(batch_size=size, units=units) for size in sizes)


def test_batch_sizes() -> None:
    twice = "A batch size of cpu was measured twice."
    assert after("targets.0.throughput", batches(2, 4)) == []
    assert after("targets.0.throughput", batches(2, 2)) == [twice]
    assert after("targets.0.throughput", batches(1)) == [twice]
    assert after("targets.0.batch_size", 0) == ["A batch size of cpu is below 1."]
    assert after("targets.0.throughput", batches(0)) == ["A batch size of cpu is below 1."]
    (late,) = batches(2)
    late = edit(late, "units.0.started_s", 0.0)
    assert after("targets.0.throughput", (late,)) == [
        "The samples of cpu at batch 2 cannot be used: a unit began at no time that a clock shows."
    ]
    gone = edit(late, "units", lambda old: old[1:])
    assert after("targets.0.throughput", (gone,)) == [
        "The samples of cpu at batch 2 cannot be used: units are missing, doubled or out of order."
    ]


def test_builds_are_checked() -> None:
    copied = edit(GOOD, "engines.0.copies", ("x",))
    assert any("not as many builds" in words for words in problems(copied))


# --- engines -------------------------------------------------------------------------------------


def test_every_arm_has_one_engine_for_every_target() -> None:
    assert after("engines", lambda old: (*old, old[0])) == ["An engine is listed twice."]
    assert after("engines", lambda old: old[1:]) == ["There is no engine of the candidate for cpu."]
    assert after("engines", lambda old: old[:2]) == ["There is no engine of the champion for cpu."]
    assert after("engines.1.bundle", "sha256:x") == [
        "The engine of the dense model for cpu was built from another bundle than the one that is "
        "judged."
    ]
    assert after("engines.0.bytes", 0) == ["The engine of the candidate for cpu is empty."]
    assert after("engines.0.bytes", 1) == []


NEVER = "The engine of the candidate for cpu was never compared with its bundle."
COMPARED = "The engine of the candidate for cpu was compared with its bundle, and "
NO_NUMBER = f"{COMPARED}the difference is no number."
NOT_SO = f"{COMPARED}no difference can be like that."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"examples": 1}, []),
        ({"examples": 0}, [NEVER]),
        ({"max_abs": math.nan}, [NO_NUMBER]),
        ({"cosine": math.inf}, [NO_NUMBER]),
        ({"agreement": math.nan}, [NO_NUMBER]),
        ({"max_abs": -0.1}, [NOT_SO]),
    ],
)
def test_a_comparison_with_the_bundle_gives_numbers(changes: Any, words: list[str]) -> None:
    def changed(old: Parity) -> Parity:
        return msgspec.structs.replace(old, **changes)

    assert after("engines.0.parity", changed) == words


@pytest.mark.parametrize(
    ("changes", "cannot_be"),
    [
        ({}, False),
        ({"examples": 1_000_000_000}, False),
        ({"examples": 1_000_000_001}, True),
        ({"max_abs": 0.0}, False),
        ({"max_abs": -1e-9}, True),
        ({"cosine": 1.0 + 1e-6}, False),
        ({"cosine": 1.0 + 2e-6}, True),
        ({"cosine": -1.0}, False),
        ({"cosine": -1.1}, True),
        ({"agreement": 0.0}, False),
        ({"agreement": 1.0}, False),
        ({"agreement": -0.01}, True),
        ({"agreement": 1.01}, True),
    ],
)
def test_differences_that_no_comparison_gives(changes: Any, cannot_be: bool) -> None:
    given = {"examples": 64, "max_abs": 0.1, "cosine": 0.99, "agreement": 0.9, **changes}
    assert impossible_parity(msgspec.convert(given, Parity)) is cannot_be


# --- units that nobody measured ------------------------------------------------------------------

HOUR = 3_600_000_000_000
MANY = 1_000_000_000
NUMBER = "a unit has a number that was never given"
NO_TIME = "a unit began at no time that a clock shows"
NO_LOAD = "a unit ran under a load that no machine has"
NO_PLACE = "an arm of a unit has no place in its order"
NO_WARMUP = "a number of calls that cannot be warmed up"
NO_CALL = "a call took more than an hour"
NO_BLOCK = "the machine's conditions are not told block by block"
NO_STATE = "no machine can be in the conditions that a block tells of"


def unit_after(path: str, value: Any) -> list[str]:
    (unit,) = make_units(1, {"dense": 1.0}, control=None)
    return impossible([edit(unit, path, value)])


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("process", 0, []),
        ("process", -1, [NUMBER]),
        ("process", MANY, []),
        ("process", MANY + 1, [NUMBER]),
        ("seed", 0, []),
        ("seed", -1, [NUMBER]),
        ("seed", 2**64 - 1, []),
        ("seed", 2**64, [NUMBER]),
        ("started_s", 1e-9, []),
        ("started_s", 0.0, [NO_TIME]),
        ("started_s", LATEST_S - 1, []),
        ("started_s", LATEST_S, [NO_TIME]),
        ("started_s", math.nan, [NO_TIME]),
        ("load", 0.0, []),
        ("load", -0.1, [NO_LOAD]),
        ("load", float(MANY), []),
        ("load", MANY + 1.0, [NO_LOAD]),
        ("arms.dense.order", 0, []),
        ("arms.dense.order", -1, [NO_PLACE]),
        ("arms.dense.order", 1, []),
        ("arms.dense.order", 2, [NO_PLACE]),
        ("arms.dense.warmup_calls", 0, []),
        ("arms.dense.warmup_calls", -1, [NO_WARMUP]),
        ("arms.dense.warmup_calls", MANY, []),
        ("arms.dense.warmup_calls", MANY + 1, [NO_WARMUP]),
        ("arms.dense.blocks_ns", ((1,), (1, HOUR)), []),
        ("arms.dense.blocks_ns", ((1,), (1, HOUR + 1)), [NO_CALL]),
    ],
)
def test_units_that_nobody_can_have_measured(path: str, value: Any, words: list[str]) -> None:
    assert unit_after(path, value) == words


QUIET = {"wall_ns": 1, "waited_ns": 1, "stolen": 0.5, "pulse_ns": 1}
DEVICE = {
    "clock_mhz": 1,
    "memory_clock_mhz": 1,
    "power_limit_w": 1.0,
    "throttle": (),
    "other_processes": 0,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"wall_ns": 0, "waited_ns": 0, "pulse_ns": 0, "stolen": 0.0}, []),
        ({"wall_ns": 24 * HOUR, "waited_ns": 24 * HOUR, "pulse_ns": 24 * HOUR, "stolen": 1.0}, []),
        ({"waited_ns": None, "stolen": None}, []),
        ({"wall_ns": -1}, [NO_STATE]),
        ({"waited_ns": -1}, [NO_STATE]),
        ({"pulse_ns": -1}, [NO_STATE]),
        ({"wall_ns": 24 * HOUR + 1}, [NO_STATE]),
        ({"waited_ns": 24 * HOUR + 1}, [NO_STATE]),
        ({"pulse_ns": 24 * HOUR + 1}, [NO_STATE]),
        ({"stolen": -0.01}, [NO_STATE]),
        ({"stolen": 1.01}, [NO_STATE]),
        ({"device": DEVICE}, []),
        ({"device": {**DEVICE, "clock_mhz": 0, "memory_clock_mhz": 0, "power_limit_w": 0.0}}, []),
        *[({"device": {**DEVICE, name: MANY}}, []) for name in DEVICE if name != "throttle"],
        *[
            ({"device": {**DEVICE, name: value}}, [NO_STATE])
            for name in DEVICE
            if name != "throttle"
            for value in (-1, MANY + 1)
        ],
    ],
)
def test_conditions_that_no_machine_is_in(changes: Any, words: list[str]) -> None:
    block = {**QUIET, **changes}
    assert unit_after("arms.dense.conditions", lambda _: _told(block, QUIET)) == words
    assert unit_after("arms.dense.conditions", lambda _: _told(QUIET, block)) == words


def _told(*blocks: Mapping[str, Any]) -> Any:
    return tuple(msgspec.convert(block, Conditions) for block in blocks)


def test_conditions_are_told_block_by_block() -> None:
    assert unit_after("arms.dense.conditions", lambda _: _told(QUIET)) == [NO_BLOCK]
    assert unit_after("arms.dense.conditions", lambda _: _told(QUIET, QUIET)) == []


def test_units_are_timed_by_one_clock() -> None:
    units = [
        edit(unit, "clock", clock) for unit, clock in zip(make_units(6, {}), "fdbace", strict=True)
    ]
    assert impossible(units) == ["units were timed by different clocks (a; b; c; d; e; f)"]
    assert impossible(units[:2]) == ["units were timed by different clocks (d; f)"]
    assert impossible(units[:1] * 2) == []


def test_units_are_read_as_they_were_written() -> None:
    """The control's name is part of the file format; a fault names the file that it is in."""
    units = make_units(2, {"dense": 1.0})
    assert list(units[0].arms) == ["candidate", "dense", "control"]
    assert decode_units(canonical(units)) == units
    with pytest.raises(DocumentError, match=r"^units"):
        decode_units(b"{}")
    with pytest.raises(DocumentError, match=r"^latency/cpu\.json"):
        decode_units(b"{}", name="latency/cpu.json")


def test_what_evidence_leaves_out_is_unknown() -> None:
    """Not a first use, no newer examples, no warnings, no overrides."""
    told = {
        name: getattr(GOOD, name)
        for name in Evidence.__struct_fields__
        if name not in ("uses", "champion_newest", "contract", "waivers")
    }
    bare = Evidence(**told)
    assert (bare.uses, bare.champion_newest, bare.contract, bare.waivers) == (0, None, (), ())
    assert problems(bare) == []
    words = judge(bare, policy()).notes[0]
    assert words == "Nobody knows how often this eval split has been judged on."


def test_each_reason_is_told_once() -> None:
    units = [edit(unit, "process", -1) for unit in make_units(3, {"dense": 1.0})]
    units[2] = edit(units[2], "load", -1.0)
    assert impossible(units) == [NUMBER, NO_LOAD]


# --- units that cannot be judged -----------------------------------------------------------------


def of_units(
    change: Callable[[Any], Any], arms: Sequence[str] = ("candidate", "dense")
) -> list[str]:
    return unit_problems(change(make_units(3, {"dense": 1.0})), arms)


def test_units_that_cannot_be_judged() -> None:
    assert of_units(lambda units: units) == []
    assert of_units(lambda _: ()) == []
    order = ["units are missing, doubled or out of order"]
    assert of_units(lambda units: units[1:]) == order
    assert of_units(lambda units: (units[0], units[0], units[2])) == order
    assert of_units(lambda units: units, ("candidate", "dense", "champion", "anchor", "x")) == [
        "a unit has no times of the anchor",
        "a unit has no times of the champion",
        "a unit has no times of x",
    ]
    assert of_units(lambda units: edit(units, "1.arms", without("dense"))) == [
        "a unit has no times of the dense model"
    ]
    strange = dict.fromkeys("fdbace")
    added = of_units(
        lambda units: edit(
            units, "2.arms", lambda old: {**dict.fromkeys(strange, old["dense"]), **old}
        )
    )
    assert added == [f"a unit has times of '{name}', which is not judged" for name in "abcdef"]
    blocks = "1.arms.dense.blocks_ns"
    assert of_units(lambda units: edit(units, blocks, ())) == ["a block holds no calls"]
    assert of_units(lambda units: edit(units, blocks, ((1,), ()))) == ["a block holds no calls"]
    assert of_units(lambda units: edit(units, blocks, ((1,), (1, 0)))) == [
        "a call took no time, or less"
    ]
    assert of_units(lambda units: edit(units, blocks, ((1,), (1, 1)))) == []
    turn = of_units(lambda units: edit(units, "1.arms.dense.build", 1))
    assert turn == ["the arms of a unit ran different builds"]
    told = of_units(lambda units: edit(units, "1.arms.dense.conditions", _told(QUIET, QUIET)))
    assert told == ["the conditions of some blocks are missing"]


# --- memory --------------------------------------------------------------------------------------

MEMORY = policy(memory={"vs_parent": {"max_ratio": 0.9}, "vs_anchor": {}})
ARMS = ("candidate", "dense", "champion")


def memory(peaks: Any, rules: Policy = MEMORY) -> list[str]:
    target = edit(GOOD.targets[0], "memory", lambda _: peaks)
    return list(memory_problems(target, rules, ARMS))


def test_memory_that_a_rule_needs() -> None:
    assert memory({"candidate": (5,), "dense": (5,)}) == []
    assert memory({"candidate": (5,)}) == ["The memory of the dense model on cpu was not measured."]
    assert memory({"dense": (5,)}) == ["The memory of the candidate on cpu was not measured."]
    assert memory({}, policy()) == []
    assert memory({"candidate": (), "dense": (5,)}) == [
        "The memory of the candidate on cpu was not measured.",
        "The memory of 'candidate' on cpu is of no arm, or of no process.",
    ]


def test_memory_that_cannot_be() -> None:
    good = {"candidate": (5,), "dense": (5,)}
    assert memory({**good, "x": (5,)}) == [
        "The memory of 'x' on cpu is of no arm, or of no process."
    ]
    assert memory({**good, "champion": ()}) == [
        "The memory of 'champion' on cpu is of no arm, or of no process."
    ]
    assert memory({**good, "champion": (1, 2**60 - 1)}) == []
    assert memory({**good, "champion": (9, 0)}) == [
        "A process of the champion on cpu took no memory, or less."
    ]
    assert memory({**good, "champion": (9, 2**60)}) == [
        "A process of the champion on cpu took memory that no machine has."
    ]
    missing = edit(GOOD, "targets.0.memory", {})
    assert problems(missing, MEMORY)[0] == "The memory of the candidate on cpu was not measured."


# --- examples ------------------------------------------------------------------------------------


def test_examples_that_can_be_judged() -> None:
    assert "There are no judged examples." in after("quality.ids", ())
    assert after("quality.ids", lambda old: (old[1], *old[1:])) == [
        "An example was judged twice: its id is doubled."
    ]
    assert after("quality.slices.light", lambda old: old[1:]) == [
        "The slices 'light' name 39 examples of 40."
    ]
    assert after("quality.sources", ("x",) * 39) == ["The sources name 39 examples of 40."]
    assert after("quality.sources", ("x",) * 40) == []
    assert after("quality.times", ("x",) * 40) == []
    assert after("quality.times", ("x",) * 39) == ["The times name 39 examples of 40."]
    # One family's value contains the other's name, so both read 'a=b=c'.
    alike = {"a": ("b=c",) * 40, "a=b": ("c",) * 40}
    assert after("quality.slices", lambda _: alike) == ["Two slices have the same name."]
    assert after("quality", lambda _: edit(GOOD.quality, "ids", ()), policy(quality={})) == []


def test_no_examples_are_no_other_fault() -> None:
    empty = make_quality({key: {"correct": ()} for key in GOOD.quality.arms})
    assert after("quality", lambda _: empty) == ["There are no judged examples."]


EMPTY = "An example's id, source or time is empty."


def test_examples_are_named() -> None:
    assert after("quality.ids", lambda old: ("", *old[1:])) == [EMPTY]
    assert after("quality.sources", ("",) + ("x",) * 39) == [EMPTY]
    assert after("quality.times", ("x",) * 39 + ("",)) == [EMPTY]


CORRECT = "quality.arms.champion@cpu.columns.correct"


def test_columns_hold_a_number_for_each_example() -> None:
    assert after(CORRECT, lambda old: old[1:]) == [
        "The records champion@cpu/correct hold 39 examples of 40."
    ]
    large = ["The records champion@cpu/correct hold numbers too large to be summed exactly."]
    for value, words in ((EXACT - 1, []), (EXACT, large), (-EXACT, large), (1 - EXACT, [])):
        assert after(CORRECT, lambda old, value=value: (value, *old[1:])) == words


# --- what the rules need -------------------------------------------------------------------------


def test_records_that_the_rules_need() -> None:
    assert after("quality.arms", without("dense")) == ["There are no records of dense."]
    assert after("quality.arms", without("candidate@cpu")) == [
        "There are no records of candidate@cpu."
    ]
    assert after("quality.arms", without("champion@cpu")) == []
    champion = policy(quality={"accuracy": {"vs_champion": MARGIN}})
    assert after("quality.arms", without("champion@cpu"), champion) == [
        "There are no records of champion@cpu."
    ]
    assert after("quality.arms", without("dense"), champion) == []
    sliced = policy(quality={"accuracy": {"floor": 0.5, "slices": {}}})
    assert after("quality.arms", without("dense"), sliced) == ["There are no records of dense."]
    floor = policy(quality={"accuracy": {"floor": 0.5}})
    assert after("quality.arms", without("dense"), floor) == []


def test_missing_records_are_named_in_their_order() -> None:
    targets = "fdbace"
    rules = policy(targets=dict.fromkeys(targets, "required"))
    bare = edit(evidence(targets=dict.fromkeys(targets, 0.5)), "quality.arms", lambda _: {})
    keys = [*(f"candidate@{target}" for target in "abcdef"), "dense"]
    assert problems(bare, rules) == [f"There are no records of {key}." for key in keys]


def test_agreement_needs_the_dense_model() -> None:
    """Whoever agrees with nobody cannot be judged by it."""
    metrics, _ = find_metrics(policy(quality={"agreement": {"floor": 0.5}}))
    rules = policy(quality={"agreement": {"floor": 0.5}})
    columns = dict.fromkeys(metrics["agreement"].columns, (1,) * 40)
    quality = make_quality({"candidate@cpu": columns})
    found = list(find_problems(edit(GOOD, "quality", quality), rules, metrics))
    assert found[0] == "There are no records of dense."
    assert len(found) == 2
    assert found[1].endswith("cannot be compared with the dense model's.")
    both = make_quality({"candidate@cpu": columns, "dense": columns})
    assert list(find_problems(edit(GOOD, "quality", both), rules, metrics)) == []


def test_slice_rules_need_slices() -> None:
    sliced = policy(quality={"accuracy": {"vs_parent": MARGIN, "slices": {}}})
    assert after("quality.slices", lambda _: {}, sliced) == [
        "The policy judges slices of accuracy, and the examples have none: declare slices in the "
        "task, or take them out of the policy."
    ]
    assert after("quality.slices", lambda _: {}) == []
    assert problems(evidence(), sliced) == []


def test_metrics_that_cannot_be_had() -> None:
    """The others are still had; a floor under what should be little makes no sense."""
    rules = policy(
        quality={"nonsense": {"floor": 0.5}, "accuracy": {"floor": 0.5}, "mae": {"floor": 0.5}}
    )
    metrics, words = find_metrics(rules)
    assert sorted(metrics) == ["accuracy", "mae"]
    assert words[0].startswith("The policy's metric 'nonsense' cannot be had:")
    # One sentence: whoever raises it adds what to do, once.
    assert "\n" not in words[0]
    assert "use one of: accuracy" in words[0]
    assert words[1:] == ["A floor makes no sense for mae, of which less is better."]
    assert find_metrics(policy(quality={"mae": {"vs_parent": MARGIN}}))[1] == []


# --- one metric's records ------------------------------------------------------------------------


def of_metric(
    metric: Metric,
    columns: Mapping[str, Mapping[str, Sequence[int]]],
    sources: Sequence[str] | None = None,
) -> list[str]:
    quality = make_quality(columns, sources=sources)
    return list(metric_problems("m", metric, sorted(columns), quality))


def ratio(*parts: tuple[int, int], sources: Sequence[str] | None = None) -> str:
    columns = {"numerator": [n for n, _ in parts], "denominator": [d for _, d in parts]}
    return "".join(of_metric(SHARE, {"x": columns}, sources))


def test_columns_that_a_metric_needs() -> None:
    assert of_metric(SHARE, {"x": {"other": (1,)}}) == [
        "m needs the column numerator, denominator, which x has not recorded."
    ]
    assert of_metric(ACCURACY, {"x": {"correct": (1, 0)}}) == []
    assert of_metric(ACCURACY, {"x": {"correct": (1, 2)}}) == [
        "The records of x for m hold other numbers than 0 and 1 as correct."
    ]
    unchecked = Metric(columns=("correct",), form="binary")
    for bad in ((1, 2), (-1, 0)):
        assert of_metric(unchecked, {"x": {"correct": bad}}) == [
            "The records of x for m hold other numbers than 0 and 1."
        ]


def test_shares_that_can_be() -> None:
    assert ratio((0, 1), (1, 1), (0, 0)) == ""
    outside = "The records of x for m hold a numerator below 0 or above its denominator."
    assert ratio((-1, 1), (1, 1)) == outside
    assert ratio((2, 1), (1, 1)) == outside
    assert ratio((0, 0), (0, 0)) == "The records of x for m have no denominator above 0."


def test_sums_stay_exact_however_examples_are_drawn() -> None:
    """The largest, or the largest source, as often as there are any."""
    large = "The records of x for m are too large to be summed exactly."
    half = EXACT // 2
    assert ratio((0, half - 1), (0, 1)) == ""
    assert ratio((0, half), (0, 1)) == large
    third = EXACT // 4
    of_two = ("a", "a", "b")
    assert ratio((0, third - 1), (0, third), (0, 1), sources=of_two) == ""
    assert ratio((0, third), (0, third), (0, 1), sources=of_two) == large
    assert ratio((0, third), (0, 1), (0, third), sources=of_two) == ""


COUNT = Metric(
    columns=("value",),
    form="statistic",
    statistic=lambda columns, rows: (
        lambda weights: np.full(
            weights.shape[-1], columns["value"].max() if columns["value"].max() > 0 else math.nan
        )
    ),
)


def test_statistics_must_be_defined_and_exact() -> None:
    assert of_metric(COUNT, {"x": {"value": (0, 1)}}) == []
    assert of_metric(COUNT, {"x": {"value": (0, 0)}}) == [
        "The records of x for m leave it undefined on these examples."
    ]
    whole = 8192  # times as many sources: MOST_WEIGHT
    assert whole * whole == MOST_WEIGHT
    sources = ["all"] * whole + [f"s{place}" for place in range(whole)]
    values = {"x": {"value": (1,) * len(sources)}}
    assert of_metric(COUNT, values, sources) == [
        "The records of x for m are too many to be summed exactly."
    ]
    assert of_metric(COUNT, {"x": {"value": values["x"]["value"][:-1]}}, sources[:-1]) == []
    assert of_metric(COUNT, values) == []


def test_truths_are_the_same_for_all_arms() -> None:
    """What is true of an example is not the model's."""

    def tables(**labels: Sequence[int]) -> dict[str, dict[str, Sequence[int]]]:
        return {key: {"correct": (1, 1), "label": value} for key, value in labels.items()}

    words = (
        "The column label of m tells the examples, not the model, and yet it differs between a and"
    )
    derived = Metric(
        columns=("correct", "label"),
        form="binary",
        truths=("label",),
        derive=lambda columns, _dense: np.stack([columns["correct"]]),
    )
    assert of_metric(derived, tables(a=(1, 2), b=(1, 2), c=(1, 2))) == []
    assert of_metric(derived, tables(a=(1, 2), b=(1, 3), c=(1, 2))) == [f"{words} b."]
    assert of_metric(derived, tables(a=(1, 2), b=(1, 2), c=(1, 3))) == [f"{words} c."]
