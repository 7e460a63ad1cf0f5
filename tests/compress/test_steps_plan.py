"""sensitivity, plan and distill as steps: on a real model, through the store, and around the champion."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from safetensors.torch import save_file

from reprune.compress.bundle import load_bundle, stored_tensors
from reprune.compress.paired import batch_losses
from reprune.compress.planning.allocate import ladder
from reprune.compress.planning.choose import choose
from reprune.compress.planning.curves import fit_curves
from reprune.compress.planning.latency import search
from reprune.compress.planning.options import Options
from reprune.core import store
from reprune.core.artifacts import (
    Cost,
    CutPoint,
    DataReport,
    Expectation,
    GroupPlan,
    GroupSensitivity,
    JointTrial,
    ModelBundle,
    Plan,
    Prediction,
    Previous,
    Profile,
    Sensitivity,
    TaskFact,
)
from reprune.core.documents import decode_yaml
from reprune.core.errors import ChainBroken, CompressionError, DataRefused, UnknownName
from reprune.core.lock import ChampionRef, DenseRef, Lock
from reprune.core.machine import this_machine
from reprune.core.params import Params, PlanParams
from reprune.core.policy import Policy
from reprune.core.step import Documents, run
from reprune.measure.profile import count_cost
from reprune.steps import get_step
from reprune.task.trained_on import TRAINED_ON
from tests.compress import small_digits
from tests.compress.small_digits import DigitsTask, trained

DIGEST = "sha256:" + "0" * 64
PARAMS = """
name: digits
task: smalltask.digits:DigitsTask
sensitivity: {cuts: [0.25, 0.5, 0.75], examples: 300}
plan: {fraction: 0.5, round_to: 4}
prune: {examples: 100}
distill: {epochs: 4, learning_rate: 0.02}
targets: {cpu: {batch_size: 256}}
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """What comes before: a trained dense bundle, its data report, profile and an empty past."""
    root = tmp_path_factory.mktemp("ground")
    dense = write_bundle(root / "dense", trained(DigitsTask()))
    report = DataReport(task=dense.manifest.task, passed=True, expectations=(), splits={}, power=())
    write(root / "data", report, {"dense": dense.digest})
    write(root / "previous", past(None), {})
    write(root / "profile", counted_profile(dense), {"dense": dense.digest})
    documents = documents_of(root, PARAMS)
    table = {"dense": root / "dense", "data": root / "data", "previous": root / "previous"}
    run(get_step("sensitivity"), table, documents, root / "table", say=quiet)
    return root


@pytest.mark.slow
def test_a_plan_is_kept_by_pruning_and_recovered_by_distilling(ground, tmp_path):
    """The four steps in a row: the budget is met exactly as predicted, and recovery helps."""
    table = store.read(ground / "table", Sensitivity)
    assert [group.group for group in table.manifest.groups] == ["conv1", "conv2"]
    chosen = make_plan(ground, tmp_path, PARAMS)
    plan = chosen.manifest
    assert plan.predicted.macs <= 0.5 * plan.before.macs
    assert all(item.keep % 4 == 0 and 0 < item.keep <= item.width for item in plan.groups)
    documents = documents_of(ground, PARAMS)
    inputs = {"dense": ground / "dense", "data": ground / "data"}
    run(
        get_step("prune"),
        inputs | {"chosen": chosen.path},
        documents,
        tmp_path / "pruned",
        say=quiet,
    )
    pruned = store.read(tmp_path / "pruned", ModelBundle)
    surgery = pruned.manifest.surgery
    assert surgery is not None
    assert (surgery.after.macs, surgery.after.params) == (
        plan.predicted.macs,
        plan.predicted.params,
    )
    lesson = {"student": pruned.path, "teacher": ground / "dense", "data": ground / "data"}
    lesson["previous"] = ground / "previous"
    run(get_step("distill"), lesson, documents, tmp_path / "candidate", say=quiet)
    candidate = store.read(tmp_path / "candidate", ModelBundle)
    before, after = (tune_loss(load_bundle(bundle).module) for bundle in (pruned, candidate))
    recovery = candidate.manifest.recovery
    assert recovery is not None
    assert recovery.teacher == store.read(ground / "dense", ModelBundle).digest
    assert recovery.best_epoch > 0
    assert after < before
    assert candidate.manifest.surgery == surgery


