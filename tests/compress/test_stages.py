"""A cut in stages: exact at the end, one architecture, the optimiser's memory carried on, resumable."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from itertools import pairwise

import msgspec
import pytest
import torch
from torch import nn

from reprune.compress import compensate
from reprune.compress.stages import Course, cut_in_stages, stage_widths
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.compose import compose
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import find_groups
from reprune.compress.training.checkpoint import read_state
from reprune.compress.training.optimizer_state import (
    give_moments,
    moments_of,
    parameter_names,
    slice_moments,
)
from reprune.compress.training.rates import build_optimizer
from reprune.compress.training.recover import CHECKPOINT, Lesson, recover
from reprune.core.errors import CompressionError
from reprune.core.params import DistillParams, PruneParams, ScheduleParams
from tests import models
from tests.compress.small_digits import Cnn, DigitsTask, accuracy, trained

SEED = 4


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


@cache
def dense():
    return trained(DigitsTask())


def groups_of(module):
    return find_groups(module, DigitsTask().example_inputs(2), ("head",))


def course(*, kind="cubic", steps=3, epochs=3.0, widths=(4, 6), say=None, **knobs):
    groups = groups_of(dense())
    return Course(
        task=DigitsTask(),
        module=dense(),
        teacher=dense(),
        digest="sha256:dense",
        groups=groups,
        regroup=groups_of,
        widths={group.name: width for group, width in zip(groups, widths, strict=True)},
        blocks=(),
        prune=PruneParams(
            criterion="l2",
            examples=100,
            schedule=ScheduleParams(kind=kind, steps=steps, epochs=epochs),
        ),
        distill=DistillParams(learning_rate=0.05, **knobs),
        seed=SEED,
        say=say or (lambda _: None),
    )


def kept_of(groups, step):
    return {group.name: list(range(0, group.width, step)) for group in groups}


@pytest.mark.parametrize("name", ["plain", "resnet-b", "concat", "separable", "unet"])
def test_two_cuts_are_one_cut(name):
    """apply(m, compose(first, second)) has the bits of apply(apply(m, first), second)."""
    module = models.build(name, seed=0)
    inputs = models.inputs(name, 2)
    groups = find_groups(module, inputs, ())
    first = architecture_of(module, groups, kept_of(groups, 2))
    halved = apply(module, first)
    again = find_groups(halved, inputs, ())
    second = architecture_of(
        halved, again, {g.name: list(range(1, g.width)) for g in again if g.width > 1}
    )
    assert second.cuts
    twice, once = apply(halved, second), apply(module, compose(first, second))
    ours, theirs = once.state_dict(), twice.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert repr(once) == repr(twice)


def test_cuts_that_do_not_fit_each_other_are_refused():
    """The second must be for what the first leaves."""
    groups = groups_of(dense())
    cut = architecture_of(dense(), groups, kept_of(groups, 2))
    with pytest.raises(CompressionError, match="leaves 8 positions, the second is for 16"):
        compose(cut, cut)


@pytest.mark.parametrize("kind", ["cubic", "iterative", "exponential", "one-shot"])
def test_widths_shrink_stage_by_stage_to_exactly_the_plan(kind):
    """Never wider again, never below the plan, and the plan at the end."""
    plan = course(kind=kind, steps=7, widths=(3, 5))
    widths = [list(stage_widths(plan, number).values()) for number in range(8)][1:]
    assert widths[-1] == [3, 5]
    for earlier, later in pairwise(widths):
        assert all(a >= b for a, b in zip(earlier, later, strict=True))


@pytest.mark.slow
def test_a_schedule_ends_at_the_plan_and_says_what_each_stage_left(tmp_path):
    """Exact widths, a record of every stage, one architecture from the dense model, and learning."""
    done = cut_in_stages(course(), tmp_path)
    assert [(cut.width, cut.keep) for cut in done.surgery.groups] == [(16, 4), (24, 6)]
    shares = [stage.share for stage in done.surgery.stages]
    assert shares == pytest.approx([19 / 27, 26 / 27, 1.0])
    params = [stage.params for stage in done.surgery.stages]
    assert params == sorted(params, reverse=True)
    assert params[-1] == done.surgery.after.params < done.surgery.before.params
    assert [stage.epoch for stage in done.surgery.stages] == [1.0, 2.0, 3.0]
    shape = apply(Cnn(), done.architecture)
    shape.load_state_dict(done.module.state_dict())
    assert shape.conv2.weight.shape == (6, 4, 3, 3)
    assert accuracy(DigitsTask(), done.module) > 0.7
    # Each stage: an epoch of student and teacher, and two looks at tune and one more.
    assert done.surgery.examples == 3 * (2 * 900 + 3 * 300)


@pytest.mark.parametrize(
    ("kind", "shares"),
    [
        # Of 40 channels 10 are left: the density falls to a half by half of the way.
        ("exponential", [0.5 / 0.75, 1.0]),
        ("polynomial", [0.75, 1.0]),
        ("constant", [1.0, 1.0]),
    ],
)
def test_a_stage_says_what_part_of_the_plan_is_done(tmp_path, kind, shares):
    plan = course(kind=kind, steps=2, epochs=0.0)
    if kind == "polynomial":
        schedule = msgspec.structs.replace(plan.prune.schedule, power=2.0)
        plan = replace(plan, prune=msgspec.structs.replace(plan.prune, schedule=schedule))
        assert list(stage_widths(plan, 1).values()) == [7, round(24 - 18 * 0.75)]
    stages = cut_in_stages(plan, tmp_path).surgery.stages
    assert [stage.share for stage in stages] == pytest.approx(shares)


@pytest.mark.slow
def test_a_killed_schedule_goes_on_to_the_same_bits(tmp_path):
    """Stopped inside the second stage's training: the first stage is not trained again."""

    class Stop(Exception):
        pass

    def stop(text):
        if "stage 1 of" in text:
            told.append(text)
        if told and "epoch 1 of" in text:
            raise Stop

    told: list[str] = []
    with pytest.raises(Stop):
        cut_in_stages(course(say=stop), tmp_path / "a")
    heard: list[str] = []
    resumed = cut_in_stages(course(say=heard.append), tmp_path / "a")
    whole = cut_in_stages(course(), tmp_path / "b")
    assert heard[0] == "stage 1 of 3: done before"
    assert resumed.surgery == whole.surgery
    assert resumed.architecture == whole.architecture
    ours, theirs = resumed.module.state_dict(), whole.module.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_the_optimiser_remembers_survives_for_kept_channels_alone(tmp_path, optimizer):
    """Momentum and Adam's moments are sliced as the weights are; nothing of dead channels is left."""
    params = DistillParams(epochs=1, optimizer=optimizer, learning_rate=0.01)
    lesson = Lesson(task=DigitsTask(), student=dense(), teacher=dense(), teacher_digest="x")
    recover(lesson, params, seed=0, work=tmp_path, say=lambda _: None)
    state = read_state(tmp_path / CHECKPOINT)
    moments = moments_of(state, DigitsTask(), dense(), params)
    key = {"sgd": "momentum_buffer", "adamw": "exp_avg_sq"}[optimizer]
    assert set(moments) == {name for name, _ in dense().named_parameters()}
    groups = groups_of(dense())
    architecture = architecture_of(dense(), groups, kept_of(groups, 2))
    cut = apply(dense(), architecture)
    fresh = build_optimizer(DigitsTask(), cut, params)
    give_moments(fresh, cut, slice_moments(moments, dense(), architecture))
    assert parameter_names(fresh, cut) == [name for name, _ in cut.named_parameters()]
    assert len(fresh.state) == len(list(cut.parameters()))
    assert all(fresh.state[p][key].shape == p.shape for p in cut.parameters())
    before = moments["conv2.weight"][key]
    assert torch.equal(fresh.state[cut.conv2.weight][key], before[::2, ::2])
    assert before.abs().sum() > 0
    if optimizer == "adamw":
        assert fresh.state[cut.conv2.weight]["step"].item() == 9


