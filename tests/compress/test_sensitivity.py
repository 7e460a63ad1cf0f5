"""What a cut costs is counted exactly, and what it loses is measured as pruning would do it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reprune.compress.paired import BatchLosses, at_most, batch_losses, paired_increase
from reprune.compress.planning.costs import cost_model
from reprune.compress.sensitivity.full import PROGRESS_FILE
from reprune.compress.sensitivity.measure import Subject, keeps, measure
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import find_groups
from reprune.compress.structured import cut
from reprune.core.errors import CompressionError, TaskError, UnknownName
from reprune.core.params import PruneParams, SensitivityParams
from reprune.measure.profile import count_cost
from tests.compress.small_digits import Cnn, DigitsTask, trained

ROOT = Path(__file__).parents[2]
PARAMS = SensitivityParams(cuts=(0.25, 0.5, 0.75), examples=300, method="full")
PRUNE = PruneParams(examples=100)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Branches(nn.Module):
    """A residual stream, a concatenation, a transposed and a depth-wise convolution, and two heads."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.outer = nn.Conv2d(12, 8, 1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.side = nn.Conv2d(8, 6, 1)
        self.up = nn.ConvTranspose2d(14, 10, 2, stride=2)
        self.act = nn.PReLU(10)
        self.hidden = nn.Linear(10 * 16, 9)
        self.head = nn.Linear(9, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.outer(F.relu(self.inner(x)))
        x = self.depth(x)
        x = torch.cat([x, F.relu(self.side(x))], 1)
        x = F.adaptive_avg_pool2d(self.act(self.up(x)), 4).flatten(1)
        return self.head(F.relu(self.hidden(x)))


@cache
def surveyed(kind):
    torch.manual_seed(0)
    module = kind().eval()
    example = (torch.randn(2, *((3, 8, 8) if kind is Branches else (1, 8, 8))),)
    groups = find_groups(module, example, ())
    counted = count_cost(module, example)
    return module, example, groups, counted, cost_model(module, groups, counted)


@cache
def subject():
    task = DigitsTask()
    module = trained(task)
    groups = find_groups(module, task.example_inputs(2), ())
    model = cost_model(module, groups, count_cost(module, task.example_inputs(1)))
    return Subject(task=task, module=module, groups=groups, cost=model)


@pytest.mark.parametrize("kind", [Cnn, Branches])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_cost_model_is_what_counting_the_cut_model_says(kind, data):
    """For any widths, MACs, parameters and bytes equal count_cost of the really cut model."""
    module, example, groups, _, model = surveyed(kind)
    kept = {
        group.name: sorted(
            data.draw(st.sets(st.integers(0, group.width - 1), min_size=1, max_size=group.width))
        )
        for group in groups
    }
    really = apply(module, architecture_of(module, groups, kept))
    widths = {name: len(channels) for name, channels in kept.items()}
    assert model(widths) == count_cost(really, example).cost


@pytest.mark.parametrize("kind", [Cnn, Branches])
def test_at_full_widths_the_cost_model_is_the_count_itself(kind):
    """Anchored at the dense count, whatever layers the groups do not know."""
    _, _, groups, counted, model = surveyed(kind)
    assert model({}) == counted.cost
    assert model({group.name: group.width for group in groups}) == counted.cost
    assert len(groups) >= 2


@pytest.mark.slow
def test_every_cut_is_measured_once_with_its_cost_and_error(tmp_path):
    """One point a group and cut: falling widths, exact cost, a positive standard error."""
    measured = measure(subject(), PARAMS, PRUNE, seed=0, work=tmp_path, say=quiet)
    assert [group.group for group in measured.groups] == [group.name for group in subject().groups]
    for group in measured.groups:
        assert [point.keep for point in group.cuts] == [
            group.width * 3 // 4,
            group.width // 2,
            group.width // 4,
        ]
        for point in group.cuts:
            cost = subject().cost({group.group: point.keep})
            assert (point.macs, point.params) == (cost.macs, cost.params)
            assert point.standard_error > 0.0
    assert measured.examples == 300
    assert measured.base_loss == pytest.approx(loss_on_tune(subject().module), rel=1e-6)


@pytest.mark.parametrize(
    "prune",
    [
        PRUNE,
        PruneParams(examples=100, compensate=False),
        PruneParams(examples=100, compensate=False, recalibrate=False, criterion="l1"),
    ],
)
def test_a_measured_cut_is_the_cut_that_pruning_would_make(tmp_path, prune):
    """The increase equals that of structured.cut for this group alone, repaired as prune allows."""
    params = SensitivityParams(cuts=(0.5,), examples=300, method="full")
    measured = measure(subject(), params, prune, seed=0, work=tmp_path, say=quiet)
    for group in measured.groups:
        (point,) = group.cuts
        made = cut(
            subject().task,
            subject().module,
            subject().groups,
            {group.group: point.keep},
            prune,
            0,
            quiet,
        )
        really = loss_on_tune(made.module) - measured.base_loss
        assert point.loss_increase == pytest.approx(really, rel=1e-5, abs=1e-7)


def test_a_deep_cut_costs_more_than_a_shallow_one(tmp_path):
    """On a trained model, losing three quarters of the first layer hurts more than a quarter."""
    measured = measure(subject(), PARAMS, PRUNE, seed=0, work=tmp_path, say=quiet)
    shallow, _, deep = measured.groups[0].cuts
    assert deep.loss_increase > shallow.loss_increase + 2 * deep.standard_error / 3
    assert deep.loss_increase > 0.05


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_identical_result(tmp_path):
    """SIGKILL after the second cut, then the same call: nothing is measured twice, nothing differs."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "from tests.compress.test_sensitivity import PARAMS, PRUNE, subject\n"
        "from reprune.compress.sensitivity.measure import measure\n"
        "def say(text):\n"
        "    if ': 2 of' in text: os.kill(os.getpid(), signal.SIGKILL)\n"
        "measure(subject(), PARAMS, PRUNE, seed=0, work=Path(sys.argv[1]), say=say)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "killed")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    told: list[str] = []
    resumed = measure(subject(), PARAMS, PRUNE, seed=0, work=tmp_path / "killed", say=told.append)
    assert told[0] == "sensitivity: 2 of 6 cuts were already measured"
    assert len(told) == 1 + 4
    assert resumed == measure(subject(), PARAMS, PRUNE, seed=0, work=tmp_path / "b", say=quiet)
    assert resumed == measure(subject(), PARAMS, PRUNE, seed=0, work=tmp_path / "b", say=quiet)


def test_unreadable_progress_costs_only_time(tmp_path):
    """A truncated progress file is as good as none."""
    params = SensitivityParams(cuts=(0.5,), examples=100, method="full")
    whole = measure(subject(), params, PRUNE, seed=0, work=tmp_path, say=quiet)
    path = tmp_path / PROGRESS_FILE
    path.write_bytes(path.read_bytes()[:-10])
    assert measure(subject(), params, PRUNE, seed=0, work=tmp_path, say=quiet) == whole


def test_a_cut_that_ruins_the_model_has_a_finite_number(tmp_path):
    """A loss that is no number is written as a very large one, so that the file can hold it."""

    class Fragile(DigitsTask):
        def loss(self, module, batch, generator):
            found = super().loss(module, batch, generator)
            return found if module.conv1.out_channels == 16 else found * float("inf")

    fragile = Subject(
        task=Fragile(), module=subject().module, groups=subject().groups, cost=subject().cost
    )
    params = SensitivityParams(cuts=(0.5,), examples=300, method="full")
    measured = measure(fragile, params, PRUNE, seed=0, work=tmp_path, say=quiet)
    assert measured.groups[0].cuts[0].loss_increase > 900
    assert measured.groups[1].cuts[0].loss_increase < 10


def test_a_dense_model_without_a_finite_loss_is_refused(tmp_path):
    """A broken dense version is named as such, before anything is cut."""

    class Broken(DigitsTask):
        def loss(self, module, batch, generator):
            return super().loss(module, batch, generator) * float("nan")

    broken = Subject(
        task=Broken(), module=subject().module, groups=subject().groups, cost=subject().cost
    )
    with pytest.raises(CompressionError, match="dense model's loss on tune is nan"):
        measure(broken, PARAMS, PRUNE, seed=0, work=tmp_path, say=quiet)
    assert not (tmp_path / PROGRESS_FILE).exists()


def test_measuring_leaves_the_model_as_it_was(tmp_path):
    """No weight, statistic or mode of the dense model changes."""
    module = subject().module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    measure(subject(), PARAMS, PRUNE, seed=0, work=tmp_path, say=quiet)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module.training


@given(width=st.integers(2, 200), cuts=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5))
def test_the_measured_widths_are_real_cuts(width, cuts):
    """Every width is at least one and less than all; the same width is measured once."""
    found = keeps(width, cuts)
    assert list(found) == sorted(set(found), reverse=True)
    assert all(1 <= keep < width for keep in found)


def test_examples_are_whole_batches_and_never_more_than_asked():
    """Three batches of 100 fit into 300 and two into 299; one is the least."""
    for asked, batches in ((300, 3), (299, 2), (100, 1), (7, 1)):
        assert len(list(at_most(DigitsTask(), "tune", examples=asked, seed=0))) == batches


def test_an_empty_tune_split_is_refused():
    """There is nothing to measure on: the task is told so."""

    class Empty(DigitsTask):
        def batches(self, split, **order):
            return iter(())

    with pytest.raises(TaskError, match="'tune' is empty"):
        list(at_most(Empty(), "tune", examples=10, seed=0))


def test_the_standard_error_covers_the_truth():
    """Over many simulated splits the mean rise is within two standard errors about 95 times in 100."""
    rng = np.random.default_rng(0)
    sizes = (50,) * 19 + (20,)
    hits = 0
    for _ in range(400):
        level = rng.normal(1.0, 0.3, len(sizes))
        rise = 0.2 + rng.normal(0.0, 1.0, len(sizes)) / np.sqrt(sizes)
        before = BatchLosses(losses=tuple(level), sizes=sizes)
        after = BatchLosses(losses=tuple(level + rise), sizes=sizes)
        mean, error = paired_increase(after, before)
        hits += abs(mean - 0.2) <= 2.1 * error
    assert 0.92 < hits / 400 < 0.98


def test_one_batch_shows_no_spread():
    """With a single batch the whole rise is its own error: nothing more is known."""
    before, after = (BatchLosses(losses=(loss,), sizes=(10,)) for loss in (1.0, 1.5))
    assert paired_increase(after, before) == (0.5, 0.5)


def test_a_random_loss_is_paired():
    """The same model measured twice has no rise at all, though its loss draws random numbers."""

    class Noisy(DigitsTask):
        def loss(self, module, batch, generator):
            noise = torch.randn(batch.inputs[0].shape, generator=generator)
            return F.cross_entropy(F.dropout(module(batch.inputs[0] + noise)), batch.targets)

    def look():
        batches = at_most(Noisy(), "tune", examples=300, seed=0)
        return batch_losses(Noisy(), subject().module, batches, seed=0)

    assert look() == look()


def test_an_unknown_criterion_is_named(tmp_path):
    """A typo in params.yaml is answered with the criteria that there are."""
    with pytest.raises(UnknownName, match="taylor"):
        measure(
            subject(), PARAMS, PruneParams(criterion="tailor"), seed=0, work=tmp_path, say=quiet
        )


def quiet(_: str) -> None:
    pass


def loss_on_tune(module: nn.Module) -> float:
    task = DigitsTask()
    return batch_losses(task, module, task.batches("tune", epoch=0, seed=0), seed=0).mean
