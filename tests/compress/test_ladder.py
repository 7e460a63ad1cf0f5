"""A recovery that cannot reach its bar stops and says so; a cut that is too much gives way to a gentler."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import msgspec
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reprune.compress.ladder import prune_channels, rung_blocks, rung_widths
from reprune.compress.planning.allocate import ladder
from reprune.compress.planning.cut_costs import kept_channels
from reprune.compress.stages import Course
from reprune.compress.structure.alignment import alignments
from reprune.compress.structure.architecture import apply, layout
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import Group, find_groups, survey
from reprune.compress.structure.separate import separate
from reprune.compress.training.checkpoint import read_state
from reprune.compress.training.reach import bar_of, out_of_reach
from reprune.compress.training.recover import CHECKPOINT, Lesson, recover
from reprune.core.artifacts import Cost
from reprune.core.errors import CompressionError, InputError
from reprune.core.params import (
    DistillParams,
    LadderParams,
    PruneParams,
    ScheduleParams,
    SparseLearningParams,
)
from reprune.measure.profile import count_cost
from tests import models
from tests.compress.small_digits import DigitsTask, trained
from tests.compress.test_stages import course, dense, groups_of

LOSSES = st.lists(st.floats(0.01, 10.0), min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


def laddered(*fractions, ratio, trial=1, **changes):
    plan = course(bar_ratio=ratio, **changes)
    gentler = LadderParams(fractions=fractions, epochs=trial)
    return replace(plan, prune=msgspec.structs.replace(plan.prune, ladder=gentler))


@pytest.mark.slow
@given(losses=LOSSES, remaining=st.integers(0, 20), bar=st.floats(0.01, 10.0))
def test_a_bar_that_was_reached_or_can_be_is_never_called_out_of_reach(losses, remaining, bar):
    """Reached: never. A lower bar or fewer epochs left never bring it back into reach."""
    far = out_of_reach(losses, remaining, bar)
    if min(losses) <= bar or len(losses) < 3:
        assert not far
    if far:
        assert out_of_reach(losses, remaining, bar * 0.9)
        assert out_of_reach(losses, max(remaining - 1, 0), bar)


@given(
    start=st.floats(1.0, 5.0),
    fall=st.floats(0.3, 0.95),
    floor=st.floats(0.0, 1.0),
    seen=st.integers(3, 9),
)
def test_a_curve_that_does_reach_its_bar_is_not_stopped(start, fall, floor, seen):
    """Any geometric approach to a floor: the bar it reaches by epoch 10 is in reach all the way."""
    losses = [floor + start * fall**epoch for epoch in range(10)]
    assert not out_of_reach(losses[:seen], 10 - seen, losses[-1])


def test_a_flat_curve_far_from_its_bar_is_stopped():
    assert out_of_reach([1.0, 0.9, 0.89, 0.889, 0.889], 5, 0.5)
    assert not out_of_reach([1.0, 0.9, 0.89], 5, 0.5)


def test_the_lower_of_two_bars_holds():
    assert bar_of(DistillParams(), 1.0) is None
    assert bar_of(DistillParams(bar=0.3), 1.0) == 0.3
    assert bar_of(DistillParams(bar=0.3, bar_ratio=0.2), 1.0) == pytest.approx(0.2)


@pytest.mark.slow
def test_a_hopeless_recovery_stops_early_and_says_why(tmp_path):
    """At a rate that moves nothing, a bar far below ends it after three epochs; resuming changes nothing."""
    params = DistillParams(epochs=9, learning_rate=1e-7, bar_ratio=0.01)
    lesson = Lesson(task=DigitsTask(), student=dense(), teacher=dense(), teacher_digest="x")
    told: list[str] = []
    done = recover(lesson, params, seed=0, work=tmp_path, say=told.append)
    assert len(done.recovery.epochs) == 3
    assert "after epoch 3 of 9" in done.recovery.stopped
    assert "stopped after epoch 3" in told[-1]
    again = recover(lesson, params, seed=0, work=tmp_path, say=told.append)
    assert again.recovery == done.recovery


@pytest.mark.slow
def test_a_recovery_that_reaches_its_bar_runs_to_its_end(tmp_path):
    """And nothing was stopped."""
    params = DistillParams(epochs=4, learning_rate=0.01, bar_ratio=1.5)
    lesson = Lesson(task=DigitsTask(), student=dense(), teacher=dense(), teacher_digest="x")
    done = recover(lesson, params, seed=0, work=tmp_path, say=lambda _: None)
    assert len(done.recovery.epochs) == 4
    assert done.recovery.stopped is msgspec.UNSET


@pytest.mark.slow
def test_the_first_cut_that_reaches_the_bar_is_taken(tmp_path):
    """A hard cut misses the bar, a gentler one makes it; the plan's widths stay on record."""
    plan = laddered(0.5, 0.25, 0.1, ratio=2.0, kind="one-shot", widths=(1, 1), trial=2)
    surgery = prune_channels(plan, tmp_path).surgery
    taken = [words.rpartition(": ")[2] for words in surgery.ladder]
    assert taken[0] == "too much"
    assert taken[-1] in ("taken", "taken without a trial")
    assert len(taken) > 1
    assert [cut.requested for cut in surgery.groups] == [1, 1]
    assert all(cut.keep > 1 for cut in surgery.groups)
    assert surgery.examples > 0


