"""What a generation takes over from the champion's: its table, its widths, what its recovery needed."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import yaml
from msgspec import UNSET
from safetensors.torch import load_file, save

from reprune.compress.bundle import load_bundle
from reprune.compress.sensitivity import reuse as row_checks
from reprune.core import store
from reprune.core.artifacts import (
    ChampionStart,
    DataReport,
    JointTrial,
    KnownRecovery,
    ModelBundle,
    Plan,
    Previous,
    Recovery,
    RecoveryEpoch,
    Sensitivity,
    TableReuse,
    VerdictSummary,
)
from reprune.core.lock import ChampionRef
from reprune.core.params import DistillParams, GenerationsParams
from reprune.core.step import run
from reprune.steps import get_step, known_recovery
from reprune.steps.inheriting import IN_SHARDS, NO_CHAMPION, age_of, in_shards
from reprune.steps.known_recovery import epochs_needed, epochs_taken
from reprune.task.trained_on import TRAINED_ON
from tests.compress.small_digits import DigitsTask, trained
from tests.compress.test_steps_plan import (
    DIGEST,
    counted_profile,
    documents_of,
    past,
    quiet,
    write,
    write_bundle,
)

REF = ChampionRef(version="1", bundle=DIGEST, receipt=DIGEST)
KNOBS: dict[str, Any] = {
    "name": "digits",
    "task": "smalltask.digits:DigitsTask",
    "sensitivity": {"cuts": [0.25, 0.5, 0.75], "examples": 300},
    "plan": {"fraction": 0.5, "round_to": 4},
    "prune": {"examples": 100, "criterion": "l1"},
    "distill": {"epochs": 4, "learning_rate": 0.02},
    "targets": {"cpu": {"batch_size": 256}},
}
WARM = {"generations": {"examples": 300}}
# Of one example that each generation was made with, and of one that both were.
MARKS = {"first": b"a first!" + b"shared !", "second": b"second !" + b"shared !"}


@pytest.fixture(scope="module", autouse=True)
def _one_work_folder(tmp_path_factory):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """A first generation, compressed, and the dense model of a second one, trained a little longer."""
    root = tmp_path_factory.mktemp("generations")
    for name, epochs in (("first", 8), ("second", 9)):
        dense = write_bundle(root / name / "dense", trained(DigitsTask(), epochs=epochs))
        report = DataReport(
            task=dense.manifest.task, passed=True, expectations=(), splits={}, power=()
        )
        reported(root / name / "data", report, {"dense": dense.digest}, MARKS[name])
        write(root / name / "profile", counted_profile(dense), {"dense": dense.digest})
    write(root / "first/previous", past(None), {})
    for step, out in (
        ("sensitivity", "table"),
        ("plan", "plan"),
        ("prune", "pruned"),
        ("distill", "candidate"),
    ):
        made(root / "first", step, out, KNOBS)
    return root


def reported(out: Path, report: DataReport, parents: dict[str, str], marks: bytes) -> None:
    with store.drafting(out) as draft:
        (draft / TRAINED_ON).write_bytes(marks)
        store.write(draft, report, step="test", parents=parents, out=out)


def made(
    root: Path, step: str, out: str, knobs: dict[str, Any], previous: Path | None = None, say=quiet
):
    """Runs a step on what lies in `root`."""
    names = {
        "sensitivity": {"dense": "dense", "data": "data"},
        "plan": {"dense": "dense", "profiles": "profile", "table": "table"},
        "prune": {"dense": "dense", "data": "data", "chosen": "plan"},
        "distill": {"student": "pruned", "teacher": "dense", "data": "data"},
    }[step]
    inputs: dict[str, Any] = {given: root / name for given, name in names.items()}
    if step != "prune":
        inputs["previous"] = previous or root / "previous"
    documents = documents_of(root, yaml.safe_dump(knobs))
    return run(get_step(step), inputs, documents, root / out, say=say)


def fetched(
    ground: Path, out: Path, *, unmarked: bool = False, weights: bytes = b"", **changes: Any
) -> Path:
    """What fetch brings of the first generation; `changes` are of its stored manifests, by part. An
    `unmarked` champion does not say what it was made with; a changed one may have other `weights`.
    """
    if unmarked:
        changes = {"champion": {}, **changes}
    with store.drafting(out) as draft:
        for part, name in (("champion", "candidate"), ("plan", "plan"), ("sensitivity", "table")):
            source, kind = ground / "first" / name, KINDS[part]
            if part not in changes:
                shutil.copytree(source, draft / part)
            elif changes[part] is not None:
                held = store.read(source, kind).manifest
                files = {file: (source / file).read_bytes() for file in held.payload}
                if unmarked and part == "champion":
                    del files[TRAINED_ON]
                if weights and part == "champion":
                    files["weights.safetensors"] = weights
                edited = msgspec.structs.replace(held, payload={}, parents={}, **changes[part])
                with store.drafting(draft / part) as inner:
                    for file, content in files.items():
                        (inner / file).parent.mkdir(parents=True, exist_ok=True)
                        (inner / file).write_bytes(content)
                    store.write(inner, edited, step="test", parents={}, out=draft / part)
        manifest = msgspec.structs.replace(past(REF), dense_version="2")
        store.write(draft, manifest, step="fetch-previous", parents={}, out=out)
    return out


KINDS: dict[str, Any] = {"champion": ModelBundle, "plan": Plan, "sensitivity": Sensitivity}


def warm_table(ground: Path, tmp_path: Path, knobs: dict[str, Any] = WARM, **changes: Any):
    """The second generation's table, with the first one's champion as `changes` leave it."""
    root = second(ground, tmp_path)
    previous = fetched(ground, tmp_path / "previous", **changes)
    return made(root, "sensitivity", "table", KNOBS | knobs, previous).manifest


def second(ground: Path, tmp_path: Path) -> Path:
    root = tmp_path / "second"
    if not root.exists():
        shutil.copytree(ground / "second", root)
    return root


@pytest.mark.slow
def test_a_table_that_holds_is_used_again_with_its_checked_rows_renewed(ground, tmp_path):
    """Two groups of two are looked at here, so both have a fresh row and the rest is scaled; it is cheap."""
    found = warm_table(ground, tmp_path)
    old = store.read(ground / "first/table", Sensitivity)
    reuse = found.reuse
    assert reuse

    assert (reuse.how, reuse.age, reuse.source) == ("reused", 1, old.digest)
    assert {row.why for row in reuse.checked} == {"near", "random"}
    assert reuse.full_cost == old.manifest.cost
    assert found.cost == reuse.check_cost < 0.6 * old.manifest.cost
    assert found.basis == old.manifest.basis
    rows = {(row.unit, row.keep): row.now for row in reuse.checked}
    for group, before in zip(found.groups, old.manifest.groups, strict=True):
        for cut, was in zip(group.cuts, before.cuts, strict=True):
            assert (cut.keep, cut.macs, cut.params) == (was.keep, was.macs, was.params)
            if (group.group, cut.keep) in rows:
                assert cut.loss_increase == rows[group.group, cut.keep]


@pytest.mark.parametrize(
    ("knobs", "changes", "why"),
    [
        ({"sensitivity": {"cuts": [0.5], "examples": 100}}, {}, "other groups, cuts, criterion"),
        ({"prune": {"examples": 100, "criterion": "l2"}}, {}, "other groups, cuts, criterion"),
        (
            {"sensitivity": {"cuts": [0.25, 0.5, 0.75], "examples": 100, "method": "calibrated"}},
            {},
            "another method",
        ),
        ({}, {"sensitivity": None}, "holds no table"),
        ({}, {"sensitivity": {"basis": msgspec.UNSET}}, "other groups, cuts, criterion"),
        ({}, {"champion": None}, "the champion cannot be read"),
        (
            {"generations": {"cold_every": 3}},
            {"sensitivity": {"reuse": TableReuse(how="reused", why="", age=2)}},
            "3 generations ago",
        ),
    ],
    ids=["cuts", "criterion", "method", "nothing", "before tables could be compared", "no champion", "cold"],
)  # fmt: skip
def test_what_cannot_be_used_again_is_measured_and_says_why(ground, tmp_path, knobs, changes, why):
    found = warm_table(ground, tmp_path, WARM | knobs, **changes)
    assert found.reuse
    assert found.reuse.how == "measured"
    assert why in found.reuse.why
    assert found.reuse.age == 0
    assert found.cost == found.reuse.full_cost


@pytest.mark.slow
def test_rows_that_the_others_scale_does_not_explain_measure_all_anew(
    ground, tmp_path, monkeypatch
):
    """Though the chi-square takes them for retrained ones."""
    asked = row_checks.moved

    def apart(rows, base_loss):
        return dataclasses.replace(asked(rows, base_loss), apart=True)

    monkeypatch.setattr(row_checks, "moved", apart)
    found = warm_table(ground, tmp_path, WARM)
    assert found.reuse.how == "measured"
    assert "are far from" in found.reuse.why
    assert "by which the others would be scaled" in found.reuse.why


INVERTED = """