def test_the_plan_is_written_for_people_too(ground, tmp_path):
    """plan.yaml says the widths before and after, the cost and the prediction of the manifest."""
    chosen = make_plan(ground, tmp_path, PARAMS)
    shown = yaml.safe_load(chosen.file("plan.yaml").read_text())
    assert {name: (row["before"], row["after"]) for name, row in shown["groups"].items()} == {
        item.group: (item.width, item.keep) for item in chosen.manifest.groups
    }
    assert shown["cost"]["macs"]["after"] == chosen.manifest.predicted.macs
    assert shown["cost"]["macs"]["before"] == chosen.manifest.before.macs
    assert shown["predicted"]["loss_increase"] == pytest.approx(
        chosen.manifest.predicted.loss_increase, rel=1e-3, abs=1e-6
    )
    assert shown["not_cut"]
    assert not set(shown["not_cut"]) & set(shown["groups"])
    assert all(isinstance(reason, str) and reason for reason in shown["not_cut"].values())


def test_a_plan_is_made_twice_alike(ground, tmp_path):
    """The same inputs give the same artefact, to the digest."""
    first = make_plan(ground, tmp_path / "a", PARAMS)
    assert make_plan(ground, tmp_path / "b", PARAMS).digest == first.digest


def test_a_params_budget_bounds_parameters(ground, tmp_path):
    """With budget params, parameters are what is halved."""
    plan = make_plan(
        ground, tmp_path, PARAMS.replace("plan: {", "plan: {budget: params, ")
    ).manifest
    assert plan.predicted.params <= 0.5 * plan.before.params
    assert plan.predicted.macs > 0.2 * plan.before.macs


def test_uniform_ignores_sensitivity(ground, tmp_path):
    """The uniform allocator leaves all groups about the same share."""
    plan = make_plan(
        ground, tmp_path, PARAMS.replace("plan: {", "plan: {allocator: uniform, ")
    ).manifest
    shares = [item.keep / item.width for item in plan.groups]
    assert max(shares) - min(shares) <= 4 / 16
    assert plan.predicted.macs <= 0.5 * plan.before.macs


@pytest.mark.slow
def test_a_budget_out_of_reach_names_the_smallest_fraction(ground, tmp_path):
    """With narrow limits the error says what fraction the params allow."""
    params = PARAMS.replace("fraction: 0.5", "fraction: 0.01, min_keep: 0.5")
    with pytest.raises(CompressionError, match=r"smallest reachable fraction is 0\.\d+"):
        make_plan(ground, tmp_path, params)
    with pytest.raises(CompressionError, match="round_to"):
        make_plan(ground, tmp_path, PARAMS.replace("round_to: 4", "round_to: 64"))


def test_widths_suit_the_targets_precision_unasked(ground, tmp_path):
    """int8 packs 16 channels where fp32 packs 8; a number that is asked for is obeyed, and warned about."""
    unasked = PARAMS.replace("fraction: 0.5, round_to: 4", "fraction: 0.8")
    kept = {
        precision: {
            item.keep
            for item in make_plan(
                ground,
                tmp_path / precision,
                unasked.replace("cpu: {", f"cpu: {{precision: {precision}, "),
            ).manifest.groups
        }
        for precision in ("fp32", "int8")
    }
    assert all(keep % 8 == 0 for keep in kept["fp32"])
    assert kept["int8"] == {16}
    narrow = unasked.replace("cpu: {", "cpu: {runtime: qnn, precision: int8, ")
    with pytest.raises(CompressionError, match="to a multiple of 32 channels") as refused:
        make_plan(ground, tmp_path / "narrow", narrow)
    assert "plan.round_to to less than 32" in refused.value.fix


def test_an_allocator_that_plan_would_not_find_is_refused_before_anything_is_measured(
    ground, tmp_path
):
    """sensitivity runs where plan will, and knows the names that plan knows."""
    documents = documents_of(ground, PARAMS.replace("plan: {", "plan: {allocator: theirs, "))
    inputs = {"dense": ground / "dense", "data": ground / "data", "previous": ground / "previous"}
    with pytest.raises(UnknownName, match="no allocators called 'theirs'"):
        run(get_step("sensitivity"), inputs, documents, tmp_path / "table", say=quiet)


