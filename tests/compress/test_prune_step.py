"""The prune step, run as every door runs it: from bundle, data report and plan to a pruned bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import UNSET, UnsetType

from reprune.compress.bundle import load_bundle
from reprune.core import store
from reprune.core.artifacts import (
    Cost,
    DataReport,
    Expectation,
    GroupPlan,
    ModelBundle,
    Plan,
    Prediction,
)
from reprune.core.documents import decode_yaml
from reprune.core.errors import ChainBroken, CompressionError, DataRefused
from reprune.core.lock import DenseRef, Lock
from reprune.core.params import Params
from reprune.core.policy import Policy
from reprune.core.step import Documents, run
from reprune.core.store import Artifact
from reprune.steps.prune import prune
from tests.chain import POLICY

COST = Cost(params=1, macs=1, bytes=1)
DIGEST = "sha256:" + "0" * 64
PARAMS = "name: tiny\ntask: tinytask:TinyTask\nprune: {examples: 64}\n"


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))


@pytest.fixture
def data(dense: Artifact[ModelBundle], tmp_path: Path) -> Callable[..., Path]:
    def make(*, passed: bool = True) -> Path:
        report = DataReport(
            task=dense.manifest.task,
            passed=passed,
            expectations=(
                Expectation(
                    name="no nulls",
                    split="train",
                    severity="critical",
                    success=passed,
                    observed="3 nulls",
                ),
            ),
            splits={},
            power=(),
        )
        with store.drafting(tmp_path / "data") as draft:
            parents = {"dense": dense.digest}
            return store.write(
                draft, report, step="validate", parents=parents, out=tmp_path / "data"
            ).path

    return make


@pytest.fixture
def chosen(dense: Artifact[ModelBundle], tmp_path: Path) -> Callable[..., Path]:
    def make(
        *groups: tuple[str, int, int], parent: str = "", round_to: int | UnsetType = UNSET
    ) -> Path:
        plan = Plan(
            allocator="uniform",
            budget="macs",
            fraction=0.5,
            before=COST,
            groups=tuple(GroupPlan(group=g, width=w, keep=k) for g, w, k in groups),
            predicted=Prediction(params=1, macs=1, loss_increase=None, latency_ratio=None),
            round_to=round_to,
        )
        with store.drafting(tmp_path / "plan") as draft:
            parents = {"dense": parent or dense.digest}
            return store.write(
                draft, plan, step="plan", parents=parents, out=tmp_path / "plan"
            ).path

    return make


def pruned(
    dense: Artifact[ModelBundle], data: Path, chosen: Path, out: Path, params: str = PARAMS
) -> ModelBundle:
    documents = Documents(
        root=out.parent,
        params=decode_yaml(params, Params, name="params.yaml"),
        policy=decode_yaml(POLICY, Policy, name="policy.yaml"),
        lock=Lock(  # not read by this step
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
        ),
    )
    inputs: dict[str, Path | list[Path]] = {"dense": dense.path, "data": data, "chosen": chosen}
    run(prune, inputs, documents, out, say=lambda _: None)
    return store.read(out, ModelBundle).manifest


def test_a_plan_becomes_a_bundle_that_loads(
    dense: Artifact[ModelBundle],
    data: Callable[..., Path],
    chosen: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The bundle keeps name, version and task, records the surgery, and rebuilds to the plan's widths."""
    plan = chosen(("conv", 8, 4), ("wide", 12, 6))
    manifest = pruned(dense, data(), plan, tmp_path / "pruned")
    assert (manifest.name, manifest.dense_version) == ("tiny", "1")
    assert manifest.task == dense.manifest.task
    assert manifest.surgery is not None
    assert [(c.group, c.requested, c.keep) for c in manifest.surgery.groups] == [
        ("conv", 4, 4),
        ("wide", 6, 6),
    ]
    loaded = load_bundle(store.read(tmp_path / "pruned", ModelBundle))
    assert loaded.module.conv.out_channels == 4
    assert loaded.module.wide.in_features == 4 * 16
    assert loaded.module.head.out_features == 3