_plain = digits


@cache
def digits():
    images, labels = _plain()
    return images.max() - images, labels
"""


@pytest.mark.slow
def test_data_that_shifted_are_noticed_by_the_champion(ground, tmp_path):
    """This generation's images are inverted: the table is measured anew, and the check is paid too."""
    root = second(ground, tmp_path)
    held = store.read(root / "dense", ModelBundle)
    with store.drafting(tmp_path / "shifted") as draft:
        shutil.copytree(root / "dense/task", draft / "task")
        shutil.copyfile(root / "dense/weights.safetensors", draft / "weights.safetensors")
        with (draft / "task/smalltask/digits.py").open("a") as source:
            source.write(INVERTED)
        manifest = msgspec.structs.replace(held.manifest, payload={}, parents={})
        dense = store.write(draft, manifest, step="test", parents={}, out=tmp_path / "shifted")
    report = store.read(root / "data", DataReport).manifest
    shutil.rmtree(root / "data")
    write(
        root / "data",
        msgspec.structs.replace(report, payload={}, parents={}),
        {"dense": dense.digest},
    )
    shutil.rmtree(root / "dense")
    shutil.copytree(tmp_path / "shifted", root / "dense")
    previous = fetched(ground, tmp_path / "previous")
    found = made(root, "sensitivity", "table", KNOBS | WARM, previous).manifest
    reuse = found.reuse
    assert reuse
    assert reuse.how == "measured"
    assert "champion does worse on this generation's data" in reuse.why
    assert reuse.p_champion is not None
    assert reuse.p_champion < 0.025
    assert found.cost == reuse.full_cost + reuse.check_cost
    plain = made(root, "sensitivity", "plain", KNOBS, previous).manifest
    assert plain.groups == found.groups
    assert plain.reuse is msgspec.UNSET


