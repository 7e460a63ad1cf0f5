"""Schedules keep their laws, and give the very values that the papers and TF-MOT give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.compress.training.schedule import (
    SCHEDULES,
    constant_sparsity,
    polynomial_decay,
    should_prune_in_step,
    sparsity_at,
    stage_sparsities,
)
from reprune.core.errors import InputError, UnknownName

KINDS = st.sampled_from(sorted(SCHEDULES))
UNIT = st.floats(0.0, 1.0)


@given(
    kind=KINDS,
    ends=st.lists(UNIT, min_size=2, max_size=2).map(sorted),
    steps=st.integers(0, 50),
    points=st.lists(st.floats(-1.0, 2.0), min_size=2, max_size=2).map(sorted),
)
def test_every_schedule_rises_from_its_beginning_to_exactly_its_end(kind, ends, steps, points):
    """Monotone, within its ends, the initial sparsity before it begins, exactly the final at its end."""
    initial, final = ends
    early, late = (sparsity_at(kind, p, initial=initial, final=final, steps=steps) for p in points)
    assert initial <= early <= late <= final
    assert sparsity_at(kind, -0.01, initial=initial, final=final, steps=steps) == initial
    assert sparsity_at(kind, 1.0, initial=initial, final=final, steps=steps) == final
    assert sparsity_at(kind, 7.0, initial=initial, final=final, steps=steps) == final


@given(kind=KINDS, final=UNIT, steps=st.integers(1, 40))
def test_stages_are_as_many_as_asked_and_end_exactly(kind, final, steps):
    """One sparsity a stage, none lower than the one before, the last one exact."""
    stages = stage_sparsities(kind, steps, final=final)
    assert len(stages) == steps
    assert list(stages) == sorted(stages)
    assert stages[-1] == final


@given(steps=st.integers(1, 200), stage=st.integers(0, 200))
def test_a_step_that_is_due_is_taken_whatever_floats_make_of_it(steps, stage):
    """At progress k/steps the k-th step counts as done."""
    stage = min(stage, steps)
    found = sparsity_at("iterative", stage / steps, final=0.8, steps=steps)
    assert found == pytest.approx(0.8 * stage / steps, abs=1e-12)


def test_the_curves_have_the_values_of_their_formulas():
    """Half way: linear a half, cubic 7/8, exponential 1 - sqrt(density), one-shot everything."""
    half = {kind: sparsity_at(kind, 0.5, final=0.96) for kind in SCHEDULES}
    assert half["iterative"] == pytest.approx(0.48)
    assert half["cubic"] == half["agp"] == half["polynomial"] == pytest.approx(0.96 * 7 / 8)
    assert half["exponential"] == pytest.approx(0.8)
    assert half["one-shot"] == half["constant"] == 0.96
    assert stage_sparsities("iterative", 4, final=0.4) == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert sparsity_at("cubic", 0.49, final=0.8, steps=2) == 0.0


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # TF-MOT's PolynomialDecay(0.5, 0.8, begin_step=1000, end_step=2000), worked by hand:
        # what is left of the way shrinks with the third power.
        (0, 0.5),
        (1000, 0.5),
        (1100, 0.8 - 0.3 * 0.729),
        (1500, 0.8 - 0.3 * 0.125),
        (1900, 0.8 - 0.3 * 0.001),
        (2000, 0.8),
        (9999, 0.8),
    ],
)
def test_polynomial_decay_has_tf_mots_values(step, expected):
    """The third power by default, clamped outside the range."""
    found = polynomial_decay(
        step, initial_sparsity=0.5, final_sparsity=0.8, begin_step=1000, end_step=2000
    )
    assert found == pytest.approx(expected, abs=1e-12)


def test_polynomial_decay_takes_other_powers():
    """Power 1 is a line; an empty range is over at once."""
    ends = {"initial_sparsity": 0.2, "final_sparsity": 0.6}
    assert polynomial_decay(25, **ends, begin_step=0, end_step=100, power=1) == pytest.approx(0.3)
    assert polynomial_decay(25, **ends, begin_step=0, end_step=100, power=2) == pytest.approx(0.375)
    assert polynomial_decay(4, **ends, begin_step=5, end_step=5) == 0.2
    assert polynomial_decay(5, **ends, begin_step=5, end_step=5) == 0.6


def test_constant_sparsity_is_the_target_at_every_step():
    """Also before begin_step: it is should_prune_in_step that says no there."""
    assert constant_sparsity(0, target_sparsity=0.5) == 0.5
    assert constant_sparsity(10**6, target_sparsity=0.5) == 0.5


def test_pruning_happens_in_tf_mots_steps():
    """From begin_step, every frequency steps, up to and including end_step; -1 never ends."""
    inside = [
        step
        for step in range(1000)
        if should_prune_in_step(step, begin_step=150, end_step=450, frequency=100)
    ]
    assert inside == [150, 250, 350, 450]
    assert not should_prune_in_step(50, begin_step=150, frequency=100)
    assert should_prune_in_step(10**9 + 150, begin_step=150, frequency=100)
    assert should_prune_in_step(100, begin_step=0)
    assert not should_prune_in_step(101, begin_step=0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: sparsity_at("cubic", 0.5, initial=0.5, final=0.4),
        lambda: sparsity_at("cubic", 0.5, final=1.5),
        lambda: constant_sparsity(0, target_sparsity=1.0),
        lambda: should_prune_in_step(0, begin_step=0, frequency=0),
        lambda: should_prune_in_step(0, begin_step=5, end_step=4),
        lambda: polynomial_decay(
            0, initial_sparsity=0.0, final_sparsity=0.5, begin_step=0, end_step=-1
        ),
        lambda: polynomial_decay(
            0, initial_sparsity=0.0, final_sparsity=1.0, begin_step=0, end_step=9
        ),
    ],
)
def test_what_no_schedule_can_do_is_refused(wrong):
    """The limits of TF-MOT, and of sense."""
    with pytest.raises(InputError):
        wrong()


def test_an_unknown_schedule_names_the_nearest():
    with pytest.raises(UnknownName, match="cubic"):
        sparsity_at("cubik", 0.5, final=0.5)
