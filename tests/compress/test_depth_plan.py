"""Blocks beside widths: allocated together, timed in the model, planned, cut and recorded by the steps."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.compress.bundle import load_bundle
from reprune.compress.planning.allocate import Problem, allocate
from reprune.compress.planning.kept_times import kept
from reprune.compress.planning.latency_table import LatencyTable, measure_table
from reprune.compress.tables.layer_terms import table_of, terms_of
from reprune.core import store
from reprune.core.artifacts import DataReport, JointCheck, ModelBundle, Plan, Profile, Sensitivity
from reprune.core.errors import ChainBroken, CompressionError
from reprune.core.step import run
from reprune.steps import get_step
from reprune.steps.opening import open_dense
from reprune.steps.plan_text import read_plan_text
from tests.compress import test_steps_plan as steps
from tests.compress.small_digits import DigitsTask, trained
from tests.compress.test_steps_plan import documents_of, make_plan, past, quiet, write

PARAMS = """
name: digits
task: smalltask.residual:ResidualTask
sensitivity: {cuts: [0.5], examples: 200}
plan: {fraction: 0.2, round_to: 8, min_keep: 0.5, depth: true}
prune: {examples: 100, criterion: l1}
targets: {cpu: {batch_size: 64}}
"""


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Two blocks with one group inside each, one group outside; a cost that knows what is gone."""
    rungs: dict[str, tuple[int, ...]] = {"trunk": (2, 4, 8)}
    blocks = {"block a": ("a",), "block b": ("b",)}
    for block, (group,) in blocks.items():
        rungs |= {group: (1, 4, 8), block: (0, 1)}
    rises = {}
    for name, widths in rungs.items():
        steps = [draw(st.floats(0.0, 2.0)) for _ in widths[1:]]
        rises[name] = tuple(sum(steps[index:]) for index in range(len(widths)))
    weights = {name: draw(st.integers(1, 20)) for name in ("trunk", "a", "b")}

    def cost(widths: dict[str, int]) -> float:
        total = 10.0 + weights["trunk"] * widths["trunk"]
        for block, (group,) in blocks.items():
            total += widths[block] * weights[group] * widths[group] * widths["trunk"]
        return total

    dense = cost({name: widths[-1] for name, widths in rungs.items()})
    limit = draw(st.floats(0.05, 1.0)) * dense
    return Problem(rungs=rungs, rises=rises, cost=cost, limit=limit, blocks=blocks)


