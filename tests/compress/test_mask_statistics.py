"""BatchNorm statistics beside masks: they cannot follow a growth that takes a few steps, and need not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import msgspec
import pytest
import torch

from reprune.compress.losses import mean_loss
from reprune.compress.masks.choosing import plan_sparsity
from reprune.compress.masks.maskable import maskable
from reprune.compress.masks.scores import magnitude
from reprune.compress.masks.shaper import MaskShaper
from reprune.compress.training.recover import Lesson, Recovered, recover
from reprune.core.params import DistillParams
from tests.compress.small_digits import DigitsTask, trained

FEW_STEPS = DistillParams(epochs=2, learning_rate=0.02, warmup_epochs=0.0, weight=0.0)
GROWN_AFTER = 12  # of the 18 steps


class OtherCalibration(DigitsTask):
    """Its calibration images are nothing like those it is used on."""

    def batches(self, split, **order):
        for batch in super().batches(split, **order):
            if split == "calibration":
                yield replace(batch, inputs=(batch.inputs[0] * 30 + 5,))
            else:
                yield batch


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


@cache
def trained_once():
    return trained(DigitsTask())


def grown(task, work, *, recalibrate: bool, **params) -> Recovered:
    dense = trained_once()
    plan = plan_sparsity(magnitude(dense, maskable(dense).names), 0.9)
    shaper = MaskShaper(
        plan=plan, share=lambda done: min(done / GROWN_AFTER, 1.0), recalibrate=recalibrate
    )
    lesson = Lesson(task=task, student=dense, teacher=dense, teacher_digest="sha256:teacher")
    given = msgspec.structs.replace(FEW_STEPS, **params)
    return recover(
        lesson,
        given,
        seed=0,
        work=work,
        say=lambda _: None,
        shapers=[shaper],
    )


def tune_loss(module) -> float:
    return mean_loss(DigitsTask(), module, DigitsTask().batches("tune", epoch=0, seed=0), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_fast_growth_is_judged_and_kept_with_statistics_of_its_own(tmp_path, ema):
    """The same weights; stale statistics alone cost it much of its accuracy. Neither takes up what the
    other left in their one folder.
    """
    stale = grown(DigitsTask(), tmp_path, recalibrate=False, ema=ema)
    fresh = grown(DigitsTask(), tmp_path, recalibrate=True, ema=ema)
    assert tune_loss(fresh.module) < 0.8 * tune_loss(stale.module)
    assert fresh.recovery.epochs[-1].tune_loss == pytest.approx(tune_loss(fresh.module), rel=1e-5)
    # Both looked at epochs 0 to 2; the one also calibrated (200) and looked (300) again.
    assert fresh.recovery.examples == stale.recovery.examples + 3 * (200 + 300)
    if not ema:
        for name, value in stale.module.named_parameters():
            assert torch.equal(value, fresh.module.get_parameter(name)), name


def test_statistics_that_make_it_worse_are_put_back(tmp_path):
    plain = grown(OtherCalibration(), tmp_path, recalibrate=False)
    tried = grown(OtherCalibration(), tmp_path, recalibrate=True)
    for name, value in plain.module.state_dict().items():
        assert torch.equal(value, tried.module.state_dict()[name]), name
