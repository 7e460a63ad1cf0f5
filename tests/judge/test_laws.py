"""Laws of the whole judgement: what may not matter does not, and what is better is never judged worse.

More of them stand in test_verdict.py, for one change at a time.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from reprune.core.artifacts import Judgement
from reprune.core.documents import canonical
from reprune.core.policy import Policy
from reprune.judge.evidence import Evidence
from reprune.judge.verdict import judge
from tests.building import edit, make_evidence, make_policy, make_units

MORE = 20 if os.environ.get("REPRUNE_DEEP") == "1" else 1
CASES = settings(max_examples=20 * MORE, deadline=None)
FEW = settings(max_examples=6 * MORE, deadline=None)
SEEDS = st.integers(0, 100_000)
RANK = {"pass": 0, "inconclusive": 1, "block": 2, "error": 3}
NO_RATIO = {"max_drop": 0.05, "max_error_ratio": None}
CANDIDATES = ("candidate@cpu", "candidate@npu")


def a_case(
    seed: int, *, ratio_metric: bool = False, sources: bool = False
) -> tuple[Evidence, Policy]:
    """Evidence near every margin, on two targets, under a policy that may be missed or met by it."""
    rng = random.Random(seed)
    count = rng.choice([240, 400])
    evidence = make_evidence(
        targets={"cpu": rng.choice([0.6, 0.75, 0.79]), "npu": rng.choice([0.5, 0.7])},
        examples=count,
        errors=rng.choice([8, 20]),
        lost=rng.randint(0, 12),
        gained=rng.randint(0, 8),
        units=rng.choice([8, 15, 31]),
        attempt=rng.choice([1, 1, 2]),
    )
    if sources:
        named = tuple(f"s{place % 80:02d}" for place in range(count))
        evidence = edit(evidence, "quality.sources", named)
    quality: dict[str, Any] = {
        "accuracy": {
            "vs_parent": {"max_drop": rng.choice([0.02, 0.04, 0.08]), "max_error_ratio": None},
            "vs_champion": {"max_drop": 0.06, "max_error_ratio": rng.choice([None, 3.0])},
            "floor": rng.choice([0.7, 0.9]),
            "slices": {"max_drop": 0.1},
        }
    }
    if ratio_metric:
        evidence = with_ratios(evidence)
        quality["dice"] = {"vs_parent": NO_RATIO, "slices": {"max_drop": 0.1}}
    policy = make_policy(
        targets={"cpu": "required", "npu": "required"},
        quality=quality,
        alpha=rng.choice([0.05, 0.2]),
        latency={"vs_parent": {"max_ratio": 0.8}, "vs_champion": {"max_ratio": 1.05}},
    )
    return evidence, policy


def with_ratios(evidence: Evidence) -> Evidence:
    for key, records in evidence.quality.arms.items():
        right = records.columns["correct"]
        more = {"numerator": tuple(7 * v + 1 for v in right), "denominator": (9,) * len(right)}
        evidence = edit(evidence, f"quality.arms.{key}.columns", {"correct": right, **more})
    return evidence


def ranks(judgement: Judgement) -> dict[tuple[str, str, str | None], int]:
    return {(r.rule, r.baseline, r.target): RANK[r.outcome] for r in judgement.rules}


def never_worse(before: Judgement, after: Judgement) -> None:
    """No rule, and not the whole, is judged worse than it was."""
    assert RANK[after.outcome] <= RANK[before.outcome]
    later = ranks(after)
    for rule, rank in ranks(before).items():
        assert later[rule] <= rank, rule


# --- better is never worse -----------------------------------------------------------------------


@pytest.mark.slow
@CASES
@given(seed=SEEDS, share=st.floats(0.01, 1.0))
def test_mending_wrong_answers_never_hurts(seed: int, share: float) -> None:
    """Any number of the candidate's wrong answers turned right, on both targets: a pass stays one."""
    evidence, policy = a_case(seed)
    rng = random.Random(seed)
    count = len(evidence.quality.ids)
    mended = {place for place in range(count) if rng.random() < share}
    better = evidence
    for key in CANDIDATES:
        path = f"quality.arms.{key}.columns.correct"
        better = edit(
            better, path, lambda old: tuple(1 if p in mended else v for p, v in enumerate(old))
        )
    before, after = judge(evidence, policy), judge(better, policy)
    if before.outcome == "pass":
        assert after.outcome == "pass"
    assert RANK[after.outcome] <= RANK[before.outcome]