@pytest.mark.slow
def test_rows_that_moved_too_far_are_measured_anew(ground, tmp_path):
    """A table of other weights altogether: every rise a hundred times what it is."""
    old = store.read(ground / "first/table", Sensitivity).manifest
    groups = tuple(
        msgspec.structs.replace(
            group,
            cuts=tuple(
                msgspec.structs.replace(
                    cut, loss_increase=50.0 + 100.0 * number * cut.loss_increase
                )
                for cut in group.cuts
            ),
        )
        for number, group in enumerate(old.groups)
    )
    found = warm_table(ground, tmp_path, sensitivity={"groups": groups})
    assert found.reuse
    assert found.reuse.how == "measured"
    assert "moved further than retraining moves them" in found.reuse.why


def test_nobody_is_asked_where_the_section_is_missing_or_off(ground, tmp_path):
    found = warm_table(ground, tmp_path, {"generations": {"reuse": False}})
    assert found.reuse is msgspec.UNSET


def test_a_first_generation_says_that_there_is_no_champion(ground):
    made(ground / "first", "sensitivity", "told", KNOBS | WARM)
    reuse = store.read(ground / "first/told", Sensitivity).manifest.reuse
    assert reuse
    assert (reuse.how, reuse.why) == ("measured", NO_CHAMPION)


def test_shards_say_that_they_always_measure_everything(ground, tmp_path):
    params = msgspec.convert(
        KNOBS | WARM, documents_of(tmp_path, yaml.safe_dump(KNOBS)).params.__class__
    )
    assert params.generations
    none = store.read(ground / "first/previous", Previous)
    some = store.read(fetched(ground, tmp_path / "previous"), Previous)
    assert in_shards(none, msgspec.UNSET) is msgspec.UNSET
    told = [in_shards(one, params.generations) for one in (none, some)]
    assert [one.why for one in told if one] == [NO_CHAMPION, IN_SHARDS]


