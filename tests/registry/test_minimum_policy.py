"""The promoter's minimum: whatever is weaker than it is named, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.documents import decode_yaml
from reprune.core.policy import Policy
from reprune.steps.minimum_policy import at_least

FULL = """
targets: {ort-cpu: required, jetson: advisory}
alpha: 0.05
looks: [8, 15, 30]
latency:
  vs_parent: {max_ratio: 0.9}
  vs_champion: {max_ratio: 1.05}
  vs_anchor: {max_ratio: 1.1}
  tail:
    percentile: 95
    units: 60
    vs_parent: {max_ratio: 1.0}
    vs_champion: {max_ratio: 1.1}
    vs_anchor: {max_ratio: 1.2}
  objective: {max_ms: 20.0, percentile: 90, units: 60}
throughput: {vs_parent: {min_ratio: 1.1}, vs_champion: {min_ratio: 0.9}, vs_anchor: {min_ratio: 0.8}}
memory:
  vs_parent: {max_ratio: 0.9}
  vs_champion: {max_ratio: 1.05}
  vs_anchor: {max_ratio: 1.1}
  ceiling_bytes: 5000000
guards: {control: true, max_waiting: 0.2, max_disturbed: 0.4, max_clock_change: 2.0, max_interval: 1.4}
eval: {max_uses: 15}
on_inconclusive: block
quality:
  accuracy:
    vs_parent: {max_drop: 0.02, max_error_ratio: 1.25}
    vs_champion: {max_drop: 0.02, max_error_ratio: 1.25}
    vs_anchor: {max_drop: 0.02, max_error_ratio: 1.25}
    floor: 0.9
    slices: {max_drop: 0.05, min_examples: 30, required: [night]}
