"""Verdict directories as the gate writes them, with numbers as a digit classifier gives them.

`Scene` says what happened; `write_verdict` writes real artefacts through the store and returns the
verdict that a report is made from.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from msgspec import UNSET

from reprune.core import store
from reprune.core.artifacts import (
    MAPS_FILE,
    PAST_PLAN,
    Benchmark,
    Cost,
    CutPoint,
    DataReport,
    EngineFact,
    Engines,
    Expectation,
    GroupCut,
    GroupPlan,
    GroupSensitivity,
    GuardResult,
    Judgement,
    LayerError,
    LayerProfile,
    Manifest,
    MapPair,
    MappedLayer,
    ModelBundle,
    OperatorShares,
    OperatorTime,
    Outcome,
    Parity,
    Plan,
    PowerFact,
    Prediction,
    Previous,
    Profile,
    Recorded,
    Recovery,
    RecoveryEpoch,
    RuleResult,
    Sensitivity,
    ShownExample,
    ShownMaps,
    SliceResult,
    SplitFact,
    Surgery,
    TargetProfile,
    TargetSamples,
    TaskFact,
    Verdict,
    VerdictSummary,
    Waiver,
)
from reprune.core.documents import canonical, digest_of
from reprune.core.lock import ChampionRef, DenseRef, Lock
from reprune.core.machine import Machine
from reprune.core.params import CostParams, Params, Target
from reprune.core.policy import (
    ChampionRatio,
    LatencyObjective,
    LatencyRules,
    Margin,
    MaxRatio,
    Policy,
    QualityRules,
    SizeRules,
    SliceRules,
)
from reprune.core.store import Artifact
from reprune.judge.evidence import (
    ArmRecords,
    ArmTimes,
    Evidence,
    Problem,
    QualityEvidence,
    TargetEvidence,
    Unit,
)
from reprune.report.facts import ReportFacts, read_facts


def digest(text: str) -> str:
    return digest_of(text)


MACHINE = Machine(
    instance=digest("box"),
    kind=digest("kind"),
    cpu="AMD EPYC 7B13",
    logical_cpus=2,
    os="Linux x86_64",
)
GROUPS = (("conv1", 16, 8), ("conv2", 32, 16), ("conv3", 64, 24), ("fc1", 64, 32))
DENSE_COST = Cost(params=60_042, macs=1_204_736, bytes=241_320)
CANDIDATE_COST = Cost(params=17_866, macs=563_904, bytes=72_664)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What happened in one generation. Shares of examples right are of 450 digits."""

    outcome: Outcome
    headline: str
    reasons: tuple[str, ...] = ()
    name: str = "digits"
    dense_version: str = "3"
    champion: str | None = "2"
    targets: tuple[str, ...] = ("ort-cpu",)
    right: dict[str, int] = field(
        default_factory=lambda: {"dense": 441, "candidate": 440, "champion": 439}
    )
    ratio: float = 0.61
    units: int = 15
    rules: tuple[RuleResult, ...] = ()
    slices: tuple[SliceResult, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    groups: tuple[tuple[str, int, int], ...] = GROUPS
    ancestors: bool = True
    expectations: tuple[Expectation, ...] = ()
    guards: tuple[GuardResult, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    dry_run: bool = False
    uses: int = 0
    cost: CostParams | None = None
    history: tuple[VerdictSummary, ...] = ()
    past_groups: tuple[tuple[str, int, int], ...] = ()
    maps: ShownMaps | None = None
    operators: OperatorShares | None = None
    worst_layers: tuple[LayerError, ...] = ()
    surgery: dict[str, object] = field(default_factory=dict)


def rule(rule: str, baseline: str, outcome: Outcome, **fields: object) -> RuleResult:
    """A result with what a test does not care about filled in."""
    given: dict[str, object] = {
        "target": None,
        "required": True,
        "unit": "share",
        "baseline_value": None,
        "candidate_value": None,
        "change": None,
        "low": None,
        "high": None,
        "limit": -0.03,
        "direction": "at least",
        "samples": 450,
        "words": f"{rule} against {baseline} was measured.",
    }
    return RuleResult(rule=rule, baseline=baseline, outcome=outcome, **(given | fields))  # type: ignore[arg-type]


def facts(scene: Scene, folder: Path) -> ReportFacts:
    return read_facts(write_verdict(scene, folder))


def bare(scene: Scene) -> ReportFacts:
    """The facts of a verdict that carries nothing but its judgement; no file is written."""
    verdict = Verdict(
        name=scene.name,
        dense_version=scene.dense_version,
        lock=digest("lock"),
        policy=digest("policy"),
        champion=_champion(scene),
        judgement=_judgement(scene),
    )
    return ReportFacts(verdict=verdict, digest=digest("verdict"))


def write_verdict(scene: Scene, folder: Path) -> Artifact[Verdict]:
    """The verdict of `scene` as a directory below `folder`, with its ancestors' manifests."""
    evidence = _evidence(scene)
    policy, params, lock = _policy(scene), _params(scene), lock_of(scene)
    parents: dict[str, str] = {}
    with store.drafting(folder / "verdict") as draft:
        (draft / "evidence.json").write_bytes(canonical(evidence))
        for name, document in (("policy", policy), ("params", params), ("lock", lock)):
            (draft / f"{name}.json").write_bytes(canonical(document))
        (draft / "ancestors").mkdir()
        if scene.past_groups:
            (draft / "past").mkdir()
            was = _plan(replace(scene, groups=scene.past_groups))
            (draft / PAST_PLAN).write_bytes(canonical(was))
        _write_pictures(scene, draft)
        if scene.ancestors:
            for name, manifest in _ancestors(scene, evidence).items():
                parents[name] = digest_of(manifest)
                copy = draft / "ancestors" / f"{parents[name].removeprefix('sha256:')}.json"
                copy.write_bytes(canonical(manifest))
        champion = _champion(scene)
        verdict = Verdict(
            name=scene.name,
            dense_version=scene.dense_version,
            lock=lock.digest,
            policy=digest_of(policy),
            champion=champion,
            judgement=_judgement(scene),
        )
        return store.write(draft, verdict, step="gate", parents=parents, out=folder / "verdict")


def _write_pictures(scene: Scene, draft: Path) -> None:
    """What the benchmark leaves for people: feature maps, and where the time goes on every target."""
    folder = draft / "samples" / "0"
    (folder / "operators").mkdir(parents=True)
    if scene.maps is not None:
        (folder / MAPS_FILE).write_bytes(canonical(scene.maps))
    if scene.operators is not None:
        for target in scene.targets:
            (folder / "operators" / f"{target}.json").write_bytes(canonical(scene.operators))


def operator_shares() -> OperatorShares:
    """As ONNX Runtime tells of the two models of a scene: fused, in its own order."""
    dense = {"conv2": 31.2, "conv3": 24.9, "conv1": 11.4, "fc1": 6.1, "pool": 4.4, "fc2": 2.0}
    left = {"conv2": 0.31, "conv3": 0.24, "conv1": 0.55, "fc1": 0.4, "pool": 0.62, "fc2": 1.0}
    pruned = {name: round(took * left[name], 3) for name, took in dense.items()}
    return OperatorShares(arms={"dense": _operators(dense), "candidate": _operators(pruned)})


def _operators(times: dict[str, float]) -> tuple[OperatorTime, ...]:
    total = sum(times.values())
    kinds = {"pool": "MaxPool", "fc1": "Gemm", "fc2": "Gemm"}
    return tuple(
        OperatorTime(
            operator=f"{name}/{kinds.get(name, 'Conv')}",
            type=kinds.get(name, "Conv"),
            median_us=took,
            share=round(took / total, 6),
        )
        for name, took in sorted(times.items(), key=lambda item: -item[1])
    )


def shown_maps(examples: int = 3, side: int = 48, layers: int = 4) -> ShownMaps:
    """Rings, which fade more from layer to layer, with some channels cut."""
    return ShownMaps(
        examples=tuple(
            ShownExample(
                id=f"tile-{place:02}",
                width=side,
                height=side,
                channels=1,
                pixels=_rings(side, place, 1.0),
            )
            for place in range(examples)
        ),
        layers=tuple(
            MappedLayer(
                layer=f"conv{index + 1}",
                relative=round(0.2 + 0.2 * index, 6),
                channels=16,
                absent=tuple(range(0, 16, 3))[: index + 1],
                strength=bytes(255 - 12 * channel for channel in range(16)),
                candidate_strength=bytes(
                    0
                    if channel in tuple(range(0, 16, 3))[: index + 1]
                    else (255 - 12 * channel) // (index + 1)
                    for channel in range(16)
                ),
                maps=tuple(
                    MapPair(
                        width=side,
                        height=side,
                        peak=1.5,
                        dense=_rings(side, place, 1.0),
                        candidate=_rings(side, place + index % 2, 1.0 - 0.2 * index),
                    )
                    for place in range(examples)
                ),
            )
            for index in range(layers)
        ),
    )


def _rings(side: int, shift: int, strength: float) -> bytes:
    middle = side / 2 + shift
    return bytes(
        int(strength * 127.5 * (1 + math.cos(math.hypot(x - middle, y - side / 2) / 1.7)))
        for y in range(side)
        for x in range(side)
    )


def _judgement(scene: Scene) -> Judgement:
    return Judgement(
        procedure="1",
        outcome=scene.outcome,
        headline=scene.headline,
        reasons=scene.reasons,
        attempt=1,
        alpha=0.025,
        rules=scene.rules,
        slices=scene.slices,
        notes=scene.notes,
        guards=scene.guards or UNSET,
        waivers=scene.waivers or UNSET,
        dry_run=scene.dry_run or UNSET,
    )


def _champion(scene: Scene) -> ChampionRef | None:
    if scene.champion is None:
        return None
    return ChampionRef(version=scene.champion, bundle=digest("old"), receipt=digest("receipt"))


def _policy(scene: Scene) -> Policy:
    return Policy(
        targets=dict.fromkeys(scene.targets, "required"),
        latency=LatencyRules(
            vs_parent=MaxRatio(max_ratio=0.85),
            vs_champion=ChampionRatio(),
            objective=LatencyObjective(max_ms=0.15),
        ),
        quality={
            "accuracy": QualityRules(
                vs_parent=Margin(max_drop=0.03, max_error_ratio=None),
                vs_champion=Margin(max_drop=0.03, max_error_ratio=None),
                floor=0.9,
                slices=SliceRules(max_drop=0.1),
            )
        },
        size=SizeRules(vs_parent=MaxRatio(max_ratio=0.6)),
    )


def _params(scene: Scene) -> Params:
    return Params(
        name="digits",
        task="task.digits:DigitsTask",
        targets={t: Target() for t in scene.targets},
        cost=scene.cost or UNSET,
    )


def lock_of(scene: Scene) -> Lock:
    return Lock(
        reprune="0.1.0",
        registry="sqlite:///.reprune/registry.db",
        workspace="default",
        name="digits",
        dense=DenseRef(version=scene.dense_version, weights=digest("weights")),
        champion=_champion(scene) or "none",
        targets=scene.targets,
        params=digest("params"),
        policy=digest("policy"),
        task=digest("task"),
        data_version="digits-1",
    )


def _arms(scene: Scene) -> dict[str, str]:
    arms = {"candidate": digest("candidate"), "dense": digest("dense")}
    return arms if scene.champion is None else {**arms, "champion": digest("old")}


def _evidence(scene: Scene) -> Evidence:
    chance = random.Random(7)
    ids = tuple(f"digit-{index:04}" for index in range(450))
    records = {arm: _records(right, 450, chance) for arm, right in scene.right.items()}
    arms = {"dense": records["dense"]}
    for target in scene.targets:
        arms |= {f"{arm}@{target}": records[arm] for arm in _arms(scene)}
    return Evidence(
        name=scene.name,
        dense_version=scene.dense_version,
        champion_version=scene.champion,
        seed=digest("seed"),
        attempt=1,
        arms=_arms(scene),  # type: ignore[arg-type]
        engines=_engine_facts(scene),
        targets=tuple(
            TargetEvidence(
                target=target,
                machine=MACHINE,
                batch_size=1,
                units=tuple(_unit(index, scene, chance) for index in range(scene.units)),
            )
            for target in scene.targets
        ),
        quality=QualityEvidence(
            eval_digest=digest("eval"),
            ids=ids,
            slices={"digit": tuple(str(index % 10) for index in range(450))},
            sources=None,
            arms=arms,
        ),
        power=(),
        problems=scene.problems,
        uses=scene.uses,
        waivers=scene.waivers,
    )


def _records(right: int, examples: int, chance: random.Random) -> ArmRecords:
    """`right` of `examples` are right; the hard ones are the same for every arm, but for a few."""
    difficulty = [
        (index * 7919 % examples + chance.gauss(0, 6), index) for index in range(examples)
    ]
    wrong = {index for _, index in sorted(difficulty)[: examples - right]}
    return ArmRecords(columns={"correct": tuple(int(i not in wrong) for i in range(examples))})


def _unit(index: int, scene: Scene, chance: random.Random) -> Unit:
    speed = {"dense": 84_000.0, "candidate": 84_000 * scene.ratio, "champion": 52_500.0}
    drift = math.exp(chance.gauss(0, 0.06))
    arms = {}
    for order, arm in enumerate(_arms(scene)):
        session = speed[arm] * drift * math.exp(chance.gauss(0, 0.012))
        blocks = tuple(
            tuple(round(session * math.exp(abs(chance.gauss(0, 0.04)))) for _ in range(20))
            for _ in range(2)
        )
        arms[arm] = ArmTimes(order=order, blocks_ns=blocks, warmup_calls=5)
    return Unit(
        index=index, process=index // 2, seed=index, started_s=1.79e9 + index, load=0.4, arms=arms
    )


def _engine_facts(scene: Scene) -> tuple[EngineFact, ...]:
    costs = {"dense": DENSE_COST, "candidate": CANDIDATE_COST, "champion": CANDIDATE_COST}
    return tuple(
        EngineFact(
            arm=arm,  # type: ignore[arg-type]
            target=target,
            runtime="onnxruntime",
            runtime_version="1.23.2",
            precision="fp32",
            file=f"{arm}/{target}.onnx",
            bytes=costs[arm].bytes + 4_211,
            bundle=bundle,
            weights=digest(f"weights of {arm}"),
            inputs=("image",),
            parity=Parity(examples=128, max_abs=2.4e-6, cosine=0.99999998, agreement=1.0),
            cost=costs[arm],
            worst_layers=scene.worst_layers if arm == "candidate" and scene.worst_layers else UNSET,
        )
        for target in scene.targets
        for arm, bundle in _arms(scene).items()
    )


def _ancestors(scene: Scene, evidence: Evidence) -> dict[str, Manifest]:
    task = TaskFact(entry="task.digits:DigitsTask", digest=digest("task"), data_version="digits-1")
    dense = ModelBundle(name=scene.name, dense_version=scene.dense_version, task=task)
    found: dict[str, Manifest] = {
        "dense": dense,
        "previous": _previous(scene),
        "data": _data(scene, task),
        "table": _sensitivity(scene),
        "chosen": _plan(scene),
        "pruned": ModelBundle(
            name=scene.name, dense_version=scene.dense_version, task=task, surgery=_surgery(scene)
        ),
        "profiles.0": _profile(scene),
    }
    found["candidate"] = ModelBundle(
        name=scene.name,
        dense_version=scene.dense_version,
        task=task,
        surgery=_surgery(scene),
        recovery=_recovery(),
        parents={"student": digest_of(found["pruned"]), "teacher": digest_of(dense)},
    )
    found["engines.0"] = Engines(machine=MACHINE, engines=_engine_facts(scene))
    found["benchmarks.0"] = Benchmark(
        machine=MACHINE,
        dense_version=scene.dense_version,
        attempt=1,
        arms=_arms(scene),
        engines=_engine_facts(scene),
        targets=tuple(
            TargetSamples(target=t, batch_size=1, units=scene.units, file=f"latency/{t}.json")
            for t in scene.targets
        ),
        recorded=Recorded(
            examples=450, eval_digest=evidence.quality.eval_digest, columns=("correct",)
        ),
    )
    return found


def _previous(scene: Scene) -> Previous:
    return Previous(
        name=scene.name,
        dense_version=scene.dense_version,
        champion=_champion(scene),
        anchor=None,
        attempts=0,
        history=scene.history,
    )


def _data(scene: Scene, task: TaskFact) -> DataReport:
    sizes = {"train": 897, "tune": 225, "calibration": 225, "eval": 450}
    digits = {str(digit): 45 for digit in range(10)}
    expectations = scene.expectations or (
        Expectation(
            name="ids are unique",
            split="eval",
            severity="critical",
            success=True,
            observed="450 ids, 450 of them different",
        ),
        Expectation(
            name="splits do not overlap",
            split="all",
            severity="critical",
            success=True,
            observed="no content digest is in two splits",
        ),
        Expectation(
            name="no class is rarer than half the mean",
            split="train",
            severity="warning",
            success=False,
            observed="class 8 has 38 examples, the mean is 90",
        ),
    )
    return DataReport(
        task=task,
        passed=True,
        expectations=expectations,
        splits={
            name: SplitFact(
                examples=size, digest=digest(name), classes=digits, slices={}, sources=None
            )
            for name, size in sizes.items()
        },
        power=(
            PowerFact(
                rule="accuracy.vs_parent",
                examples=450,
                flips=0.02,
                alpha=0.025,
                pass_if_equal=0.93,
                pass_if_third_lost=0.71,
            ),
        ),
    )


def _sensitivity(scene: Scene) -> Sensitivity:
    groups = []
    for place, (name, width, _) in enumerate(scene.groups):
        steep = 0.6 / (1 + place % 7)
        cuts = tuple(
            CutPoint(
                keep=max(1, round(width * (1 - share))),
                loss_increase=round(steep * share**2.5 + 0.002 * place, 6),
                standard_error=round(0.004 + 0.02 * share * steep, 6),
                macs=round(1_204_736 * (1 - share / 3)),
                params=round(60_042 * (1 - share / 3)),
            )
            for share in (0.25, 0.5, 0.75)
        )
        groups.append(GroupSensitivity(group=name, width=width, cuts=cuts))
    return Sensitivity(criterion="taylor", base_loss=0.0812, examples=225, groups=tuple(groups))


def _plan(scene: Scene) -> Plan:
    return Plan(
        allocator="sensitivity",
        budget="macs",
        fraction=0.5,
        before=DENSE_COST,
        groups=tuple(GroupPlan(group=g, width=w, keep=k) for g, w, k in scene.groups),
        predicted=Prediction(params=17_866, macs=563_904, loss_increase=0.0421, latency_ratio=None),
    )


def cut_to(group: tuple[str, int, int], keep: int) -> GroupCut:
    """What is planned of a group, cut to `keep`: each channel of it costs 300 weights, used 20 times."""
    name, width, planned = group

    def cost(channels: int) -> Cost:
        return Cost(params=300 * channels, macs=6_000 * channels, bytes=1_200 * channels)

    return GroupCut(
        group=name,
        width=width,
        requested=planned,
        keep=keep,
        planned=cost(width - planned),
        removed=cost(width - keep),
    )


def _surgery(scene: Scene) -> Surgery:
    usual = Surgery(
        criterion="taylor",
        groups=tuple(cut_to(group, group[2]) for group in scene.groups),
        before=DENSE_COST,
        after=CANDIDATE_COST,
        equality_max_abs=1.9e-6,
        loss_dense=0.0741,
        loss_cut=0.9127,
        loss_compensated=0.2218,
        loss_recalibrated=0.3071,
        kept="compensated",
    )
    return msgspec.structs.replace(usual, **scene.surgery)


def _recovery() -> Recovery:
    curve = ((0.191, 0.158), (0.112, 0.121), (0.083, 0.109), (0.071, 0.1113))
    return Recovery(
        epochs=tuple(
            RecoveryEpoch(epoch=index + 1, train_loss=train, tune_loss=tune, learning_rate=0.01)
            for index, (train, tune) in enumerate(curve)
        ),
        best_epoch=3,
        examples=7176,
        teacher=digest("dense"),
    )


def _profile(scene: Scene) -> Profile:
    operators = (
        ("conv2+relu", "FusedConv", 31.2),
        ("conv3+relu", "FusedConv", 24.9),
        ("conv1+relu", "FusedConv", 11.4),
        ("fc1", "Gemm", 6.1),
        ("pool", "MaxPool", 4.4),
        ("fc2", "Gemm", 2.0),
    )
    total = sum(time for _, _, time in operators)
    return Profile(
        cost=DENSE_COST,
        layers=(
            LayerProfile(
                layer="conv1", type="Conv2d", params=160, macs=9_216, output_shape=(1, 16, 8, 8)
            ),
        ),
        uncounted=(),
        machine=MACHINE,
        targets=tuple(
            TargetProfile(
                target=target,
                runtime="onnxruntime",
                batch_size=1,
                latency_us=84.1,
                operators=tuple(
                    OperatorTime(operator=name, type=kind, median_us=time, share=time / total)
                    for name, kind, time in operators
                ),
            )
            for target in scene.targets
        ),
    )
