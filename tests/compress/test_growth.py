"""When masks grow: every kind gradually, `polynomial` and `constant` as TF-MOT's schedules say."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reprune.compress.masks.choosing import count_zeros, plan_counts, zeros_for
from reprune.compress.masks.growth import share_of
from reprune.compress.masks.shaper import MaskShaper
from reprune.compress.training.schedule import (
    SCHEDULES,
    constant_sparsity,
    polynomial_decay,
    should_prune_in_step,
)
from reprune.compress.training.shaping import Moment
from reprune.core.params import ScheduleParams

STEPS = 60
AT_ONCE = ("constant", "one-shot")


def cubic(cut: int) -> float:
    return 1.0 - (1.0 - cut / 6) ** 3


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
@pytest.mark.parametrize("span", [{}, {"begin": 0.2, "end": 0.8}])
def test_every_kind_but_those_at_once_is_gradual_and_ends_exactly(
    kind: str, span: dict[str, float]
) -> None:
    """Six cuts, each more than the one before and less than the plan but for the last."""
    schedule = ScheduleParams(kind=kind, steps=6, epochs=3.0, **span)
    share = share_of(schedule, STEPS, final=0.9)
    shares = [share(done) for done in range(STEPS + 1)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    between = {value for value in shares if 0.0 < value < 1.0}
    assert len(between) == (0 if kind in AT_ONCE else 5)
    if kind == "exponential":
        assert share(STEPS // 2) == pytest.approx((1 - 0.1 ** (4 / 6 if not span else 3 / 6)) / 0.9)


def test_without_begin_and_end_the_first_cut_is_at_once_and_the_last_is_recovered_from() -> None:
    share = share_of(ScheduleParams(kind="cubic", steps=6, epochs=3.0), STEPS, final=0.9)
    shares = [share(done) for done in range(STEPS + 1)]
    assert shares[0] == 0.0
    assert shares[1:] == pytest.approx([cubic(min(done // 10 + 1, 6)) for done in range(1, 61)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("knobs", "begin", "end"),
    [
        ({}, 0, 60),
        ({"initial": 0.3, "begin": 0.0, "end": 0.75}, 0, 45),
        ({"initial": 0.5, "begin": 0.25, "power": 1.0}, 15, 60),
        ({"begin": 0.1, "end": 0.6, "power": 2.0}, 6, 36),
    ],
)
@pytest.mark.parametrize("steps", [3, 15])
def test_polynomial_masks_what_tf_mot_masks_at_every_training_step(
    knobs: dict[str, float], begin: int, end: int, steps: int
) -> None:
    """Before each step the weights that its PolynomialDecay masks there: the last mask that was due."""
    final, frequency = 0.8, (end - begin) // steps
    assert frequency * steps == end - begin
    schedule = ScheduleParams(kind="polynomial", steps=steps, epochs=3.0, **knobs)
    expected, due = [], 0.0
    for step in range(STEPS + 1):
        if should_prune_in_step(step, begin_step=begin, end_step=end, frequency=frequency):
            due = polynomial_decay(
                step,
                initial_sparsity=knobs.get("initial", 0.0),
                final_sparsity=final,
                begin_step=begin,
                end_step=end,
                power=knobs.get("power", 3.0),
            )
        expected.append(due)
    share = share_of(schedule, STEPS, final=final)
    assert [share(done) * final for done in range(STEPS + 1)] == pytest.approx(expected, abs=1e-12)
    assert grown(schedule, final) == [zeros_for(1000, sparsity) for sparsity in expected]


@pytest.mark.slow
@pytest.mark.parametrize(("begin", "first"), [(None, 0), (0.25, 15)])
def test_constant_masks_what_tf_mot_masks_at_every_training_step(
    begin: float | None, first: int
) -> None:
    knobs = {} if begin is None else {"begin": begin}
    schedule = ScheduleParams(kind="constant", epochs=3.0, **knobs)
    expected = [
        constant_sparsity(step, target_sparsity=0.8)
        if should_prune_in_step(step, begin_step=first, frequency=1)
        else 0.0
        for step in range(STEPS + 1)
    ]
    assert grown(schedule, 0.8) == [zeros_for(1000, sparsity) for sparsity in expected]


def test_cuts_between_training_steps_come_after_the_second() -> None:
    """7 cuts in 60 steps: none early, none left out, and training so short that all fall together ends."""
    share = share_of(ScheduleParams(kind="polynomial", steps=7, power=1.0), 60, final=0.5)
    when = [done for done in range(1, 61) if share(done) > share(done - 1)]
    assert when == [-(-60 * cut // 7) for cut in range(1, 8)]
    tiny = share_of(ScheduleParams(kind="cubic", steps=7, begin=0.5, end=0.55), 4, final=0.5)
    assert [tiny(done) for done in range(5)] == [0.0, 0.0, 1.0, 1.0, 1.0]


def grown(schedule: ScheduleParams, final: float) -> list[int]:
    """The zeros of 1,000 weights before each step of a training, and after the last."""
    torch.manual_seed(0)
    module = nn.Linear(50, 20, bias=False)
    plan = plan_counts({"weight": module.weight.shape}, {"weight": zeros_for(1000, final)})
    shaper = MaskShaper(plan=plan, share=share_of(schedule, STEPS, final=final))
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    shaper.begin(module, optimizer)
    zeros = [int((module.weight == 0).sum())]
    for step in range(STEPS):
        moment = Moment(step=step, steps=STEPS, steps_per_epoch=STEPS // 3)
        optimizer.zero_grad()
        F.mse_loss(module(torch.randn(8, 50)), torch.randn(8, 20)).backward()
        shaper.after_backward(module, optimizer, moment)
        optimizer.step()
        shaper.after_step(module, optimizer, moment)
        zeros.append(int((module.weight == 0).sum()))
    assert zeros[-1] == count_zeros(shaper.masks) == plan.zeros
    assert all(earlier <= later for earlier, later in pairwise(zeros))
    return zeros
