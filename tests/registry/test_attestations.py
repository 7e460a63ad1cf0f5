"""The statements for others say what the receipt and the judgement say, field by field."""

from __future__ import annotations

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from reprune.core.artifacts import Judgement, Verdict, Waiver
from reprune.core.store import read
from reprune.registry.attestations import (
    EVAL_FILE,
    VERIFIED_FILE,
    EvalStatement,
    Measured,
    VerifiedStatement,
    evaluation,
    verification,
)
from reprune.registry.receipts import subject_digests
from tests.registry.test_receipts import DIGEST, statement

FILES = {"engines/0/a": "sha256:" + "b" * 64, "bundle/w": DIGEST}


@pytest.fixture(scope="session")
def judgement(template: object) -> Judgement:
    return read(template / "artifacts" / "verdict", Verdict).manifest.judgement  # type: ignore[operator]


def told(judgement: Judgement, **changes: object) -> EvalStatement:
    return evaluation(statement(**changes).predicate, judgement, FILES)


def test_the_evaluation_says_what_was_decided(judgement: Judgement) -> None:
    """Every field of the decision that it has, the level of the tests, and what made it."""
    decision = statement(
        outcome="block",
        attempt=3,
        procedure="p",
        eval_digest="e",
        samples=(DIGEST,),
        valid_for_days=7.0,
    ).predicate
    found = evaluation(decision, judgement, FILES)
    assert subject_digests(found) == FILES
    assert found.predicate_type == "urn:reprune:eval:v1"
    said = found.predicate
    for field in (
        "name", "outcome", "attempt", "procedure", "policy", "lock", "verdict", "samples", "machines",
        "dense_version", "dense_weights", "champion", "measured_until_s", "valid_for_days",
    ):  # fmt: skip
        assert getattr(said, field) == getattr(decision, field), field
    assert said.eval_set == "e"
    assert said.harness == f"reprune {decision.reprune}"
    assert said.alpha == judgement.alpha


def test_an_earlier_receipt_has_no_samples_and_no_time(judgement: Judgement) -> None:
    """What its decision does not say is empty here, and not made up."""
    said = told(judgement).predicate
    assert (EVAL_FILE, VERIFIED_FILE) == ("eval.dsse.json", "verified.dsse.json")
    assert (said.samples, said.valid_for_days) == ((), 0.0)


def test_each_demand_is_told_as_it_was_judged(judgement: Judgement) -> None:
    """Every rule, in their order, with its numbers; the value is the change, or what was measured alone."""
    rules = judgement.rules
    assert len(rules) > 3
    results = told(judgement).predicate.results
    assert [each.metric for each in results] == [rule.rule for rule in rules]
    assert any(rule.change is None for rule in rules)
    for said, rule in zip(results, rules, strict=True):
        value = rule.change if rule.change is not None else rule.candidate_value
        assert said == Measured(
            metric=rule.rule,
            baseline=rule.baseline,
            target=rule.target,
            comparator=rule.direction,
            threshold=rule.limit,
            value=value,
            low=rule.low,
            high=rule.high,
            unit=rule.unit,
            sample_size=rule.samples,
            required=rule.required,
            passed=rule.outcome == "pass",
            outcome=rule.outcome,
        )
    blocked = replace(judgement, rules=(replace(rules[0], outcome="block"), *rules[1:]))
    assert [each.passed for each in told(blocked).predicate.results][:2] == [False, True]


WAIVER = Waiver(
    by="A", reason="r", expires="2026-12-24", rules=("a",), verdict="", candidate="", policy=""
)


@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("waived", [False, True])
def test_the_result_names_what_was_found_to_hold(minimum: bool, waived: bool) -> None:
    """A minimum is named only where one was demanded; an override is never called a pass."""
    outcome, waiver = ("inconclusive", WAIVER) if waived else ("pass", UNSET)
    decision = statement(
        outcome=outcome,
        waiver=waiver,
        signed_at_s=86_400,
        policy="sha256:" + "1" * 64,
        lock="sha256:" + "2" * 64,
    ).predicate
    found: VerifiedStatement = verification(decision, FILES, minimum=minimum)
    assert subject_digests(found) == FILES
    assert found.predicate_type == "https://in-toto.io/attestation/svr/v0.2"
    said = found.predicate
    assert said.verifier.id == "urn:reprune:promote:v1"
    assert [(each.uri, each.digest.sha256) for each in said.policies] == [
        ("verdict/policy.json", "1" * 64),
        ("reprune.lock.yaml", "2" * 64),
    ]
    assert said.time_created == "1970-01-02T00:00:00Z"
    assert said.properties == (
        "REPRUNE_EVIDENCE_RECOMPUTED",
        *(("REPRUNE_MINIMUM_POLICY_MET",) if minimum else ()),
        "REPRUNE_OVERRIDDEN" if waived else "REPRUNE_PASSED",
        "REPRUNE_MAY_BE_PROMOTED",
    )
