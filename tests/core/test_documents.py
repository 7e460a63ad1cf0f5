"""Files that people write: what is refused, and where the error points."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.documents import canonical, decode_json, decode_yaml, digest_of, strict_json
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
