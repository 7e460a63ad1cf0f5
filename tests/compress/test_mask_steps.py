"""plan.method "weights" and "n:m" through the steps, as every door runs them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from msgspec import UNSET

from reprune.compress.bundle import load_bundle
from reprune.compress.masks.choosing import count_zeros, verify_masks, zeros_for
from reprune.compress.masks.semistructured import verify_pattern
from reprune.core import store
from reprune.core.artifacts import (
    MASKS,
    DataReport,
    Engines,
    Manifest,
    ModelBundle,
    Plan,
    Previous,
    Profile,
    Sensitivity,
)
from reprune.core.documents import decode_yaml
from reprune.core.errors import ChainBroken, CompressionError
from reprune.core.lock import DenseRef, Lock
from reprune.core.machine import this_machine
from reprune.core.params import Params
from reprune.core.policy import Policy
from reprune.core.step import Documents, run
from reprune.core.store import Artifact
from reprune.measure.profile import count_cost
from reprune.steps import get_step
from reprune.steps.plan_text import read_plan_text
from reprune.task.trained_on import TRAINED_ON
from tests.chain import POLICY

DIGEST = "sha256:" + "0" * 64
SIZES = {"conv.weight": 72, "wide.weight": 12 * 128}

MARKS = bytes(range(16))


class World:
    """The artefacts of one run, made step by step in a folder."""

    def __init__(self, root: Path, dense: Artifact[ModelBundle]) -> None:
        self.root, self.dense = root, dense
        self.said: list[str] = []
        self.say: Callable[[str], None] = self.said.append
        parents = {"dense": dense.digest}
        report = DataReport(
            task=dense.manifest.task, passed=True, expectations=(), splits={}, power=()
        )
        module = load_bundle(dense).module
        counted = count_cost(module, (torch.zeros(1, 1, 8, 8),))
        self.write("data", report, parents)
        self.write(
            "profile",
            Profile(
                cost=counted.cost,
                layers=counted.layers,
                uncounted=counted.uncounted,
                machine=this_machine(1),
                targets=(),
            ),
            parents,
        )
        past = Previous(
            name="tiny", dense_version="1", champion=None, anchor=None, attempts=0, history=()
        )
        self.write("previous", past, {})

    def write(self, name: str, manifest: Manifest, parents: dict[str, str]) -> None:
        with store.drafting(self.root / name) as draft:
            if name == "data":
                (draft / TRAINED_ON).write_bytes(MARKS)
            store.write(draft, manifest, step="test", parents=parents, out=self.root / name)

    def step(self, step: str, out: str, params: str, **inputs: str) -> Any:
        documents = Documents(
            root=self.root,
            params=decode_yaml(
                f"name: tiny\ntask: tinytask:TinyTask\n{params}", Params, name="params.yaml"
            ),
            policy=decode_yaml(POLICY, Policy, name="policy.yaml"),
            lock=LOCK,
        )
        where: dict[str, Any] = {
            key: self.dense.path if name == "dense" else self.root / name
            for key, name in inputs.items()
        }
        return run(get_step(step), where, documents, self.root / out, say=self.say)

    def table(self, params: str) -> Sensitivity:
        made = self.step(
            "sensitivity", "table", params, dense="dense", data="data", previous="previous"
        )
        return made.manifest

    def plan(self, params: str) -> Plan:
        self.table(params)
        names = {
            "dense": "dense",
            "profiles": "profile",
            "table": "table",
            "previous": "previous",
        }
        return self.step("plan", "plan", params, **names).manifest

    def prune(self, params: str) -> Artifact[ModelBundle]:
        self.plan(params)
        return self.step("prune", "pruned", params, dense="dense", data="data", chosen="plan")

    def distill(self, params: str) -> Artifact[ModelBundle]:
        names = {"student": "pruned", "teacher": "dense", "data": "data", "previous": "previous"}
        return self.step("distill", "candidate", params, **names)


LOCK = Lock(
    reprune="0",
    registry="files:registry",
    workspace="default",
    name="tiny",
    dense=DenseRef(version="1", weights=DIGEST),
    champion="none",
    targets=("ort-cpu",),
    params=DIGEST,
    policy=DIGEST,
    task=DIGEST,
    data_version="1",
)


@pytest.fixture
def world(dense: Artifact[ModelBundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return World(tmp_path, dense)


def params(plan: str, prune: str = "", more: str = "") -> str:
    return f"plan: {{{plan}}}\nprune: {{examples: 64{prune and ', '}{prune}}}\n{more}"


GLOBAL = params("method: weights, sparsity: 0.8", "criterion: magnitude")


def test_weights_are_masked_exactly_and_everything_else_stays(world: World) -> None:
    bundle = world.prune(GLOBAL)
    plan = store.read(world.root / "plan", Plan).manifest
    assert all(group.keep == group.width for group in plan.groups)
    assert plan.sparsity is not UNSET
    wanted = zeros_for(sum(SIZES.values()), 0.8)
    assert plan.sparsity.zeros == wanted
    assert plan.fraction == pytest.approx(0.2, abs=1e-3)
    assert (plan.predicted.macs, plan.predicted.params) == (plan.before.macs, plan.before.params)

    loaded, dense = load_bundle(bundle), load_bundle(world.dense)
    assert loaded.masks.keys() == SIZES.keys()
    assert count_zeros(loaded.masks) == wanted
    verify_masks(loaded.module, loaded.masks, plan.sparsity)
    for name, tensor in dense.module.state_dict().items():
        kept = loaded.masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
        if "running" not in name:
            assert torch.equal(loaded.module.state_dict()[name][kept], tensor[kept]), name
    surgery = bundle.manifest.surgery
    assert surgery is not None
    assert surgery.before == surgery.after
    assert surgery.equality_max_abs == 0.0
    assert surgery.sparsity is not UNSET
    assert {item.tensor: item.size for item in surgery.sparsity} == SIZES
    assert sum(item.zeros for item in surgery.sparsity) == wanted
    assert all(item.zeros == item.requested for item in surgery.sparsity)
    assert min(surgery.loss_cut, surgery.loss_recalibrated or 9e9) != surgery.loss_dense
    assert any("zeros alone make nothing faster" in line for line in world.said)


def test_the_plan_says_what_stays_whole(world: World) -> None:
    world.plan(params("method: n:m, pattern: '2:4'", "criterion: magnitude"))
    shown = yaml.safe_load((world.root / "plan" / "plan.yaml").read_text())
    assert shown["pattern"] == "2:4"
    assert shown["tensors"] == {"wide.weight": {"weights": 1536, "zeros": 768, "sparsity": 0.5}}
    assert shown["left_whole"] == {
        "conv.weight": "its 1 inputs are no multiple of 4",
        "head.weight": "the task keeps 'head'",
    }


@pytest.mark.parametrize(
    ("criterion", "pattern"),
    [("magnitude", "2:4"), ("taylor", "1:4"), ("wanda", "1:4"), ("sparsegpt", "2:4")],
)
def test_a_pattern_holds_whatever_the_criterion(world: World, criterion: str, pattern: str) -> None:
    n, m = int(pattern[0]), int(pattern[2])
    bundle = world.prune(
        params(f"method: n:m, pattern: '{pattern}'", f"criterion: {criterion}, recalibrate: false")
    )
    loaded = load_bundle(bundle)
    assert verify_pattern(loaded.module.wide.weight, n, m)
    assert int((loaded.module.wide.weight != 0).sum()) == 1536 * n // m
    surgery = bundle.manifest.surgery
    assert surgery is not None
    assert (surgery.loss_compensated is not None) == (criterion == "sparsegpt")
    assert surgery.sparsity is not UNSET
    assert [item.pattern for item in surgery.sparsity] == [pattern]


def test_sensitivity_shares_zeros_out_and_the_total_is_exact(world: World) -> None:
    text = params("method: weights, sparsity: 0.7, scope: sensitivity", "criterion: magnitude")
    table = world.table(text)
    assert table.groups == ()
    assert table.tensors is not UNSET
    assert [(item.tensor, item.size) for item in table.tensors] == list(SIZES.items())
    assert all(len(item.shares) == 4 for item in table.tensors)
    bundle = world.prune(text)
    plan = store.read(world.root / "plan", Plan).manifest
    assert plan.predicted.loss_increase is not None
    assert count_zeros(load_bundle(bundle).masks) == zeros_for(sum(SIZES.values()), 0.7)
    assert store.read(world.root / "table", Sensitivity).manifest.cost == 96 + 8 * (2 * 96 + 64)


@pytest.mark.parametrize("scope", ["local", "sensitivity"])
def test_shares_by_hand_are_obeyed_exactly(world: World, scope: str) -> None:
    """The tensor has the share that was set; with scope sensitivity the others make up the whole."""
    asked = f"method: weights, sparsity: 0.7, scope: {scope}, sparsities: {{conv.weight: 0.25}}"
    bundle = world.prune(params(asked, "criterion: magnitude"))
    plan = store.read(world.root / "plan", Plan).manifest
    assert plan.by_hand == ("conv.weight",)
    masks = load_bundle(bundle).masks
    assert count_zeros({"conv.weight": masks["conv.weight"]}) == 18
    whole = {"local": 18 + zeros_for(1536, 0.7), "sensitivity": zeros_for(sum(SIZES.values()), 0.7)}
    assert count_zeros(masks) == whole[scope]
    text = (world.root / "plan" / "plan.yaml").read_text()
    assert "sparsities: {TENSOR: SHARE}" in text
    assert yaml.safe_load(text)["by_hand"] == ["conv.weight"]
    told = read_plan_text(world.root / "plan" / "plan.yaml", "plan.yaml")
    assert (told.by_hand, told.sparsity) == (plan.by_hand, plan.sparsity)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("{wide.wight: 0.5}", "there is no tensor 'wide.wight'"),
        ("{head.weight: 0.5}", "head.weight cannot be masked: the task keeps 'head'"),
        ("{wide.weight: 0.99}", "1521 weights masked, and plan.sparsity asks for 1126 of all"),
        ("{wide.weight: 0.0}", "not set by hand have 72 weights, and 1126 of them"),
    ],
)
def test_shares_that_cannot_be_obeyed_are_refused(world: World, shares: str, message: str) -> None:
    asked = f"method: weights, sparsity: 0.7, scope: sensitivity, sparsities: {shares}"
    with pytest.raises(CompressionError, match=message):
        world.plan(params(asked, "criterion: magnitude"))


def test_all_shares_may_be_set_by_hand(world: World) -> None:
    asked = "method: weights, scope: sensitivity, sparsities: {conv.weight: 0.25, wide.weight: 0.5}"
    plan = world.plan(params(asked, "criterion: magnitude"))
    assert plan.sparsity is not UNSET
    assert {item.tensor: item.zeros for item in plan.sparsity.tensors} == {
        "conv.weight": 18,
        "wide.weight": 768,
    }


def test_the_same_inputs_give_the_same_artefacts(world: World, tmp_path: Path) -> None:
    first = world.prune(GLOBAL)
    again = world.step("prune", "again", GLOBAL, dense="dense", data="data", chosen="plan")
    assert again.digest == first.digest
    assert MASKS in first.manifest.payload


@pytest.mark.slow
def test_recovery_never_lets_a_weight_back(world: World) -> None:
    text = GLOBAL + "distill: {epochs: 2, learning_rate: 0.05, weight_decay: 0.01}\n"
    masks = load_bundle(world.prune(text)).masks
    candidate = world.distill(text)
    assert candidate.file(TRAINED_ON).read_bytes() == MARKS
    loaded = load_bundle(candidate)
    assert candidate.manifest.recovery is not None
    assert candidate.manifest.recovery.best_epoch > 0
    assert candidate.manifest.surgery == load_manifest(world, "pruned").surgery
    for name, mask in masks.items():
        assert torch.equal(loaded.masks[name], mask)
        assert torch.equal(loaded.module.get_parameter(name) != 0, mask)


SCHEDULE = "schedule: {kind: cubic, steps: 6, epochs: 4}"
ADAM = "distill: {learning_rate: 0.003, optimizer: adam, warmup_epochs: 0, epochs: 1}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "criterion"),
    [
        ("method: weights, sparsity: 0.8", "magnitude-adam"),
        ("method: weights, sparsity: 0.8, scope: local", "movement"),
        ("method: weights, sparsity: 0.8, scope: sensitivity", "taylor"),
        ("method: n:m, pattern: '2:4'", "l1"),
    ],
)
def test_masks_grow_on_a_schedule_and_end_exactly(world: World, plan: str, criterion: str) -> None:
    text = params(plan, f"criterion: {criterion}, {SCHEDULE}", ADAM)
    bundle = world.prune(text)
    sparsity = store.read(world.root / "plan", Plan).manifest.sparsity
    assert sparsity is not UNSET
    loaded, surgery = load_bundle(bundle), bundle.manifest.surgery
    verify_masks(loaded.module, loaded.masks, sparsity)
    assert surgery is not None
    assert surgery.stages is not UNSET
    assert [stage.epoch for stage in surgery.stages] == [1.0, 2.0, 3.0, 4.0]
    # Cut 2, 4, 5 and the last of 6 are behind at the ends of the epochs.
    shares = [1 - (1 - cut / 6) ** 3 for cut in (2, 4, 5, 6)]
    assert [stage.share for stage in surgery.stages] == pytest.approx(shares)
    assert surgery.stages[-1].zeros == sparsity.zeros
    # The student, its teacher once, and five looks: at tune, calibration for fresh statistics, tune again.
    assert surgery.examples == 96 * (4 + 1 + 5 * 3)
    candidate = load_bundle(world.distill(text))
    assert all(torch.equal(candidate.masks[n], mask) for n, mask in loaded.masks.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # The density falls to 0.2 by the same factor at each of 4 cuts: at once, and at each epoch's end.
        ("kind: exponential, steps: 4", [1 - 0.2 ** (cut / 4) for cut in (2, 3, 4, 4)]),
        # TF-MOT's PolynomialDecay(0.2, 0.8, begin_step=6, end_step=18, power=2, frequency=3), at step
        # 6, 12, 18 and 24.
        (
            "kind: polynomial, steps: 4, initial: 0.2, begin: 0.25, end: 0.75, power: 2, regrow: true",
            [0.2, 0.8 - 0.6 * 0.25, 0.8, 0.8],
        ),
        ("kind: constant, begin: 0.5", [0.0, 0.8, 0.8, 0.8]),
    ],
)
def test_params_reach_what_a_schedule_is_made_of(
    world: World, schedule: str, expected: list[float]
) -> None:
    """Four epochs of 6 steps; the plan of 0.8 is exact at the end."""
    prune = f"criterion: magnitude, schedule: {{{schedule}, epochs: 4}}"
    bundle = world.prune(params("method: weights, sparsity: 0.8, scope: local", prune, ADAM))
    sparsity = store.read(world.root / "plan", Plan).manifest.sparsity
    surgery = bundle.manifest.surgery
    assert surgery is not None
    assert surgery.stages is not UNSET
    assert sparsity is not UNSET
    size = sum(item.size for item in sparsity.tensors)
    reached = [stage.share * sparsity.zeros / size for stage in surgery.stages]
    assert reached == pytest.approx(expected, abs=1e-3)
    assert surgery.stages[-1].zeros == sparsity.zeros
    verify_masks(load_bundle(bundle).module, load_bundle(bundle).masks, sparsity)


@pytest.mark.slow
def test_masked_weights_come_back_where_the_schedule_says_so(world: World) -> None:
    """Nothing else differs, and other weights are left in the end."""
    learning = "distill: {learning_rate: 0.1, optimizer: adam, warmup_epochs: 0, epochs: 1}\n"
    kept = []
    for regrow in ("false", "true"):
        prune = f"criterion: magnitude, {SCHEDULE.replace('}', f', regrow: {regrow}}}')}"
        bundle = world.prune(params("method: weights, sparsity: 0.8", prune, learning))
        kept.append(torch.cat([mask.flatten() for mask in load_bundle(bundle).masks.values()]))
    assert int(kept[0].sum()) == int(kept[1].sum())
    assert not torch.equal(kept[0], kept[1])


def test_a_schedule_that_begins_above_the_plan_is_refused(world: World) -> None:
    prune = "criterion: magnitude, schedule: {kind: cubic, steps: 3, epochs: 1, initial: 0.85}"
    with pytest.raises(
        CompressionError, match=r"begins at a sparsity of 0\.85, the plan's is 0\.7998"
    ):
        world.prune(params("method: weights, sparsity: 0.8", prune))


@pytest.mark.slow
def test_a_killed_growth_ends_in_the_same_artefact(world: World) -> None:
    """The work folder alone is what is left; the epoch in which it was killed is not taken twice."""
    text = params("method: weights, sparsity: 0.8", f"criterion: magnitude-adam, {SCHEDULE}", ADAM)
    world.plan(text)
    names = {"dense": "dense", "data": "data", "chosen": "plan"}
    whole = world.step("prune", "whole", text, **names)
    shutil.rmtree(world.root / "work")

    class Killed(Exception):
        pass

    def kill(line: str) -> None:
        if "epoch 2 of 4" in line:
            raise Killed

    world.say = kill
    with pytest.raises(Killed):
        world.step("prune", "pruned", text, **names)
    world.say = world.said.append
    again = world.step("prune", "pruned", text, **names)
    assert any("goes on after epoch 2" in line for line in world.said)
    assert again.digest == whole.digest


def load_manifest(world: World, name: str) -> ModelBundle:
    return store.read(world.root / name, ModelBundle).manifest


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        GLOBAL,
        params("method: n:m, pattern: '2:4'", "criterion: sparsegpt"),
    ],
    ids=["weights", "n:m"],
)
def test_a_masked_model_is_built_like_any_other(world: World, text: str) -> None:
    """prune, distill, build: the engine computes what the masked module does, and is no smaller."""
    text += "distill: {epochs: 1, learning_rate: 0.01}\n"
    world.prune(text)
    candidate = world.distill(text)
    names = {"candidate": "candidate", "dense": "dense", "previous": "previous", "data": "data"}
    engines: Artifact[Engines] = world.step("build", "engines", text, **names)
    facts = {engine.arm: engine for engine in engines.manifest.engines}
    assert facts["candidate"].parity.max_abs < 1e-4
    assert facts["candidate"].parity.agreement == 1.0
    assert facts["candidate"].bundle == candidate.digest
    assert facts["candidate"].cost == facts["dense"].cost
    verify_masks(load_bundle(candidate).module, load_bundle(candidate).masks)


@pytest.mark.parametrize(
    ("text", "error", "what"),
    [
        (params("method: weights", "criterion: wanda"), CompressionError, r"layer by layer"),
        (params("method: weights", "criterion: movement"), CompressionError, r"while the model"),
        (
            params(
                "method: weights, scope: local",
                "criterion: wanda, schedule: {kind: cubic, epochs: 1}",
            ),
            CompressionError,
            r"cannot rank weights while",
        ),
        (params("method: weights, depth: true", "criterion: l1"), CompressionError, r"plan\.depth"),
        (
            params("method: n:m", "criterion: l1, sparse_learning: {method: group-norm}"),
            CompressionError,
            r"sparse_learning can do nothing",
        ),
        (
            params("method: weights", "criterion: l1, schedule: {kind: cubic, steps: 3}"),
            CompressionError,
            r"needs training between",
        ),
        (
            params("method: weights", "criterion: l1", "sensitivity: {method: calibrated}\n"),
            CompressionError,
            r"measured in full.*sensitivity\.method: calibrated can do nothing",
        ),
        (params("method: n:m, pattern: '4:4'"), CompressionError, r"no pattern"),
        (params("method: n:m, pattern: '3:7'"), CompressionError, r"no weight of this model"),
    ],
)
def test_what_cannot_be_done_is_said(
    world: World, text: str, error: type[Exception], what: str
) -> None:
    with pytest.raises(error, match=what):
        world.prune(text)


def test_a_table_of_channels_is_no_table_of_weights(world: World) -> None:
    """The sensitivity step measured something else: `plan` says so instead of guessing."""
    world.table(params("method: n:m", "criterion: magnitude"))
    names = {"dense": "dense", "profiles": "profile", "table": "table", "previous": "previous"}
    text = params("method: weights, scope: sensitivity", "criterion: magnitude")
    with pytest.raises(ChainBroken, match="other tensors"):
        world.step("plan", "plan", text, **names)


def test_a_masked_model_is_not_masked_again(world: World, tmp_path: Path) -> None:
    """Amounts would compound: the dense original is what is cut."""
    masked = world.prune(GLOBAL)
    again = World(tmp_path / "again", masked)
    with pytest.raises(CompressionError, match="itself a pruned one"):
        again.table(GLOBAL)
