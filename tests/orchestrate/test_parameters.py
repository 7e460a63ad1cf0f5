"""A wrong parameter is found before anything is sent, and named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.errors import DocumentError, InputError
from reprune.orchestrate.parameters import MAX_TEXT_BYTES, check_parameters, read_parameter

SAMPLES: dict[str, list[Any]] = {
    "STRING": ["", "text", "15"],
    "NUMBER_INTEGER": [0, -3, 2**53],
    "NUMBER_DOUBLE": [15, 0.5, -1e300],
    "BOOLEAN": [True, False],
    "LIST": [[], [1, "a", {"b": [None]}]],
    "STRUCT": [{}, {"a": {"b": [1.5, True]}}],
}


def spec(**parameters: dict[str, Any]) -> dict[str, Any]:
    return {"root": {"inputDefinitions": {"parameters": parameters}}}


NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
VALUES = {
    "STRING": TEXTS,
    "NUMBER_INTEGER": st.integers(-(2**53), 2**53),
    "NUMBER_DOUBLE": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-1000, 1000),
    "BOOLEAN": st.booleans(),
    "LIST": st.lists(PLAIN, max_size=3),
    "STRUCT": st.dictionaries(TEXTS, PLAIN, max_size=3),
}


@st.composite
def declared_and_given(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A package, and values of the right types for all that it needs and some that it does not."""
    parameters: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name in draw(st.sets(NAMES, max_size=5)):
        kind = draw(st.sampled_from(sorted(VALUES)))
        about: dict[str, Any] = {"parameterType": kind}
        spare = draw(st.booleans())
        if spare:
            about |= draw(st.sampled_from([{"isOptional": True}, {"defaultValue": 1}]))
        parameters[name] = about
        if not spare or draw(st.booleans()):
            values[name] = draw(VALUES[kind])
    return spec(**parameters), values


@pytest.mark.slow
@settings(deadline=None)
@given(declared_and_given())
def test_what_fits_is_sent_as_it_is(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Right values pass unchanged, survive JSON, and pass again: checking is idempotent."""
    package, values = case
    sent = check_parameters(package, values)
    assert sent == values
    assert [type(each) for each in sent.values()] == [type(each) for each in values.values()]
    assert json.loads(json.dumps(sent, allow_nan=False)) == sent
    assert check_parameters(package, sent) == sent


@pytest.mark.slow
@settings(deadline=None)
@given(declared_and_given(), st.data())
def test_a_missing_or_unknown_one_is_named(
    case: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    """Whatever else is right, one needed value less or one unknown name more is refused by name."""
    package, values = case
    parameters = package["root"]["inputDefinitions"]["parameters"]
    needed = [name for name in values if set(parameters[name]) == {"parameterType"}]
    if needed:
        gone = data.draw(st.sampled_from(sorted(needed)))
        with pytest.raises(InputError, match=f"needs the parameter '{gone}'"):
            check_parameters(package, {key: values[key] for key in values if key != gone})
    with pytest.raises(InputError, match="no parameter 'unheard-of'"):
        check_parameters(package, {**values, "unheard-of": 1})


@pytest.mark.parametrize("kind", sorted(SAMPLES))
@pytest.mark.parametrize("of", sorted(SAMPLES))
def test_every_type_against_every_other(kind: str, of: str) -> None:
    """Only a whole number may stand for another type, a number; true is no number."""
    package = spec(x={"parameterType": kind})
    for value in SAMPLES[of]:
        fits = kind == of or (kind, of) == ("NUMBER_DOUBLE", "NUMBER_INTEGER")
        if kind == "NUMBER_INTEGER" and of == "NUMBER_DOUBLE":
            fits = isinstance(value, int)
        if fits:
            assert check_parameters(package, {"x": value}) == {"x": value}
        else:
            with pytest.raises(InputError, match="parameter 'x' is "):
                check_parameters(package, {"x": value})


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("NUMBER_DOUBLE", float("nan"), "the number nan"),
        ("NUMBER_DOUBLE", float("inf"), "the number inf"),
        ("NUMBER_INTEGER", 2**53 + 1, "the integer"),
        ("LIST", [{"a": [2**60]}], "the integer"),
        ("STRUCT", {1: "a"}, "a key that is no text"),
        ("STRUCT", {"a": (1, 2)}, "a tuple"),
        ("STRING", "a\0b", "a character"),
        ("STRING", "\ud800", "a character"),
        ("STRUCT", {"a\0": 1}, "a character"),
    ],
)
def test_what_would_arrive_as_something_else_is_refused(kind: str, value: Any, says: str) -> None:
    """Kubeflow Pipelines carries numbers as doubles and texts as arguments of a process."""
    with pytest.raises(InputError, match=f"parameter 'x' holds {says}"):
        check_parameters(spec(x={"parameterType": kind}), {"x": value})


def test_texts_that_no_process_takes_are_refused() -> None:
    """All parameters of a task are one argument: together they have a limit, and the largest is named."""
    package = spec(small={"parameterType": "STRING"}, large={"parameterType": "STRING"})
    half = "x" * (MAX_TEXT_BYTES // 2)
    assert check_parameters(package, {"small": "x", "large": half})
    with pytest.raises(InputError, match="parameter 'large', the largest"):
        check_parameters(package, {"small": half, "large": half + "x"})


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"artifacts": {"model": {"artifactType": {}}}}, "needs the artifact 'model'"),
        ({"parameters": {"x": {"parameterType": "TASK_FINAL_STATUS"}}}, "type TASK_FINAL_STATUS"),
        ({"parameters": {"x": 3}}, "has the type None"),
        ({"parameters": []}, "is no object"),
    ],
)
def test_a_package_that_asks_for_more_is_refused(inputs: dict[str, Any], says: str) -> None:
    """What a submission cannot give is no default."""
    with pytest.raises(DocumentError, match=says):
        check_parameters({"root": {"inputDefinitions": inputs}}, {})


def test_a_name_that_is_nearly_right_is_named() -> None:
    """The nearest known one, and all of them."""
    package = spec(read_secret={"parameterType": "STRING", "defaultValue": "a"})
    with pytest.raises(InputError, match="did you mean 'read_secret'") as caught:
        check_parameters(package, {"read_secrets": "b"})
    assert "it has: read_secret" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("STRING", "15", "15"),
        ("NUMBER_DOUBLE", "15", 15),
        ("BOOLEAN", "true", True),
        ("LIST", '["a"]', ["a"]),
    ],
)
def test_a_word_on_a_command_line_becomes_a_value(kind: str, text: str, value: Any) -> None:
    """Text stays text; everything else is JSON, and nothing but JSON."""
    package = spec(x={"parameterType": kind})
    assert read_parameter(package, "x", text) == value
    if kind != "STRING":
        with pytest.raises(InputError, match="parameter 'x' is "):
            read_parameter(package, "x", "NaN")
