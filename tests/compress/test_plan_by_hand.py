"""Widths and blocks that a person set, and budgets beside the first one, through the plan step."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from msgspec import structs
from torch import nn

from reprune.compress.bundle import load_bundle
from reprune.compress.planning import latency
from reprune.compress.planning.by_hand import ByHand, obeyed
from reprune.compress.planning.costs import cost_model
from reprune.compress.structure.groups import find_groups
from reprune.compress.tables.looking import Seen, Subject, measure_operators
from reprune.compress.tables.sites import timed_layers
from reprune.compress.tables.table import TABLES_FILE, TableKey, write_tables
from reprune.core import store
from reprune.core.artifacts import ModelBundle, Plan, TableFact
from reprune.core.documents import decode_yaml
from reprune.core.errors import ChainBroken, CompressionError, DocumentError, PayloadCorrupt
from reprune.core.machine import this_machine
from reprune.core.params import Params, TableParams, Target, read_params
from reprune.core.step import run
from reprune.measure.profile import count_cost
from reprune.steps import get_step
from tests.compress import test_depth_plan as residual
from tests.compress import test_steps_plan as plain
from tests.compress.test_steps_plan import documents_of, make_plan

BLOCKS = residual.PARAMS.replace("fraction: 0.2", "fraction: 0.9")

# The trained models of the two files, with their tables: no test here changes them.
ground = plain.ground
with_blocks = residual.ground


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    torch.set_num_threads(1)


def with_plan(more: str, *, fraction: str = "0.5", base: str = plain.PARAMS) -> str:
    return base.replace("plan: {fraction: 0.5", f"plan: {{{more}, fraction: {fraction}")


def planned(
    ground: Path, out: Path, params: str, profiles: list[Path] | None = None
) -> tuple[Plan, dict, list[str]]:
    """The plan, its plan.yaml, and what was said."""
    said: list[str] = []
    inputs = {"dense": ground / "dense", "table": ground / "table"}
    inputs |= {"profiles": profiles or [ground / "profile"], "previous": ground / "previous"}
    run(get_step("plan"), inputs, documents_of(ground, params), out / "plan", say=said.append)
    made = store.read(out / "plan", Plan)
    return made.manifest, yaml.safe_load(made.file("plan.yaml").read_text()), said


def keeps(plan: Plan) -> dict[str, int]:
    return {item.group: item.keep for item in plan.groups}


def test_a_block_with_a_width_by_hand_inside_it_stays():
    """Else that width would be neither obeyed nor refused; a full one asks nothing of the block."""
    rungs = {"a": (4, 8), "b": (4, 8), "block x": (0, 1), "block y": (0, 1)}
    blocks = {"block x": ("a",), "block y": ("b",)}
    held = obeyed(ByHand(widths={"a": 5}), rungs, blocks, depth=True)
    assert held == rungs | {"a": (5,), "block x": (1,)}
    assert obeyed(ByHand(widths={"a": 8}), rungs, blocks, depth=True) == rungs | {"a": (8,)}


@pytest.mark.slow
def test_that_a_block_stays_for_a_width_by_hand_is_said(with_blocks, tmp_path):
    knobs = residual.PARAMS
    free, _, _ = planned(with_blocks, tmp_path / "free", knobs)
    inside = {name for name in free.blocks if f"{name}.conv1" in keeps(free)}
    assert inside
    name = min(inside)
    more = f"depth: true, widths: {{{name}.conv1: 9}}"
    plan, _, said = planned(with_blocks, tmp_path / "held", knobs.replace("depth: true", more))
    assert name not in (plan.blocks or ())
    assert keeps(plan)[f"{name}.conv1"] == 9
    assert any(
        f"stays, for widths inside it are set by hand: block {name}" in line for line in said
    )


@pytest.mark.slow
def test_groups_that_are_too_narrow_can_be_cut_by_hand(ground, tmp_path):
    """With a step that no group is wide enough for, and no budget."""
    params = with_plan("widths: {conv1: 7}", fraction="1.0").replace("round_to: 4", "round_to: 256")
    plan, _, said = planned(ground, tmp_path, params)
    assert keeps(plan)["conv1"] == 7
    (narrow,) = (line for line in said if "too narrow to be cut" in line)
    assert "conv1" not in narrow.partition(":")[2].replace("plan: too narrow", "")


@pytest.mark.slow
@pytest.mark.parametrize("allocator", ["uniform", "sensitivity", "latency"])
def test_a_width_set_by_hand_is_obeyed_and_the_others_are_allocated(ground, tmp_path, allocator):
    """Exactly that width, aligned or not; the budget holds with it; both files say who decided."""
    params = with_plan(f"allocator: {allocator}, widths: {{conv1: 7}}")
    plan, shown, said = planned(ground, tmp_path, params)
    assert keeps(plan)["conv1"] == 7
    assert keeps(plan)["conv2"] % 4 == 0
    assert plan.predicted.macs <= 0.5 * plan.before.macs
    assert plan.by_hand == ("conv1",)
    assert shown["by_hand"] == ["conv1"]
    assert any("conv1 keeps 7 channels, as set by hand, which no allocator" in s for s in said)


def test_who_edits_the_plan_itself_is_told_where_a_width_goes(ground, tmp_path):
    """The next step refuses it, and names the file and the key."""
    made = make_plan(ground, tmp_path, plain.PARAMS)
    file = made.file("plan.yaml")
    file.write_text(file.read_text().replace("after: ", "after: 1", 1))
    with pytest.raises(PayloadCorrupt, match=r"plan\.yaml") as refused:
        store.read(made.path, Plan)
    assert "params.yaml (plan.widths" in refused.value.fix
    assert "restore the file" in refused.value.fix


def test_without_a_budget_what_is_not_named_stays_whole(ground, tmp_path):
    """fraction 1.0 asks for nothing: the plan is the person's alone."""
    plan, _, _ = planned(ground, tmp_path, with_plan("widths: {conv1: 8}", fraction="1.0"))
    whole = {item.group: item.width for item in plan.groups}
    assert keeps(plan) == whole | {"conv1": 8}


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ("{conv11: 8}", r"no group 'conv11'[\s\S]*did you mean 'conv1'\?"),
        ("{conv1: 0}", r"cannot have 0 channels[\s\S]*from 1 to"),
        ("{conv1: 4000}", r"cannot have 4000 channels: it has \d+"),
        ("{head: 4}", r"head cannot be cut: .+[\s\S]*known: conv1, conv2"),
    ],
)
def test_a_width_that_cannot_be_is_refused_with_the_reason(ground, tmp_path, widths, message):
    """Unknown, impossible, or left alone for a reason that is told."""
    with pytest.raises(CompressionError, match=message) as refused:
        planned(ground, tmp_path, with_plan(f"widths: {widths}"))
    assert "plan.widths" in refused.value.where