@pytest.mark.slow
def test_the_champions_widths_are_tried_on_the_new_weights(ground, tmp_path):
    """Where they differ from fresh ones both are cut, and what `tune` says decides."""
    root = second(ground, tmp_path)
    made(root, "sensitivity", "table", KNOBS, fetched(ground, tmp_path / "none", sensitivity=None))
    first = store.read(ground / "first/plan", Plan).manifest
    swapped = tuple(
        msgspec.structs.replace(item, keep=keep)
        for item, keep in zip(first.groups, (8, 8), strict=True)
    )
    previous = fetched(ground, tmp_path / "previous", plan={"groups": swapped})
    plain = made(root, "plan", "plain", KNOBS, previous).manifest
    tried = made(root, "plan", "plan", KNOBS | WARM, previous).manifest
    assert plain.tried is msgspec.UNSET
    assert tried.tried
    assert tried.tried.known == {item.group: 8 for item in swapped}
    assert tried.tried.cost > 0
    chosen = {item.group: item.keep for item in tried.groups}
    assert chosen == (tried.tried.known if tried.tried.holds else tried.tried.fresh)


@pytest.mark.slow
def test_a_plan_says_what_it_loses_if_it_comes_out_as_the_champions_did(ground, tmp_path):
    """The champion's repaired loss over its sum, times this sum; of another budget nothing is said."""
    root = second(ground, tmp_path)
    previous = fetched(ground, tmp_path / "previous")
    made(root, "sensitivity", "table", KNOBS, previous)

    def predicted(out: str, **knobs: Any) -> dict[str, Any]:
        made(root, "plan", out, KNOBS | knobs, previous)
        return yaml.safe_load((root / out / "plan.yaml").read_text())["predicted"]

    before = store.read(ground / "first/plan", Plan).manifest.predicted.loss_increase
    surgery = store.read(ground / "first/candidate", ModelBundle).manifest.surgery
    lost = {
        "cut": surgery.loss_cut,
        "compensated": surgery.loss_compensated,
        "recalibrated": surgery.loss_recalibrated,
    }[surgery.kept] - surgery.loss_dense
    assert lost > 0.0
    told = predicted("plan", **WARM)
    prior = told["loss_increase"] * max(lost, 0.0) / before
    assert told["loss_increase_as_the_champion_came_out"] == pytest.approx(prior, rel=1e-2)
    assert "times its predicted" in told["the_champion_came_out"]
    base = store.read(ground / "first/table", Sensitivity).manifest.base_loss
    recovery = store.read(ground / "first/candidate", ModelBundle).manifest.recovery
    kept = {one.epoch: one.tune_loss for one in recovery.epochs}
    after = kept.get(recovery.best_epoch, recovery.start_loss) - base
    came = store.read(root / "plan", Plan).manifest.predicted.champion
    assert (came.sum_of_cuts, came.after) == (before, pytest.approx(after))
    assert came.before == pytest.approx(lost)
    assert told["loss_increase_after_recovery_as_the_champion_came_out"] == pytest.approx(
        told["loss_increase"] * after / before, rel=1e-2
    )
    deeper = {"plan": {"fraction": 0.4, "round_to": 4}}
    for other in (predicted("plain"), predicted("deeper", **WARM, **deeper)):
        assert not [key for key in other if "champion_came_out" in key]


@pytest.mark.slow
def test_recovery_takes_the_epochs_that_the_champion_needed_and_its_advice(ground, tmp_path):
    """Shorter, and with the champion as a second teacher, whose passes count."""
    root = second(ground, tmp_path)
    previous = fetched(ground, tmp_path / "previous")
    made(root, "sensitivity", "table", KNOBS, previous)
    made(root, "plan", "plan", KNOBS, previous)
    made(root, "prune", "pruned", KNOBS)
    champion = store.read(ground / "first/candidate", ModelBundle)
    quick = {"generations": {"epochs_within": 0.9}}
    taught = {"generations": {"epochs_within": 0.9, "champion_weight": 0.5}}
    alone = made(root, "distill", "one", KNOBS | quick, previous)
    advised = made(root, "distill", "two", KNOBS | taught, previous)
    assert alone.file(TRAINED_ON).read_bytes() == MARKS["second"]
    assert advised.file(TRAINED_ON).read_bytes() == b"a first!" + b"second !" + b"shared !"
    one, two = alone.manifest.recovery, advised.manifest.recovery
    assert one
    assert two
    assert one.known
    assert two.known
    assert (one.known.asked, one.known.champion) == (4, champion.digest)
    assert len(one.epochs) == one.known.epochs == max(2, one.known.needed) < 4
    assert (two.known.second, two.known.weight) == (champion.digest, 0.5)
    assert two.examples == one.examples + 900 * len(two.epochs)
    assert two.epochs != one.epochs
    held = KNOBS["distill"] | {"hold_epochs": 3}
    shorter = made(root, "distill", "held", KNOBS | quick | {"distill": held}, previous)
    rates = [epoch.learning_rate for epoch in shorter.manifest.recovery.epochs]
    assert rates[-1] < 0.5 * max(rates)  # held for three quarters of what is left
    plain = made(root, "distill", "plain", KNOBS, previous).manifest.recovery
    assert plain
    assert plain.known is msgspec.UNSET
    assert len(plain.epochs) == 4