def test_a_parameter_of_one_number_changes_nothing_for_the_others(tmp_path):
    """Its moments have the shape of a step count; steps stay counts, and training goes on."""
    module = copy.deepcopy(dense())
    module.register_parameter("temperature", nn.Parameter(torch.tensor(1.0)))
    moments = {
        name: {"step": torch.tensor(3.0), "exp_avg": p.detach(), "exp_avg_sq": p.detach().abs()}
        for name, p in module.named_parameters()
    }
    groups = groups_of(module)
    architecture = architecture_of(module, groups, kept_of(groups, 2))
    cut = apply(module, architecture)
    fresh = torch.optim.Adam(cut.parameters())
    give_moments(fresh, cut, slice_moments(moments, module, architecture))
    assert len(fresh.state) == len(list(cut.parameters()))
    assert {state["step"].shape for state in fresh.state.values()} == {torch.Size(())}
    assert torch.equal(fresh.state[cut.temperature]["exp_avg"], torch.tensor(1.0))
    assert torch.equal(fresh.state[cut.conv2.weight]["exp_avg"], cut.conv2.weight)


def test_the_next_stage_begins_with_what_the_last_one_remembered(tmp_path):
    """Momentum carried over the cut makes another training than none."""
    params = DistillParams(epochs=1, learning_rate=0.01)
    plain = Lesson(task=DigitsTask(), student=dense(), teacher=dense(), teacher_digest="x")
    moments = {
        name: {"momentum_buffer": torch.ones_like(p)} for name, p in dense().named_parameters()
    }
    pushed = Lesson(
        task=DigitsTask(), student=dense(), teacher=dense(), teacher_digest="x", moments=moments
    )
    results = [
        recover(lesson, params, seed=0, work=tmp_path / str(n), say=lambda _: None)
        for n, lesson in enumerate((plain, pushed))
    ]
    losses = [result.recovery.epochs[0].train_loss for result in results]
    assert losses[0] != losses[1]


