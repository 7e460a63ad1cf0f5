"""Must accept: what is right is let through, however it is laid out, signed or repeated."""

# ruff: noqa: E501 - a line of these tables is a case

from __future__ import annotations

from pathlib import Path

from tests.conformance.edits import (
    added,
    all_of,
    art,
    config,
    demand,
    gone,
    stored,
    stranger,
    written,
)
from tests.conformance.overriding import allowed, overridden
from tests.conformance.refuse_registry import BACK, KEY, _pem
from tests.conformance.world import Case, nothing

WHO = ("--by", "Ada", "--reason", "labels")


def _p256() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _moved(root: Path) -> None:
    """The promoter's configuration lies outside of the repository."""
    (root / ".reprune/promoter").rename(root / ".own")


def _yaml(root: Path) -> None:
    """The same policy in another order, with comments."""
    lines = (root / "policy.yaml").read_text().strip().splitlines()
    (root / "policy.yaml").write_text("# ours\n" + "\n".join([lines[-1], *lines[:-1]]) + "\n")


def _extra(root: Path) -> None:
    (art(root, "candidate") / "notes.txt").write_text("not listed, and so left behind\n")


def _pass() -> list[Case]:
    """A verdict that passes is promoted."""
    plain = [
        ("first", "the first generation", nothing),
        ("second", "the second generation", nothing),
        ("third", "the third generation", nothing),
        ("tried", "the generation after a blocked one", nothing),
        ("aged", "evidence of 13 days", nothing),
        ("early", "a clock that is a minute behind", nothing),
        ("first", "a file that no manifest lists", _extra),
        ("first", "the policy in another order", _yaml),
        ("first", "params with a comment", added("params.yaml", "# a comment\n")),
        ("first", "no report", lambda root: None),
        ("first", "a P-256 key", written(KEY, _p256())),
        ("first", "an empty list of overrides", written("reprune.overrides.yaml", "schema: 1\noverrides: []\n")),
        ("first", "a machine that is trusted", config("machines: []", "machines: [box-a, box-b]")),
        ("first", "another promoter's key that is trusted",
         config("trusted_keys: []", f"trusted_keys: ['{_public()}']")),
        ("first", "a longer limit of the promoter's", config("days: 14", "days: 300")),
        ("first", "a shorter limit that holds", config("days: 14", "days: 1")),
        ("first", "somebody who may override, and need not", allowed),
        ("first", "an override that is not needed", all_of(allowed, overridden())),
        ("second", "a stranger's version beside ours", stranger("2")),
        ("second", "a gap in the numbers", stranger("41")),
        ("second", "the local receipts deleted", gone(".reprune/receipts")),
        ("blocked", "a blocked verdict that a named person overrides", all_of(allowed, overridden())),
        ("undecided", "an undecided verdict that a named person overrides", all_of(allowed, overridden())),
        ("long", "older evidence that promoter and policy both allow", config("days: 14", "days: 300")),
    ]  # fmt: skip
    minimum = ["alpha: 0.05", "size: {vs_parent: {max_ratio: 0.8}}", "size: {vs_parent: {max_ratio: 0.95}}",
               "latency: {vs_parent: {max_ratio: 0.9}}", "latency: {vs_parent: {max_ratio: 1.0}}",
               "quality: {accuracy: {floor: 0.9}}", "quality: {accuracy: {floor: 0.5}}",
               "quality: {accuracy: {vs_parent: {max_drop: 0.03, max_error_ratio: null}}}",
               "valid_for_days: 14"]  # fmt: skip
    cases = [
        Case(name=name, world=world, change=change, typed="pass", code=0)
        for world, name, change in plain
        if world not in ("blocked", "undecided")
    ]
    cases += [
        Case(name=name, world=world, code=0, change=change,
             typed="block" if world == "blocked" else "inconclusive")
        for world, name, change in plain if world in ("blocked", "undecided")
    ]  # fmt: skip
    return cases + [
        Case(name=f"a minimum that the policy reaches: {text}", world="first", change=demand(text),
             typed="pass", code=0)
        for text in minimum
    ]  # fmt: skip


def _public() -> str:
    from tests.conformance.edits import MALLORY

    return str(MALLORY.public_key.keyval["public"])


def _keys() -> list[Case]:
    """Keys from elsewhere."""
    return [
        Case(name=f"a key of {kind} in a variable", world="first", typed="pass", code=0,
             change=config("key: key.pem", "key: env:REPRUNE_TEST_KEY"),
             env={"REPRUNE_TEST_KEY": pem.decode()})
        for kind, pem in (("Ed25519", _pem("ed25519")), ("P-256", _p256()))
    ] + [
        Case(name="a promoter's configuration outside of the repository", world="first", typed="pass", code=0,
             change=_moved, env={"REPRUNE_PROMOTER": "{root}/.own/config.yaml"}),
    ]  # fmt: skip


def _others() -> list[Case]:
    """The commands beside promote."""
    lines: list[tuple[str, str, tuple[str, ...], str]] = [
        ("promoted", "promote a second time", ("promote",), "pass"),
        ("two", "rollback to the version before", BACK, "done"),
        ("two", "rollback to a named version", (*BACK, "--to", "1"), "done"),
        ("rolled", "rollback forward again", (*BACK, "--to", "2"), "done"),
        ("promoted", "an anchor", ("anchor", *WHO), "done"),
        ("promoted", "history", ("history",), "done"),
        ("first", "check of a verdict", ("check", "artifacts/verdict"), "pass"),
        ("first", "check of a verdict, judged again", ("check", "artifacts/verdict", "--recompute"), "pass"),
        ("first", "explain", ("explain", "artifacts/verdict"), "pass"),
        ("blocked", "explain of a block", ("explain", "artifacts/verdict"), "block"),
        ("promoted", "check of a registered version", ("check", stored("1", "")), "pass"),
        ("promoted", "check of its receipt", ("check", stored("1")), "pass"),
        ("promoted", "check of what was evaluated", ("check", stored("1", "eval.dsse.json")), "pass"),
        ("promoted", "check of the statement that it was promoted", ("check", stored("1", "promoted.dsse.json")),
         "done"),
        ("two", "check of the first of two", ("check", stored("1")), "pass"),
        ("rolled", "check of a rollback's record", ("check", stored("3")), "done"),
    ]  # fmt: skip
    return [
        Case(name=name, world=world, change=nothing, typed=typed, words=words, code=0)
        for world, name, words, typed in lines
    ] + [
        Case(name="check of a receipt under a minimum that it reaches", world="promoted",
             change=demand("alpha: 0.05"), typed="pass", words=("check", stored("1")), code=0),
        Case(name="check of a receipt that lies alone", world="promoted", change=_alone, typed="pass",
             words=("check", "alone.dsse.json"), code=0),
    ]  # fmt: skip


def _alone(root: Path) -> None:
    (root / "alone.dsse.json").write_bytes((root / stored("1")).read_bytes())


CASES = [*_pass(), *_keys(), *_others()]