def test_a_cut_that_is_best_before_its_trial_is_judged_as_it_came(tmp_path):
    """A trial that only makes it worse says nothing against it: recovery keeps what it began with."""
    plan = laddered(0.5, ratio=3.0, kind="one-shot", widths=(8, 12))
    wild = replace(plan, distill=msgspec.structs.replace(plan.distill, learning_rate=1.0))
    surgery = prune_channels(wild, tmp_path).surgery
    assert surgery.ladder[0].endswith(": taken")
    assert [cut.keep for cut in surgery.groups] == [8, 12]


class FragileTask(DigitsTask):
    """Narrow models have no finite loss, `when` they are looked at or trained."""

    def __init__(self, when):
        super().__init__()
        self.when = when

    def loss(self, module, batch, generator):
        own = super().loss(module, batch, generator)
        broken = module.conv1.out_channels < 8 and module.training == (self.when == "trained")
        return own * float("nan") if broken else own


@pytest.mark.parametrize("when", ["looked at", "trained"])
def test_a_cut_without_a_finite_loss_is_too_much(tmp_path, when):
    """Of the cut itself as of its trial: the next gentler one is tried."""
    plan = laddered(0.5, 0.25, ratio=5.0, kind="one-shot", widths=(4, 6))
    surgery = prune_channels(replace(plan, task=FragileTask(when)), tmp_path).surgery
    assert surgery.ladder[0] == "100% of the cut: no finite loss: too much"
    assert surgery.ladder[1].endswith(": taken")
    assert [cut.keep for cut in surgery.groups] == [8, 14]


def test_a_cut_that_fails_for_another_reason_ends_the_ladder(tmp_path):
    """A gentler cut would fail alike, and not say why."""
    plan = laddered(0.5, 0.25, ratio=5.0, kind="one-shot", widths=(4, 6))
    frozen = msgspec.structs.replace(plan.distill, freeze=("*",))
    with pytest.raises(CompressionError, match="no parameter that can be trained"):
        prune_channels(replace(plan, distill=frozen), tmp_path)


def test_the_last_rung_always_completes(tmp_path):
    """A bar that nothing reaches: no dead run, but the gentlest cut, and words about it."""
    plan = laddered(0.25, ratio=1e-6, kind="one-shot", widths=(4, 6))
    surgery = prune_channels(plan, tmp_path).surgery
    assert [words.rpartition(": ")[2] for words in surgery.ladder] == [
        "too much",
        "taken without a trial",
    ]
    assert [cut.keep for cut in surgery.groups] == [12, 18]


def test_the_rate_of_a_trial_falls_as_that_of_the_whole_does(tmp_path):
    """Held for three of four epochs, it was held for all of a trial, whose last step said little then."""
    plan = laddered(0.25, ratio=1e-6, kind="one-shot", widths=(4, 6))
    held = msgspec.structs.replace(plan.distill, epochs=4, hold_epochs=3.0)
    prune_channels(replace(plan, distill=held), tmp_path)
    (epoch,) = read_state(tmp_path / "rung-0" / CHECKPOINT).progress.epochs
    assert 0.0 < epoch.learning_rate < 0.3 * held.learning_rate


