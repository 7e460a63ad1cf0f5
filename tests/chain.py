"""A whole run's artefacts, written through the real store with made-up measurements.

`write_chain` is for tests of what comes after the measuring: gate, check, report, promote. Every
manifest, digest and parent is real; only the weights and the samples are invented.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET
from safetensors.numpy import save_file

from reprune import __version__
from reprune.core import store
from reprune.core.artifacts import (
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
    LayerProfile,
    Manifest,
    ModelBundle,
    OperatorTime,
    Parity,
    Plan,
    PowerFact,
    Prediction,
    Previous,
    Profile,
    Recorded,
    Recovery,
    RecoveryEpoch,
    Sensitivity,
    SplitFact,
    Surgery,
    TargetProfile,
    TargetSamples,
    TaskFact,
)
from reprune.core.documents import canonical, decode_yaml, digest_of
from reprune.core.lock import ChampionRef, DenseRef, Lock
from reprune.core.machine import Machine
from reprune.core.params import Params
from reprune.core.policy import Policy
from reprune.core.step import Documents, knobs_digest, run
from reprune.core.store import Artifact
from reprune.judge.evidence import CONTROL, ArmTimes, Unit
from reprune.steps import get_step

PARAMS = "name: digits\ntask: task.digits:DigitsTask\nregistry: {kind: files, uri: registry}\n"
REBUILT = "targets: {{ort-cpu: {{rebuilt: true}}}}\nbuild: {{builds: {}}}\n"
POLICY = """
targets: {ort-cpu: required}
latency: {vs_parent: {max_ratio: 0.9}, vs_champion: {max_ratio: 1.05}}
quality:
  accuracy:
    vs_parent: {max_drop: 0.03, max_error_ratio: null}
    vs_champion: {max_drop: 0.03, max_error_ratio: null}
    floor: 0.9
size: {vs_parent: {max_ratio: 0.8}}
"""
DENSE_COST = Cost(params=1000, macs=100_000, bytes=4000)
SMALL_COST = Cost(params=500, macs=50_000, bytes=2000)
INPUTS = {
    "benchmarks": ["benchmark"],
    "engines": ["engines"],
    "profiles": ["profile"],
    "candidate": "candidate",
    "pruned": "pruned",
    "dense": "dense",
    "previous": "previous",
    "data": "data",
    "chosen": "plan",
    "table": "sensitivity",
}


@dataclass(kw_only=True)
class Story:
    """What the measurements are to show. Wrong examples are the first ones of each arm's list."""

    dense_version: str = "1"
    examples: int = 450
    dense_wrong: int = 5
    candidate_wrong: int = 6
    champion_wrong: int = 6
    ratio: float = 0.6
    champion_ratio: float = 1.0
    units: int = 15
    attempt: int = 1
    look: int = 1
    champion: ChampionRef | None = None
    past_plan: bool = False
    anchor: ChampionRef | None = None
    anchor_wrong: int = 6
    machine: str = "box-a"
    engines_machine: str = ""
    started_s: float = 1_000_000.0
    policy: str = POLICY
    attempts_before: int = 0
    passed: bool = True
    seed: int = 0
    task: str = "class DigitsTask: ...\n"
    # More than one: the target is rebuilt on its device.
    builds: int = 1
    expectations: tuple[Expectation, ...] = field(default_factory=tuple)
    # Files beside the benchmark's samples.
    beside: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The folders by name (below `artifacts/`), and the documents they were made under."""

    root: Path
    documents: Documents

    def path(self, name: str) -> Path:
        return self.root / "artifacts" / name

    def judged(self) -> Artifact[Manifest]:
        """Runs the gate on the chain; the verdict lies in artifacts/verdict."""
        inputs = {
            name: [self.path(one) for one in given] if isinstance(given, list) else self.path(given)
            for name, given in INPUTS.items()
        }
        return run(
            get_step("gate"), inputs, self.documents, self.path("verdict"), say=lambda _: None
        )


def write_chain(root: Path, story: Story | None = None) -> Chain:
    """Writes params.yaml, policy.yaml, the lock's value and every artefact up to the benchmark."""
    story = story or Story()
    writer = _Writer(root, story)
    return writer.write()