def test_a_group_that_is_lost_on_the_way_is_said(tmp_path):
    """Widths that can no longer be reached are an error, not another model than the plan's."""
    plan = replace(course(steps=2, epochs=0.0), regroup=lambda module: groups_of(module)[:1])
    with pytest.raises(CompressionError, match="can no longer be cut"):
        cut_in_stages(plan, tmp_path)


def test_a_plan_that_cuts_nothing_is_refused(tmp_path):
    with pytest.raises(CompressionError, match="nothing is cut"):
        cut_in_stages(course(steps=2, epochs=0.0, widths=(16, 24)), tmp_path)


def test_what_was_not_refitted_in_any_stage_is_recorded(tmp_path, monkeypatch):
    """conv1 is cut in the first stage alone: its reader is named all the same, with the reason."""
    monkeypatch.setattr(compensate, "FIT_BYTES", 0)
    done = cut_in_stages(course(steps=2, epochs=0.0, widths=(15, 6)), tmp_path)
    assert set(done.surgery.unfitted) == {"conv2", "head"}
    assert all("would take" in why for why in done.surgery.unfitted.values())
    monkeypatch.undo()
    again = cut_in_stages(course(steps=2, epochs=0.0), tmp_path / "fitted")
    assert not again.surgery.unfitted


def test_nothing_is_modified(tmp_path):
    """The dense model given is as it was."""
    before = {name: value.clone() for name, value in dense().state_dict().items()}
    cut_in_stages(course(steps=2, epochs=0.0), tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in dense().state_dict().items())
    assert isinstance(dense().conv1, nn.Conv2d)