def distilled(ground, tmp_path, knobs: dict[str, Any], say=quiet, **changes: Any):
    """The second generation's candidate; its cut keeps the champion's widths unless `knobs` say else."""
    root = second(ground, tmp_path)
    previous = fetched(ground, tmp_path / "previous", **changes)
    for step, out in (("sensitivity", "table"), ("plan", "plan"), ("prune", "pruned")):
        made(root, step, out, KNOBS | knobs, previous)
    return made(root, "distill", "candidate", KNOBS | knobs, previous, say)


# The cut is not repaired, so that which of both has less loss is no matter of a machine's rounding.
STARTED = {
    "generations": {"examples": 300, "champion_start": True},
    "prune": {"examples": 100, "criterion": "l1", "compensate": False},
}
FROZEN = {"distill": {"epochs": 4, "learning_rate": 1e-12}}


@pytest.mark.slow
def test_recovery_can_begin_with_the_champion_and_is_then_a_quarter_as_long(ground, tmp_path):
    """With a learning rate of nearly nothing the candidate is the champion, so it was the start."""
    champion = store.read(ground / "first/candidate", ModelBundle)
    told: list[str] = []
    made_of = distilled(ground, tmp_path, STARTED | FROZEN, told.append)
    recovery = made_of.manifest.recovery
    assert recovery.known.start.taken
    assert 1.2 * recovery.known.start.champion_loss < recovery.known.start.cut_loss
    assert recovery.known.start.cost == 2 * 300
    assert (recovery.known.asked, recovery.known.epochs, len(recovery.epochs)) == (4, 1, 1)
    assert any("begins with the champion" in line for line in told)
    # What it was made with is what both were made with.
    assert made_of.file(TRAINED_ON).read_bytes() == b"a first!" + b"second !" + b"shared !"
    old, new = load_bundle(champion), load_bundle(made_of)
    assert new.architecture == old.architecture
    for name, parameter in new.module.named_parameters():
        assert torch.allclose(parameter, dict(old.module.named_parameters())[name], atol=1e-5), name
    # What it says of the cut is this generation's.
    pruned = store.read(tmp_path / "second/pruned", ModelBundle)
    assert made_of.manifest.surgery == pruned.manifest.surgery


@pytest.mark.slow
def test_processes_begin_with_the_champion_too(ground, tmp_path):
    two = {"distill": {"epochs": 4, "learning_rate": 1e-12, "processes": 2}}
    made_of = distilled(ground, tmp_path, STARTED | two)
    assert made_of.manifest.recovery.known.start.taken
    old = dict(
        load_bundle(store.read(ground / "first/candidate", ModelBundle)).module.named_parameters()
    )
    for name, parameter in load_bundle(made_of).module.named_parameters():
        assert torch.allclose(parameter, old[name], atol=1e-5), name


@pytest.mark.slow
def test_a_champion_that_no_epoch_made_better_is_asked_about_new_data_too(ground, tmp_path):
    """Such a one is what its recovery began with, and that had a loss as well."""
    held = store.read(ground / "first/candidate", ModelBundle).manifest.recovery
    kept = msgspec.structs.replace(held, best_epoch=0, start_loss=held.epochs[-1].tune_loss)
    same = warm_table(ground, tmp_path / "same", champion={"recovery": kept}).reuse
    assert same.how == "reused"
    assert same.p_champion > 0.05
    # The lower its loss was then, the less likely is that of now.
    better = msgspec.structs.replace(kept, start_loss=kept.start_loss / 100)
    worse = warm_table(ground, tmp_path / "worse", champion={"recovery": better}).reuse
    assert worse.p_champion < same.p_champion