def test_without_a_ladder_the_cut_is_the_plans(tmp_path):
    """And nothing was trained or counted."""
    surgery = prune_channels(course(kind="one-shot"), tmp_path).surgery
    assert [cut.keep for cut in surgery.groups] == [4, 6]
    assert surgery.ladder is msgspec.UNSET
    assert surgery.examples is msgspec.UNSET


def test_a_ladder_without_a_bar_is_refused(tmp_path):
    with pytest.raises(InputError, match="bar_ratio"):
        prune_channels(laddered(0.5, ratio=0.0, kind="one-shot"), tmp_path)


@pytest.mark.slow
def test_sparse_learning_comes_before_the_cut(tmp_path):
    """Its examples are counted, and the model that is cut is the one it left."""
    plan = course(kind="one-shot")
    sparse = SparseLearningParams(method="group-norm", epochs=1, strength=0.01)
    pushed = replace(plan, prune=msgspec.structs.replace(plan.prune, sparse_learning=sparse))
    after = prune_channels(pushed, tmp_path / "a").surgery
    before = prune_channels(plan, tmp_path / "b").surgery
    assert after.examples == 2 * 900 + 2 * 300
    assert after.loss_cut != before.loss_cut
    assert after.loss_dense == before.loss_dense
    assert (after.sparse_learning, before.sparse_learning) == ("group-norm", msgspec.UNSET)


@settings(deadline=None)
@given(fraction=st.floats(0.01, 1.0), first=st.integers(1, 16), second=st.integers(1, 24))
def test_rungs_lie_between_the_plan_and_the_whole(fraction, first, second):
    """Never narrower than the plan, never wider than the model; what is cut is cut a little."""
    groups = small_groups()
    widths = {group.name: keep for group, keep in zip(groups, (first, second), strict=True)}
    for group in groups:
        width = rung_widths(groups, widths, fraction)[group.name]
        assert widths[group.name] <= width <= group.width
        assert (width < group.width) == (widths[group.name] < group.width)
        if widths[group.name] % 8 == 0:
            assert width % 8 == 0
    assert rung_widths(groups, widths, 1.0) == widths


@pytest.mark.parametrize("round_to", [8, 16, 32])
@pytest.mark.parametrize("fraction", [0.75, 0.5, 0.25, 0.1])
def test_rungs_keep_the_alignment_of_the_targets(round_to, fraction):
    """Plain and grouped channels, heads, dimensions of heads: what the plan aligned stays aligned on every
    axis, however gentle the rung is.
    """
    module, groups = wide_groups()
    steps = alignments(module, groups, round_to)
    assert len(set(steps.values())) > 1  # a head, or a channel of four groups, is several positions
    for deepest in (0, 1, 2):
        rungs = {
            group.name: ladder(group.width, round_to=steps[group.name], min_keep=0.01)
            for group in groups
        }
        widths = {name: found[min(deepest, len(found) - 1)] for name, found in rungs.items()}
        gentler = rung_widths(groups, widths, fraction, steps)
        for name, found in rungs.items():
            assert gentler[name] in found
            assert (gentler[name] < found[-1]) == (widths[name] < found[-1])
        kept = {name: range(width) for name, width in gentler.items()}
        for layer_cut in architecture_of(module, groups, kept).cuts:
            axis = layout(module.get_submodule(layer_cut.module), layer_cut.axis)
            assert len(layer_cut.keep) * axis.per_position % round_to == 0


def test_a_plan_for_int8_is_not_loosened_to_eights():
    """32 of 128 for a runtime that wants multiples of 32 gave 56, 80 and 104."""
    group = Group(name="a", width=128, members=())
    rungs = [
        rung_widths([group], {"a": 32}, share, steps)["a"]
        for steps in ({"a": 32}, {})  # of a plan that does not say, what its own width tells
        for share in (1.0, 0.75, 0.5, 0.25)
    ]
    assert rungs == [32, 32, 64, 96] * 2
    assert rung_widths([group], {"a": 20}, 0.5, {"a": 32})["a"] == 64  # 20 was set by hand


