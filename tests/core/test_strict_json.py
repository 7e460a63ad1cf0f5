"""JSON that is not exactly JSON is refused: made from the grammar, rule by rule. What is valid is read."""

# ruff: noqa: E501 - tables

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.documents import MAX_DEPTH, decode_json, strict_json
from reprune.core.errors import DocumentError

# value = object / array / string / number / true / false / null, with white space around it.
WORDS = ["True", "TRUE", "tru", "truee", "False", "fals", "None", "nul", "nulll", "NULL", "undefined", "nan",
         "true false", "truetrue", "null,", ",null"]  # fmt: skip
NUMBERS = ["01", "00", "-01", "-", "+1", "--1", "1.", ".5", "-.5", "1.e3", "1e", "1e+", "1E-", "e1", "1e1.5",
           "1.2.3", "0x1F", "0b1", "0o7", "1_000", "1,000", "1 000", "Infinity", "-Infinity", "+Infinity",
           "NaN", "-NaN", "inf", "1e999", "-1e999", "1e99999999", "\u0661", "1f", "1L", "\u22121", "1/2",
           "9" * 5000]  # fmt: skip
STRINGS = ['"', '"a', 'a"', "'a'", '"a" "b"', '"\\"', '"\\x41"', '"\\u12"', '"\\u12G4"', '"\\U00000041"',
           '"\\\'"', '"\\a"', '"\\0"', '"\t"', '"\n"', '"\r"', '"\x00"', '"\x1f"', '"a\nb"', "`a`", "a",
           '"\\', '"\\u', '"""a"""', 'u"a"']  # fmt: skip
ARRAYS = ["[", "]", "[1", "1]", "[1,]", "[,1]", "[,]", "[1,,2]", "[1 2]", "[1;2]", "(1,2)", "[1}", "[[]",
          "[]]", "[1]x", "[1:2]", "[...]", "[1, # two\n2]", "[1, // two\n2]", "[/* */]", '["a",\n"b",]']  # fmt: skip
OBJECTS = ["{", "}", '{"a"', '{"a":', '{"a":1', '{"a":1,}', '{,"a":1}', '{"a" 1}', '{"a"=1}', '{"a"::1}',
           "{a:1}", "{'a':1}", "{1:1}", "{null:1}", '{"a":1 "b":2}', '{"a":1;"b":2}', '{"a","b"}', '{"a":}',
           "{:1}", '{"a":1}}', '{{"a":1}}', '{"a":1]', '{["a"]:1}', '{"a":1,"a":2}', '{"a":1,"a":1}',
           '{"b":{"a":1,"a":1}}', '{"a":1,"\\u0061":2}', '[{"a":1,"a":1}]', '{"":1,"":2}']  # fmt: skip
AROUND = ["", " ", "\n", "\ufeff1", "\ufeff{}", "1\x00", "\x001", "1\x0c", "\x0b1", "\u00a01", "1\u2028", "1 1",
          "{}{}", "[][]", "{} []", "1;", "//\n1", "#\n1", "/**/1", "<a/>", "---\na: 1", "a: 1", "%PDF"]  # fmt: skip
BYTES = [b"\xff", b'"\xff"', b'"\xc3"', b'"\xc3\x28"', b'"\xed\xa0\x80"', b'"\xf8\x88\x80\x80\x80"',
         b'"\xc0\x80"', b'"\xe0\x80\xaf"', b'"\xf4\x90\x80\x80"', '{"a":1}'.encode("utf-16"),
         '{"a":1}'.encode("utf-16-le"), '{"a":1}'.encode("utf-32"), b"\x80", b"\x1f\x8b\x08",
         b"PK\x03\x04", b"\x00" * 100]  # fmt: skip
DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65,
        b'[{"a":' * 33 + b"1" + b"}]" * 33, b"[" * 100_000 + b"]" * 100_000, b"[[]," * 65 + b"1" + b"]" * 65,
        b"[" * 50_000 + b"{" * 50_000]  # fmt: skip