@pytest.mark.slow
def test_processes_try_learning_rates_too(ground, tmp_path):
    """Each trial trains in a folder of its own, where its processes leave what they learnt."""
    two = {"distill": {"epochs": 1, "learning_rate": "auto", "processes": 2}}
    recovery = distilled(ground, tmp_path, two).manifest.recovery
    assert recovery.rate.how == "tried"
    assert len(recovery.rate.tried) >= 3


@pytest.mark.slow
def test_a_champion_of_another_shape_is_no_start(ground, tmp_path):
    told: list[str] = []
    deeper = {"plan": {"fraction": 0.3, "round_to": 4}}
    made_of = distilled(ground, tmp_path, STARTED | deeper, told.append)
    assert made_of.manifest.recovery.known.start is msgspec.UNSET
    assert len(made_of.manifest.recovery.epochs) >= 2
    assert any("has another shape" in line for line in told)


@pytest.mark.slow
def test_a_champion_of_other_task_code_is_no_start(ground, tmp_path):
    """Its own network would be trained, and its weights stored beside this generation's code."""
    held = store.read(ground / "first/candidate", ModelBundle).manifest.task
    task = msgspec.structs.replace(held, digest="sha256:" + "1" * 64)
    told: list[str] = []
    made_of = distilled(ground, tmp_path, STARTED, told.append, champion={"task": task})
    assert made_of.manifest.recovery.known.start is msgspec.UNSET
    assert made_of.file(TRAINED_ON).read_bytes() == MARKS["second"]
    assert any("the task's code is another than the champion's" in line for line in told)


@pytest.mark.parametrize("error", [IndexError, KeyError, AttributeError, AssertionError])
def test_a_champion_that_cannot_run_on_todays_inputs_teaches_nothing(ground, monkeypatch, error):
    """A smaller vocabulary, say: that is said, and recovery goes on without it."""
    champion = store.read(ground / "first/candidate", ModelBundle)
    dense = load_bundle(store.read(ground / "second/dense", ModelBundle))
    told: list[str] = []
    assert known_recovery._loaded(champion, dense, told.append) is not None

    def run_module(module, inputs):
        raise error("out of range")

    monkeypatch.setattr("reprune.measure.outputs.run_module", run_module)
    assert known_recovery._loaded(champion, dense, told.append) is None
    assert "nothing is learnt from the champion, for it cannot be run here" in told[-1]


@pytest.mark.slow
def test_a_champion_that_is_worse_on_this_data_is_no_start(ground, tmp_path):
    """All its weights are 0."""
    champion = store.read(ground / "first/candidate", ModelBundle)
    broken = {
        name: torch.zeros_like(tensor)
        for name, tensor in load_file(champion.file("weights.safetensors")).items()
    }
    made_of = distilled(ground, tmp_path, STARTED, champion={}, weights=save(broken))
    start = made_of.manifest.recovery.known.start
    assert not start.taken
    assert start.champion_loss > start.cut_loss
    assert made_of.file(TRAINED_ON).read_bytes() == MARKS["second"]


def test_what_a_recovery_needed_is_no_guide_for_one_that_begins_elsewhere():
    """From the champion: a quarter at least, more while its last epoch gained; from a cut after that: all."""
    taken = ChampionStart(taken=True, champion_loss=0.1, cut_loss=1.0, cost=1)
    short = KnownRecovery(champion="c", asked=8, epochs=2, needed=6, start=taken)
    cold, gaining = recovery_of(1.0, 0.5, 0.3, 0.2, 0.1, 0.0), recovery_of(1.0, 0.5, known=short)
    still = recovery_of(0.5, 0.5, known=short)
    params, knobs = DistillParams(epochs=8), GenerationsParams(epochs_within=0.02)
    assert epochs_taken(cold, params, knobs, from_champion=True) == (2, 6)
    assert epochs_taken(gaining, params, knobs, from_champion=True) == (3, 3)
    assert epochs_taken(still, params, knobs, from_champion=True) == (2, 2)
    assert epochs_taken(still, params, knobs, from_champion=False)[0] == 8
    assert epochs_taken(cold, params, knobs, from_champion=False) == (6, 6)
    always = GenerationsParams(epochs_within=0.0)
    assert epochs_taken(cold, params, always, from_champion=True)[0] == 8