@pytest.mark.slow
@CASES
@given(seed=SEEDS, factor=st.floats(0.3, 0.999))
def test_a_faster_candidate_is_never_judged_worse(seed: int, factor: float) -> None:
    """All of the candidate's calls on all targets shorter by one factor: no rule is judged worse."""
    evidence, policy = a_case(seed)

    def sped(units: Any) -> Any:
        return tuple(edit(u, "arms.candidate.blocks_ns", _scaled(factor)) for u in units)

    faster = evidence
    for place in range(len(evidence.targets)):
        faster = edit(faster, f"targets.{place}.units", sped)
    never_worse(judge(evidence, policy), judge(faster, policy))


def _scaled(factor: float) -> Callable[[Any], Any]:
    return lambda blocks: tuple(tuple(max(1, int(c * factor)) for c in b) for b in blocks)


@pytest.mark.slow
@CASES
@given(seed=SEEDS, tighter=st.floats(0.2, 1.0))
def test_a_stricter_policy_never_turns_a_block_into_a_pass(seed: int, tighter: float) -> None:
    """Every margin, limit and size of the policy tightened at once: no rule is judged better."""
    evidence, policy = a_case(seed, ratio_metric=True)
    strict = msgspec.to_builtins(policy)
    for rules in strict["quality"].values():
        for name in ("vs_parent", "vs_champion"):
            if rules[name]:
                rules[name]["max_drop"] *= tighter
        if rules["floor"]:
            rules["floor"] = 1.0 - (1.0 - rules["floor"]) * tighter
        rules["slices"]["max_drop"] *= tighter
    strict["latency"]["vs_parent"]["max_ratio"] *= tighter
    strict["size"]["vs_parent"]["max_ratio"] *= tighter
    strict["parity"]["max_abs"] *= tighter
    never_worse(judge(evidence, msgspec.convert(strict, Policy)), judge(evidence, policy))


@pytest.mark.slow
@CASES
@given(seed=SEEDS, later=st.integers(2, 9))
def test_trying_again_never_makes_a_pass(seed: int, later: int) -> None:
    """A later attempt on the same evidence passes nothing that the first one did not.

    What latency may do: a rule that blocked early is looked at longer, and its later units then count.
    """
    evidence, policy = a_case(seed)
    first = replace(evidence, attempt=1)
    before, after = judge(first, policy), judge(replace(first, attempt=later), policy)
    if before.outcome == "inconclusive":
        assert after.outcome != "pass"
    early = ranks(before)
    for rule, rank in ranks(after).items():
        if not (rule[0].startswith("latency") and early[rule] == RANK["block"]):
            assert not (rank == RANK["pass"] < early[rule]), rule


@pytest.mark.slow
@CASES
@given(seed=SEEDS, attempt=st.integers(1, 10**9))
def test_a_model_is_never_worse_than_itself(seed: int, attempt: int) -> None:
    """The same records and times in all arms, margins that admit equality: nothing blocks, ever."""
    evidence, policy = a_case(seed, ratio_metric=True, sources=bool(seed % 2))
    own = evidence.quality.arms["candidate@cpu"]
    for key in evidence.quality.arms:
        evidence = edit(evidence, f"quality.arms.{key}", own)
    for place, target in enumerate(evidence.targets):
        same = tuple(
            replace(unit, arms=dict.fromkeys(unit.arms, unit.arms["candidate"]))
            for unit in target.units
        )
        evidence = edit(evidence, f"targets.{place}.units", same)
    evidence = replace(
        evidence,
        attempt=attempt,
        engines=tuple(replace(fact, bytes=700) for fact in evidence.engines),
    )
    equal = {"vs_parent": {"max_ratio": 1.0}, "vs_champion": {"max_ratio": 1.0}}
    policy = replace(
        msgspec.convert(
            {
                **msgspec.to_builtins(policy),
                "latency": equal,
                "size": {"vs_parent": {"max_ratio": 1}},
            },
            Policy,
        )
    )
    policy = edit(policy, "quality.accuracy.floor", None)
    found = judge(evidence, policy)
    assert "block" not in {rule.outcome for rule in found.rules}
    assert found.outcome in ("pass", "inconclusive")
    assert all(one.outcome != "harm" for one in found.slices)


# --- what may not matter -------------------------------------------------------------------------


