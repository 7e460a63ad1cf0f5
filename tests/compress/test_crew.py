"""Several processes that train together learn what one would; when one fails, all end and say why."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import msgspec
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reprune.compress.bundle import load_bundle
from reprune.compress.training import worker
from reprune.compress.training.crew import Crew
from reprune.compress.training.joint_norms import join_norms
from reprune.compress.training.lesson import Lesson
from reprune.compress.training.pupil import Pupil
from reprune.compress.training.shares import check_shares, share_of
from reprune.compress.training.workers import NEEDS_GPU, Order, train_here
from reprune.core import store
from reprune.core.artifacts import MASKS, ModelBundle
from reprune.core.errors import CompressionError, InputError, RepruneError, TaskError
from reprune.core.params import DistillParams
from reprune.task.protocol import Batch
from tests.compress.crews import distilled, ground

# One process adds up 32 examples, two add 16 and 16: float32 rounds the same sums otherwise, by about
# 1e-7 of a weight a step. Statistics of half a batch, or a gradient lost, are off by far more than this.
SAME = 2e-5
KNOBS = {"ema": 0.9, "clip_norm": 1.0, "epochs": 3}


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return ground(tmp_path_factory.mktemp("ground"))


def weights(bundle) -> dict[str, torch.Tensor]:
    return load_bundle(bundle).module.state_dict()


def trouble(monkeypatch, tmp_path: Path, what: str) -> Path:
    marker = tmp_path / "trouble"
    marker.write_text(what)
    monkeypatch.setenv("CREW_TROUBLE", str(marker))
    return marker


@pytest.mark.slow
def test_two_processes_learn_what_one_does_even_when_one_is_killed(inputs, tmp_path, monkeypatch):
    """Batch norms, masks, clipping, a moving average, and a last batch that leaves one process with
    nothing. A kill fails the step with the signal's number, and the next run goes on from there.
    """
    one = distilled(inputs, tmp_path / "one", **KNOBS)
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        if "epoch 1 of" in text and not marker.exists():
            marker.write_text("SIGKILL")

    marker = trouble(monkeypatch, tmp_path, "")
    marker.unlink()
    with pytest.raises(RepruneError, match=r"killed by signal 9(.|\n)*run the step again"):
        distilled(inputs, tmp_path / "two", say, **KNOBS, processes=2)
    assert not (tmp_path / "two").exists()
    monkeypatch.delenv("CREW_TROUBLE")
    two = distilled(inputs, tmp_path / "two", told.append, **KNOBS, processes=2)
    assert any("goes on after epoch" in text for text in told)
    ours, theirs = weights(two), weights(one)
    for name, value in theirs.items():
        assert torch.allclose(ours[name].double(), value.double(), rtol=SAME, atol=SAME), name
    recoveries = one.manifest.recovery, two.manifest.recovery
    for alone, together in zip(*(found.epochs for found in recoveries), strict=True):
        assert together.train_loss == pytest.approx(alone.train_loss, rel=SAME)
        assert together.tune_loss == pytest.approx(alone.tune_loss, rel=SAME)
    assert recoveries[0].best_epoch == recoveries[1].best_epoch
    before = weights(store.read(inputs["student"], ModelBundle))["deep.weight"]
    assert torch.equal(ours["deep.weight"] == 0, before == 0)
    assert two.manifest.payload[MASKS] == one.manifest.payload[MASKS]


@pytest.mark.slow
def test_what_one_process_raises_is_the_steps_error(inputs, tmp_path, monkeypatch):
    """The error is the one that the task raised, not that of a process that then lost touch."""
    trouble(monkeypatch, tmp_path, "raise")
    with pytest.raises(RepruneError, match="ZeroDivisionError: the fifth example is broken"):
        distilled(inputs, tmp_path / "two", epochs=1, processes=2)
    assert not (tmp_path / "two").exists()


def test_a_process_that_was_given_a_gpu_does_not_train_on_the_cpu(monkeypatch):
    """An image without CUDA is the input's fault. Who says ACCELERATE_USE_CPU has decided otherwise."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(NEEDS_GPU, "1")
    assert worker._device(1) == torch.device("cpu")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    with pytest.raises(InputError, match=r"process 1 was given a GPU(.|\n)*compress_image"):
        worker._device(1)
    monkeypatch.delenv(NEEDS_GPU)
    assert worker._device(1) == torch.device("cpu")


@pytest.mark.deep
def test_torchrun_starts_them_too(inputs, tmp_path):
    """`distill.launcher` starts the same processes, with the same bits as without it."""
    launcher = f"{shlex.quote(sys.executable)} -m torch.distributed.run --standalone"
    launcher += " --nproc-per-node {processes} {args}"
    ours = distilled(inputs, tmp_path / "a", epochs=2, processes=2, launcher=launcher)
    plain = distilled(inputs, tmp_path / "b", epochs=2, processes=2)
    assert all(torch.equal(weights(ours)[name], value) for name, value in weights(plain).items())


@pytest.mark.deep
def test_a_run_that_was_killed_ends_in_the_bits_of_one_that_was_not(inputs, tmp_path, monkeypatch):
    """With a checkpoint at every step, and more processes than the last batch has examples."""
    knobs = {"epochs": 2, "processes": 3, "checkpoint_seconds": 0.0}
    whole = distilled(inputs, tmp_path / "whole", **knobs)
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "other"))
    trouble(monkeypatch, tmp_path, "SIGKILL")
    with pytest.raises(RepruneError, match="killed by signal 9"):
        distilled(inputs, tmp_path / "again", **knobs)
    again = distilled(inputs, tmp_path / "again", **knobs)
    assert all(torch.equal(weights(again)[name], value) for name, value in weights(whole).items())
    assert again.manifest.recovery == whole.manifest.recovery


