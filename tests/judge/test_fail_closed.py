"""Evidence that cannot be used is an error with words: never a pass, and never an exception."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from reprune.judge.evidence import Evidence, Problem
from reprune.judge.verdict import judge
from tests.building import edit, make_engine, make_evidence, make_policy

CORRECT = "quality.arms.candidate@cpu.columns.correct"


def without(key: str) -> Any:
    return lambda old: {name: value for name, value in old.items() if name != key}


def but(**changes: Any) -> Any:
    return lambda old: replace(old, **changes)


FAULTS: list[tuple[str, str, Any, str]] = [
    ("a problem that the gate found", "problems", (Problem(code="x", words="Stale."),), "Stale."),
    ("no seed", "seed", "", "seed"),
    ("no attempt", "attempt", 0, "attempt"),
    ("a negative attempt", "attempt", -1, "attempt"),
    ("no candidate", "arms", without("candidate"), "The candidate is missing"),
    ("no parent", "arms", without("dense"), "The dense model is missing"),
    ("a champion that was not measured", "arms", without("champion"), "contradict"),
    ("a champion without a version", "champion_version", None, "contradict"),
    (
        "an arm that was never built",
        "arms",
        lambda old: {**old, "anchor": "sha256:anchor"},
        "engine",
    ),
    ("no target", "targets", (), "measured were none"),
    ("another target", "targets.0.target", "gpu", "judges the targets cpu"),
    ("a target twice", "targets", lambda old: old + old, "measured twice"),
    ("no engine", "engines", (), "There is no engine of the candidate for cpu"),
    ("no engine of the champion", "engines", lambda old: old[:2], "engine of the champion"),
    ("an engine twice", "engines", lambda old: (*old, old[0]), "listed twice"),
    ("another model's engine", "engines.0.bundle", "sha256:other", "another bundle"),
    ("an empty engine", "engines.2.bytes", 0, "is empty"),
    ("an engine of negative size", "engines.0.bytes", -5, "is empty"),
    ("no parity check", "engines.0.parity", but(examples=0), "never compared"),
    ("a parity that is no number", "engines.0.parity", but(max_abs=float("nan")), "no number"),
    ("a cosine that is no number", "engines.0.parity", but(cosine=float("nan")), "no number"),
    ("an agreement without end", "engines.1.parity", but(agreement=float("inf")), "no number"),
    ("a call that took no time", "targets.0.units.2.arms.dense.blocks_ns", ((0,),), "no time"),
    ("a call of negative time", "targets.0.units.2.arms.dense.blocks_ns", ((-7, 3),), "no time"),
    ("an empty block", "targets.0.units.2.arms.dense.blocks_ns", ((5,), ()), "no calls"),
    ("a unit without an arm", "targets.0.units.4.arms", without("champion"), "no times of"),
    ("a unit left out", "targets.0.units", lambda old: old[:3] + old[4:], "missing"),
    ("a unit twice", "targets.0.units", lambda old: (*old, old[-1]), "doubled"),
    ("no examples", "quality.ids", (), "no judged examples"),
    ("an example twice", "quality.ids", lambda old: (old[1], *old[1:]), "doubled"),
    ("too few ids", "quality.ids", lambda old: old[:-1], "hold 1000 examples of 999"),
    ("a short column", CORRECT, lambda old: old[:-1], "999 examples of 1000"),
    ("a long column", CORRECT, lambda old: (*old, 1), "1001 examples of 1000"),
    ("a record that is neither 0 nor 1", CORRECT, lambda old: (2, *old[1:]), "other numbers"),
    ("a negative record", CORRECT, lambda old: (-1, *old[1:]), "other numbers"),
    ("no records of the candidate", "quality.arms", without("candidate@cpu"), "no records of cand"),
    ("no records of the parent", "quality.arms", without("dense"), "no records of dense"),
    ("no records of the champion", "quality.arms", without("champion@cpu"), "no records of champ"),
    ("a missing column", "quality.arms.dense.columns", {}, "needs the column correct"),
    ("no records at all", "quality.arms", {}, "no records"),
    ("short slices", "quality.slices.light", ("day",), "name 1 examples of 1000"),
    ("short sources", "quality.sources", ("one",), "sources name 1"),
    ("empty sources", "quality.sources", (), "sources name 0"),
]


@pytest.mark.parametrize(
    ("path", "value", "words"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_faulty_evidence_is_an_error(path: str, value: Any, words: str) -> None:
    """Each fault alone, in evidence that would pass: an error that names it, and no rules."""
    found = judge(edit(make_evidence(), path, value), make_policy())
    assert found.outcome == "error"
    assert words in " ".join(found.reasons)
    assert found.headline.startswith(f"Error: {found.reasons[0]}")
    assert found.rules == ()


def test_several_faults_are_all_named_once() -> None:
    """The headline counts them; the reasons list each once."""
    evidence = edit(edit(make_evidence(), "seed", ""), "quality.ids", ())
    found = judge(evidence, make_policy())
    assert "more)" in found.headline
    assert len(set(found.reasons)) == len(found.reasons) > 1


def test_two_slices_of_one_name_are_an_error() -> None:
    """Families and values that read the same cannot be told apart in a policy."""
    clash = {"a": ("b=c",) * 1000, "a=b": ("c",) * 1000}
    found = judge(edit(make_evidence(), "quality.slices", clash), make_policy())
    assert found.outcome == "error"
    assert "same name" in found.headline


def test_an_unknown_metric_is_an_error() -> None:
    """It names the metric and the nearest known one."""
    found = judge(make_evidence(), make_policy(quality={"acuracy": {"floor": 0.5}}))
    assert found.outcome == "error"
    assert "accuracy" in found.headline


def test_slice_rules_without_slices_are_an_error() -> None:
    """A policy that judges slices does not pass examples that declare none."""
    evidence = edit(make_evidence(), "quality.slices", {})
    policy = make_policy(quality={"accuracy": {"floor": 0.5, "slices": {}}})
    found = judge(evidence, policy)
    assert found.outcome == "error"
    assert "slices of accuracy" in found.headline
    assert judge(evidence, make_policy()).outcome == "pass"


def ratio_evidence(numerator: int, denominator: int, **other: tuple[int, ...]) -> Evidence:
    evidence = make_evidence()
    columns = {"numerator": (numerator,) * 1000, "denominator": (denominator,) * 1000}
    for key in evidence.quality.arms:
        evidence = edit(evidence, f"quality.arms.{key}.columns", columns)
    for name, values in other.items():
        evidence = edit(evidence, f"quality.arms.candidate@cpu.columns.{name}", values)
    return evidence


@pytest.mark.parametrize(
    ("numerator", "denominator", "words"),
    [
        (3, 2, "above its denominator"),
        (-1, 2, "below 0"),
        (0, 0, "no denominator above 0"),
        (2**44, 2**44, "too large"),
    ],
)
def test_ratios_outside_their_range_are_errors(
    numerator: int, denominator: int, words: str
) -> None:
    """Numerators lie between 0 and their denominator, which is somewhere above 0 and not huge."""
    policy = make_policy(quality={"dice": {"floor": 0.1}})
    found = judge(ratio_evidence(numerator, denominator), policy)
    assert found.outcome == "error"
    assert words in found.headline
    assert judge(ratio_evidence(2, 2), policy).outcome == "pass"
    assert judge(ratio_evidence(2**43, 2**43), policy).outcome == "pass"


def test_large_ratios_of_large_sources_are_errors() -> None:
    """What is drawn is a source: its sum must stay exact, drawn every time."""
    policy = make_policy(quality={"dice": {"floor": 0.1}})
    sources = tuple(f"s{min(place, 24)}" for place in range(1000))
    fits = edit(ratio_evidence(2**38, 2**38), "quality.sources", sources)
    assert judge(fits, policy).outcome == "pass"
    large = edit(ratio_evidence(2**43, 2**43), "quality.sources", sources)
    assert judge(large, policy).outcome == "error"


def test_evidence_of_a_policy_without_quality_needs_no_records() -> None:
    """Latency alone is judged without examples; size alone without units."""
    bare = edit(make_evidence(), "quality.ids", ())
    assert judge(bare, make_policy(quality={})).outcome == "pass"
    idle = edit(make_evidence(), "targets.0.units", ())
    assert judge(idle, make_policy(latency=None)).outcome == "pass"
    assert judge(idle, make_policy()).outcome == "inconclusive"


def test_engines_of_targets_that_are_not_judged_do_no_harm() -> None:
    """Parameters may name more targets than the policy judges."""
    evidence = edit(make_evidence(), "engines", lambda old: (*old, make_engine("dense", "x", 5)))
    assert judge(evidence, make_policy()).outcome == "pass"