def rise_of(problem: Problem, widths: dict[str, int]) -> float:
    return sum(
        problem.rises[name][rungs.index(widths[name])] for name, rungs in problem.rungs.items()
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(problem=problems())
def test_blocks_and_widths_are_allocated_together(problem: Problem) -> None:
    """Within the limit, groups in gone blocks whole, and close to the best of all combinations."""
    if not problem.fits(problem.least):
        with pytest.raises(CompressionError):
            allocate("sensitivity", problem)
        return
    widths = allocate("sensitivity", problem)
    assert problem.fits(widths)
    for block, (group,) in problem.blocks.items():
        assert widths[block] == 1 or widths[group] == 8
    best = min(
        rise_of(problem, candidate)
        for chosen in itertools.product(*problem.rungs.values())
        if problem.fits(candidate := dict(zip(problem.rungs, chosen, strict=True)))
    )
    scale = max(rise[0] for rise in problem.rises.values())
    assert rise_of(problem, widths) <= best + 0.35 * scale + 1e-9


@settings(deadline=None, max_examples=30)
@given(problem=problems())
def test_uniform_removes_no_block(problem: Problem) -> None:
    """One share for all is about widths: where those do not suffice, uniform says so."""
    least = problem.least | dict.fromkeys(problem.blocks, 1)
    if problem.fits(least):
        widths = allocate("uniform", problem)
        assert all(widths[block] == 1 for block in problem.blocks)
    else:
        with pytest.raises(CompressionError, match=r"removes no blocks|smallest reachable"):
            allocate("uniform", problem)


def test_a_block_that_saves_most_for_its_loss_goes_first() -> None:
    """A cheap block is removed rather than every width halved."""
    problem = Problem(
        rungs={"a": (4, 8), "b": (4, 8), "block x": (0, 1)},
        rises={"a": (1.0, 0.0), "b": (1.0, 0.0), "block x": (0.5, 0.0)},
        cost=lambda w: w["b"] * 2.0 + w["block x"] * w["a"] * 2.0,
        limit=16.0,
        blocks={"block x": ("a",)},
    )
    assert allocate("sensitivity", problem) == {"a": 8, "b": 8, "block x": 0}


def test_savings_are_measured_once_ironed_and_added(tmp_path: Path) -> None:
    """More cut never saves less, nothing costs time, and a killed measurement goes on."""
    rungs = {"a": (2, 4, 6, 8), "b": (4, 8), "block x": (0, 1)}
    blocks = {"block x": ("b",)}
    truth = {("a", 2): 0.80, ("a", 4): 0.78, ("b", 4): 1.05, ("block x", 0): 0.9}
    asked = []

    def ratio(widths: dict[str, int]) -> float:
        (item,) = widths.items()
        asked.append(item)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return truth[item]

    with pytest.raises(KeyboardInterrupt):
        measure_table(rungs, blocks, kept(ratio, "a board", tmp_path), say=quiet)
    table = measure_table(rungs, blocks, kept(ratio, "a board", tmp_path), say=quiet)
    assert sorted(asked) == sorted([*truth, asked[2]])
    # What another board took is not put together with it.
    measure_table(rungs, blocks, kept(ratio, "its twin", tmp_path), say=quiet)
    assert sorted(asked) == sorted([*truth, asked[2], *truth])
    assert table.ratio({}) == 1.0
    assert table.ratio({"a": 2}) == pytest.approx(table.ratio({"a": 4})) == pytest.approx(0.79)
    assert table.ratio({"a": 6}) == pytest.approx(0.895)
    assert table.ratio({"b": 4}) == 1.0
    assert table.ratio({"a": 8, "b": 4, "block x": 0}) == pytest.approx(0.9)


@settings(deadline=None, max_examples=30)
@given(
    savings=st.lists(st.floats(-0.2, 0.9), min_size=3, max_size=3),
    low=st.integers(0, 2),
    high=st.integers(0, 2),
)
def test_predicted_latency_never_falls_when_something_is_widened(
    savings: list[float], low: int, high: int
) -> None:
    """The allocators rely on it: whatever was measured, the table is monotone, blocks included."""
    rungs = {"a": (1, 2, 4), "block x": (0, 1)}
    truth = dict(zip([("a", 1), ("a", 2), ("block x", 0)], savings, strict=True))
    table = measure_table(
        rungs,
        {"block x": ("a",)},
        lambda widths: 1.0 - truth[next(iter(widths.items()))],
        say=quiet,
    )
    narrow, wide = sorted((rungs["a"][low], rungs["a"][high]))
    assert table.ratio({"a": narrow}) <= table.ratio({"a": wide})
    assert table.ratio({"a": narrow, "block x": 0}) <= table.ratio({"a": narrow, "block x": 1})
    assert isinstance(table, LatencyTable)


class Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.norm1(self.conv1(x)))))