def turned(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return dict(reversed(list(mapping.items())))


@pytest.mark.slow
@CASES
@given(seed=SEEDS)
def test_the_order_of_parts_is_irrelevant(seed: int) -> None:
    """Targets, engines, records and slices in another order, units' arms too: the same bytes."""
    evidence, policy = a_case(seed, ratio_metric=seed % 3 == 0, sources=seed % 2 == 0)
    quality = evidence.quality
    other = replace(
        evidence,
        targets=tuple(
            replace(
                target,
                units=tuple(replace(unit, arms=turned(unit.arms)) for unit in target.units),
            )
            for target in reversed(evidence.targets)
        ),
        engines=tuple(reversed(evidence.engines)),
        quality=replace(quality, arms=turned(quality.arms), slices=turned(quality.slices)),
    )
    assert canonical(judge(evidence, policy)) == canonical(judge(other, policy))


@pytest.mark.slow
@FEW
@given(SEEDS)
def test_the_order_of_the_policy_is_irrelevant(seed: int) -> None:
    """A verdict keeps its policy with sorted keys; a person writes targets as they come."""
    evidence, policy = a_case(seed, ratio_metric=True)
    turned = replace(
        policy,
        targets=dict(reversed(policy.targets.items())),
        quality=dict(reversed(policy.quality.items())),
    )
    assert list(turned.targets) != list(policy.targets)
    assert canonical(judge(evidence, turned)) == canonical(judge(evidence, policy))


@pytest.mark.slow
@FEW
@given(seed=SEEDS)
def test_names_of_sources_are_names(seed: int) -> None:
    """Sources called otherwise: the same bytes for 0/1 records; for ratios where their order stays."""
    evidence, policy = a_case(seed, sources=True)
    before = canonical(judge(evidence, policy))
    assert evidence.quality.sources is not None
    shuffled = sorted(set(evidence.quality.sources))
    random.Random(seed).shuffle(shuffled)
    called = {name: f"patient {place}" for place, name in enumerate(shuffled)}
    renamed = tuple(called[name] for name in evidence.quality.sources)
    assert canonical(judge(edit(evidence, "quality.sources", renamed), policy)) == before
    ratios, policy = a_case(seed, ratio_metric=True, sources=True)
    prefixed = edit(ratios, "quality.sources", lambda old: tuple(f"x{name}" for name in old))
    assert canonical(judge(prefixed, policy)) == canonical(judge(ratios, policy))


@pytest.mark.slow
@FEW
@given(seed=SEEDS)
def test_names_of_slices_are_names(seed: int) -> None:
    """A family and its values called otherwise: every number stays, only the names change."""
    evidence, policy = a_case(seed, ratio_metric=seed % 2 == 0)
    before = canonical(judge(evidence, policy)).decode()
    values = evidence.quality.slices["light"]
    slices = {
        "class": evidence.quality.slices["class"],
        "lightness": tuple(f"{value}-time" for value in values),
    }
    after = canonical(judge(edit(evidence, "quality.slices", slices), policy)).decode()
    for value in sorted(set(values)):
        before = before.replace(f"light={value}", f"lightness={value}-time")
    assert after == before


@pytest.mark.slow
@CASES
@given(seed=SEEDS, ratio=st.floats(0.4, 2.0), lost=st.integers(0, 60))
def test_an_advisory_target_never_changes_the_outcome(seed: int, ratio: float, lost: int) -> None:
    """A third target that only informs, however it did: outcome, reasons and rules are the same."""
    evidence, policy = a_case(seed)
    before = judge(evidence, policy)
    more = make_evidence(
        targets={"cpu": 1.0, "npu": 1.0, "toy": ratio},
        examples=len(evidence.quality.ids),
        errors=8,
        lost=lost,
        gained=0,
        units=1,
        attempt=evidence.attempt,
    )
    units = make_units(len(evidence.targets[0].units), {"dense": ratio, "champion": 1.0}, seed=seed)
    wider = replace(
        evidence,
        targets=(*evidence.targets, replace(more.targets[2], units=units)),
        engines=(*evidence.engines, *(e for e in more.engines if e.target == "toy")),
        quality=replace(
            evidence.quality,
            arms={
                **evidence.quality.arms,
                **{key: more.quality.arms[key] for key in more.quality.arms if "@toy" in key},
            },
        ),
    )
    after = judge(wider, edit(policy, "targets", lambda old: {**old, "toy": "advisory"}))
    assert (after.outcome, after.reasons) == (before.outcome, before.reasons)
    assert tuple(rule for rule in after.rules if rule.target != "toy") == before.rules


def test_advisory_targets_do_not_delay_a_block() -> None:
    """A rule that is broken at the first look blocks there, however many targets only inform."""
    slow = make_units(8, {"dense": 1.2, "champion": 1.0})
    fast = make_units(60, {"dense": 0.5, "champion": 1.0})[8:]
    rules = {"latency": {"vs_parent": {"max_ratio": 0.8}}, "quality": {}, "size": None}
    outcomes = set()
    for watched in range(6):
        names = ["cpu", *(f"toy-{number}" for number in range(watched))]
        evidence = make_evidence(targets=dict.fromkeys(names, 0.5), units=60)
        evidence = edit(evidence, "targets.0.units", (*slow, *fast))
        roles = {name: "required" if name == "cpu" else "advisory" for name in names}
        found = judge(evidence, make_policy(targets=roles, alpha=0.2, **rules))
        outcomes.add((found.outcome, found.rules[0].samples))
    assert outcomes == {("block", 8)}