def test_a_schedule_cuts_in_stages_with_training_between(
    dense: Artifact[ModelBundle],
    data: Callable[..., Path],
    chosen: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stages are recorded, the widths are the plan's, and the bundle rebuilds to them."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    plan = chosen(("conv", 8, 4), ("wide", 12, 6))
    params = (
        "name: tiny\ntask: tinytask:TinyTask\n"
        "prune: {examples: 64, schedule: {kind: iterative, steps: 2, epochs: 2}}\n"
    )
    surgery = pruned(dense, data(), plan, tmp_path / "pruned", params).surgery
    assert surgery is not None
    assert isinstance(surgery.stages, tuple)
    assert [stage.share for stage in surgery.stages] == [0.5, 1.0]
    assert surgery.stages[1].params == surgery.after.params < surgery.stages[0].params
    # Two epochs of 96 by student and teacher, and three looks a stage at 96 of tune.
    assert surgery.examples == 2 * (2 * 96 + 3 * 96)
    loaded = load_bundle(store.read(tmp_path / "pruned", ModelBundle))
    assert loaded.module.conv.out_channels == 4
    assert loaded.module.wide.in_features == 4 * 16


def test_a_gentler_cut_keeps_what_the_plan_rounded_to(
    dense: Artifact[ModelBundle],
    data: Callable[..., Path],
    chosen: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """2 of 12 was set by hand; half of that cut is 7 channels, which no target asked for: 4 or 8 are."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    params = (
        "name: tiny\ntask: tinytask:TinyTask\ndistill: {bar_ratio: 0.001}\n"
        "prune: {examples: 64, ladder: {fractions: [0.5]}}\n"
    )
    for round_to, keep in ((4, 4), (UNSET, 6)):
        plan = chosen(("wide", 12, 2), round_to=round_to)
        surgery = pruned(dense, data(), plan, tmp_path / f"pruned-{keep}", params).surgery
        assert surgery is not None
        done = {item.group: (item.requested, item.keep) for item in surgery.groups}
        assert done["wide"] == (2, keep)
        assert surgery.gentler


def test_the_same_inputs_give_the_same_artefact(
    dense: Artifact[ModelBundle],
    data: Callable[..., Path],
    chosen: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Run twice, the step writes the same digest."""
    plan, report = chosen(("conv", 8, 4)), data()
    pruned(dense, report, plan, tmp_path / "one")
    pruned(dense, report, plan, tmp_path / "two")
    one, two = (store.read(tmp_path / name, ModelBundle).digest for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([("conv2", 8, 4)], "did you mean 'conv'"),
        ([("head", 3, 2)], "no group 'head'"),
        ([("conv", 16, 4)], "has 16 channels, the model has 8"),
        ([("conv", 8, 9)], "cannot keep 9 of 8"),
        ([("conv", 8, 4), ("conv", 8, 5)], "twice"),
        ([("conv", 8, 8), ("wide", 12, 12)], "nothing is cut"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    dense: Artifact[ModelBundle],
    data: Callable[..., Path],
    chosen: Callable[..., Path],
    tmp_path: Path,
    groups: list[tuple[str, int, int]],
    reason: str,
) -> None:
    """Unknown, protected or differently wide groups, impossible widths and empty plans write nothing."""
    with pytest.raises(CompressionError, match=reason):
        pruned(dense, data(), chosen(*groups), tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists()


def test_a_failed_data_report_is_refused(
    dense: Artifact[ModelBundle],
    data: Callable[..., Path],
    chosen: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The expectation that failed is named."""
    with pytest.raises(DataRefused, match="no nulls"):
        pruned(dense, data(passed=False), chosen(("conv", 8, 4)), tmp_path / "pruned")


def test_a_plan_of_another_model_is_refused(
    dense: Artifact[ModelBundle],
    data: Callable[..., Path],
    chosen: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """A plan that descends from another dense bundle breaks the chain."""
    plan = chosen(("conv", 8, 4), parent=DIGEST)
    with pytest.raises(ChainBroken, match="plan"):
        pruned(dense, data(), plan, tmp_path / "pruned")