class Attending(nn.Module):
    """Every place of the image attends to all others, with torch's own packed attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2)
        seen = self.attention(places, places, places, need_weights=False)[0]
        return x + seen.transpose(1, 2).unflatten(2, x.shape[2:])


class Net(nn.Module):
    """Blocks that can go, and heads among what can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.blocks = nn.Sequential(Residual(), Residual(), Attending())
        self.head = nn.Linear(16 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        return self.head(F.max_pool2d(self.blocks(x), 2).flatten(1))


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained residual model, its data report, its profile, an empty past and its sensitivity."""
    root = tmp_path_factory.mktemp("residual")
    module = trained(DigitsTask(model=Net), epochs=4)
    dense = write_residual_bundle(root / "dense", module)
    report = DataReport(task=dense.manifest.task, passed=True, expectations=(), splits={}, power=())
    write(root / "data", report, {"dense": dense.digest})
    write(root / "previous", past(None), {})
    write(root / "profile", steps.counted_profile(dense), {"dense": dense.digest})
    inputs = {"dense": root / "dense", "data": root / "data", "previous": root / "previous"}
    run(get_step("sensitivity"), inputs, documents_of(root, PARAMS), root / "table", say=quiet)
    return root


def write_residual_bundle(out: Path, module: nn.Module) -> store.Artifact[ModelBundle]:
    """The bundle of test_steps_plan with this file's model behind the task."""
    import inspect

    import msgspec
    from safetensors.torch import save_file

    from reprune.compress.bundle import stored_tensors
    from tests.compress import small_digits

    source = inspect.getsource(small_digits)
    source += f"\n\nfrom torch import Tensor\n\n\n{inspect.getsource(Residual)}\n\n"
    source += f"{inspect.getsource(Attending)}\n\n{inspect.getsource(Net)}"
    source += "\n\nclass ResidualTask(DigitsTask):\n    def model(self):\n        return Net()\n"
    with store.drafting(out) as draft:
        save_file(stored_tensors(module), draft / "weights.safetensors")
        package = draft / "task" / "smalltask"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "residual.py").write_text(source)
        manifest = ModelBundle(
            name="digits",
            dense_version="1",
            task=steps.TaskFact(
                entry="smalltask.residual:ResidualTask",
                digest=steps.DIGEST,
                data_version="sklearn-digits",
            ),
        )
        assert msgspec.json.encode(manifest)
        return store.write(draft, manifest, step="test", parents={}, out=out)


def pruned(ground: Path, plan: Path, out: Path) -> store.Artifact[ModelBundle]:
    inputs = {"dense": ground / "dense", "data": ground / "data", "chosen": plan}
    run(get_step("prune"), inputs, documents_of(ground, PARAMS), out, say=quiet)
    return store.read(out, ModelBundle)


@pytest.mark.slow
def test_a_plan_with_depth_is_measured_shown_cut_and_reloaded(ground: Path, tmp_path: Path) -> None:
    """Blocks have rows in the table, lines in the plan, entries in the surgery, and are gone."""
    table = store.read(ground / "table", Sensitivity).manifest
    assert [row.block for row in table.blocks] == [f"blocks.{n}" for n in range(3)]
    assert all(row.params < 12_000 and row.standard_error >= 0.0 for row in table.blocks)
    assert ("blocks.2.attention:heads", 4) in [(row.group, row.width) for row in table.groups]
    chosen = make_plan(ground, tmp_path, PARAMS)
    plan = chosen.manifest
    assert plan.blocks
    assert plan.round_to == 8
    losses = {row.block: max(row.loss_increase, 0.0) for row in table.blocks}
    assert plan.block_losses == {name: losses[name] for name in plan.blocks}
    assert plan.predicted.macs <= 0.2 * plan.before.macs
    text = yaml.safe_load((chosen.path / "plan.yaml").read_text())
    assert text["removed_blocks"] == list(plan.blocks)
    read_back = read_plan_text(chosen.path / "plan.yaml", "plan.yaml")
    assert (read_back.groups, read_back.blocks) == (plan.groups, plan.blocks)
    assert read_back.predicted.macs == plan.predicted.macs
    bundle = pruned(ground, chosen.path, tmp_path / "pruned")
    surgery = bundle.manifest.surgery
    assert surgery is not None
    assert surgery.blocks == plan.blocks
    assert not surgery.gentler
    dense = store.read(ground / "profile", Profile).manifest.cost
    left = {row.block: (row.params, row.macs) for row in table.blocks}
    for item in surgery.block_cuts:
        removed = item.removed
        assert (dense.params - removed.params, dense.macs - removed.macs) == left[item.block]
        assert (item.planned.params, item.planned.bytes) == (removed.params, removed.bytes)
        assert item.planned.macs <= removed.macs
    # What heads multiply among each other is counted whole before the cut: an upper bound.
    assert surgery.after.macs <= plan.predicted.macs
    assert surgery.after.params == plan.predicted.params
    module = load_bundle(bundle).module
    if "blocks.2" not in plan.blocks:
        heads = {item.group: item.keep for item in plan.groups}["blocks.2.attention:heads"]
        assert module.blocks[2].attention.num_heads == heads
    assert sum(p.numel() for p in module.parameters()) == surgery.after.params
    again = make_plan(ground, tmp_path / "again", PARAMS)
    assert again.manifest == plan