class _Writer:
    def __init__(self, root: Path, story: Story) -> None:
        self.root = root
        self.story = story
        self.text = PARAMS + (REBUILT.format(story.builds) if story.builds > 1 else "")
        self.params = decode_yaml(self.text, Params, name="params.yaml")
        self.policy = decode_yaml(story.policy, Policy, name="policy.yaml")
        self.task_root = root / "task"
        self.random = random.Random(story.seed)

    def write(self) -> Chain:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "params.yaml").write_text(self.text)
        (self.root / "policy.yaml").write_text(self.story.policy)
        self.task_root.mkdir(exist_ok=True)
        (self.task_root / "digits.py").write_text(self.story.task)
        self.task = TaskFact(
            entry="task.digits:DigitsTask",
            digest=store.folder_digest(self.task_root),
            data_version="data-1",
        )
        dense = self._bundle("dense", "fetch-dense", {}, {})
        champion = self._champion_payload()
        previous = self._put(
            "previous",
            "fetch-previous",
            {},
            Previous(
                name="digits",
                dense_version=self.story.dense_version,
                champion=self.story.champion,
                anchor=self.story.anchor,
                attempts=self.story.attempts_before,
                history=(),
            ),
            champion,
        )
        data = self._put("data", "validate", {"dense": dense, "previous": previous}, self._data())
        both = {"dense": dense, "data": data}
        profile = self._put("profile", "profile", both, self._profile())
        table = self._put(
            "sensitivity", "sensitivity", {**both, "previous": previous}, self._table()
        )
        parents = {"dense": dense, "table": table, "previous": previous, "profiles.0": profile}
        chosen = self._put("plan", "plan", parents, self._plan(), {"plan.yaml": b"conv: 8 -> 4\n"})
        pruned = self._bundle(
            "pruned", "prune", {**both, "chosen": chosen}, {"surgery": self._surgery()}
        )
        candidate = self._bundle(
            "candidate",
            "distill",
            {"student": pruned, "teacher": dense, "data": data, "previous": previous},
            {"surgery": self._surgery(), "recovery": self._recovery()},
        )
        arms = {"candidate": candidate, "dense": dense}
        if self.story.champion:
            arms["champion"] = self.story.champion.bundle
        if self.story.anchor:
            arms["anchor"] = self.story.anchor.bundle
        facts = tuple(self._engine(arm, digest) for arm, digest in arms.items())
        machine = self._machine(self.story.engines_machine)
        engines = self._put(
            "engines",
            "build",
            {"candidate": candidate, "previous": previous, **both},
            Engines(machine=machine, engines=facts),
            {
                file: b"x" * fact.bytes
                for fact in facts
                for file in (fact.file, *(fact.copies or ()))
            },
        )
        self._benchmark(arms, facts, {"engines": engines, "previous": previous, **both})
        return Chain(
            root=self.root,
            documents=Documents(
                root=self.root,
                params=self.params,
                policy=self.policy,
                lock=self._lock(self.root / "artifacts" / "dense"),
            ),
        )

    def _put(
        self,
        name: str,
        step: str,
        parents: dict[str, str],
        manifest: Manifest,
        payload: dict[str, bytes] | None = None,
    ) -> str:
        out = self.root / "artifacts" / name
        with store.drafting(out) as draft:
            for file, content in (payload or {}).items():
                (draft / file).parent.mkdir(parents=True, exist_ok=True)
                (draft / file).write_bytes(content)
            knobs = knobs_digest(get_step(step), self.params)
            return store.write(
                draft, manifest, step=step, parents=parents, out=out, knobs=knobs
            ).digest

    def _weights(self, name: str) -> bytes:
        path = self.root / f"{name}.tmp"
        save_file({"conv.weight": np.full((4, 4), hash_int(name), np.float32)}, path)
        content = path.read_bytes()
        path.unlink()
        return content

    def _bundle(
        self, name: str, step: str, parents: dict[str, str], extra: dict[str, object]
    ) -> str:
        payload = {
            "weights.safetensors": self._weights(name + self.story.dense_version),
            "task/task/digits.py": (self.task_root / "digits.py").read_bytes(),
        }
        manifest = ModelBundle(
            name="digits", dense_version=self.story.dense_version, task=self.task, **extra
        )
        return self._put(name, step, parents, manifest, payload)

    def _champion_payload(self) -> dict[str, bytes]:
        plan = {"plan/manifest.json": canonical(self._plan())} if self.story.past_plan else {}
        return {"champion/placeholder.txt": b"champion", **plan} if self.story.champion else plan

    def _machine(self, instance: str = "") -> Machine:
        return Machine(
            instance=instance or self.story.machine,
            kind="k",
            cpu="cpu",
            logical_cpus=2,
            os="Linux x86_64",
        )

    def _data(self) -> DataReport:
        split = SplitFact(
            examples=self.story.examples,
            digest=EVAL_DIGEST,
            classes={"0": 1},
            slices={},
            sources=None,
        )
        return DataReport(
            task=self.task,
            passed=self.story.passed,
            expectations=self.story.expectations,
            splits={"eval": split},
            power=(
                PowerFact(
                    rule="accuracy.vs_parent",
                    examples=self.story.examples,
                    flips=0.02,
                    alpha=0.025,
                    pass_if_equal=0.99,
                    pass_if_third_lost=0.8,
                ),
            ),
        )

    def _profile(self) -> Profile:
        return Profile(
            cost=DENSE_COST,
            layers=(
                LayerProfile(
                    layer="conv",
                    type="Conv2d",
                    params=1000,
                    macs=100_000,
                    output_shape=(1, 8, 8, 8),
                ),
            ),
            uncounted=(),
            machine=self._machine(),
            targets=(
                TargetProfile(
                    target="ort-cpu",
                    runtime="onnxruntime",
                    batch_size=1,
                    latency_us=100.0,
                    operators=(
                        OperatorTime(operator="conv", type="Conv", median_us=90.0, share=1.0),
                    ),
                ),
            ),
        )

    def _table(self) -> Sensitivity:
        cuts = tuple(
            CutPoint(
                keep=keep, loss_increase=0.01 * (8 - keep), standard_error=0.002, macs=1, params=1
            )
            for keep in (6, 4, 2)
        )
        return Sensitivity(
            criterion="taylor",
            base_loss=0.05,
            examples=100,
            groups=(GroupSensitivity(group="conv", width=8, cuts=cuts),),
        )

    def _plan(self) -> Plan:
        return Plan(
            allocator="sensitivity",
            budget="macs",
            fraction=0.5,
            before=DENSE_COST,
            groups=(GroupPlan(group="conv", width=8, keep=4),),
            predicted=Prediction(params=500, macs=50_000, loss_increase=0.04, latency_ratio=None),
        )

    def _surgery(self) -> Surgery:
        return Surgery(
            criterion="taylor",
            groups=(GroupCut(group="conv", width=8, requested=4, keep=4),),
            before=DENSE_COST,
            after=SMALL_COST,
            equality_max_abs=1e-6,
            loss_dense=0.05,
            loss_cut=0.9,
            loss_compensated=0.2,
            loss_recalibrated=0.5,
            kept="compensated",
        )

    def _recovery(self) -> Recovery:
        return Recovery(
            epochs=(
                RecoveryEpoch(epoch=0, train_loss=0.3, tune_loss=0.2, learning_rate=0.01),
                RecoveryEpoch(epoch=1, train_loss=0.1, tune_loss=0.06, learning_rate=0.001),
            ),
            best_epoch=1,
            examples=2000,
            teacher="dense",
        )

    def _engine(self, arm: str, bundle: str) -> EngineFact:
        small = arm != "dense"
        return EngineFact(
            arm=arm,
            target="ort-cpu",
            runtime="onnxruntime",
            runtime_version="1.0",
            precision="fp32",
            file=f"ort-cpu/{arm}.onnx",
            bytes=2000 if small else 4000,
            bundle=bundle,
            weights=self._weights_digest(arm),
            inputs=("image",),
            parity=Parity(examples=64, max_abs=1e-6, cosine=1.0, agreement=1.0),
            cost=SMALL_COST if small else DENSE_COST,
            copies=tuple(f"ort-cpu/{arm}-{n}.onnx" for n in range(1, self.story.builds)) or UNSET,
        )

    def _weights_digest(self, arm: str) -> str:
        if arm not in ("candidate", "dense"):
            return "sha256:" + "0" * 64
        return store.file_digest(self.root / "artifacts" / arm / "weights.safetensors")

    def _benchmark(
        self, arms: dict[str, str], facts: tuple[EngineFact, ...], parents: dict[str, str]
    ) -> str:
        story = self.story
        wrong = {
            "candidate": story.candidate_wrong,
            "dense": story.dense_wrong,
            "champion": story.champion_wrong,
            "anchor": story.anchor_wrong,
        }
        records: dict[str, np.ndarray] = {}
        for arm in arms:
            column = np.ones(story.examples, np.int64)
            column[: wrong[arm]] = 0
            records[f"{arm}@ort-cpu/correct"] = column
            if arm == "dense":
                records["dense/correct"] = column
        path = self.root / "records.tmp"
        save_file(records, path)
        examples = {
            "ids": [f"e{i}" for i in range(story.examples)],
            "slices": {},
            "sources": None,
        }
        payload = {
            "records.safetensors": path.read_bytes(),
            "examples.json": json.dumps(examples).encode(),
            "latency/ort-cpu.json": canonical(
                tuple(self._unit(i, arms) for i in range(story.units))
            ),
            **story.beside,
        }
        path.unlink()
        manifest = Benchmark(
            machine=self._machine(),
            dense_version=story.dense_version,
            attempt=story.attempt,
            arms=arms,
            engines=facts,
            targets=(
                TargetSamples(
                    target="ort-cpu", batch_size=1, units=story.units, file="latency/ort-cpu.json"
                ),
            ),
            recorded=Recorded(
                examples=story.examples, eval_digest=EVAL_DIGEST, columns=("correct",)
            ),
        )
        return self._put("benchmark", "benchmark", parents, manifest, payload)

    def _unit(self, index: int, arms: dict[str, str]) -> Unit:
        base = 100_000 * math.exp(self.random.gauss(0, 0.05))
        speed = {
            "dense": 1.0,
            CONTROL: 1.0,
            "candidate": self.story.ratio,
            "champion": self.story.ratio / self.story.champion_ratio,
            "anchor": self.story.ratio,
        }
        times = {}
        for order, arm in enumerate((*sorted(arms), CONTROL)):
            blocks = tuple(
                tuple(
                    round(base * speed[arm] * math.exp(self.random.gauss(0, 0.01)))
                    for _ in range(9)
                )
                for _ in range(2)
            )
            build = index % self.story.builds if self.story.builds > 1 else UNSET
            times[arm] = ArmTimes(order=order, blocks_ns=blocks, warmup_calls=10, build=build)
        return Unit(
            index=index,
            process=index // 2,
            seed=index,
            started_s=self.story.started_s + index,
            load=0.5,
            arms=times,
        )

    def _lock(self, dense: Path) -> Lock:
        weights = store.file_digest(dense / "weights.safetensors")
        return Lock(
            reprune=__version__,
            registry="files:registry",
            workspace="default",
            name="digits",
            dense=DenseRef(version=self.story.dense_version, weights=weights),
            champion=self.story.champion or "none",
            anchor=self.story.anchor or "none",
            targets=tuple(self.params.targets),
            params=digest_of(self.params),
            policy=digest_of(self.policy),
            task=self.task.digest,
            data_version=self.task.data_version,
            look=UNSET if self.story.look == 1 else self.story.look,
        )


EVAL_DIGEST = "sha256:" + "e" * 64


def hash_int(text: str) -> int:
    """A small number that stands for a text, the same in every process."""
    return int.from_bytes(text.encode()[:6], "big") % 1000


def reencode(path: Path, **changes: object) -> None:
    """Rewrites a manifest with changes and a corrected digest: what a careful forger would leave."""
    value = json.loads((path / store.MANIFEST).read_bytes()) | changes
    (path / store.MANIFEST).write_bytes(msgspec.json.encode(value))
    (path / store.DIGEST).write_text(digest_of(value))