def test_a_group_that_no_multiple_fits_is_named(ground, tmp_path):
    """16 channels cannot be fewer and a multiple of 16: that group stays whole, and it is said which."""
    params, said = PARAMS.replace("fraction: 0.5, round_to: 4", "fraction: 0.9, round_to: 16"), []
    plan = make_plan(ground, tmp_path, params, say=said.append).manifest
    assert {item.group: item.keep for item in plan.groups} == {"conv1": 16, "conv2": 16}
    assert "plan: too narrow to be cut with these params: conv1" in said


def test_artefacts_of_another_model_are_refused(ground, tmp_path):
    """A plan needs the table and profiles of its own dense model, one cost and one criterion."""
    other = write_bundle(tmp_path / "other", trained(DigitsTask(), epochs=1))
    stranger = write(tmp_path / "profile", counted_profile(other), {"dense": other.digest})
    with pytest.raises(ChainBroken, match="profile"):
        make_plan(ground, tmp_path, PARAMS, profiles=[stranger.path])
    dense = store.read(ground / "dense", ModelBundle)
    wrong = msgspec.structs.replace(counted_profile(dense), cost=Cost(params=1, macs=1, bytes=1))
    second = write(tmp_path / "second", wrong, {"dense": dense.digest})
    with pytest.raises(ChainBroken, match="disagree"):
        make_plan(ground, tmp_path, PARAMS, profiles=[ground / "profile", second.path])
    with pytest.raises(ChainBroken, match="criterion"):
        make_plan(ground, tmp_path, PARAMS.replace("prune: {", "prune: {criterion: l1, "))


def test_a_table_of_other_groups_is_refused(ground, tmp_path):
    """Groups that the model does not have now mean that the table is stale."""
    table = store.read(ground / "table", Sensitivity)
    fewer = msgspec.structs.replace(table.manifest, groups=table.manifest.groups[:1])
    stale = write(tmp_path / "table", fewer, dict(table.manifest.parents))
    with pytest.raises(ChainBroken, match="other groups"):
        make_plan(ground, tmp_path, PARAMS, table=stale.path)


def test_failed_data_is_refused_by_sensitivity_and_distill(ground, tmp_path):
    """A failed data contract stops both, and says which expectation failed."""
    dense = store.read(ground / "dense", ModelBundle)
    report = DataReport(
        task=dense.manifest.task,
        passed=False,
        expectations=(
            Expectation(
                name="no_overlap", split="tune", severity="critical", success=False, observed="3"
            ),
        ),
        splits={},
        power=(),
    )
    data = write(tmp_path / "data", report, {"dense": dense.digest}).path
    documents = documents_of(ground, PARAMS)
    for name, inputs in (
        ("sensitivity", {"dense": dense.path}),
        ("distill", {"student": dense.path, "teacher": dense.path}),
    ):
        beside = {"data": data, "previous": ground / "previous"}
        with pytest.raises(DataRefused, match="no_overlap"):
            run(get_step(name), inputs | beside, documents, tmp_path / "out", say=quiet)
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_student_of_another_teacher_is_refused(ground, tmp_path):
    """Distillation is from the very dense model that was cut, with the same task code."""
    other = write_bundle(tmp_path / "other", trained(DigitsTask(), epochs=1))
    student = write_bundle(tmp_path / "student", trained(DigitsTask()), parent=other.digest)
    lesson = {"student": student.path, "teacher": ground / "dense", "data": ground / "data"}
    lesson["previous"] = ground / "previous"
    with pytest.raises(ChainBroken, match="student was not made from this"):
        run(get_step("distill"), lesson, documents_of(ground, PARAMS), tmp_path / "o", say=quiet)
    dense = store.read(ground / "dense", ModelBundle)
    foreign = write_bundle(
        tmp_path / "foreign", trained(DigitsTask()), parent=dense.digest, task="sha256:other"
    )
    with pytest.raises(ChainBroken, match="different task code"):
        run(
            get_step("distill"),
            lesson | {"student": foreign.path},
            documents_of(ground, PARAMS),
            tmp_path / "o",
            say=quiet,
        )


def test_the_stored_champion_plan_is_found(ground, tmp_path):
    """A plan beside the champion is read from `previous`, and its widths are kept where they are as good."""
    fresh = make_plan(ground, tmp_path / "fresh", PARAMS).manifest
    previous, widths = champions_plan(tmp_path, fresh)
    params = PARAMS + "generations: {examples: 100, tolerance: 0.9}\n"
    again = make_plan(ground, tmp_path / "again", params, previous=previous)
    assert again.manifest.groups == widths != fresh.groups


