"""What YAML lets pass and no document means: told with the line and what to do, never with a traceback."""

from __future__ import annotations

import time

import pytest

from reprune.core.documents import Document, decode_yaml, digest_of
from reprune.core.errors import DocumentError
from reprune.core.lock import DenseRef, Lock
from reprune.core.overrides import Overrides
from reprune.core.params import Params
from reprune.core.policy import Policy

GOOD = "name: a\ntask: task.digits:DigitsTask\n"


def refusal(text: str | bytes, kind: type = Params) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        decode_yaml(text, kind, name="p")
    return caught.value


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("name: {{ model }}\n", "p:1 (name)", "where a key is expected"),
        ("a: 1\n? [a]\n: b\n", "p:2", "where a key is expected"),
        ("a: 1\nexpires: 2026-02-30\n", "p:2 (expires)", "'2026-02-30' looks like a date"),
        ("expires: 2026-13-01\n", "p:1 (expires)", "looks like a date and is none"),
        ("a: [1, !!int abc]\n", "p:1 (a.1)", "'abc' looks like a whole number"),
        ("a: !!int ''\n", "p:1 (a)", "looks like a whole number"),
        ("a: !!float x\n", "p:1 (a)", "looks like a number"),
        ("a: !!bool abc\n", "p:1 (a)", "looks like true or false"),
        ("a: !!timestamp abc\n", "p:1 (a)", "looks like a date"),
        ("a: 2001-01-01 00:00:00 +99:99\n", "p:1 (a)", "looks like a date"),
        ("2026-02-30: a\n", "p:1 (2026-02-30)", "looks like a date"),
        (f"a: {'1' * 5000}\n", "p:1 (a)", f"'{'1' * 40}...' looks like a whole number"),
        ('a: "\\UFFFFFFFF"\n', "p", "is not valid YAML"),
        (f"%YAML {'1' * 5000}.1\n--- a\n", "p", "is not valid YAML"),
        ("{&x a: *x}\n", "p:1", "uses a YAML alias"),
    ],
)
def test_yaml_that_means_nothing_is_refused_where_it_stands(
    text: str, where: str, what: str
) -> None:
    """Whoever goes on without such a file (a sweep, a look at an old lock) waits for a DocumentError."""
    for kind in (Lock, Overrides, dict):
        error = refusal(text, kind)
        assert error.where.startswith(where)
        assert what in error.what
        assert error.exit_code == 2


def test_what_to_do_about_yaml_that_means_nothing() -> None:
    assert "{{ ... }}" in refusal("name: {{ model }}\n").fix
    assert refusal("a: 2026-02-30\n").fix == "correct it, or put it in quotes if it is text"


def test_a_number_to_the_base_60_takes_no_minutes() -> None:
    """A stranger's file of a megabyte of them did: what they take grows with the square of the length."""
    began = time.monotonic()
    assert "whole number" in refusal("a: 1" + ":1" * 450_000, Lock).what
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "1.0e+999", "1e999"])
@pytest.mark.parametrize(
    ("place", "kind", "path"),
    [
        ("distill: {bar: %s}\n", Params, "distill.bar"),
        ("sensitivity:\n  cuts: [%s]\n", Params, "sensitivity.cuts.0"),
        ("latency: {vs_parent: {max_ratio: %s}}\n", Policy, "latency.vs_parent.max_ratio"),
    ],
)
def test_a_number_without_end_is_refused(text: str, place: str, kind: type, path: str) -> None:
    """Canonical JSON writes null for one, which nobody can read back as the number that it was."""
    error = refusal(place % text, kind)
    assert error.what == f"'{text}' is no finite number"
    assert error.where.endswith(f"({path})")
    assert error.fix == "write a number, or leave the key out"


class Loose(Document):
    limit: float | None = None
    text: str = ""


def test_what_may_stand_in_the_place_of_a_number_without_end() -> None:
    assert refusal("limit: .inf\n", Loose).fix == "write a number, write null, or leave the key out"
    assert "put it in quotes if it is text" in refusal("text: .inf\n", Loose).fix
    assert decode_yaml("text: '.inf'\n", Loose, name="p").text == ".inf"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E-3", 0.001),
        ("1e3", 1000.0),
        ("1.5e2", 150.0),
        ("+.5", 0.5),
        ("5.", 5.0),
    ],
)
def test_a_number_is_one_however_it_is_written(text: str, value: float) -> None:
    """As in YAML 1.2; in that of 1.1, which PyYAML reads, a power of ten needs a dot and a sign."""
    params = decode_yaml(GOOD + f"distill: {{learning_rate: {text}}}\n", Params, name="p")
    assert params.distill.learning_rate == value
    plain = decode_yaml(GOOD + f"distill: {{learning_rate: {value!r}}}\n", Params, name="p")
    assert digest_of(params) == digest_of(plain)


def test_a_number_is_one_in_lists_mappings_and_where_it_may_be_left_out() -> None:
    text = "generations: {latency_tolerance: 1e-1}\nsensitivity: {cuts: [25e-2]}\nplan: {floors: {a: 1e-2}}\n"
    params = decode_yaml(GOOD + text, Params, name="p")
    assert params.generations.latency_tolerance == 0.1  # type: ignore[union-attr]
    assert params.sensitivity.cuts == (0.25,)
    assert params.plan.floors == {"a": 0.01}


def test_a_power_of_ten_is_no_whole_number() -> None:
    """And the words are about numbers."""
    error = refusal(GOOD + "distill: {epochs: 1e1}\n")
    assert error.what == "Expected `int`, got `float`"
    assert error.fix == "use a whole number of at least 0 and of at most 10000"


def test_text_that_looks_like_a_number_stays_text() -> None:
    """Locks written before have such versions without quotes; their digests may not change."""
    for written in ("1e3", "'1e3'", '"1e3"'):
        text = f"version: {written}\nweights: sha256:{'0' * 64}\n"
        assert decode_yaml(text, DenseRef, name="p").version == "1e3"
    options = "targets: {a: {options: {scale: 1e-3, one: 1.0}}}\n"
    read = decode_yaml(GOOD + options, Params, name="p").targets["a"].options
    assert read == {"scale": "1e-3", "one": 1.0}
    assert decode_yaml("[1e3, 'a']", list, name="p") == ["1e3", "a"]
    quoted = refusal(GOOD + "distill: {weight_decay: '1e-3'}\n")
    assert "got `str`" in quoted.what