@pytest.mark.deep
def test_nobody_waits_for_ever_for_one_that_hangs(inputs, tmp_path, monkeypatch):
    """A process that is stopped ends the others after the time limit, and is ended itself."""
    trouble(monkeypatch, tmp_path, "SIGSTOP")
    order = Order(
        student=str(inputs["student"]),
        teacher=str(inputs["teacher"]),
        params=DistillParams(epochs=1, processes=2),
        seed=0,
        threads=1,
        work=str(tmp_path / "work"),
        hang_seconds=8.0,
    )
    with pytest.raises(RepruneError, match="lost touch with the other processes"):
        train_here(order, lambda _: None)


@given(count=st.integers(1, 40), world=st.integers(1, 9))
def test_shares_hold_every_example_once(count, world):
    """And their weights sum to 1; who has nothing runs the first example with weight 0."""
    batch = Batch(
        inputs=(torch.arange(count),),
        targets=(torch.arange(count), {"boxes": list(range(count))}),
        ids=[f"{n}" for n in range(count)],
        slices={"even": [str(n % 2) for n in range(count)]},
    )
    parts = [share_of(batch, Crew(rank=rank, world=world)) for rank in range(world)]
    real = [part for part in parts if part.weight]
    assert [name for part in real for name in part.batch.ids] == batch.ids
    assert torch.cat([part.batch.inputs[0] for part in real]).tolist() == list(range(count))
    assert [n for part in real for n in part.batch.targets[1]["boxes"]] == list(range(count))
    assert sum(part.weight for part in parts) == pytest.approx(1.0)
    assert all(list(part.batch.ids) == ["0"] for part in parts if not part.weight)
    assert all(part.weight == len(part.batch) / count for part in real)


def test_targets_that_cannot_be_shared_are_refused():
    """A tensor without a row for each example belongs to nobody."""
    batch = Batch(inputs=(torch.zeros(4, 1),), targets=torch.tensor(3.0), ids=list("abcd"))
    with pytest.raises(TaskError, match=r"not one row an example(.|\n)*distill.processes to 1"):
        share_of(batch, Crew(world=2))


def pupil(inputs, shapers=(), **knobs: object) -> Pupil:
    student, teacher = (
        load_bundle(store.read(inputs[name], ModelBundle)) for name in ("student", "teacher")
    )
    lesson = Lesson(
        task=student.task,
        student=student.module,
        teacher=teacher.module,
        teacher_digest="sha256:teacher",
        crew=Crew(world=2),
    )
    params = msgspec.convert({"epochs": 1, "processes": 2} | knobs, DistillParams)
    return Pupil.start(lesson, params, 0, shapers)


def test_a_loss_that_is_no_mean_is_refused_before_training(tmp_path):
    """Half of a sum is not a half of the sum's loss; a mean's shares make it up."""
    summed = pupil(ground(tmp_path / "summed", entry="crewtask:SummedTask"))
    batches = list(summed.lesson.task.batches("train", epoch=0, seed=0))
    with pytest.raises(CompressionError, match="no mean over examples"):
        check_shares(summed, batches[:1])
    usual = pupil(ground(tmp_path / "usual"))
    assert check_shares(usual, batches) == 4 * 97


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"balance": True}, "balance"),
        ({"features": 1.0, "feature_modules": ["conv"]}, "feature_distance"),
    ],
)
def test_what_needs_the_whole_batch_is_refused(inputs, knobs, named):
    """A knob whose result would be another one in several processes."""
    with pytest.raises(InputError, match=named):
        pupil(inputs, **knobs)


def test_a_shaper_that_does_not_say_it_can_is_refused(inputs):
    """What shapes a model may look at a share only."""

    class Shaper:
        settings = ""

    with pytest.raises(InputError, match="Shaper is not made for it"):
        pupil(inputs, shapers=(Shaper(),))


def test_a_norm_of_its_own_kind_is_refused():
    """Nobody can make the statistics of a foreign forward joint."""

    class Own(nn.BatchNorm2d):
        def forward(self, values):
            return values

    with pytest.raises(CompressionError, match="normalises in its own way"):
        join_norms(nn.Sequential(Own(3)))


@pytest.fixture
def lone_group(tmp_path):
    """A process group of this process alone."""
    meeting = dist.FileStore(str(tmp_path / "meeting"), 1)
    dist.init_process_group("gloo", store=meeting, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_joint_norms_compute_what_torch_does(lone_group, momentum, affine):
    """Outputs, gradients and running statistics over three batches, far from zero too."""
    theirs = nn.BatchNorm2d(5, momentum=momentum, affine=affine)
    ours = nn.BatchNorm2d(5, momentum=momentum, affine=affine)
    norms = join_norms(ours)
    draw = torch.Generator().manual_seed(0)
    for offset in (0.0, 30.0, -3.0):
        values = torch.randn(6, 5, 4, 4, generator=draw) + offset
        weight = torch.randn(6, 5, 4, 4, generator=draw)
        grads = []
        for layer in (theirs, ours):
            given_values = values.clone().requires_grad_()
            with norms.stepping(counts=True):
                result = layer(given_values)
            (result * weight).sum().backward()
            grads.append((result.detach(), given_values.grad))
        for one, other in zip(*grads, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, rtol=1e-5), name
    ours.eval()
    theirs.eval()
    assert torch.allclose(ours(values), theirs(values), rtol=1e-4, atol=1e-4)


def test_one_example_with_one_value_has_no_variance(lone_group):
    """As torch refuses it, however many processes there are."""
    layer = nn.BatchNorm1d(3)
    with join_norms(layer).stepping(counts=True), pytest.raises(ValueError, match="more than 1"):
        layer(torch.randn(1, 3))
