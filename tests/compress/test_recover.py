"""Recovery learns back what a cut took, and a kill between epochs changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from torch import nn

from reprune.compress.training.calls import calls_of
from reprune.compress.training.checkpoint import read_state
from reprune.compress.training.distillation import distance
from reprune.compress.training.recover import CHECKPOINT, Lesson, rate_at, recover
from reprune.core.errors import CompressionError, TaskError
from reprune.core.params import DistillParams
from tests.compress.small_digits import Cnn, DigitsTask, accuracy, trained

ROOT = Path(__file__).parents[2]
FAST = DistillParams(epochs=3, learning_rate=0.05, warmup_epochs=0.5)


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


@cache
def dense():
    return trained(DigitsTask())


def halved() -> Cnn:
    """The first half of the dense model's channels: a cut as crude as can be."""
    student = Cnn((8, 12))
    source = dense().state_dict()
    kept = {
        name: source[name][tuple(slice(0, size) for size in value.shape)]
        for name, value in student.state_dict().items()
        if value.dim() > 0
    }
    # A channel is four columns behind the flatten, so the first 48 of them are the first 12.
    student.load_state_dict(kept, strict=False)
    return student.eval()


def lesson(task=None, student=None) -> Lesson:
    return Lesson(
        task=task or DigitsTask(),
        student=student or halved(),
        teacher=dense(),
        teacher_digest="sha256:teacher",
    )


def quiet(_: str) -> None:
    pass


class Stop(Exception):
    pass


def stop(text: str) -> None:
    """Ends a training as its first epoch ends."""
    if "epoch 1 of" in text:
        raise Stop


@pytest.mark.slow
def test_recovery_learns_back_what_the_cut_took(tmp_path):
    """After recovery the cut model is far better than before, and near its teacher."""
    before = accuracy(DigitsTask(), halved())
    params = DistillParams(epochs=6, learning_rate=0.05)
    done = recover(lesson(), params, seed=0, work=tmp_path, say=quiet)
    after = accuracy(DigitsTask(), done.module)
    assert before < 0.5
    assert after > accuracy(DigitsTask(), dense()) - 0.05
    assert [epoch.epoch for epoch in done.recovery.epochs] == [1, 2, 3, 4, 5, 6]
    rates = [epoch.learning_rate for epoch in done.recovery.epochs]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.045
    assert rates[-1] < 0.001
    assert done.recovery.teacher == "sha256:teacher"


def test_the_best_epoch_by_tune_loss_is_kept(tmp_path):
    """The returned weights are those of the epoch whose loss on tune was the least."""
    params = DistillParams(epochs=4, learning_rate=0.5, warmup_epochs=0.0, weight=0.0)
    done = recover(lesson(), params, seed=3, work=tmp_path, say=quiet)
    losses = {epoch.epoch: epoch.tune_loss for epoch in done.recovery.epochs}
    best = done.recovery.best_epoch
    assert losses[best] == min(losses.values())
    assert done.recovery.start_loss is UNSET
    assert tune_loss(done.module) == pytest.approx(losses[best], rel=1e-6)


@pytest.mark.slow
def test_a_recovery_that_only_harms_keeps_the_student_as_it_came(tmp_path):
    """Where no epoch beats the start on tune, best_epoch is 0 and the weights are untouched."""
    student = trained(DigitsTask(), epochs=12)
    params = DistillParams(epochs=1, learning_rate=3.0, warmup_epochs=0.0, weight=0.0)
    done = recover(lesson(student=student), params, seed=0, work=tmp_path, say=quiet)
    assert done.recovery.best_epoch == 0
    assert done.recovery.start_loss == pytest.approx(tune_loss(student), rel=1e-6)
    assert same_weights(done.module, student)


def test_no_epochs_changes_nothing(tmp_path):
    """With epochs 0 the student comes back bit-equal, and nothing was counted."""
    done = recover(lesson(), DistillParams(epochs=0), seed=0, work=tmp_path, say=quiet)
    assert same_weights(done.module, halved())
    assert done.recovery.examples == 0
    assert done.recovery.best_epoch == 0


