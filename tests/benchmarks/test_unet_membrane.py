"""The membrane benchmark's own arithmetic; its trainings are the product's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.unet_membrane import GROWING_SHARE, _dices, _errors, cubic, halved


@given(steps=st.integers(1, 10_000), done=st.integers(0, 10_000))
def test_masks_grow_from_nothing_to_all_and_then_stand_still(steps, done):
    share = cubic(done, steps=steps)
    assert 0.0 <= share <= 1.0
    assert cubic(done + 1, steps=steps) >= share
    if done >= GROWING_SHARE * steps:
        assert share == 1.0
    if done == 0:
        assert share == 0.0


def test_dice_of_each_tile():
    truth = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]]]) > 0
    found = torch.tensor([[[1, 0], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]]]) > 0
    assert _dices(found, truth).tolist() == pytest.approx([2 / 3, 1.0, 0.0])


def test_what_was_missed_is_red_and_what_was_made_up_blue():
    truth = torch.tensor([[True, True, False, False]])
    found = torch.tensor([[True, False, True, False]])
    hit, missed, made_up, nothing = _errors(found, truth)[0]
    assert hit.tolist() == [1.0, 1.0, 1.0]
    assert missed[0] > max(missed[1:])
    assert made_up[2] > max(made_up[:2])
    assert nothing.tolist() == [0.0, 0.0, 0.0]


def test_half_the_size_is_the_mean_of_two_by_two():
    pixels = np.arange(16).reshape(1, 4, 4)
    assert halved(pixels).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