def test_widths_by_hand_that_break_the_budget_are_not_obeyed_in_silence(ground, tmp_path):
    """The smallest fraction that is left to reach is named."""
    made = make_plan(ground, tmp_path, plain.PARAMS).manifest
    widths = ", ".join(f"{item.group}: {item.width - 1}" for item in made.groups)
    with pytest.raises(CompressionError, match=r"reachable fraction is 0\.\d+[\s\S]*by hand"):
        planned(ground, tmp_path / "all", with_plan(f"widths: {{{widths}}}"))


@pytest.mark.slow
def test_exactly_the_named_blocks_go(with_blocks, tmp_path):
    """Those and no others, whatever the allocator would do; a width inside one of them is refused."""
    named = BLOCKS.replace("depth: true", "depth: true, removed_blocks: [blocks.1]")
    plan, shown, said = planned(with_blocks, tmp_path, named)
    assert plan.blocks == ("blocks.1",)
    assert plan.by_hand == ("blocks.1",)
    assert shown["removed_blocks"] == ["blocks.1"]
    assert any("blocks that go, as set by hand: blocks.1" in line for line in said)
    none = residual.PARAMS.replace("0.2,", "0.7, removed_blocks: [],")
    plan, _, said = planned(with_blocks, tmp_path / "none", none)
    assert plan.blocks == ()
    assert any("none is named (plan.removed_blocks)" in line for line in said)
    inside = named.replace("depth: true", "depth: true, widths: {blocks.1.conv1: 8}")
    with pytest.raises(CompressionError, match=r"lies inside the block blocks\.1"):
        planned(with_blocks, tmp_path / "inside", inside)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ("depth: true, removed_blocks: [blocks.9]", r"no block 'blocks\.9'[\s\S]*did you mean"),
        ("removed_blocks: [blocks.1]", r"plan\.depth is off"),
    ],
)
def test_a_block_that_cannot_go_is_refused(with_blocks, tmp_path, knobs, message):
    """Unknown, or nobody measured it."""
    with pytest.raises(CompressionError, match=message):
        planned(with_blocks, tmp_path, BLOCKS.replace("depth: true", knobs))