@pytest.mark.parametrize("generations", ["", "{reuse: false}", "{try_champion: false}"])
def test_a_generation_from_nothing_knows_no_champions_widths(ground, tmp_path, generations):
    """Nor does a prediction keep them, where they are not to be tried."""
    fresh = make_plan(ground, tmp_path / "fresh", PARAMS).manifest
    previous, _ = champions_plan(tmp_path, fresh)
    table = store.read(ground / "table", Sensitivity)
    # Nothing that is predicted tells any two plans apart.
    unsure = msgspec.structs.replace(
        table.manifest,
        groups=tuple(
            msgspec.structs.replace(
                group,
                cuts=tuple(msgspec.structs.replace(cut, standard_error=9.0) for cut in group.cuts),
            )
            for group in table.manifest.groups
        ),
    )
    stored = write(tmp_path / "table", unsure, dict(table.manifest.parents)).path
    params = PARAMS + (f"generations: {generations}\n" if generations else "")
    again = make_plan(ground, tmp_path / "again", params, previous=previous, table=stored).manifest
    assert again.groups == fresh.groups
    assert (again.tried, again.age) == (UNSET, UNSET)


def champions_plan(tmp_path: Path, fresh: Plan) -> tuple[Path, tuple[GroupPlan, ...]]:
    """A past whose champion was made by other widths than `fresh`, which are within the budget too."""
    first, second = fresh.groups
    widths = (
        msgspec.structs.replace(first, keep=first.keep - 4),
        msgspec.structs.replace(second, keep=second.keep - 4),
    )
    other = write(tmp_path / "other", msgspec.structs.replace(fresh, groups=widths), {})
    ref = ChampionRef(version="1", bundle=DIGEST, receipt=DIGEST)
    with store.drafting(tmp_path / "previous") as draft:
        store.copy_into(other, draft / "plan")
        store.write(draft, past(ref), step="test", parents={}, out=tmp_path / "previous")
    return tmp_path / "previous", widths


@pytest.mark.slow
def test_a_latency_budget_is_measured_on_the_target(ground, tmp_path):
    """The plan's latency ratio is a measured one, and within the budget."""
    params = PARAMS.replace(
        "fraction: 0.5", "fraction: 0.8, budget: latency, latency_target: cpu, latency_trials: 3"
    )
    plan = make_plan(ground, tmp_path, params).manifest
    assert plan.predicted.latency_ratio is not None
    assert 0.05 < plan.predicted.latency_ratio <= 0.8
    assert plan.predicted.macs < plan.before.macs


def test_the_champions_widths_are_kept_where_they_cannot_be_told_apart():
    """Within one standard error of the fresh prediction generations keep one shape, and it is said."""
    told: list[str] = []
    champion = plan_of({"a": 16, "b": 48})
    choice = choose(options(error=0.5), PlanParams(), None, champion, told.append)
    assert choice.widths == {"a": 16, "b": 48}
    assert "keeps the champion's widths" in told[0]
    assert choice.prediction.macs == 64


@pytest.mark.parametrize(
    "champion",
    [
        None,
        {"widths": {"a": 16, "b": 48}, "error": 1e-6},
        {"widths": {"a": 16, "b": 48}, "fraction": 0.4},
        {"widths": {"a": 16, "b": 48}, "allocator": "uniform"},
        {"widths": {"a": 16, "b": 64}},
        {"widths": {"a": 16, "b": 44}},
        {"widths": {"a": 16}},
    ],
)
def test_a_champion_that_is_worse_or_answers_another_question_is_not_kept(champion):
    """Measurably worse, another budget or allocator, too dear, unaligned, or other groups: fresh widths."""
    champion = dict(champion or {})
    error = champion.pop("error", 0.5)
    past_plan = plan_of(champion.pop("widths"), **champion) if champion else None
    choice = choose(options(error=error), PlanParams(), None, past_plan, quiet)
    assert choice.widths == {"a": 32, "b": 32}


def test_a_champion_too_slow_for_a_latency_budget_is_not_kept():
    """Its widths are timed as well, with the last of the trials."""
    params = PlanParams(budget="latency", fraction=0.6, latency_trials=3)
    timed: list[dict[str, int]] = []

    def slow_for(limit):
        def ratio(widths):
            timed.append(dict(widths))
            return widths["b"] / limit

        return ratio

    champion = plan_of({"a": 16, "b": 48}, budget="latency", fraction=0.6)
    fresh = choose(options(error=0.5), params, slow_for(64), champion, quiet)
    assert len(timed) <= 3
    assert fresh.widths != {"a": 16, "b": 48}
    assert fresh.prediction.latency_ratio <= 0.6
    kept = choose(options(error=0.5), params, slow_for(128), champion, quiet)
    assert kept.widths == {"a": 16, "b": 48}
    assert kept.prediction.latency_ratio == 48 / 128