def test_without_depth_no_block_goes(ground: Path, tmp_path: Path) -> None:
    """plan.depth is off unless it is asked for, and the plan's bytes are as they always were."""
    chosen = make_plan(
        ground,
        tmp_path,
        PARAMS.replace("0.2, round_to: 8, min_keep: 0.5, depth: true", "0.6, round_to: 8"),
    )
    assert "blocks" not in (chosen.path / "manifest.json").read_text().split('"groups"')[0]
    assert "removed_blocks" not in (chosen.path / "plan.yaml").read_text()


def test_a_table_or_a_plan_of_other_blocks_is_refused(ground: Path, tmp_path: Path) -> None:
    """A sensitivity without the blocks, and a plan with a block that is not there, are told apart."""
    import msgspec

    table = store.read(ground / "table", Sensitivity).manifest
    parents = {"dense": store.read(ground / "dense", ModelBundle).digest}
    write(tmp_path / "table", msgspec.structs.replace(table, blocks=table.blocks[:2]), parents)
    with pytest.raises(ChainBroken, match="other blocks"):
        make_plan(ground, tmp_path, PARAMS, table=tmp_path / "table")
    plan = make_plan(ground, tmp_path / "plan", PARAMS).manifest
    write(tmp_path / "odd", msgspec.structs.replace(plan, blocks=("blocks.7",)), parents)
    with pytest.raises(CompressionError, match=r"no block 'blocks\.7'"):
        pruned(ground, tmp_path / "odd", tmp_path / "pruned")


@pytest.mark.slow
def test_a_latency_budget_from_savings_in_the_model_is_met(ground: Path, tmp_path: Path) -> None:
    """Every option is timed once in the built model, and the chosen whole is timed again."""
    params = PARAMS.replace(
        "fraction: 0.2",
        "latency_model: in-model, budget: latency, latency_target: cpu, fraction: 0.7",
    )
    plan = make_plan(ground, tmp_path, params).manifest
    assert plan.predicted.latency_ratio is not None
    assert plan.predicted.latency_ratio <= 0.7
    assert list((tmp_path / "work").rglob("timed.json"))
    assert isinstance(plan, Plan)