REFUSED = (
    [text.encode() for text in WORDS + NUMBERS + STRINGS + ARRAYS + OBJECTS + AROUND] + BYTES + DEEP
)
READ: list[tuple[str, Any]] = [
    ("1", 1), (" 1 ", 1), ("\t\r\n1\n", 1), ("-0", 0), ("-0.0", -0.0), ("0", 0), ("1e3", 1000.0),
    ("1E-3", 0.001), ("1e-999", 0.0), ("1.5e+2", 150.0), ("true", True), ("false", False), ("null", None),
    ('""', ""), ('"\\u0041"', "A"), ('"\\ud83d\\ude00"', "\U0001f600"), ('"\U0001f600"', "\U0001f600"),
    ('"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\\/\b\f\n\r\t'), ('"\x7f"', "\x7f"), ('"\u2028"', "\u2028"), ("[]", []),
    ("[ ]", []), ("[1,[2,[3]]]", [1, [2, [3]]]), ("{}", {}), ("{ }", {}), ('{"a":{"a":1}}', {"a": {"a": 1}}),
    ('{"":1}', {"": 1}), ('{"a":1,"A":2}', {"a": 1, "A": 2}), ('"[[[[["', "[[[[["), ("9007199254740993", 2**53 + 1),
    ('{"a":"}"}', {"a": "}"}), ('"\\\\"', "\\"), ('["\\"[",1]', ['"[', 1]),
    ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None), ("[" + "[]," * 500 + "1]", None),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("raw", REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    """In our words, by both readers, whatever the library would make of it."""
    with pytest.raises(DocumentError):
        strict_json(raw, name="j")
    with pytest.raises(DocumentError):
        decode_json(raw, object, name="j")


@pytest.mark.parametrize(("text", "value"), READ, ids=range(len(READ)))
def test_what_is_json_is_read(text: str, value: Any) -> None:
    """With the value that it has."""
    found = strict_json(text.encode(), name="j")
    assert found == (json.loads(text) if value is None else value)


def test_the_table_is_long_enough() -> None:
    """At least a hundred malformed documents, each another one."""
    assert len(set(REFUSED)) == len(REFUSED) >= 100
    print(f"{len(REFUSED)} malformed documents, {len(READ)} well-formed")


def test_the_size_is_limited() -> None:
    """By what the reader says."""
    assert strict_json(b"[1,2]", name="j", max_bytes=5) == [1, 2]
    with pytest.raises(DocumentError, match="larger"):
        strict_json(b"[1,2] ", name="j", max_bytes=5)


@pytest.mark.parametrize(
    "raw",
    [b'"' + b'\\"' * 500_000, b'"' * 1_000_001, b'"' + b"\\" * 1_000_001, b"[" + b'"a",' * 300_000],
)
def test_looking_for_depth_takes_no_time(raw: bytes) -> None:
    """Linear in whatever it is given; squared it would take hours."""
    began = time.process_time()
    with pytest.raises(DocumentError):
        strict_json(b"[[" * 40 + raw, name="j")
    assert time.process_time() - began < 20.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.slow
@given(JSON)
def test_law_what_was_written_is_read(value: Any) -> None:
    """Any value comes back as it was, if it holds no half of a pair."""
    text = json.dumps(value)
    try:
        raw = text.encode()
        assert strict_json(raw, name="j") == value
    except DocumentError as error:  # pragma: no cover
        raise AssertionError(text) from error


@given(st.integers(0, 200), st.booleans())
def test_law_depth_is_counted_exactly(depth: int, objects: bool) -> None:
    """64 levels are read, 65 are not, whichever brackets they are of."""
    begin, end = (b'{"[":', b"}") if objects else (b"[", b"]")
    raw = begin * depth + b'"]}{["' + end * depth
    if depth <= MAX_DEPTH:
        strict_json(raw, name="j")
    else:
        with pytest.raises(DocumentError, match="deep"):
            strict_json(raw, name="j")