@cache
def wide_groups():
    """A convolution in four groups between plain ones, and attention with its dimensions."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 128, 1),
        nn.Conv2d(128, 128, 3, padding=1, groups=4),
        nn.Conv2d(128, 64, 1),
        nn.Flatten(2),
        Attending(64),
        nn.Flatten(),
        nn.Linear(64 * 16, 3),
    ).eval()
    module = separate(module)
    return module, survey(module, (torch.randn(2, 3, 4, 4),), (), dimensions=True).groups


class Attending(nn.Module):
    """Four heads of 16 over the places of an image."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x):
        places = x.transpose(1, 2)
        return self.attention(places, places, places, need_weights=False)[0].transpose(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [{"kind": "one-shot"}, {"kind": "cubic", "epochs": 0.0}])
def test_asked_and_done_are_on_record_with_their_costs(tmp_path, schedule):
    """Params, MACs and bytes of the plan's widths and of those that were cut, of the dense model, whether
    in one cut or in three, as planned or gentler: each group alone, counted.
    """
    plan = course(widths=(4, 6), **schedule)
    planned = prune_channels(plan, tmp_path / "plan").surgery
    gentler = laddered(0.25, ratio=1e-6, widths=(4, 6), **schedule)
    fallback = prune_channels(gentler, tmp_path / "ladder").surgery
    assert [cut.keep for cut in fallback.groups] == [12, 18]
    assert (planned.gentler, fallback.gentler) == (False, True)
    for asked, done in zip(planned.groups, fallback.groups, strict=True):
        assert asked.planned == asked.removed == saved(asked.group, asked.requested)
        assert (done.requested, done.planned) == (asked.requested, asked.planned)
        assert done.removed == saved(done.group, done.keep)
        assert done.removed.params < done.planned.params
        assert done.removed.macs < done.planned.macs
        assert done.removed.bytes < done.planned.bytes


def saved(name, keep):
    """What cutting one group of the dense model to `keep` channels takes away, counted."""
    inputs = DigitsTask().example_inputs(1)
    cut = apply(dense(), architecture_of(dense(), small_groups(), {name: range(keep)}))
    before, after = (count_cost(module, inputs).cost for module in (dense(), cut))
    return Cost(
        params=before.params - after.params,
        macs=before.macs - after.macs,
        bytes=before.bytes - after.bytes,
    )


@pytest.mark.parametrize("name", ["resnet-b", "unet", "grouped-queries", "vit"])
def test_what_was_kept_is_read_from_the_architecture(name):
    """Of plain and coupled channels, heads and their dimensions: the very channels that were chosen."""
    module, inputs = separate(models.build(name)), models.inputs(name, 2)
    groups = survey(module, inputs, (), dimensions=True).groups
    kept = {group.name: list(range(0, group.width, 2)) for group in groups}
    assert kept_channels(groups, architecture_of(module, groups, kept)) == kept
    whole = {group.name: list(range(group.width)) for group in groups}
    assert kept_channels(groups, architecture_of(module, groups, {})) == whole


def depth_course(*fractions, losses, widths=None, **knobs):
    """A plan that takes all three blocks of a residual net; only blocks where `widths` names nothing."""
    task, module = DigitsTask(model=Residuals), residuals()
    inputs = task.example_inputs(2)
    return Course(
        task=task,
        module=module,
        teacher=module,
        digest="sha256:dense",
        groups=find_groups(module, inputs, ("head",)),
        regroup=lambda one: find_groups(one, inputs, ("head",)),
        widths=widths or {},
        blocks=find_blocks(module, inputs, ("head",)).blocks,
        prune=PruneParams(
            criterion="l2", examples=100, ladder=LadderParams(fractions=fractions, epochs=1)
        ),
        distill=DistillParams(learning_rate=0.01, bar_ratio=1e-6),
        seed=0,
        say=lambda _: None,
        block_losses=losses,
        **knobs,
    )


BLOCK_LOSSES = {"blocks.0": 0.2, "blocks.1": 0.9, "blocks.2": 0.1}