def test_the_champions_widths_are_timed_where_no_others_were_fast_enough():
    """The trial that was kept for them is not lost with the others, and the error is about all of them."""
    params = PlanParams(budget="latency", fraction=0.6, latency_trials=2)
    known, timed, told = {"a": 16, "b": 48}, [], []

    def ratio_of(fast):
        def ratio(widths):
            timed.append(dict(widths))
            return fast if widths == known else 0.9

        return ratio

    champion = plan_of(known, budget="latency", fraction=0.6)
    kept = choose(options(error=0.5), params, ratio_of(0.5), champion, told.append)
    assert (kept.widths, kept.prediction.latency_ratio, kept.champion) == (known, 0.5, True)
    assert len(timed) == 2
    assert any("no others that were timed are fast enough" in line for line in told)
    for champions, fast in ((champion, 0.7), (None, 0.5)):
        with pytest.raises(CompressionError, match="fast enough"):
            choose(options(error=0.5), params, ratio_of(fast), champions, quiet)


def test_a_champion_of_another_budget_is_not_looked_at():
    """So that the generations since one was are not counted on (Plan.age)."""
    for fraction, looked in ((0.5, True), (0.7, False)):
        champion = plan_of({"a": 32, "b": 32}, fraction=fraction)
        assert choose(options(error=0.5), PlanParams(), None, champion, quiet).champion is looked


def test_a_champions_widths_are_kept_with_its_blocks_or_not_at_all():
    """Plans that remove other blocks are others, although no group is cut in either."""
    tried = JointTrial(
        known={"a": 64, "block x": 0, "block y": 1},
        fresh={"a": 64, "block x": 1, "block y": 0},
        unit="share",
        worse=0.1,
        standard_error=0.01,
        allowed=0.0,
        examples=10,
        cost=20,
    )
    plan = msgspec.structs.replace(plan_of({"a": 64}), tried=tried)
    assert msgspec.structs.replace(plan, blocks=("x",)).kept_champions is True
    assert msgspec.structs.replace(plan, blocks=("y",)).kept_champions is False
    assert plan.kept_champions is False