def test_neither_model_is_modified(tmp_path):
    """The caller's student and teacher are as before, training mode and generators included."""
    given_student, given_teacher = halved(), dense()
    state = torch.random.get_rng_state()
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (given_student, dense())]
    recover(lesson(student=given_student), FAST, seed=0, work=tmp_path, say=quiet)
    for module, weights in zip((given_student, given_teacher), before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
        assert not module.training
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("weight", "cache_bytes", "passes"), [(0.9, 0, 4), (0.9, 10**9, 3), (0.0, 10**9, 2)]
)
def test_every_example_that_went_through_a_model_is_counted(tmp_path, weight, cache_bytes, passes):
    """Student, teacher (if it teaches, once where its answers are kept) and each look at tune, the one
    before training included.
    """
    params = DistillParams(
        epochs=2, learning_rate=0.01, weight=weight, teacher_cache_bytes=cache_bytes
    )
    done = recover(lesson(), params, seed=0, work=tmp_path, say=quiet)
    assert done.recovery.examples == passes * 900 + 3 * 300


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    """SIGKILL between two epochs, then the same call: weights and history equal an unbroken run's."""
    script = (
        "import os, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from tests.compress.test_recover import DropoutTask, FAST, lesson\n"
        "from reprune.compress.training.recover import recover\n"
        "torch.set_num_threads(1)\n"
        "def say(text):\n"
        "    if 'epoch 2 of' in text: os.kill(os.getpid(), signal.SIGKILL)\n"
        "recover(lesson(DropoutTask()), FAST, seed=5, work=Path(sys.argv[1]), say=say)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "killed")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    state = read_state(tmp_path / "killed" / CHECKPOINT)
    assert state is not None
    assert len(state.progress.epochs) == 2
    told: list[str] = []
    resumed = recover(
        lesson(DropoutTask()), FAST, seed=5, work=tmp_path / "killed", say=told.append
    )
    unbroken = recover(lesson(DropoutTask()), FAST, seed=5, work=tmp_path / "whole", say=quiet)
    assert "after epoch 2 of 3" in told[0]
    assert resumed.recovery == unbroken.recovery
    assert same_weights(resumed.module, unbroken.module)


@pytest.mark.slow
def test_an_adaptive_optimiser_of_the_task_is_used_and_resumed(tmp_path):
    """The task's own optimizer(params) trains, and its state survives in the checkpoint."""
    with pytest.raises(Stop):
        recover(lesson(AdamTask()), FAST, seed=0, work=tmp_path / "a", say=stop)
    resumed = recover(lesson(AdamTask()), FAST, seed=0, work=tmp_path / "a", say=quiet)
    unbroken = recover(lesson(AdamTask()), FAST, seed=0, work=tmp_path / "b", say=quiet)
    plain = recover(lesson(), FAST, seed=0, work=tmp_path / "c", say=quiet)
    assert same_weights(resumed.module, unbroken.module)
    assert not same_weights(resumed.module, plain.module)
    assert resumed.recovery.epochs[0].learning_rate < 0.005


def test_the_best_epoch_before_a_stop_is_not_forgotten(tmp_path):
    """Where epoch 1 was the best, a run that was stopped after it still returns its weights."""
    params = DistillParams(epochs=3, learning_rate=0.01, weight=0.0)
    with pytest.raises(Stop):
        recover(lesson(SpoiltTask()), params, seed=0, work=tmp_path / "a", say=stop)
    resumed = recover(lesson(SpoiltTask()), params, seed=0, work=tmp_path / "a", say=quiet)
    unbroken = recover(lesson(SpoiltTask()), params, seed=0, work=tmp_path / "b", say=quiet)
    assert resumed.recovery.best_epoch == unbroken.recovery.best_epoch == 1
    assert same_weights(resumed.module, unbroken.module)


def test_an_unreadable_checkpoint_costs_only_time(tmp_path):
    """A truncated checkpoint is as good as none: the run starts over and ends the same."""
    whole = recover(lesson(), FAST, seed=0, work=tmp_path, say=quiet)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    again = recover(lesson(), FAST, seed=0, work=tmp_path, say=quiet)
    assert same_weights(whole.module, again.module)


def test_a_loss_that_is_not_finite_names_the_epoch_and_what_to_do(tmp_path):
    """A diverged training ends with an error that points at the learning rate."""
    params = DistillParams(epochs=2, learning_rate=1e8, warmup_epochs=0.0)
    with pytest.raises(CompressionError, match=r"epoch 1(.|\n)*learning_rate"):
        recover(lesson(), params, seed=0, work=tmp_path, say=quiet)


@pytest.mark.slow
def test_fp16_without_a_gpu_is_refused(tmp_path):
    """In its own process, because Accelerate keeps one precision a process."""
    script = (
        "from pathlib import Path\n"
        "from reprune.core.errors import InputError\n"
        "from reprune.core.params import DistillParams\n"
        "from tests.compress.test_recover import lesson, quiet\n"
        "from reprune.compress.training.recover import recover\n"
        "for precision in ('fp16', 'bf16'):\n"
        "    try:\n"
        "        recover(lesson(), DistillParams(epochs=1, precision=precision), seed=0,\n"
        "                work=Path('unused'), say=quiet)\n"
        "    except InputError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fp16 needs a GPU" in done.stdout
    assert "cannot train in the precision 'bf16'" in done.stdout
    assert "a new process" in done.stdout


@pytest.mark.slow
def test_bf16_trains_and_returns_float32_weights(tmp_path):
    """Mixed precision is Accelerate's autocast: the weights themselves stay float32."""
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from reprune.core.params import DistillParams\n"
        "from tests.compress.small_digits import DigitsTask, accuracy\n"
        "from tests.compress.test_recover import lesson, quiet\n"
        "from reprune.compress.training.recover import recover\n"
        "torch.set_num_threads(1)\n"
        "done = recover(lesson(), DistillParams(epochs=2, learning_rate=0.05, precision='bf16'),\n"
        "               seed=0, work=Path(sys.argv[1]), say=quiet)\n"
        "assert {v.dtype for v in done.module.parameters()} == {torch.float32}\n"
        "print(accuracy(DigitsTask(), done.module))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) > 0.6


def test_a_loss_that_bypasses_the_module_cannot_distil(tmp_path):
    """Without a call of the module there are no outputs to compare: the task is told so."""
    with pytest.raises(TaskError, match="module itself"):
        recover(lesson(BypassTask()), FAST, seed=0, work=tmp_path, say=quiet)
    params = DistillParams(epochs=1, weight=0.0)
    assert recover(lesson(BypassTask()), params, seed=0, work=tmp_path / "ce", say=quiet)


def test_a_model_that_cannot_be_trained_is_refused(tmp_path):
    """A frozen student is an error, not a run that changes nothing."""
    student = halved().requires_grad_(False)
    with pytest.raises(CompressionError, match="no parameter"):
        recover(lesson(student=student), FAST, seed=0, work=tmp_path, say=quiet)


def test_an_empty_split_is_refused(tmp_path):
    """Training on nothing is the task's mistake, and is said."""
    with pytest.raises(TaskError, match="'train' is empty"):
        recover(lesson(EmptyTask()), FAST, seed=0, work=tmp_path, say=quiet)


def test_the_distance_is_zero_for_equal_outputs_and_follows_hinton():
    """T^2 KL of the softened outputs: nothing for a copy, the textbook value otherwise."""
    s, t = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 3.0, 0.5]])
    assert distance(t, t, 4.0).item() == pytest.approx(0.0, abs=1e-7)
    p, q = torch.softmax(t / 4.0, 1), torch.softmax(s / 4.0, 1)
    assert distance(s, t, 4.0).item() == pytest.approx(16 * (p * (p / q).log()).sum().item(), 1e-5)


