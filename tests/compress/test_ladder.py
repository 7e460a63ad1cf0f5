"""A recovery that cannot reach its bar stops and says so; a cut that is too much gives way to a gentler."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.compress.ladder import prune_channels, rung_widths
from reprune.compress.training.reach import bar_of, out_of_reach
from reprune.compress.training.recover import Lesson, recover
from reprune.core.errors import InputError
from reprune.core.params import DistillParams, LadderParams, SparseLearningParams
from tests.compress.small_digits import DigitsTask
from tests.compress.test_stages import course, dense, groups_of

LOSSES = st.lists(st.floats(0.01, 10.0), min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


def laddered(*fractions, ratio, epochs=1, **changes):
    plan = course(bar_ratio=ratio, **changes)
    ladder = LadderParams(fractions=fractions, epochs=epochs)
    return replace(plan, prune=msgspec.structs.replace(plan.prune, ladder=ladder))


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


def test_a_recovery_that_reaches_its_bar_runs_to_its_end(tmp_path):
    """And nothing was stopped."""
    params = DistillParams(epochs=4, learning_rate=0.01, bar_ratio=1.5)
    lesson = Lesson(task=DigitsTask(), student=dense(), teacher=dense(), teacher_digest="x")
    done = recover(lesson, params, seed=0, work=tmp_path, say=lambda _: None)
    assert len(done.recovery.epochs) == 4
    assert done.recovery.stopped is msgspec.UNSET


def test_the_first_cut_that_reaches_the_bar_is_taken(tmp_path):
    """A hard cut misses the bar, a gentler one makes it; the plan's widths stay on record."""
    plan = laddered(0.5, 0.25, 0.1, ratio=2.0, kind="one-shot", widths=(1, 1), epochs=2)
    surgery = prune_channels(plan, tmp_path).surgery
    taken = [words.rpartition(": ")[2] for words in surgery.ladder]
    assert taken[0] == "too much"
    assert taken[-1] in ("taken", "taken without a trial")
    assert len(taken) > 1
    assert [cut.requested for cut in surgery.groups] == [1, 1]
    assert all(cut.keep > 1 for cut in surgery.groups)
    assert surgery.examples > 0


def test_the_last_rung_always_completes(tmp_path):
    """A bar that nothing reaches: no dead run, but the gentlest cut, and words about it."""
    plan = laddered(0.25, ratio=1e-6, kind="one-shot", widths=(4, 6))
    surgery = prune_channels(plan, tmp_path).surgery
    assert [words.rpartition(": ")[2] for words in surgery.ladder] == [
        "too much",
        "taken without a trial",
    ]
    assert [cut.keep for cut in surgery.groups] == [12, 18]


def test_without_a_ladder_the_cut_is_the_plans(tmp_path):
    """And nothing was trained or counted."""
    surgery = prune_channels(course(kind="one-shot"), tmp_path).surgery
    assert [cut.keep for cut in surgery.groups] == [4, 6]
    assert surgery.ladder is msgspec.UNSET
    assert surgery.examples is msgspec.UNSET


def test_a_ladder_without_a_bar_is_refused(tmp_path):
    with pytest.raises(InputError, match="bar_ratio"):
        prune_channels(laddered(0.5, ratio=0.0, kind="one-shot"), tmp_path)


def test_sparse_learning_comes_before_the_cut(tmp_path):
    """Its examples are counted, and the model that is cut is the one it left."""
    plan = course(kind="one-shot")
    sparse = SparseLearningParams(method="group-norm", epochs=1, strength=0.01)
    pushed = replace(plan, prune=msgspec.structs.replace(plan.prune, sparse_learning=sparse))
    after = prune_channels(pushed, tmp_path / "a").surgery
    before = prune_channels(plan, tmp_path / "b").surgery
    assert after.examples == 2 * 900 + 2 * 300
    assert after.loss_dense != before.loss_dense


@settings(deadline=None)
@given(fraction=st.floats(0.01, 1.0), first=st.integers(1, 16), second=st.integers(1, 24))
def test_rungs_lie_between_the_plan_and_the_whole(fraction, first, second):
    """Never narrower than the plan, never wider than the model, aligned as the plan is."""
    groups = small_groups()
    widths = {group.name: keep for group, keep in zip(groups, (first, second), strict=True)}
    for group in groups:
        width = rung_widths(groups, widths, fraction)[group.name]
        assert widths[group.name] <= width <= group.width
        assert (width < group.width) == (widths[group.name] < group.width)
        if widths[group.name] % 8 == 0:
            assert width % 8 == 0
    assert rung_widths(groups, widths, 1.0) == widths


@cache
def small_groups():
    return groups_of(dense())
