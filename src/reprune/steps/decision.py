"""What a receipt says about a case: the decision, and the figures that later generations look back on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from reprune import __version__
from reprune.core.artifacts import Plan, Waiver
from reprune.core.documents import read_bounded
from reprune.core.records import range_of
from reprune.core.store import decode_any
from reprune.registry.figures import latency_ratios, quality_drops
from reprune.registry.receipts import Decision
from reprune.steps.acceptance import Case

if TYPE_CHECKING:
    from typing import TypeAlias

    Columns: TypeAlias = Mapping[str, Sequence[int]]


def decision(
    case: Case,
    bundle: str,
    *,
    registry: str,
    predecessor: str | None,
    now: float,
    valid_for_days: float,
    waiver: Waiver | None = None,
) -> Decision:
    """The predicate of a receipt; a function of the case, the promoter's terms, the override, the chain
    and the clock alone.
    """
    lock, judgement = case.lock, case.judgement
    plan = _plan(case)
    return Decision(
        registry=registry,
        workspace=lock.workspace,
        name=lock.name,
        outcome=judgement.outcome,
        reasons=judgement.reasons,
        attempt=judgement.attempt,
        dense_version=lock.dense.version,
        dense_weights=lock.dense.weights,
        champion=case.verdict.manifest.champion,
        bundle=bundle,
        verdict=case.verdict.digest,
        lock=case.verdict.manifest.lock,
        policy=case.verdict.manifest.policy,
        procedure=judgement.procedure,
        eval_digest=case.evidence.quality.eval_digest,
        machines=case.machines,
        predecessor=predecessor,
        reprune=__version__,
        measured_until_s=max(0, int(case.measured_until_s or 0)),
        signed_at_s=max(0, int(now)),
        latency_ratio=_change(case, "latency.vs_parent"),
        quality_drop=_quality_drop(case),
        flips=_flips(case),
        newest_time=max(case.evidence.quality.times or (), default=UNSET),
        waiver=waiver or UNSET,
        dry_run=judgement.dry_run,
        samples=case.samples,
        valid_for_days=valid_for_days,
        quality_drops=quality_drops(judgement.rules) or UNSET,
        latency_ratios=latency_ratios(judgement.rules) or UNSET,
        predicted_loss=UNSET if plan is None else _or_unset(plan.predicted.loss_increase),
        kept=UNSET if plan is None else _kept(plan) or UNSET,
        asked=UNSET if plan is None else plan.asked,
    )


def _plan(case: Case) -> Plan | None:
    """The plan whose candidate was judged, as the verdict holds it; None where it holds none."""
    verdict = case.verdict
    digest = verdict.manifest.parents.get("chosen", "")
    file = f"ancestors/{digest.removeprefix('sha256:')}.json"
    if file not in verdict.manifest.payload:
        return None
    path = verdict.file(file)
    found = decode_any(read_bounded(path), name=str(path))
    return found if isinstance(found, Plan) else None


def _kept(plan: Plan) -> dict[str, float]:
    """The share of each group and removed block that was left, to four places: a trend needs no more."""
    return {name: round(share, 4) for name, share in plan.left.items()}


def _or_unset(value: float | None) -> float | UnsetType:
    return UNSET if value is None else value


def _change(case: Case, rule: str) -> float | None:
    found = [each.change for each in case.judgement.rules if each.rule == rule]
    return found[0] if found else None


def _quality_drop(case: Case) -> float | None:
    """What the first metric that is judged against the parent lost: positive for a loss."""
    for metric in sorted(case.policy.quality):
        for rule in case.judgement.rules:
            if rule.rule == f"{metric}.vs_parent" and rule.change is not None:
                return -rule.change if rule.direction == "at least" else rule.change
    return None


def _flips(case: Case) -> float | None:
    """The share of examples that candidate and dense model answer differently: right and not right, where
    the records tell that, of the member with the most in a set. Else of the classes that are answered, or
    of columns that no built-in metric knows; None without any: measured values hardly ever stay the same.
    """
    arms = case.evidence.quality.arms
    targets = sorted(target.target for target in case.evidence.targets)
    candidate = arms.get(f"candidate@{targets[0]}") if targets else None
    dense = arms.get("dense")
    examples = len(case.evidence.quality.ids)
    if candidate is None or dense is None or set(candidate.columns) != set(dense.columns):
        return None
    kinds = {name: name.rpartition(".")[2] for name in dense.columns}
    strange = [name for name, kind in kinds.items() if range_of(kind) is None]
    right = [[name] for name, kind in kinds.items() if kind == "correct"]
    named = [[name] for name, kind in kinds.items() if kind == "answer"]
    groups = right or named or ([strange] if strange else [])
    if not examples or not groups:
        return None
    return max(_differing(candidate.columns, dense.columns, names) for names in groups) / examples


def _differing(one: Columns, other: Columns, names: Sequence[str]) -> int:
    """How many examples have another number in any of these columns."""
    pairs = [zip(one[name], other[name], strict=True) for name in names]
    return sum(any(a != b for a, b in row) for row in zip(*pairs, strict=True))
