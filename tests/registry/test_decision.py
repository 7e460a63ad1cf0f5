"""What a receipt says of a case: each field where it comes from, and figures that mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace as other

from reprune import __version__
from reprune.core import store
from reprune.core.artifacts import Asked, Cost, GroupPlan, Plan, Prediction, RuleResult, Waiver
from reprune.core.documents import canonical, digest_of
from reprune.judge.evidence import ArmRecords
from reprune.registry.receipts import Decision
from reprune.steps.acceptance import Case
from reprune.steps.decision import decision
from tests.registry.test_acceptance import ZERO, Stand, stand

__all__ = ["stand"]
WAIVER = Waiver(
    by="A", reason="r", expires="2026-12-24", rules=("a",), verdict="", candidate="", policy=""
)


def decided(case: Case, **changes: Any) -> Decision:
    given: dict[str, Any] = {
        "registry": "the registry",
        "predecessor": None,
        "now": 12.9,
        "valid_for_days": 3.0,
    }
    return decision(case, "sha256:" + "b" * 64, **(given | changes))


def test_every_field_comes_from_the_case(stand: Stand) -> None:
    """Or from who asks: the registry, the chain, the clock, the terms."""
    case = stand.case
    found = decided(case, predecessor=ZERO, waiver=WAIVER)
    manifest, lock, judgement = case.verdict.manifest, case.lock, case.judgement
    assert case.measured_until_s is not None
    assert found == Decision(
        registry="the registry",
        workspace=lock.workspace,
        name="digits",
        outcome="pass",
        reasons=judgement.reasons,
        attempt=1,
        dense_version="1",
        dense_weights=lock.dense.weights,
        champion=manifest.champion,
        bundle="sha256:" + "b" * 64,
        verdict=case.verdict.digest,
        lock=lock.digest,
        policy=lock.policy,
        procedure=judgement.procedure,
        eval_digest=case.evidence.quality.eval_digest,
        machines=("box-a",),
        predecessor=ZERO,
        reprune=__version__,
        measured_until_s=int(case.measured_until_s),
        signed_at_s=12,
        latency_ratio=found.latency_ratio,
        quality_drop=found.quality_drop,
        flips=found.flips,
        waiver=WAIVER,
        dry_run=judgement.dry_run,
        samples=case.samples,
        valid_for_days=3.0,
        quality_drops={"accuracy": found.quality_drop},
        latency_ratios={"ort-cpu": found.latency_ratio},
        predicted_loss=found.predicted_loss,
        kept=found.kept,
        asked=found.asked,
    )
    assert found.latency_ratio == pytest.approx(0.6, abs=0.05)
    assert found.quality_drop == pytest.approx(1 / 450)
    assert found.flips == pytest.approx(1 / 450)


def test_what_is_not_known_is_left_out(stand: Stand) -> None:
    """No override, no time of an example, no unit, no time before 1970."""
    quality = other(stand.case.evidence.quality, times=("2024-05", "2026-01", "2025-12"))
    assert decided(stand.case).waiver is UNSET
    assert decided(stand.case).newest_time is UNSET
    for dry_run in (True, False, UNSET):
        case = replace(stand.case, judgement=other(stand.case.judgement, dry_run=dry_run))
        assert decided(case).dry_run is dry_run
    case = replace(stand.case, evidence=other(stand.case.evidence, quality=quality))
    assert decided(case).newest_time == "2026-01"
    nothing = replace(stand.case, evidence=other(stand.case.evidence, targets=()))
    found = decided(nothing, now=-5.0)
    assert (found.measured_until_s, found.signed_at_s, found.flips) == (0, 0, None)
    (first,) = stand.case.evidence.targets
    early = tuple(other(unit, started_s=-9.0) for unit in first.units)
    case = replace(
        stand.case, evidence=other(stand.case.evidence, targets=(other(first, units=early),))
    )
    assert decided(case).measured_until_s == 0


def with_rules(case: Case, *rules: tuple[str, str, float | None]) -> Case:
    one = case.judgement.rules[0]
    made = tuple(other(one, rule=n, direction=d, change=c) for n, d, c in rules)  # type: ignore[arg-type]
    return replace(case, judgement=other(case.judgement, rules=made))


def test_figures_are_those_of_the_rules_about_the_parent(stand: Stand) -> None:
    """The first of its name; a loss is positive, whichever way the metric counts."""
    case = stand.case
    assert decided(with_rules(case)).latency_ratio is None
    assert decided(with_rules(case)).quality_drop is None
    ratio = [("latency.vs_champion", "at most", 1.5), ("latency.vs_parent", "at most", 0.5)]
    assert (
        decided(with_rules(case, *ratio, ("latency.vs_parent", "at most", 2.0))).latency_ratio
        == 0.5
    )
    up = ("accuracy.vs_parent", "at least", -0.25)
    assert decided(with_rules(case, up)).quality_drop == 0.25
    assert decided(with_rules(case, ("accuracy.vs_parent", "at most", 0.5))).quality_drop == 0.5
    none = ("accuracy.vs_parent", "at least", None)
    assert decided(with_rules(case, none)).quality_drop is None
    assert decided(with_rules(case, none, up)).quality_drop == 0.25
    assert decided(with_rules(case, ("accuracy.floor", "at least", 0.9))).quality_drop is None


def test_the_first_metric_by_name_is_told(stand: Stand) -> None:
    rules = stand.case.policy.quality["accuracy"]
    names = ("zeta", "beta", "alpha", "gamma", "delta")
    policy = other(stand.case.policy, quality=dict.fromkeys(names, rules))
    case = replace(stand.case, policy=policy)
    told = [(f"{name}.vs_parent", "at most", float(i)) for i, name in enumerate(names)]
    assert decided(with_rules(case, *told)).quality_drop == 2.0
    assert decided(with_rules(case, *told[:2])).quality_drop == 1.0


def test_each_metric_and_target_is_told_for_later_trends(stand: Stand) -> None:
    """A metric where it lost most among the rules that decide; no slice, tail or floor is one."""
    base = stand.case.judgement.rules[0]

    def made(rule: str, target: str, change: float, **fields: Any) -> RuleResult:
        return other(base, rule=rule, target=target, change=change, **fields)

    up = {"direction": "at least", "required": True}
    rules = (
        made("accuracy.vs_parent", "a", -0.01, **up),
        made("accuracy.vs_parent", "b", -0.02, **up),
        made("accuracy.vs_parent", "c", -0.5, **(up | {"required": False})),
        made("error.vs_parent", "a", 0.25, direction="at most", required=False),
        made("accuracy.slices.vs_parent", "a", -0.9, **up),
        made("latency.vs_parent", "a", 0.5, direction="at most"),
        made("latency.vs_parent", "b", 0.75, direction="at most"),
        made("latency.tail.p99.vs_parent", "a", 3.0, direction="at most"),
    )
    found = decided(replace(stand.case, judgement=other(stand.case.judgement, rules=rules)))
    assert found.quality_drops == {"accuracy": 0.02, "error": 0.25}
    assert found.latency_ratios == {"a": 0.5, "b": 0.75}
    none = decided(with_rules(stand.case))
    assert (none.quality_drops, none.latency_ratios) == (UNSET, UNSET)


def test_the_plan_that_the_verdict_holds_is_told(stand: Stand, tmp_path: Path) -> None:
    """What it predicted, and the share of each group that it left; nothing of one that is not there."""
    cost = Cost(params=1, macs=1, bytes=1)
    groups = (GroupPlan(group="conv", width=3, keep=1), GroupPlan(group="none", width=0, keep=0))
    plan = Plan(
        allocator="uniform",
        budget="macs",
        fraction=0.5,
        before=cost,
        groups=groups,
        predicted=Prediction(params=1, macs=1, loss_increase=0.25, latency_ratio=None),
    )
    digest = digest_of(plan)
    file = f"ancestors/{digest.removeprefix('sha256:')}.json"
    (tmp_path / "ancestors").mkdir()
    (tmp_path / file).write_bytes(canonical(plan))
    verdict = stand.case.verdict
    manifest = other(
        verdict.manifest,
        parents={**verdict.manifest.parents, "chosen": digest},
        payload={file: store.file_digest(tmp_path / file)},
    )
    held = replace(stand.case, verdict=replace(verdict, manifest=manifest, path=tmp_path))
    found = decided(held)
    assert (found.predicted_loss, found.kept) == (0.25, {"conv": 0.3333})
    assert found.asked == Asked(allocator="uniform", budget="macs", fraction=0.5)
    lost = replace(held, verdict=replace(held.verdict, manifest=other(manifest, payload={})))
    assert (decided(lost).predicted_loss, decided(lost).kept) == (UNSET, UNSET)


def with_records(case: Case, **arms: dict[str, tuple[int, ...]]) -> Case:
    """The arms `candidate` and `dense`, over as many examples as the first column has."""
    records = {
        {"candidate": "candidate@ort-cpu"}.get(name, name): ArmRecords(columns=columns)
        for name, columns in arms.items()
    }
    count = len(next(iter(next(iter(arms.values())).values()))) if arms else 0
    quality = other(case.evidence.quality, arms=records, ids=tuple(str(i) for i in range(count)))
    return replace(case, evidence=other(case.evidence, quality=quality))


def test_flips_are_of_answers_and_not_of_measured_values(stand: Stand) -> None:
    """A value in millionths is another one in every generation, and would say that no policy can pass; of two
    members the one with more flips counts.
    """
    case = stand.case
    dense = {
        "lane.correct": (1, 1, 1, 1),
        "car.correct": (1, 1, 1, 1),
        "depth.predicted": (1, 2, 3, 4),
    }
    mine = {
        "lane.correct": (1, 1, 1, 0),
        "car.correct": (0, 0, 1, 1),
        "depth.predicted": (5, 6, 7, 8),
    }
    assert decided(with_records(case, candidate=mine, dense=dense)).flips == 0.5
    for kept, flips in (("lane.correct", 0.25), ("depth.predicted", None)):
        arms = {"candidate": {kept: mine[kept]}, "dense": {kept: dense[kept]}}
        assert decided(with_records(case, **arms)).flips == flips
    classes = {"answer": (1, 2), "actual": (1, 1), "confidence": (3, 4)}
    others = {"answer": (1, 1), "actual": (1, 1), "confidence": (5, 6)}
    assert decided(with_records(case, candidate=classes, dense=others)).flips == 0.5


def test_flips_are_examples_whose_record_differs(stand: Stand) -> None:
    """In any column that no built-in metric reads, each once; of the first target by name, where both arms
    have the same columns.
    """
    case = stand.case
    dense = {"a": (1, 1, 1, 1), "b": (0, 0, 0, 0)}
    mine = {"a": (1, 0, 1, 0), "b": (0, 0, 1, 1)}
    assert decided(with_records(case, candidate=mine, dense=dense)).flips == 0.75
    assert decided(with_records(case, candidate=dense, dense=dense)).flips == 0.0
    assert decided(with_records(case, candidate={"a": (1,)}, dense=dense)).flips is None
    assert decided(with_records(case, candidate=mine)).flips is None
    assert decided(with_records(case, dense=dense)).flips is None
    assert decided(with_records(case, candidate={"a": ()}, dense={"a": ()})).flips is None
    both = with_records(case, candidate=mine, dense=dense)
    (first,) = case.evidence.targets
    for name in ("zzz", "ort-gpu"):
        evidence = other(both.evidence, targets=(other(first, target=name), first))
        assert decided(replace(both, evidence=evidence)).flips == 0.75
    evidence = other(both.evidence, targets=(first, other(first, target="a")))
    assert decided(replace(both, evidence=evidence)).flips is None