size: {vs_parent: {max_ratio: 0.8}, vs_champion: {max_ratio: 1.05}, ceiling_bytes: 1000000}
parity: {max_abs: 0.001, min_cosine: 0.999, min_agreement: 0.99}
valid_for_days: 14.0
"""
MINIMUM = decode_yaml(FULL, Policy, name="minimum")
STRICTER_WHEN_HIGHER = {
    "floor",
    "min_cosine",
    "min_agreement",
    "min_ratio",
    "looks",
    "units",
    "percentile",
}
WORDS = {"on_inconclusive": ("hold", "block"), "mode": ("enforce", "dry-run")}  # weaker, stricter
IGNORED = {"schema"}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    return value | {path[0]: replaced(value[path[0]], path[1:], new)}


TREE: dict[str, Any] = msgspec.to_builtins(MINIMUM)
LEAVES = [(path, value) for path, value in leaves(TREE) if path[-1] not in IGNORED]
WITH_LIMIT = [
    (path, value)
    for path, value in LEAVES
    if isinstance(value, float | int) and not isinstance(value, bool) and path[-1] != "percentile"
]


def moved(path: tuple[Any, ...], value: Any, *, weaker: bool) -> Any:
    """The tree with one leaf made weaker or stricter."""
    if path[0] == "targets":
        other = {"required": "advisory", "advisory": "required"}[value]
        return replaced(TREE, path, other) if weaker == (value == "required") else TREE
    return replaced(TREE, path, shifted(path, value, weaker=weaker))


def shifted(path: tuple[Any, ...], value: Any, *, weaker: bool) -> Any:
    """The leaf at `path`, made weaker or stricter."""
    up = (path[-1] in STRICTER_WHEN_HIGHER) != weaker
    if path[-1] in WORDS:
        new: Any = WORDS[path[-1]][not weaker]
    elif path[-1] == "required":
        new = [] if weaker else [*value, "rain"]
    elif path == ("latency", "tail", "percentile"):
        new = 90 if weaker else value  # no other percentile is stricter
    elif path[-1] == "percentile":
        new = 95 if up else 50
    elif path[-1] == "looks":
        new = [look + (1 if up else -1) for look in value]
    elif isinstance(value, bool):
        new = not weaker
    elif isinstance(value, int):
        new = value + (1 if up else -1)
    else:
        new = value * (1.0005 if up else 0.9995)
    return new


def decoded(tree: Any) -> Policy:
    return msgspec.convert(tree, Policy)


def test_a_policy_is_at_least_itself() -> None:
    """The minimum meets itself."""
    assert at_least(MINIMUM, MINIMUM) == []


@pytest.mark.parametrize(("path", "value"), LEAVES, ids=lambda v: str(v)[:60])
def test_every_leaf_counts(path: tuple[Any, ...], value: Any) -> None:
    """Each number and word of the policy, made a little weaker, is reported; made stricter, it is not.

    A field that is added to the policy and forgotten in the comparison fails here.
    """
    weaker = moved(path, value, weaker=True)
    if weaker != TREE:
        name = ".".join(path).replace("looks", "looks (the first)")
        found = at_least(decoded(weaker), MINIMUM)
        assert any(words.startswith(f"{name} ") for words in found), (path, found)
    stricter = moved(path, value, weaker=False)
    if path == ("alpha",):
        # Of slices a smaller alpha demands less.
        assert at_least(decoded(stricter), MINIMUM) == ["alpha is 0.049975, less than 0.05"]
        unsliced = without(TREE, ("quality", "accuracy", "slices"))
        assert at_least(decoded(stricter), decoded(unsliced)) == []
    else:
        assert at_least(decoded(stricter), MINIMUM) == [], path


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from nodes(inner, (*path, key))


OPTIONAL = [
    path
    for path in nodes(TREE)
    if path[0] in ("latency", "throughput", "memory", "quality", "size", "targets")
    and path[-1] not in ("max_ratio", "min_ratio")
]


def without(value: Any, path: tuple[Any, ...]) -> Any:
    if len(path) == 1:
        return {key: inner for key, inner in value.items() if key != path[0]}
    return value | {path[0]: without(value[path[0]], path[1:])}


@pytest.mark.parametrize("path", OPTIONAL, ids=str)
def test_a_rule_left_out_is_weaker(path: tuple[Any, ...]) -> None:
    """Deleting any rule is reported, unless its default is as strict as the minimum."""
    try:
        found = decoded(without(TREE, path))
    except msgspec.ValidationError:
        return
    if msgspec.to_builtins(found) == TREE:
        return
    stricter_default = (
        path[-1] in ("max_drop", "max_error_ratio", "percentile") and at_least(found, MINIMUM) == []
    )
    assert at_least(found, MINIMUM) or stricter_default, path


@pytest.mark.parametrize(
    ("minimum", "found", "words"),
    [
        ({"mode": "dry-run"}, {}, "mode is enforce, not dry-run"),
        ({}, {"mode": "dry-run"}, ""),
        ({"guards": {}}, {"guards": {"control": False}}, "guards.control is off"),
        ({}, {"guards": {"max_waiting": None}}, "guards.max_waiting is missing"),
        ({"guards": {"max_waiting": None}}, {"guards": {"max_waiting": 0.9}}, ""),
        ({"guards": {"control": False}}, {"guards": {"control": False}}, ""),
        ({}, {"latency": TREE["latency"] | {"tail": None}}, "latency.tail is missing"),
        ({}, {"latency": TREE["latency"] | {"objective": None}}, "latency.objective is missing"),
        ({}, {"throughput": None}, "throughput.vs_parent.min_ratio is missing"),
        ({}, {"memory": None}, "memory.vs_parent.max_ratio is missing"),
    ],
)
def test_the_words_of_what_is_weaker(
    minimum: dict[str, Any], found: dict[str, Any], words: str
) -> None:
    """A dry run is never weaker, for it promotes nothing; a guard that is off is, where it is wanted."""
    weaker = at_least(decoded(TREE | found), decoded(TREE | minimum))
    assert weaker == [] if not words else words in weaker


def test_what_is_weaker_is_told_in_a_fixed_order() -> None:
    """By name, whatever order the files have: the same policy is refused in the same words."""
    metrics = {name: {"floor": 0.9} for name in ("top5", "accuracy", "iou")}
    minimum = decoded(TREE | {"quality": metrics})
    poor = decoded(TREE | {"quality": {}, "targets": {"other": "required"}})
    assert at_least(poor, minimum) == [
        "targets.jetson is missing, not advisory",
        "targets.ort-cpu is missing, not required",
        "quality.accuracy.floor is missing",
        "quality.iou.floor is missing",
        "quality.top5.floor is missing",
    ]
    slices = TREE["quality"]["accuracy"]["slices"] | {"required": ["night", "fog", "rain", "day"]}
    wanted = replaced(TREE, ("quality", "accuracy", "slices"), slices)
    assert at_least(MINIMUM, decoded(wanted)) == [
        f"quality.accuracy.slices.required lacks '{each}'" for each in ("day", "fog", "rain")
    ]


def test_parity_is_compared_for_each_precision() -> None:
    """The bounds of one precision are its own: what another has does not stand in for it."""
    parity = {"max_abs": 0.001, "min_cosine": 0.9, "min_agreement": 0.9}
    minimum = decoded(TREE | {"parity": parity | {"by_precision": {"int8": parity}}})
    for field, other in (("max_abs", 0.1), ("min_cosine", 0.5), ("min_agreement", 0.5)):
        weak = parity | {"by_precision": {"int8": parity | {field: other}}}
        (words,) = at_least(decoded(TREE | {"parity": weak}), minimum)
        assert words.startswith(f"parity.by_precision.int8.{field} is {other:g}")
        weak = parity | {field: other, "by_precision": {"int8": parity}}
        found = at_least(decoded(TREE | {"parity": weak}), minimum)
        assert [words for words in found if "int8" in words] == []
        assert len([words for words in found if words.startswith(f"parity.{field} ")]) == 1
    loose = decoded(TREE | {"parity": parity | {"max_abs": None}})
    assert "parity.max_abs is missing" in at_least(loose, minimum)
    assert at_least(loose, loose) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("quality", "accuracy", "floor"), None),
        (("quality", "accuracy", "slices"), None),
        (("quality", "accuracy", "vs_parent", "max_error_ratio"), None),
        (("memory", "ceiling_bytes"), None),
        (("size", "ceiling_bytes"), None),
        (("latency", "tail"), None),
        (("latency", "objective"), None),
        (("latency",), None),
        (("throughput",), None),
        (("memory",), None),
        (("size",), None),
        (("quality", "accuracy"), {"floor": 0.9}),
        (("quality",), {"accuracy": {"floor": 0.9}, "iou": {"floor": 0.5}}),
    ],
    ids=str,
)
def test_what_the_minimum_does_not_ask_for_may_be_missing(
    path: tuple[Any, ...], value: Any
) -> None:
    """Of a minimum without a rule, nothing is missing: not in a policy without it, nor in one with it."""
    tree = TREE if path == ("quality",) else replaced(TREE, path, value)
    little = decoded(tree)
    assert at_least(little, little) == []
    if path != ("quality",):
        assert at_least(MINIMUM, little) == []


def test_another_percentile_is_another_demand() -> None:
    """p99 of a ratio is not stricter than p95 of it, and not weaker: it is refused."""
    other = replaced(TREE, ("latency", "tail", "percentile"), 99)
    assert at_least(decoded(other), MINIMUM) == ["latency.tail.percentile is 99, not 95"]


def test_more_rules_are_not_weaker() -> None:
    """A minimum that asks for little is met by a policy that asks for more."""
    little = decode_yaml(
        "targets: {ort-cpu: advisory}\nquality: {accuracy: {floor: 0.5}}\nalpha: 0.1\n"
        "parity: {max_abs: 1, min_cosine: 0.5, min_agreement: 0.5}\nlooks: [5]\n"
        "eval: {max_uses: 100}\nguards: {control: false, max_disturbed: 0.9}\n",
        Policy,
        name="little",
    )
    assert at_least(MINIMUM, little) == []
    assert at_least(little, MINIMUM)


@given(st.lists(st.sampled_from(WITH_LIMIT), min_size=1, unique_by=lambda item: item[0]))
def test_weaker_stays_weaker_in_company(chosen: list[tuple[tuple[Any, ...], Any]]) -> None:
    """However many limits are weakened at once, none of them hides another."""
    tree = TREE
    for path, value in chosen:
        whole = moved(path, value, weaker=True)
        for key in path:
            whole = whole[key]
        tree = replaced(tree, path, whole)
    assert len(at_least(decoded(tree), MINIMUM)) >= len(chosen)