@pytest.mark.parametrize("allocator", ["uniform", "sensitivity", "latency"])
def test_all_limits_hold_at_once(ground, tmp_path, allocator):
    """MACs and parameters, and both are told; the exact allocator proves its answer."""
    params = with_plan(f"allocator: {allocator}, limits: {{params: 0.4}}", fraction="0.6")
    plan, shown, _ = planned(ground, tmp_path, params)
    assert plan.predicted.macs <= 0.6 * plan.before.macs
    assert plan.predicted.params <= 0.4 * plan.before.params
    assert plan.limits == {"params": 0.4}
    assert shown["limits"] == {"params": 0.4}
    assert (plan.predicted.optimality_gap == 0.0) == (allocator == "latency")
    assert ("optimality_gap" in shown["predicted"]) == (allocator == "latency")


def test_a_limit_out_of_reach_is_named(ground, tmp_path):
    """With what could be reached, of that limit."""
    params = with_plan("limits: {bytes: 0.001}")
    with pytest.raises(CompressionError, match=r"limit of bytes: .* fraction is 0\.\d+") as refused:
        planned(ground, tmp_path, params)
    assert "plan.limits.bytes" in refused.value.fix


def test_the_exact_allocator_never_predicts_more_loss_than_the_search(ground, tmp_path):
    """At the same budget, on the real model's tables."""
    exact, _, _ = planned(ground, tmp_path / "e", with_plan("allocator: latency"))
    searched, _, _ = planned(ground, tmp_path / "s", plain.PARAMS)
    assert exact.predicted.loss_increase <= searched.predicted.loss_increase + 1e-12
    assert exact.predicted.macs <= 0.5 * exact.before.macs


@pytest.mark.slow
@pytest.mark.alone
def test_a_latency_budget_is_forecast_timed_corrected_and_told(ground, tmp_path):
    """Without tables it is planned by MACs, and what was measured decides."""
    # A model so small is mostly the call itself: little of its time can be saved, and noise is as large.
    params = with_plan(
        "allocator: latency, budget: latency, latency_target: cpu, latency_trials: 8",
        fraction="0.97",
    )
    plan, shown, said = planned(ground, tmp_path, params)
    assert plan.predicted.latencies["cpu"].measured == plan.predicted.latency_ratio <= 0.97
    told = shown["predicted"]["latency"]["cpu"]
    assert told["measured"] == pytest.approx(plan.predicted.latency_ratio, rel=1e-3)
    assert told["by_table"] > 0.0
    assert told["saving_corrected_by"] > 0.0
    assert any("no profile has operator tables of 'cpu'" in line for line in said)
    assert any("of the dense model's by the table" in line for line in said)


def test_a_latency_limit_without_tables_is_refused(ground, tmp_path):
    """A limit is predicted before it is timed, and nothing predicts it."""
    with pytest.raises(CompressionError, match="nothing predicts the latency on 'cpu'"):
        planned(ground, tmp_path, with_plan('limits: {"latency@cpu": 0.5}'))


class Invented:
    """Layers take what a function of their lengths says."""

    def __init__(self) -> None:
        self.dense = 0.0

    def look(self, module: nn.Module) -> Seen:
        layers = dict(module.named_modules())
        times = {
            name: float(layers[name].weight.shape[0] * (2 + layers[name].weight[0].numel()))
            for name in timed_layers(module)
        }
        self.dense = self.dense or sum(times.values())
        return Seen(
            shares={name: took / self.dense for name, took in times.items()},
            whole=sum(times.values()) / self.dense,
            dense_us=self.dense,
            kinds=dict.fromkeys(times, ("Conv",)),
        )