@pytest.mark.slow
def test_head_dimensions_are_measured_planned_and_cut(ground: Path, tmp_path: Path) -> None:
    """The one knob of the plan section reaches the table, the plan and the cut model, beside heads."""
    import msgspec

    params = PARAMS.replace("depth: true", "head_dimensions: true").replace("0.2", "0.6")
    inputs = {"dense": ground / "dense", "data": ground / "data", "previous": ground / "previous"}
    run(get_step("sensitivity"), inputs, documents_of(ground, params), tmp_path / "t", say=quiet)
    rows = {row.group: row.width for row in store.read(tmp_path / "t", Sensitivity).manifest.groups}
    crossing = [name for name in rows if name.endswith("dimensions")]
    assert "blocks.2.attention:heads" in rows
    assert crossing
    chosen = make_plan(ground, tmp_path, params, table=tmp_path / "t")
    assert chosen.manifest.head_dimensions is True
    # A plan that keeps half of each group: whatever the allocator chose, the knob must be obeyed.
    half = msgspec.structs.replace(
        chosen.manifest,
        groups=tuple(
            msgspec.structs.replace(item, keep=max(1, item.width // 2))
            for item in chosen.manifest.groups
        ),
    )
    parents = {"dense": store.read(ground / "dense", ModelBundle).digest}
    write(tmp_path / "half", half, parents)
    bundle = pruned(ground, tmp_path / "half", tmp_path / "pruned")
    dense = load_bundle(store.read(ground / "dense", ModelBundle)).module
    attentions = [net.blocks[2].attention for net in (dense, load_bundle(bundle).module)]
    before, after = (
        sum(p.numel() for p in attention.parameters() if p.dim() > 1) for attention in attentions
    )
    assert after * 4 <= before
    with pytest.raises(ChainBroken, match="other groups"):
        make_plan(ground, tmp_path / "other", params, table=ground / "table")


@pytest.mark.slow
def test_the_check_on_joint_cuts_is_told_and_warned_of(ground: Path, tmp_path: Path) -> None:
    """plan.yaml and the manifest hold what sums came to in joint cuts; below 0.8 there is a warning."""
    import msgspec

    table = store.read(ground / "table", Sensitivity).manifest
    parents = {"dense": store.read(ground / "dense", ModelBundle).digest}
    for tau, name in ((0.9, "good"), (0.5, "bad")):
        joint = JointCheck(predicted=(1.0, 2.0), measured=(2.0, 4.0), rank_correlation=tau)
        write(tmp_path / name, msgspec.structs.replace(table, joint=joint), parents)
        said: list[str] = []
        chosen = make_plan(
            ground, tmp_path / f"plan-{name}", PARAMS, said.append, table=tmp_path / name
        )
        assert any("or set plan.evaluations" in line for line in said) == (tau < 0.8)
        predicted = chosen.manifest.predicted
        assert predicted.joint_loss_increase == pytest.approx(2.0 * predicted.loss_increase)
        text = yaml.safe_load((chosen.path / "plan.yaml").read_text())["predicted"]
        assert text["joint_rank_correlation"] == tau
        assert ("warning" in text) == (tau < 0.8)
    # An allocator that adds nothing up is not told to check its sums.
    uniform = PARAMS.replace("depth: true", "depth: true, allocator: uniform").replace("0.2", "0.7")
    told: list[str] = []
    make_plan(ground, tmp_path / "uniform", uniform, told.append, table=tmp_path / "bad")
    (warning,) = (line for line in told if "not additive here" in line)
    assert "plan.evaluations" not in warning
    plain = make_plan(ground, tmp_path / "plain", PARAMS)
    assert "joint" not in (plain.path / "manifest.json").read_text()


def test_blocks_that_stay_are_told(ground: Path, tmp_path: Path) -> None:
    """With plan.depth, an allocator that removes no block says so."""
    said: list[str] = []
    params = PARAMS.replace("depth: true", "depth: true, allocator: uniform").replace("0.2", "0.7")
    inputs = {"dense": ground / "dense", "table": ground / "table"}
    inputs |= {"profiles": [ground / "profile"], "previous": ground / "previous"}
    documents = documents_of(ground, params)
    run(get_step("plan"), inputs, documents, tmp_path / "plan", say=said.append)
    assert any("no block is removed: the uniform allocator" in line for line in said)


@pytest.mark.deep
def test_latency_tables_know_the_head_dimensions_that_a_plan_may_cut(
    ground: Path, tmp_path: Path
) -> None:
    """The knob of profile.tables reaches what is measured: every group of the sensitivity has terms."""
    params = PARAMS.replace("depth: true", "head_dimensions: true").replace(": 64", ": 1")
    params += "profile: {calls: 10, tables: {builds: 1, rounds: 1, head_dimensions: true}}\n"
    names = ("dense", "data", "previous")
    inputs = {name: ground / name for name in names}
    run(get_step("profile"), inputs, documents_of(ground, params), tmp_path / "p", say=quiet)
    dense = store.read(ground / "dense", ModelBundle)
    groups = open_dense(dense, seed=0, threads=1, head_dimensions=True).groups
    assert any(group.unit == "dimension" for group in groups)
    table = table_of(store.read(tmp_path / "p", Profile), "cpu")
    assert terms_of(table, {group.name: (group.width,) for group in groups})({}) > 0