@pytest.mark.slow
def test_a_gentler_rung_gives_back_the_blocks_that_hurt_most(tmp_path):
    """At most the rung's share goes, the least harmful first; both are on record with their costs."""
    plan = depth_course(0.7, 0.4, losses=BLOCK_LOSSES)
    assert [block.name for block in plan.blocks] == list(BLOCK_LOSSES)
    gone = [[block.name for block in rung_blocks(plan, share)] for share in (1.0, 0.7, 0.4, 0.1)]
    assert gone == [list(BLOCK_LOSSES), ["blocks.0", "blocks.2"], ["blocks.2"], ["blocks.2"]]
    stem = replace(plan, widths={plan.groups[0].name: 1})
    assert rung_blocks(stem, 0.1) == ()  # where a width is cut, that is the gentler cut
    surgery = prune_channels(plan, tmp_path).surgery
    assert surgery.blocks == ("blocks.2",)
    assert surgery.gentler
    assert surgery.ladder[1].startswith("70% of the cut, blocks.1 not removed: loss on tune")
    assert (
        surgery.ladder[2] == "40% of the cut, blocks.0, blocks.1 not removed: taken without a trial"
    )
    nothing = Cost(params=0, macs=0, bytes=0)
    assert [item.block for item in surgery.block_cuts] == list(BLOCK_LOSSES)
    assert [item.removed == nothing for item in surgery.block_cuts] == [True, True, False]
    assert all(item.planned == surgery.block_cuts[2].removed for item in surgery.block_cuts)
    assert surgery.block_cuts[2].removed.params == surgery.before.params - surgery.after.params
    assert surgery.block_cuts[2].removed.macs == surgery.before.macs - surgery.after.macs


@pytest.mark.slow
def test_blocks_of_a_plan_that_predicts_nothing_of_them_stay_removed(tmp_path):
    """As every plan of an earlier version: it is said, and every rung is without them."""
    plan = depth_course(0.5, losses={})
    surgery = prune_channels(plan, tmp_path).surgery
    assert "of which the plan predicts no loss: only widths are gentler" in surgery.ladder[0]
    assert surgery.blocks == tuple(BLOCK_LOSSES)
    assert not surgery.gentler


@pytest.mark.parametrize("kind", ["one-shot", "cubic"])
def test_what_is_gone_with_its_block_is_no_gentler_cut(tmp_path, kind):
    """A plan may name widths inside of a block that goes: they are counted with the block."""
    plan = depth_course(losses=BLOCK_LOSSES)
    inner = [group.name for group in plan.groups if group.name.startswith("blocks.")]
    assert inner
    schedule = ScheduleParams(kind=kind, steps=1 if kind == "one-shot" else 3)
    plan = replace(
        plan,
        widths=dict.fromkeys(inner, 1),
        prune=msgspec.structs.replace(plan.prune, schedule=schedule),
    )
    surgery = prune_channels(plan, tmp_path).surgery
    assert not surgery.gentler
    counted = {item.group: (item.keep, item.planned, item.removed) for item in surgery.groups}
    nothing = Cost(params=0, macs=0, bytes=0)
    assert [counted[name] for name in inner] == [(1, nothing, nothing)] * len(inner)


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("died_at", ["epoch 1 of 1", "ladder: 50%", "stage 1 of 2"])
def test_a_killed_ladder_goes_on_to_the_same_bits(tmp_path, died_at):
    """In a trial, after one, and in the stages of the cut that was taken: what was trained is not again."""

    def until(say):
        plan = course(bar_ratio=1e-6, kind="iterative", steps=2, epochs=2.0, say=say)
        gentler = LadderParams(fractions=(0.5, 0.25), epochs=1)
        return replace(plan, prune=msgspec.structs.replace(plan.prune, ladder=gentler))

    def die(text):
        if died_at in text:
            raise Killed

    with pytest.raises(Killed):
        prune_channels(until(die), tmp_path / "killed")
    heard: list[str] = []
    resumed = prune_channels(until(heard.append), tmp_path / "killed")
    told: list[str] = []
    whole = prune_channels(until(told.append), tmp_path / "whole")
    again, once = (sum(": epoch 1 of" in text for text in said) for said in (heard, told))
    assert again < once
    assert resumed.surgery == whole.surgery
    assert resumed.architecture == whole.architecture
    ours, theirs = resumed.module.state_dict(), whole.module.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@cache
def small_groups():
    return groups_of(dense())


@cache
def residuals():
    return trained(DigitsTask(model=Residuals), epochs=2)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class Residuals(nn.Module):
    """Three blocks that can go."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(Residual(), Residual(), Residual())
        self.head = nn.Linear(8 * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        return self.head(F.max_pool2d(self.blocks(x), 2).flatten(1))