def profile_with_tables(ground: Path, out: Path, kind: str) -> Path:
    """The ground's profile, measured by a machine of this kind ("": this one), with a table of cpu."""
    dense = store.read(ground / "dense", ModelBundle)
    loaded = load_bundle(dense)
    example = loaded.task.example_inputs(2)
    groups = find_groups(loaded.module, example, ())
    machine = this_machine(1)
    machine = structs.replace(machine, kind=kind or machine.kind, cpu=kind or machine.cpu)
    subject = Subject(
        name="cpu",
        target=Target(),
        module=loaded.module,
        example_inputs=example,
        groups=groups,
        steps={group.name: 4 for group in groups},
    )

    def key(questions: str) -> TableKey:
        return TableKey(
            machine_kind=machine.kind,
            runtime="onnxruntime",
            version="1",
            precision="fp32",
            device="",
            batch_size=256,
            threads=1,
            inputs=((256, 1, 8, 8),),
            questions=questions,
        )

    table = measure_operators(
        subject,
        Invented(),
        key,
        TableParams(builds=30, step=4),
        dense_us=500.0,
        work=out.parent,
        say=lambda _: None,
    )
    fact = TableFact(target="cpu", key=table.key.digest, builds=table.builds, error=table.error)
    manifest = structs.replace(plain.counted_profile(dense), machine=machine, tables=(fact,))
    with store.drafting(out) as draft:
        write_tables(draft / TABLES_FILE, [table])
        parents = {"dense": dense.digest}
        return store.write(draft, manifest, step="test", parents=parents, out=out).path


