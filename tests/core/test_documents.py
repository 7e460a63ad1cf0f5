"""Files that people write: what is refused, and where the error points."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.documents import (
    Document,
    canonical,
    decode_json,
    decode_yaml,
    digest_of,
    read_bounded,
    read_yaml,
    strict_json,
)
from reprune.core.errors import DocumentError
from reprune.core.lock import Lock, lock_text
from reprune.core.params import Params, read_params
from reprune.core.policy import Policy, check_policy, read_policy

GOOD = "name: a\ntask: task.digits:DigitsTask\n"


def refusal(text: str, kind: type = Params) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        decode_yaml(text, kind, name="params.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (GOOD + "prun: {}\n", "params.yaml:3 (prun)", "did you mean 'prune'?"),
        (GOOD + "plan:\n  fractoin: 0.5\n", "params.yaml:4 (plan.fractoin)", "'fraction'?"),
        (GOOD + "plan:\n  fraction: 2\n", "params.yaml:4 (plan.fraction)", "<= 1.0"),
        (GOOD + "plan:\n  fraction: half\n", "params.yaml:4 (plan.fraction)", "Expected `float`"),
        (GOOD + "distill:\n  epochs: 1.5\n", "params.yaml:4 (distill.epochs)", "Expected `int`"),
        (
            GOOD + "validate:\n  min_examples:\n    train: 1\n    evel: 300\n",
            "params.yaml:6 (validate.min_examples.evel)",
            "unknown key 'evel'; did you mean 'eval'?",
        ),
        (
            GOOD + "targets: {a b: {}}\n",
            "params.yaml:3 (targets)",
            "a key there is wrong: Expected",
        ),
        (GOOD + "seed: -1\n", "params.yaml:3 (seed)", ">= 0"),
        (GOOD + "targets:\n  a: {}\n  b:\n    runtim: x\n", "params.yaml:6", "'runtime'?"),
        (GOOD + "sensitivity:\n  cuts: [0.5, 1.5]\n", "params.yaml:4", "< 1.0"),
        ("task: a:b\n", "params.yaml:1", "missing required field `name`"),
        ("name: a\ntask: nocolon\n", "params.yaml:2 (task)", "matching regex"),
        ("name: a\nname: b\n", "params.yaml:2", "stands there twice"),
        ("name: [a\n", "params.yaml:2", "not valid YAML"),
        ("name: &x a\ntask: *x\n", "params.yaml:1", "alias"),
        ("", "params.yaml", "is empty"),
    ],
)
def test_wrong_params_are_located(text: str, where: str, what: str) -> None:
    """Every mistake names the file, the line, the path inside it and, for a typo, the nearest key."""
    error = refusal(text)
    assert error.where.startswith(where)
    assert what in error.what
    assert error.exit_code == 2


def test_deep_and_large_documents_are_refused() -> None:
    """Nesting and size are bounded before anything is built from the text."""
    assert "deeply" in refusal("[" * 100 + "]" * 100).what
    assert "larger" in refusal("#" * 2_000_000).what


@pytest.mark.parametrize(
    "raw", [b"NaN", b"[Infinity]", b'{"a": 1, "a": 2}', b"\xff", b"[" * 100_000, b"{"]
)
def test_strict_json_refuses_what_json_does_not_know(raw: bytes) -> None:
    """NaN, infinities, duplicate keys, broken UTF-8 and endless nesting never reach a decision."""
    with pytest.raises(DocumentError):
        strict_json(raw, name="x.json")


def test_an_empty_policy_is_refused() -> None:
    """A policy that demands nothing would pass everything."""
    policy = decode_yaml("targets: {ort-cpu: required}\n", Policy, name="policy.yaml")
    with pytest.raises(DocumentError, match="demands nothing"):
        check_policy(policy, where="policy.yaml")


def test_policy_needs_a_required_target_and_rising_looks() -> None:
    """Advisory targets alone, or looks that do not rise, decide nothing."""
    rule = "size: {ceiling_bytes: 5}\n"
    for text, what in (
        ("targets: {a: advisory}\n" + rule, "no required target"),
        ("targets: {a: required}\nlooks: [15, 8]\n" + rule, "must rise"),
    ):
        with pytest.raises(DocumentError, match=what):
            check_policy(decode_yaml(text, Policy, name="p"), where="p")


def test_a_champion_ratio_below_one_is_refused() -> None:
    """It would block every second good generation."""
    text = "targets: {a: required}\nlatency: {vs_champion: {max_ratio: 0.9}}\n"
    assert ">= 1.0" in refusal(text, Policy).what


def test_a_missing_file_says_what_to_do(tmp_path) -> None:
    """The way out is in the error."""
    for read in (read_params, read_policy):
        with pytest.raises(DocumentError) as caught:
            read(tmp_path / "none.yaml")
        assert "reprune init" in caught.value.fix


def test_a_latency_budget_needs_a_target_of_the_file(tmp_path) -> None:
    """A budget for a target that is not there is refused when the file is read."""
    path = tmp_path / "params.yaml"
    path.write_text(GOOD + "plan: {budget: latency, latency_target: gpu}\n")
    with pytest.raises(DocumentError, match="latency budget"):
        read_params(path)


def test_a_latency_budget_is_for_a_device_that_can_be_called(tmp_path) -> None:
    """By a command: a plan is timed there. By a kit it is not, and that is said before anything is done."""
    path = tmp_path / "params.yaml"
    plan = "plan: {budget: latency, latency_target: jet}\n"
    path.write_text(GOOD + "targets: {jet: {run: 'ssh jet reprune {args}'}}\n" + plan)
    assert read_params(path).targets["jet"].run
    path.write_text(GOOD + "targets: {jet: {kit: true}}\n" + plan)
    with pytest.raises(DocumentError, match="no plan is timed there") as caught:
        read_params(path)
    assert "reach the device by `run`" in caught.value.fix


def make_lock(**changes) -> Lock:
    values = {
        "reprune": "0.1.0",
        "registry": "r",
        "workspace": "default",
        "name": "digits",
        "dense": {"version": "1", "weights": "sha256:" + "0" * 64},
        "champion": "none",
        "targets": ["ort-cpu"],
        "params": "sha256:" + "1" * 64,
        "policy": "sha256:" + "2" * 64,
        "task": "sha256:" + "3" * 64,
        "data_version": "d",
    }
    import msgspec

    return msgspec.convert(values | changes, Lock)


def test_a_lock_survives_its_file() -> None:
    """Text and back is the identity, also for the digest."""
    lock = make_lock(
        champion={"version": "3", "bundle": "sha256:" + "a" * 64, "receipt": "sha256:" + "b" * 64}
    )
    again = decode_yaml(lock_text(lock), Lock, name="lock")
    assert again == lock
    assert again.digest == lock.digest


def test_a_lock_without_a_champion_must_say_none() -> None:
    """Silence is not `none`."""
    text = lock_text(make_lock()).replace("champion: none\n", "")
    assert "champion" in refusal(text, Lock).what


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("champion: none", "champoin: none", "did you mean 'champion'?"),
        ("version: '1'", "version: 1", "Expected `str`"),
        ("sha256:1111", "sha256:xyz", "matching regex"),
        ("schema: 1", "schema: 9", "Invalid enum value 9"),
    ],
)
def test_a_lock_edited_by_hand_is_located(old: str, new: str, what: str) -> None:
    """Unknown keys and impossible values of the lock are refused as those of the other files are."""
    text = lock_text(make_lock())
    assert old in text
    error = refusal(text.replace(old, new, 1), Lock)
    assert what in error.what
    assert ":" in error.where


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_canonical_bytes_do_not_depend_on_key_order(value) -> None:
    """Equal values have equal digests, whatever order their keys were given in."""

    def shuffled(item):
        if isinstance(item, dict):
            return {key: shuffled(item[key]) for key in reversed(list(item))}
        return [shuffled(x) for x in item] if isinstance(item, list) else item

    assert digest_of(shuffled(value)) == digest_of(value)
    assert canonical(shuffled(value)) == canonical(value)


def test_json_errors_name_the_path() -> None:
    """A wrong value inside JSON is located as one inside YAML is."""
    with pytest.raises(DocumentError) as caught:
        decode_json(b'{"name":"a","task":"a:b","plan":{"fraction":3}}', Params, name="x.json")
    assert caught.value.where == "x.json (plan.fraction)"


# --- where an error points, exactly --------------------------------------------------------------


class Inner(Document):
    size: int = 1
    more: str = ""


class Outer(Document):
    name: str = ""
    one: Inner = Inner()
    listed: tuple[Inner, ...] = ()
    named: dict[str, Inner] = {}
    either: Inner | None = None
    pair: tuple[Inner, int] = (Inner(), 1)
    numbers: tuple[int, ...] = ()


KNOWN = "known keys here: more, size"
ROOT = "known keys here: either, listed, name, named, numbers, one, pair"


@pytest.mark.parametrize(
    ("text", "where", "fix"),
    [
        ("nam: a\n", "p:1 (nam)", ROOT),
        ("name: a\none:\n  more: x\n  siz: 1\n", "p:4 (one.siz)", KNOWN),
        ("one:\n  more: x\n  size: a\n", "p:3 (one.size)", ""),
        ("listed:\n- size: 1\n- more: x\n  siz: 1\n", "p:4 (listed.1.siz)", KNOWN),
        ("listed:\n- size: 1\n- more: x\n", "", ""),
        ("numbers:\n- 1\n- a\n- 3\n", "p:3 (numbers.1)", ""),
        ("numbers: [1, 2,\n  a]\n", "p:2 (numbers.2)", ""),
        ("named:\n  a: {}\n  b:\n    siz: 1\n", "p:4 (named.*.siz)", KNOWN),
        ("named:\n  b:\n    size: x\n", "p:3 (named.*.size)", ""),
        ("either:\n  more: a\n  siz: 1\n", "p:3 (either.siz)", KNOWN),
        ("pair:\n- siz: 1\n- 2\n", "p:2 (pair.0.siz)", ""),
        ("name: a\none: 3\n", "p:2 (one)", ""),
        ("one:\n  siz:\n    1\n", "p:2 (one.siz)", KNOWN),
        ("\n- a\n", "p:2", ""),
        ("a", "p:1", ""),
    ],
)
def test_an_error_points_to_one_place(text: str, where: str, fix: str) -> None:
    """File, line and path; and a key that is not known names those that are, of that place."""
    if not where:
        decode_yaml(text, Outer, name="p")
        return
    with pytest.raises(DocumentError) as caught:
        decode_yaml(text, Outer, name="p")
    assert (caught.value.where, caught.value.fix) == (where, fix)


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        ("a:\n  siz: 1\n", dict[str, Inner], "p:2 (*.siz)"),
        ("a:\n  more: x\nb:\n  siz: 1\nc: {}\n", dict[str, Inner], "p:4 (*.siz)"),
        ("a:\n  size: 1\nb:\n  size: x\nc: {}\n", dict[str, Inner], "p:1 (*.size)"),
        ("b: 50\na: [1,\n  x]\nc: 5\n", dict[str, tuple[int, ...] | int], "p:3 (*.1)"),
        ("a: [1]\nb:\n  siz: 1\n", dict[str, Inner | tuple[int, ...]], "p:3 (*.siz)"),
        ("numbers:\n- a\nname: x\n", Outer, "p:2 (numbers.0)"),
        ("one:\n  siz: 1\nname: x\n", Outer, "p:2 (one.siz)"),
    ],
)
def test_of_keys_that_nobody_names_the_one_that_has_it(text: str, kind: Any, where: str) -> None:
    """The library does not say under which key a value is wrong: if several could be meant, none is."""
    with pytest.raises(DocumentError) as caught:
        decode_yaml(text, kind, name="p")
    assert caught.value.where == where


def test_a_digest_is_over_the_bytes_with_sorted_keys() -> None:
    wanted = hashlib.sha256(b'{"a":[2.5],"b":1}').hexdigest()
    assert digest_of({"b": 1, "a": [2.5]}) == f"sha256:{wanted}"


def test_json_has_no_lines() -> None:
    """The path alone, and none for the whole; a number of the wrong kind says which was wanted."""
    for raw, where, what in (
        (b'{"one":{"siz":1}}', "p (one.siz)", "unknown key 'siz'; did you mean 'size'?"),
        (b'{"pair":[{"siz":1},1]}', "p (pair.0.siz)", "unknown key 'siz'"),
        (b"[]", "p", "Expected `object`, got `array`"),
        (b'{"one":{"size":"a"}}', "p (one.size)", "Expected `int`, got `str`"),
        (b'{"b":1,"a":1,"a":1}', "p", "the key 'a' stands there twice"),
    ):
        with pytest.raises(DocumentError) as caught:
            decode_json(raw, Outer, name="p")
        assert (caught.value.where, caught.value.what) == (where, what)


def test_what_json_allows_and_no_text_holds_is_not_valid() -> None:
    with pytest.raises(DocumentError, match="is not valid JSON") as caught:
        decode_json(b'{"name":"\\ud800"}', Outer, name="p")
    assert caught.value.where == "p"


def test_yaml_that_is_none_is_told_in_its_own_words() -> None:
    """With the line where the parser stopped, if it says so."""
    with pytest.raises(DocumentError) as caught:
        decode_yaml("name: [a\n", Outer, name="p")
    assert caught.value.where == "p:2"
    assert caught.value.what == ("is not valid YAML: expected ',' or ']', but got '<stream end>'")
    with pytest.raises(DocumentError) as caught:
        decode_yaml(b"\xff", Outer, name="p")
    assert caught.value.where == "p"
    assert caught.value.what.startswith("is not valid YAML: unacceptable character")


@pytest.mark.parametrize(
    ("text", "where", "fix"),
    [
        ("a: 1\nb: &x 2\nc: *x\n", "p:2", "write the value out"),
        ("a: 1\nb: [&x 2, *x]\n", "p:2", "write the value out"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "p:4", "delete one of them"),
        ("a: 1\nb:\n- c: 1\n  c: 2\n", "p:4", "delete one of them"),
    ],
)
def test_what_yaml_lets_pass_is_refused_where_it_stands(text: str, where: str, fix: str) -> None:
    with pytest.raises(DocumentError) as caught:
        decode_yaml(text, dict, name="p")
    assert (caught.value.where, caught.value.fix) == (where, fix)


def test_yaml_may_be_so_deep_and_so_large() -> None:
    """One more of either is refused: 64 steps below the top, a million bytes."""
    for begin, end in (("[", "]"), ("{a: ", "}")):
        decode_yaml(begin * 64 + "1" + end * 64, object, name="p")
        with pytest.raises(DocumentError, match="nested too deeply") as caught:
            decode_yaml(begin * 65 + "1" + end * 65, object, name="p")
        assert caught.value.where == "p"
    with pytest.raises(DocumentError, match="is not valid YAML"):
        decode_yaml(b"\xff" * 1_000_000, object, name="p")
    with pytest.raises(DocumentError, match="is larger than 1000000 bytes"):
        decode_yaml(b"\xff" * 1_000_001, object, name="p")


def test_json_may_be_so_deep_and_so_large() -> None:
    """And is counted as deep only by what is open at once."""
    with pytest.raises(DocumentError, match="is not valid JSON"):
        strict_json(b"[" * 64 + b"[]", name="p")
    with pytest.raises(DocumentError, match="nested more than 64 deep"):
        strict_json(b"[" * 65 + b"[]", name="p")
    with pytest.raises(DocumentError, match="is not valid JSON"):
        strict_json(b"\xff" * 64_000_000, name="p")
    with pytest.raises(DocumentError, match="is larger than 64000000 bytes"):
        strict_json(b"\xff" * 64_000_001, name="p")


def test_a_folder_is_no_document(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be read: Is a directory") as caught:
        read_yaml(tmp_path, Outer)
    assert caught.value.where == str(tmp_path)
    (tmp_path / "p").write_text("nam: a\n")
    with pytest.raises(DocumentError) as caught:
        read_yaml(tmp_path / "p", Outer)
    assert caught.value.where == f"{tmp_path / 'p'}:1 (nam)"


def test_a_file_is_read_only_up_to_its_limit(tmp_path: Path) -> None:
    """Not through a link, not of a pipe or a folder, and nothing stays open."""
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bounded(path, max_bytes=5) == b"12345"
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for name, limit, what in (
        ("a", 4, "is larger than 4 bytes"),
        ("link", 9, "cannot be read: "),
        ("pipe", 9, "is not a file"),
        ("", 9, "is not a file"),
        ("a\0", 9, "cannot be read: "),
    ):
        place = tmp_path / name
        with pytest.raises(DocumentError, match=what) as caught:
            read_bounded(place, max_bytes=limit)
        assert caught.value.where == str(place)
    assert len(os.listdir("/proc/self/fd")) == before
    for missing, error in (("none", FileNotFoundError), ("a/b", NotADirectoryError)):
        with pytest.raises(error):
            read_bounded(tmp_path / missing)