def test_the_distance_reads_nested_and_dense_outputs():
    """Segmentation logits are compared over channels; tensors that are no logits are left out."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 4, 4, generator=generator) for _ in "ab")
    flat = [x.permute(0, 2, 3, 1).reshape(-1, 3) for x in (a, b)]
    assert distance(a, b, 2.0).item() == pytest.approx(distance(*flat, 2.0).item(), rel=1e-5)
    ours = {"mask": a, "count": torch.tensor([1, 2]), "aux": [a, torch.zeros(2)]}
    theirs = {"mask": b, "count": torch.tensor([3, 4]), "aux": [b, torch.ones(2)]}
    assert distance(ours, theirs, 2.0).item() == pytest.approx(distance(a, b, 2.0).item())


def test_a_single_logit_is_read_as_yes_or_no():
    """A binary head learns from its teacher too; a softmax over one class would teach nothing."""
    s, t = torch.tensor([[0.3]]), torch.tensor([[2.0]])
    both = [torch.cat([torch.zeros(1, 1), x], 1) for x in (s, t)]
    assert distance(s, t, 1.0).item() == pytest.approx(distance(*both, 1.0).item())
    assert distance(s, t, 1.0).item() > 0.1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(torch.zeros(2, 3), torch.zeros(2, 4)), (torch.zeros(2), torch.zeros(2))],
)
def test_outputs_that_cannot_be_compared_are_refused(ours, theirs):
    """Different shapes, or no logits at all, name both models' shapes."""
    with pytest.raises(CompressionError, match="cannot be distilled"):
        distance(ours, theirs, 1.0)


