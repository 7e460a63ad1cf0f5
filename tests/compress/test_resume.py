"""A training that is killed at any step goes on to the bits of one that was not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from reprune.compress.compact.learning import BookShaper
from reprune.compress.masks.choosing import plan_counts
from reprune.compress.masks.shaper import MaskShaper
from reprune.compress.training.checkpoint import (
    Progress,
    State,
    read_state,
    restore_scaler,
    write_state,
)
from reprune.compress.training.lesson import identity_of
from reprune.compress.training.recover import Lesson, recover
from reprune.core.params import DistillParams
from tests.compress.small_digits import Cnn, DigitsTask

EPOCHS, STEPS = 2, 9


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


class Killed(Exception):
    pass


class DropoutCnn(Cnn):
    """Draws from the global generator in its forward pass."""

    def forward(self, x):
        return super().forward(F.dropout(x, 0.1, self.training))


class NoisyTask(DigitsTask):
    """Its loss draws from its own generator, and dies at the training steps in `deaths`."""

    def __init__(self, deaths=()):
        super().__init__(model=DropoutCnn)
        self.deaths = list(deaths)

    def live(self, module):
        if module.training and self.deaths:
            self.deaths[0] -= 1
            if self.deaths[0] < 0:
                self.deaths.pop(0)
                raise Killed

    def loss(self, module, batch, generator):
        self.live(module)
        noise = torch.randn(batch.inputs[0].shape, generator=generator)
        return F.cross_entropy(module(batch.inputs[0] + 0.05 * noise), batch.targets)


class PlainTask(NoisyTask):
    """No noise: what the teacher says can be kept."""

    def loss(self, module, batch, generator):
        self.live(module)
        return F.cross_entropy(module(*batch.inputs), batch.targets)


class AdamTask(NoisyTask):
    def optimizer(self, params):
        return torch.optim.AdamW(params, lr=0.003)


class RandomMasks:
    """Drops more and more random weights; both the masks and what it counts are its state."""

    def __init__(self):
        self.masks = {}
        self.seen = torch.zeros(())
        self.settled = False

    def begin(self, module, optimizer):
        self.masks = {
            name: torch.ones_like(p) for name, p in module.named_parameters() if p.dim() > 1
        }

    def after_backward(self, module, optimizer, moment):
        self.seen += module.head.weight.grad.abs().sum()

    def after_step(self, module, optimizer, moment):
        self.settled = moment.epoch > 1.0
        for name, mask in self.masks.items():
            mask.mul_(torch.rand_like(mask) > 0.01)
            module.get_parameter(name).data.mul_(mask)

    def state(self):
        return self.masks | {"seen": self.seen}

    def restore(self, state):
        self.seen = state.pop("seen")
        self.masks = state


@cache
def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    return DropoutCnn((6, 8)).eval(), DropoutCnn().eval()


def lesson(task) -> Lesson:
    student, teacher = models()
    return Lesson(task=task, student=student, teacher=teacher, teacher_digest="sha256:teacher")


def run(task, work, *, shaped=False, **knobs):
    params = DistillParams(epochs=EPOCHS, learning_rate=0.05, checkpoint_seconds=0.0, **knobs)
    shapers = (RandomMasks(),) if shaped else ()
    while True:
        try:
            return recover(
                lesson(task), params, seed=7, work=work, say=lambda _: None, shapers=shapers
            )
        except Killed:
            shapers = (RandomMasks(),) if shaped else ()


SETUPS = {
    "sgd": (NoisyTask, {}),
    "task's adamw": (AdamTask, {"shaped": True, "weight": 0.0}),
    "everything": (
        NoisyTask,
        {
            "shaped": True,
            "optimizer": "adamw",
            "ema": 0.9,
            "features": 1.0,
            "feature_modules": ("norm1", "conv2"),
            "attention": 10.0,
            "balance": True,
            "clip_norm": 5.0,
            "freeze": ("depth.*",),
            "teacher": "ema",
            "quantize": "int8",
        },
    ),
    "cached": (PlainTask, {"features": 1.0, "feature_modules": ("norm1", "conv2")}),
}


@cache
def unbroken(name, folder):
    task, knobs = SETUPS[name]
    return run(task(), folder / f"{name} whole", **knobs)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(deaths=st.lists(st.integers(0, EPOCHS * STEPS - 1), min_size=1, max_size=3))
def test_kills_at_any_steps_change_no_bit(name, deaths, tmp_path_factory):
    """Weights, history, counts: all as if nothing had happened, whatever was training."""
    whole = unbroken(name, tmp_path_factory.getbasetemp())
    task, knobs = SETUPS[name]
    broken = run(task(deaths), tmp_path_factory.mktemp("broken"), **knobs)
    assert broken.recovery == whole.recovery
    assert same(broken.module, whole.module)


def test_shapers_shape_what_is_returned(tmp_path):
    """What the last shaper left is in the result: masked weights are exactly zero."""
    done = run(NoisyTask(), tmp_path, shaped=True)
    zeros = (done.module.head.weight == 0).float().mean().item()
    assert zeros > 0.05
    assert done.recovery.best_epoch == EPOCHS


def test_a_model_that_never_settles_is_returned_as_its_last_step_left_it(tmp_path):
    """No state may be the best, however small its loss: not the start, not an epoch in between."""

    class Restless(RandomMasks):
        settled = property(lambda self: False, lambda self, value: None)

    params = DistillParams(epochs=EPOCHS, learning_rate=0.05)
    shaper = Restless()
    done = recover(
        lesson(NoisyTask()), params, seed=7, work=tmp_path, say=lambda _: None, shapers=(shaper,)
    )
    assert done.recovery.best_epoch == EPOCHS
    for name, mask in shaper.masks.items():
        assert torch.equal(done.module.get_parameter(name) != 0, mask.bool())


@pytest.mark.slow
def test_another_trainings_checkpoint_is_not_taken_up(tmp_path):
    """The same work folder with another knob, seed or student starts over."""
    plain = run(NoisyTask(), tmp_path / "a")
    run(NoisyTask(), tmp_path / "b", momentum=0.5)
    again = run(NoisyTask(), tmp_path / "b")
    assert again.recovery == plain.recovery
    assert same(again.module, plain.module)


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_checkpoint_of_another_shaper_is_not_taken_up(tmp_path):
    """Two trainings that differ in nothing but how few values their weights may have."""
    task, params = NoisyTask(), DistillParams(epochs=1, learning_rate=0.05, weight=0.0)

    def values(bits, work):
        shapers = [BookShaper(bits={"head.weight": bits})]
        done = recover(lesson(task), params, seed=7, work=work, say=lambda _: None, shapers=shapers)
        return done.module.head.weight

    assert len(values(1, tmp_path).unique()) == 2
    there = values(3, tmp_path)
    assert len(there.unique()) > 2
    assert torch.equal(there, values(3, tmp_path / "other"))
    assert torch.equal(there, values(3, tmp_path))  # its own is


@pytest.mark.parametrize(
    "other",
    [
        {"criterion": "taylor"},
        {"every": 2},
        {"regrow": True},
        {"share_name": "exponential"},
        {"plan": plan_counts({"head.weight": torch.Size((10, 32))}, {"head.weight": 9})},
        {"masks": {"head.weight": torch.ones(10, 32) > 2}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_masks_that_are_set_up_otherwise_are_another_training(other):
    plan = plan_counts({"head.weight": torch.Size((10, 32))}, {"head.weight": 8})
    shaper = MaskShaper(plan=plan)
    params = DistillParams()
    names = {
        identity_of(lesson(PlainTask()), params, 0, [one])
        for one in (shaper, MaskShaper(plan=plan), MaskShaper(**({"plan": plan} | other)))
    }
    assert len(names) == 2


def test_an_optimisers_state_to_begin_with_is_part_of_a_training():
    """Momentum that is carried over a cut, or not, or another's."""
    start = lesson(PlainTask())
    given = [
        {},
        {"head.bias": {"momentum_buffer": torch.ones(10)}},
        {"head.bias": {"momentum_buffer": torch.zeros(10)}},
        {"head.bias": {"momentum_buffer": None}},
    ]
    names = {identity_of(replace(start, moments=m), DistillParams(), 0, []) for m in given}
    assert len(names) == len(given)


@pytest.mark.parametrize("earlier", [False, True], ids=["today's file", "an earlier file"])
def test_a_loss_scaler_goes_on_as_if_it_had_never_been_stored(tmp_path, earlier):
    """It counts in integers, and torch refuses floats; earlier files hold nothing else."""
    scalers = []
    for stored in (False, True):
        parameter = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        scaler = torch.amp.GradScaler("cpu", growth_interval=3)
        for step in range(4):
            if stored and step == 2:
                state = scaler.state_dict()
                kept = {k: float(v) for k, v in state.items()} if earlier else state
                progress = Progress(
                    identity="",
                    steps=1,
                    taken=2,
                    best_epoch=0,
                    best_loss=None,
                    examples=0,
                    scaler=kept,
                )
                file = tmp_path / "state"
                write_state(
                    file, State(progress=progress, model={}, best={}, optimizer={}, more={})
                )
                scaler = torch.amp.GradScaler("cpu", growth_interval=3)
                restore_scaler(scaler, read_state(file).progress.scaler)
            scaler.scale(parameter.sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        scalers.append(scaler.state_dict())
    assert scalers[0] == scalers[1]
    assert scalers[0]["scale"] == 2.0**17