@pytest.mark.parametrize(("worse", "chance", "holds"), [
    (0.005, UNSET, True), (0.013, UNSET, False), (0.013, 0.05, True), (0.020, 0.05, False),
    (0.013, 0.5, False),
])  # fmt: skip
def test_known_widths_are_refused_by_mistake_as_seldom_as_is_asked(worse, chance, holds):
    """One standard error is 0.01, and 0.002 are allowed: 5 % of equals show 1.645 errors beyond it."""
    trial = JointTrial(
        known={}, fresh={}, unit="share", worse=worse, standard_error=0.01, allowed=0.002, examples=500,
        cost=1, chance=chance,
    )  # fmt: skip
    assert trial.holds is holds
    assert not msgspec.structs.replace(trial, worse_low=0.0021).holds
    assert msgspec.structs.replace(trial, worse_low=0.002).holds


@pytest.mark.slow
def test_a_champion_that_does_not_say_what_it_was_made_with_does_not_teach(ground, tmp_path):
    root = second(ground, tmp_path)
    bare = fetched(ground, tmp_path / "bare", unmarked=True)
    for step, out in (("sensitivity", "table"), ("plan", "plan"), ("prune", "pruned")):
        made(root, step, out, KNOBS, bare)
    told: list[str] = []
    taught = {"generations": {"champion_weight": 0.5}}
    done = made(root, "distill", "taught", KNOBS | taught, bare, told.append)
    assert done.manifest.recovery.known.second == ""
    assert any("does not say which examples it was made with" in line for line in told)
    assert done.file(TRAINED_ON).read_bytes() == MARKS["second"]


@pytest.mark.slow
def test_a_champion_does_not_teach_where_nothing_is_learnt_from_logits(ground, tmp_path):
    """It is neither on record, nor do its examples count as what the candidate was made with."""
    root = second(ground, tmp_path)
    previous = fetched(ground, tmp_path / "previous")
    for step, out in (("sensitivity", "table"), ("plan", "plan"), ("prune", "pruned")):
        made(root, step, out, KNOBS, previous)
    told: list[str] = []
    taught = {"generations": {"champion_weight": 0.5}, "distill": {"epochs": 1, "weight": 0.0}}
    done = made(root, "distill", "plain", KNOBS | taught, previous, told.append)
    known = done.manifest.recovery.known
    assert (known.second, known.weight) == ("", 0.0)
    assert done.file(TRAINED_ON).read_bytes() == MARKS["second"]
    assert len([line for line in told if "does not teach" in line]) == 1


def recovery_of(*losses: float, **more: Any) -> Recovery:
    epochs = tuple(
        RecoveryEpoch(epoch=number, train_loss=1.0, tune_loss=loss, learning_rate=0.1)
        for number, loss in enumerate(losses, start=1)
    )
    return Recovery(epochs=epochs, best_epoch=1, examples=1, teacher="d", **more)


def test_the_epochs_needed_are_those_that_gained_nearly_all():
    assert epochs_needed(recovery_of(1.0, 0.5, 0.21, 0.2, 0.2), 0.05) == 3
    assert epochs_needed(recovery_of(1.0, 0.5, 0.3, 0.2), 0.05) == 4
    assert epochs_needed(recovery_of(0.2), 0.05) == 1
    # One that was shortened is not shortened again, and gets longer while its last epoch still gains.
    short = KnownRecovery(champion="c", asked=8, epochs=3, needed=3)
    assert epochs_needed(recovery_of(1.0, 0.2, 0.2, known=short), 0.05) == 3
    assert epochs_needed(recovery_of(1.0, 0.5, 0.2, known=short), 0.05) == 4


def test_a_table_ages_with_every_generation_judged_since():
    """The champion's, with those that were judged and did not become champion, this one not twice."""

    def judged(version: str, dense: str) -> VerdictSummary:
        return VerdictSummary(
            dense_version=dense, compressed_version=version, outcome="block", verdict=version,
            reasons=(), promoted=False,
        )  # fmt: skip

    before = msgspec.structs.replace(past(REF), dense_version="4")
    assert age_of(before, 0) == 1
    told = (
        judged("0", "0"),
        judged("1", "1"),
        judged("2", "2"),
        judged("3", "2"),
        judged("4", "4"),
    )
    before = msgspec.structs.replace(before, history=told)
    assert age_of(before, 0) == 2
    assert age_of(before, 3) == 5