@given(
    stair=st.integers(1, 16),
    floor=st.floats(0.0, 0.5),
    fraction=st.floats(0.1, 0.95),
    trials=st.integers(1, 8),
)
def test_a_latency_search_meets_its_budget_within_its_trials(stair, floor, fraction, trials):
    """On any staircase: at most `trials` timings, a ratio within the budget, or an error that names one."""
    timed: list[int] = []

    def ratio(widths):
        timed.append(widths["a"])
        return floor + (1.0 - floor) * math.ceil(widths["a"] / stair) * stair / (
            math.ceil(64 / stair) * stair
        )

    def at_macs(share):
        return {"a": max(4, int(share * 64) // 4 * 4)}

    try:
        found = search(at_macs, ratio, fraction=fraction, least=4 / 64, trials=trials)
    except CompressionError:
        found = None
    if found is None:
        assert min(ratio({"a": width}) for width in [*timed]) > fraction
        assert trials == 1 or ratio({"a": 4}) > fraction
        return
    assert len(timed) == len(set(timed)) <= trials
    assert found.ratio == ratio(found.widths) <= fraction


def test_a_latency_out_of_reach_names_what_was_measured():
    """The error tells the smallest ratio, and how to look further where one trial was too few."""
    with pytest.raises(
        CompressionError, match=r"smallest latency ratio measured is 0\.900"
    ) as many:
        search(
            lambda share: {"a": int(share * 64)}, lambda _: 0.9, fraction=0.5, least=0.1, trials=5
        )
    assert "latency_trials" not in many.value.fix
    with pytest.raises(CompressionError) as one:
        search(
            lambda share: {"a": int(share * 64)}, lambda _: 0.9, fraction=0.5, least=0.1, trials=1
        )
    assert "latency_trials" in one.value.fix


def test_a_longer_latency_search_keeps_more_of_the_model():
    """More trials close in on the widest model that is fast enough."""

    def run_with(trials):
        return search(
            lambda share: {"a": max(1, int(share * 1000))},
            lambda widths: (widths["a"] / 1000) ** 0.5,
            fraction=0.8,
            least=0.001,
            trials=trials,
        ).widths["a"]

    assert run_with(3) < run_with(10) <= 640
    assert run_with(10) > 620


def options(*, error: float) -> Options:
    """Two groups of equal cost and equal, curved sensitivity: the best halves are (32, 32)."""

    def points():
        return tuple(
            CutPoint(
                keep=keep,
                loss_increase=((64 - keep) / 64) ** 2,
                standard_error=error,
                macs=0,
                params=0,
            )
            for keep in (16, 32, 48)
        )

    groups = [GroupSensitivity(group=name, width=64, cuts=points()) for name in "ab"]

    class Sum:
        def __call__(self, widths):
            total = sum(widths.get(name, 64) for name in "ab")
            return Cost(params=total, macs=total, bytes=4 * total)

    return Options.of(fit_curves(groups), Sum(), PlanParams(round_to=8))  # type: ignore[arg-type]


def plan_of(widths, *, allocator="sensitivity", budget="macs", fraction=0.5) -> Plan:
    return Plan(
        allocator=allocator,
        budget=budget,
        fraction=fraction,
        before=Cost(params=128, macs=128, bytes=512),
        groups=tuple(GroupPlan(group=name, width=64, keep=keep) for name, keep in widths.items()),
        predicted=Prediction(params=0, macs=0, loss_increase=None, latency_ratio=None),
    )


def make_plan(ground: Path, out: Path, params: str, say=None, **inputs):
    given = {
        "dense": ground / "dense",
        "profiles": [ground / "profile"],
        "table": ground / "table",
        "previous": ground / "previous",
    }
    run(
        get_step("plan"),
        given | inputs,
        documents_of(ground, params),
        out / "plan",
        say=say or quiet,
    )
    return store.read(out / "plan", Plan)


def write_bundle(out: Path, module, *, parent: str | None = None, task: str = DIGEST):
    with store.drafting(out) as draft:
        save_file(stored_tensors(module), draft / "weights.safetensors")
        package = draft / "task" / "smalltask"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        shutil.copyfile(small_digits.__file__, package / "digits.py")
        manifest = ModelBundle(
            name="digits",
            dense_version="1",
            task=TaskFact(
                entry="smalltask.digits:DigitsTask", digest=task, data_version="sklearn-digits"
            ),
        )
        parents = {"dense": parent} if parent else {}
        return store.write(draft, manifest, step="test", parents=parents, out=out)


def write(out: Path, manifest, parents: dict[str, str]):
    with store.drafting(out) as draft:
        if isinstance(manifest, DataReport):
            (draft / TRAINED_ON).write_bytes(b"")
        return store.write(draft, manifest, step="test", parents=parents, out=out)


def counted_profile(dense) -> Profile:
    loaded = load_bundle(dense)
    counted = count_cost(loaded.module, loaded.task.example_inputs(1))
    return Profile(
        cost=counted.cost,
        layers=counted.layers,
        uncounted=counted.uncounted,
        machine=this_machine(1),
        targets=(),
    )


def past(champion: ChampionRef | None) -> Previous:
    return Previous(
        name="digits",
        dense_version="1",
        champion=champion,
        anchor=None,
        attempts=0,
        history=(),
    )


def tune_loss(module) -> float:
    batches = DigitsTask().batches("tune", epoch=0, seed=0)
    return batch_losses(DigitsTask(), module, batches, seed=0).mean


def documents_of(root: Path, params: str) -> Documents:
    lock = Lock(
        reprune="0",
        registry="mlflow",
        workspace="default",
        name="digits",
        dense=DenseRef(version="1", weights=DIGEST),
        champion="none",
        targets=("cpu",),
        params=DIGEST,
        policy=DIGEST,
        task=DIGEST,
        data_version="sklearn-digits",
    )
    return Documents(
        root=root,
        params=decode_yaml(params, Params, name="params.yaml"),
        policy=Policy(targets={"cpu": "required"}),
        lock=lock,
    )


def quiet(_: str) -> None:
    pass


def test_the_ladder_of_the_options_is_that_of_the_params():
    """Options offer exactly the aligned widths."""
    assert options(error=0.1).rungs["a"] == ladder(64, round_to=8, min_keep=0.125)
