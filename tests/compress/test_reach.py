"""When a recovery stops early: by what the model that is to be kept did, whatever came before it."""

from __future__ import annotations

from itertools import islice

import msgspec
import pytest
import torch

from reprune.compress.stages import stage_params
from reprune.compress.training.lesson import Lesson
from reprune.compress.training.recover import recover
from reprune.core.params import DistillParams
from tests.compress.small_digits import DigitsTask
from tests.compress.test_stages import course, dense

EPOCHS = 10


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


class Killed(Exception):
    pass


class ToldTask(DigitsTask):
    """Its losses on `tune` are told: one for each look, the last one for ever. Two batches are an epoch."""

    def __init__(self, losses):
        super().__init__()
        self.losses = list(losses)

    def batches(self, split, **order):
        if split == "tune":
            self.now = self.losses.pop(0) if len(self.losses) > 1 else self.losses[0]
        return islice(super().batches(split, **order), 2)

    def loss(self, module, batch, generator):
        own = super().loss(module, batch, generator)
        return own if module.training else own * 0.0 + self.now


class Grows:
    """Calls the module settled from the last step of epoch `last` on."""

    def __init__(self, last):
        self.last = last
        self.settled = last == 0

    def begin(self, module, optimizer):
        pass

    def after_backward(self, module, optimizer, moment):
        pass

    def after_step(self, module, optimizer, moment):
        self.settled = moment.step + 1 >= self.last * moment.steps_per_epoch

    def state(self):
        return {"settled": torch.tensor(self.settled)}

    def restore(self, state):
        self.settled = bool(state["settled"])


def run(task, work, *, grown=0, dies_after=0, **knobs):
    params = DistillParams(epochs=EPOCHS, weight=0.0, **knobs)
    lesson = Lesson(task=task, student=dense(), teacher=dense(), teacher_digest="x")

    def say(text):
        if dies_after and text.startswith(f"recovery: epoch {dies_after} "):
            raise Killed

    return recover(lesson, params, seed=1, work=work, say=say, shapers=(Grows(grown),)).recovery


@pytest.mark.parametrize(
    ("knobs", "grown", "start", "losses", "epochs"),
    [
        # Losses rise while masks grow; what follows the last one is a recovery that gains.
        ({"patience": 2}, 3, 1.0, [0.1, 0.2, 0.9, 0.5, 0.4, 0.4, 0.4], 7),
        # The bar was reached before the last mask, and is out of reach after it.
        ({"bar": 0.35}, 3, 0.1, [0.1, 0.2, 0.9], 5),
        # What was flat before the last mask says nothing of what recovers after it.
        ({"bar": 0.35}, 3, 1.0, [0.9, 0.9, 0.9, 0.5, 0.3], EPOCHS),
        ({"bar": 0.5}, 0, 0.4, [1.0], EPOCHS),
        ({"bar": 0.5}, 0, 0.6, [1.0], 3),
    ],
    ids=["patience", "reached too early", "missed too early", "start", "start above"],
)
def test_only_epochs_of_what_is_kept_are_judged(tmp_path, knobs, grown, start, losses, epochs):
    """And a run that was killed after any of them stops where the other does."""
    looks = [*([0.3] if "bar" in knobs else []), start, *losses]
    whole = run(ToldTask(looks), tmp_path / "whole", grown=grown, **knobs)
    assert len(whole.epochs) == epochs
    assert bool(whole.stopped) == (epochs < EPOCHS)
    for after in {1, 3, epochs}:
        task = ToldTask(looks)
        with pytest.raises(Killed):
            run(task, tmp_path / f"{after}", grown=grown, dies_after=after, **knobs)
        assert run(task, tmp_path / f"{after}", grown=grown, **knobs) == whole


def test_a_stage_of_a_schedule_has_no_bar_to_meet():
    """Only what follows the last cut has; all else that the params say of training holds for stages."""
    plan = course(bar=0.5, bar_ratio=1.1, patience=2)
    params = stage_params(plan, 1)
    assert (params.bar, params.bar_ratio, params.patience) == (0.0, 0.0, 2)
    assert (
        msgspec.structs.replace(params, bar=0.5, bar_ratio=1.1, rate="cosine", epochs=4)
        == plan.distill
    )