def test_calls_are_heard_only_inside_the_block():
    """Every call is kept with its arguments, and the module is unhooked afterwards."""
    module = nn.Linear(2, 2)
    with calls_of(module) as calls:
        module(torch.zeros(1, 2))
        module(torch.ones(1, 2))
    module(torch.zeros(1, 2))
    assert [call.args[0].sum().item() for call in calls] == [0.0, 2.0]


@given(
    epochs=st.integers(1, 20),
    warmup=st.floats(0.0, 30.0),
    points=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2),
)
def test_the_rate_rises_over_the_warm_up_and_then_falls(epochs, warmup, points):
    """The schedule stays within 0 and 1, rises before its peak and falls after it."""
    params = DistillParams(epochs=epochs, warmup_epochs=warmup)
    peak = min(warmup, epochs / 2)
    low, high = sorted(point * epochs for point in points)
    before, after = rate_at(low, params), rate_at(high, params)
    assert 0.0 <= min(before, after) <= max(before, after) <= 1.0
    assert before <= after + 1e-12 if high < peak else low < peak or before >= after - 1e-12


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def tune_loss(module: nn.Module) -> float:
    task = DigitsTask()
    with torch.no_grad():
        pairs = [
            (task.loss(module, batch, torch.Generator()).item(), len(batch))
            for batch in task.batches("tune", epoch=0, seed=0)
        ]
    return sum(loss * size for loss, size in pairs) / sum(size for _, size in pairs)


class DropoutTask(DigitsTask):
    """Draws from both generators that a loss may use: the global one and its own."""

    def loss(self, module, batch, generator):
        noise = torch.randn(batch.inputs[0].shape, generator=generator)
        return F.cross_entropy(
            F.dropout(module(batch.inputs[0] + 0.05 * noise), 0.1), batch.targets
        )


class AdamTask(DigitsTask):
    def optimizer(self, params):
        return torch.optim.AdamW(params, lr=0.005)


class SpoiltTask(DigitsTask):
    """From the second epoch on, the loss of training is turned round."""

    def batches(self, split, *, epoch, **order):
        self.sign = -1.0 if split == "train" and epoch > 1 else 1.0
        return super().batches(split, epoch=epoch, **order)

    def loss(self, module, batch, generator):
        return self.sign * super().loss(module, batch, generator)


class BypassTask(DigitsTask):
    def loss(self, module, batch, generator):
        return F.cross_entropy(module.forward(*batch.inputs), batch.targets)


class EmptyTask(DigitsTask):
    def batches(self, split, **order):
        return iter(()) if split == "train" else super().batches(split, **order)


def recovered_with(params, work, say=quiet):
    return recover(lesson(), params, seed=5, work=work, say=say)


@pytest.mark.slow
def test_training_stops_where_epochs_gain_nothing_and_a_killed_run_stops_there_too(tmp_path):
    """With hardly a learning rate only the batch norms learn, and soon nothing does."""
    params = DistillParams(epochs=12, learning_rate=1e-7, patience=2, rate="constant")
    whole = recovered_with(params, tmp_path / "whole")
    assert whole.recovery.stopped
    assert "without a gain in the last 2 (distill.patience)" in whole.recovery.stopped
    count = len(whole.recovery.epochs)
    assert 3 <= count < 12
    for epochs in (1, count - 1):
        said = []

        def dies(text, epochs=epochs, said=said):
            said.append(text)
            if text.startswith(f"recovery: epoch {epochs} "):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            recovered_with(params, tmp_path / f"{epochs}", say=dies)
        resumed = recovered_with(params, tmp_path / f"{epochs}")
        assert resumed.recovery == whole.recovery
        assert same_weights(resumed.module, whole.module)
    long = DistillParams(epochs=count + 1, learning_rate=1e-7, rate="constant")
    assert len(recovered_with(long, tmp_path / "long").recovery.epochs) == count + 1