@pytest.fixture
def timed_as_the_table_says(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """No engine is built: what a cut takes is a tenth of the whole and the share of its MACs."""
    timed: list[dict[str, int]] = []

    @contextmanager
    def timing(bench):
        counted = count_cost(bench.module, bench.task.example_inputs(1))
        cost = cost_model(bench.module, bench.groups, counted)

        def ratio(widths, *, sure=False):
            assert sure  # a budget is to be met
            timed.append(dict(widths))
            return 0.1 + 0.9 * cost(widths).macs / counted.cost.macs

        yield ratio

    monkeypatch.setattr(latency, "timing", timing)
    return timed


@pytest.mark.parametrize("allocator", ["sensitivity", "latency"])
def test_a_latency_limit_holds_as_timed_beside_the_macs(
    ground, tmp_path, timed_as_the_table_says, allocator
):
    """It is planned by the profile's table, timed, and told for the target; MACs hold with it."""
    profile = profile_with_tables(ground, tmp_path / "profile", "")
    knobs = f'allocator: {allocator}, limits: {{"latency@cpu": 0.6}}'
    plan, shown, said = planned(ground, tmp_path, with_plan(knobs, fraction="0.8"), [profile])
    (one,) = plan.predicted.latencies.values()
    assert one.measured <= 0.6
    assert plan.predicted.latency_ratio is None
    assert plan.predicted.macs <= 0.8 * plan.before.macs
    assert any(keeps(plan).items() <= widths.items() for widths in timed_as_the_table_says)
    assert shown["predicted"]["latency"]["cpu"]["measured"] == pytest.approx(one.measured, rel=1e-3)
    assert not any("no profile has operator tables" in line for line in said)


@pytest.mark.slow
def test_a_latency_budget_takes_the_profiles_table(ground, tmp_path, timed_as_the_table_says):
    """And a width by hand must be one that was timed."""
    profile = profile_with_tables(ground, tmp_path / "profile", "")
    knobs = "allocator: latency, budget: latency, latency_target: cpu"
    plan, _, said = planned(ground, tmp_path, with_plan(knobs, fraction="0.7"), [profile])
    assert plan.predicted.latency_ratio <= 0.7
    assert plan.predicted.optimality_gap == 0.0
    assert not any("planned by MACs" in line for line in said)
    hand = with_plan(f"{knobs}, widths: {{conv1: 8}}", fraction="0.8")
    plan, _, _ = planned(ground, tmp_path / "hand", hand, [profile])
    assert keeps(plan)["conv1"] == 8
    with pytest.raises(CompressionError, match="conv1 was timed on 'cpu' at multiples of 4"):
        planned(ground, tmp_path / "odd", hand.replace("conv1: 8", "conv1: 7"), [profile])


@pytest.mark.parametrize("allocator", ["sensitivity", "latency"])
def test_a_limit_on_a_target_that_is_not_timed_here_is_kept_or_refused(ground, tmp_path, allocator):
    """Its table alone says whether it can be met."""
    profile = profile_with_tables(ground, tmp_path / "profile", "")
    knobs = f'allocator: {allocator}, limits: {{"latency@cpu": %s}}'
    elsewhere = with_plan(knobs, fraction="0.8").replace("cpu: {", "cpu: {kit: true, ")
    assert "kit: true" in elsewhere
    plan, _, _ = planned(ground, tmp_path, elsewhere % 0.6, [profile])
    (one,) = plan.predicted.latencies.values()
    assert one.measured is None
    assert one.forecast <= 0.6 * (1 + 1e-12)
    with pytest.raises(CompressionError, match=r"latency@cpu.*smallest reachable fraction"):
        planned(ground, tmp_path / "low", elsewhere % 0.01, [profile])


def test_tables_of_two_kinds_of_machine_are_refused(ground, tmp_path, timed_as_the_table_says):
    """By name of both machines."""
    mine = profile_with_tables(ground, tmp_path / "mine", "")
    other = profile_with_tables(ground, tmp_path / "other", "Babbage 1")
    params = with_plan('limits: {"latency@cpu": 0.6}')
    with pytest.raises(ChainBroken, match=r"different kinds of machine:.*Babbage 1"):
        planned(ground, tmp_path, params, [mine, other])
    assert not timed_as_the_table_says


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ("limits: {mac: 0.5}", "no limit 'mac'; did you mean 'macs'"),
        ('limits: {"latency@cpus": 0.5}', "did you mean 'latency@cpu'"),
        ("limits: {macs: 0.5}", "macs is the budget and a limit too"),
        ("method: weights, widths: {conv1: 8}", "'weights' does not read plan.widths"),
    ],
)
def test_limits_of_nothing_are_refused_when_the_file_is_read(tmp_path, knobs, message):
    """Before anything runs."""
    (tmp_path / "params.yaml").write_text(with_plan(knobs))
    with pytest.raises(DocumentError, match=message):
        read_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("knobs", "refused"),
    [
        ('limits: {"latency@cpu": 0.5}', True),
        ("allocator: latency, budget: latency, latency_target: cpu", True),
        ("limits: {params: 0.5}", False),
    ],
)
def test_tables_that_will_not_know_head_dimensions_are_refused_at_once(tmp_path, knobs, refused):
    """Where a plan would be made by them: before anything is measured for nothing."""
    path = tmp_path / "params.yaml"
    wanted = with_plan(f"head_dimensions: true, {knobs}") + "profile: {tables: {step: 4, %s}}\n"
    path.write_text(wanted % "builds: 2")
    if refused:
        with pytest.raises(DocumentError, match="will know whole heads only") as caught:
            read_params(path)
        assert "profile.tables.head_dimensions" in caught.value.fix
        path.write_text(wanted % "builds: 2, head_dimensions: true")
    assert read_params(path).plan.head_dimensions


def test_old_files_mean_what_they_meant(ground, tmp_path):
    """Without the new knobs neither the decoded params nor the plan's manifest have a word of them."""
    from msgspec import json

    decoded = json.encode(decode_yaml(plain.PARAMS, Params, name="params.yaml").plan)
    assert not any(word in decoded for word in (b"limits", b"widths", b"removed_blocks"))
    made = make_plan(ground, tmp_path, plain.PARAMS)
    text = (made.path / "manifest.json").read_text()
    assert not any(word in text for word in ("limits", "by_hand", "latencies", "optimality_gap"))
    assert made.file("plan.yaml").read_text().startswith("# Written by `reprune plan`")
