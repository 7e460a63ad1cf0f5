"""What a promotion says to those who do not know Reprune: two in-toto statements beside the receipt.

`eval.dsse.json` holds every demand and what was measured against it. `verified.dsse.json` is a Simple
Verification Result (SVR v0.2); it exists only where the decision was to promote. It is signed before the
version is registered, so it says that the version may be promoted: whether it ever was only the registry
can tell. Both are signed like the receipt, and listed by it as files of the version. Nothing here is read
to decide anything: the receipt and the samples alone are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from reprune.core.artifacts import Fact, Judgement, Outcome
from reprune.core.lock import ChampionRef, Digest
from reprune.registry.receipts import AnyStatement, Decision, Hex, Sha256, subjects

EVAL_FILE = "eval.dsse.json"
VERIFIED_FILE = "verified.dsse.json"
VERIFIER = "urn:reprune:promote:v1"
POLICY_PLACE = "verdict/policy.json"


class Measured(Fact, kw_only=True):
    """One demand of the policy: `value` was to be `comparator` `threshold`; `passed` says whether it was."""

    metric: str
    baseline: str
    target: str | None
    comparator: Literal["at most", "at least"]
    threshold: float
    value: float | None
    low: float | None
    high: float | None
    unit: str
    sample_size: int
    required: bool
    passed: bool
    outcome: Outcome


class Evaluation(Fact, kw_only=True):
    """What was evaluated under which policy, fixed by digest before anything was measured.

    Times are whole Unix seconds; the evidence is valid for `valid_for_days` from `measured_until_s`.
    """

    name: str
    outcome: Outcome
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    alpha: float
    procedure: str
    policy: Digest
    lock: Digest
    verdict: Digest
    eval_set: str
    samples: tuple[Digest, ...]
    machines: tuple[str, ...]
    dense_version: str
    dense_weights: Digest
    champion: ChampionRef | None
    measured_until_s: Annotated[int, msgspec.Meta(ge=0)]
    valid_for_days: float
    harness: str
    results: tuple[Measured, ...]


class EvalStatement(AnyStatement, frozen=True, kw_only=True):
    predicate_type: Literal["urn:reprune:eval:v1"] = "urn:reprune:eval:v1"
    predicate: Evaluation


class Verifier(Fact, kw_only=True):
    id: str


class PolicyRef(Fact, kw_only=True):
    uri: str
    digest: Sha256


class Verification(
    Fact,
    kw_only=True,
    rename={"time_created": "timeCreated"},
):
    """The predicate of an SVR: who verified, by which policies, when, and what was found to hold."""

    verifier: Verifier
    policies: tuple[PolicyRef, ...]
    time_created: str
    properties: tuple[str, ...]


class VerifiedStatement(AnyStatement, frozen=True, kw_only=True):
    predicate_type: Literal["https://in-toto.io/attestation/svr/v0.2"] = (
        "https://in-toto.io/attestation/svr/v0.2"
    )
    predicate: Verification


def evaluation(decision: Decision, judgement: Judgement, files: Mapping[str, str]) -> EvalStatement:
    """The statement about the judged `files` (path to digest) that says what `decision` rests on."""
    return EvalStatement(
        subject=subjects(files),
        predicate=Evaluation(
            name=decision.name,
            outcome=decision.outcome,
            attempt=decision.attempt,
            alpha=judgement.alpha,
            procedure=decision.procedure,
            policy=decision.policy,
            lock=decision.lock,
            verdict=decision.verdict,
            eval_set=decision.eval_digest,
            samples=decision.samples or (),
            machines=decision.machines,
            dense_version=decision.dense_version,
            dense_weights=decision.dense_weights,
            champion=decision.champion,
            measured_until_s=decision.measured_until_s,
            valid_for_days=decision.valid_for_days or 0.0,
            harness=f"reprune {decision.reprune}",
            results=tuple(
                Measured(
                    metric=rule.rule,
                    baseline=rule.baseline,
                    target=rule.target,
                    comparator=rule.direction,
                    threshold=rule.limit,
                    value=rule.candidate_value if rule.change is None else rule.change,
                    low=rule.low,
                    high=rule.high,
                    unit=rule.unit,
                    sample_size=rule.samples,
                    required=rule.required,
                    passed=rule.outcome == "pass",
                    outcome=rule.outcome,
                )
                for rule in judgement.rules
            ),
        ),
    )


def verification(
    decision: Decision, files: Mapping[str, str], *, minimum: bool
) -> VerifiedStatement:
    """The SVR about `files` that may be promoted; `minimum`: a minimum policy was demanded, and met."""
    properties = ["REPRUNE_EVIDENCE_RECOMPUTED"]
    properties += ["REPRUNE_MINIMUM_POLICY_MET"] if minimum else []
    properties += ["REPRUNE_PASSED" if decision.outcome == "pass" else "REPRUNE_OVERRIDDEN"]
    properties += ["REPRUNE_MAY_BE_PROMOTED"]
    return VerifiedStatement(
        subject=subjects(files),
        predicate=Verification(
            verifier=Verifier(id=VERIFIER),
            policies=(
                PolicyRef(uri=POLICY_PLACE, digest=Sha256(sha256=_hex(decision.policy))),
                PolicyRef(uri="reprune.lock.yaml", digest=Sha256(sha256=_hex(decision.lock))),
            ),
            time_created=datetime.fromtimestamp(decision.signed_at_s, UTC).strftime(
                "%Y-%m-%dT%H:%M:%SZ"
            ),
            properties=tuple(properties),
        ),
    )


def _hex(digest: str) -> Hex:
    return digest.removeprefix("sha256:")
