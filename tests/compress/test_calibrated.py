"""Sensitivity from estimates and few evaluations: close to the full one, cheap, exact where it can be."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from reprune.compress.paired import BatchLosses
from reprune.compress.planning.costs import cost_model
from reprune.compress.sensitivity.calibrated import SAVED_FILE, observe
from reprune.compress.sensitivity.evidence import Trace, estimate
from reprune.compress.sensitivity.measure import Subject, keeps, measure
from reprune.compress.sensitivity.merging import _rows, merge
from reprune.compress.sensitivity.moments import Refit
from reprune.compress.sensitivity.observed import CutSeen, Observed, Saved
from reprune.compress.sensitivity.slopes import slopes
from reprune.compress.sensitivity.spending import Fixed, bound
from reprune.compress.sensitivity.subject import removables
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.groups import find_groups
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams, SensitivityParams
from reprune.measure.profile import count_cost
from tests.compress.small_digits import SIZES, DigitsTask, trained

ROOT = Path(__file__).parents[2]
PRUNE = PruneParams(examples=200, criterion="l2")
PARAMS = SensitivityParams(examples=300, method="calibrated", budget=0.5)


class Deep(nn.Module):
    """Five groups: two residual blocks between a stem and a hidden layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU())
        self.block1 = Residual(12, 10)
        self.block2 = Residual(12, 8)
        self.hidden = nn.Linear(12 * 4, 14)
        self.head = nn.Linear(14, 10)

    def forward(self, x):
        x = F.max_pool2d(self.block1(self.stem(x)), 2)
        x = F.max_pool2d(self.block2(x), 2)
        return self.head(F.relu(self.hidden(x.flatten(1))))


class Residual(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.norm1(self.conv1(x))))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@cache
def subject(*, blocks=False):
    task = DigitsTask(model=Deep)
    module = trained(task)
    inputs = task.example_inputs(2)
    groups = find_groups(module, inputs, ())
    found = find_blocks(module, inputs, ()).blocks if blocks else ()
    cost = cost_model(module, groups, count_cost(module, task.example_inputs(1)), found)
    return Subject(
        task=task,
        module=module,
        groups=groups,
        cost=cost,
        blocks=removables(module, found, cost),
    )


def look(work, *, params=PARAMS, prune=PRUNE, about=None, shard=(0, 1), say=lambda _: None):
    return observe(about or subject(), params, prune, seed=0, work=work, say=say, shard=shard)


@cache
def whole():
    """What one run of everything sees, and what is made of it."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        seen = look(Path(folder))
    return seen, merge(subject(), PARAMS, [seen])


@pytest.mark.slow
def test_every_cut_has_a_rise_an_error_and_its_cost():
    """One point a group and cut, positive errors, exact MACs; eight joint plans beside them."""
    _, measured = whole()
    assert [group.group for group in measured.groups] == [g.name for g in subject().groups]
    assert len(measured.groups) >= 4
    for group in measured.groups:
        assert [point.keep for point in group.cuts] == list(keeps(group.width, PARAMS.cuts))
        for point in group.cuts:
            assert point.standard_error > 0.0
            assert point.macs == subject().cost({group.group: point.keep}).macs
    assert measured.joint is not None
    assert len(measured.joint.predicted) == len(measured.joint.measured) == 8
    assert all(math.isfinite(value) for value in measured.joint.measured)


@pytest.mark.slow
def test_a_deeper_cut_never_costs_less():
    """Along a group the rises never fall, whatever noise the few evaluations had."""
    _, measured = whole()
    for group in measured.groups:
        rises = [point.loss_increase for point in group.cuts]
        assert rises == sorted(rises)


def test_a_gentle_cut_that_looks_worse_is_fitted_with_the_deep_one():
    """Even where the gentlest cut was seen to lose far more than the deepest."""
    seen = whole()[0]
    key, cut = next(iter(seen.cuts.items()))
    worse = msgspec.structs.replace(cut, losses=tuple(loss + 5.0 for loss in cut.losses))
    edited = msgspec.structs.replace(seen, cuts=seen.cuts | {key: worse})
    rises = [point.loss_increase for point in merge(subject(), PARAMS, [edited]).groups[0].cuts]
    assert rises == sorted(rises)
    assert rises[0] > whole()[1].groups[0].cuts[0].loss_increase + 0.1


@pytest.mark.slow
def test_it_ranks_groups_as_the_full_measurement_does(tmp_path):
    """Within a cut share, groups are ordered as on all of tune by really making every cut."""
    _, cheap = whole()
    full_params = msgspec.structs.replace(PARAMS, method="full")
    full = measure(subject(), full_params, PRUNE, seed=0, work=tmp_path, say=lambda _: None)
    taus = [
        stats.kendalltau(
            [group.cuts[cut].loss_increase for group in cheap.groups],
            [group.cuts[cut].loss_increase for group in full.groups],
        ).statistic
        for cut in range(3)
    ]
    assert np.mean(taus) > 0.6
    assert cheap.cost < full.cost / 3
    # Errors cover what is left: within three of them, the full measurement's own added.
    for one, other in zip(cheap.groups, full.groups, strict=True):
        for near, far in zip(one.cuts, other.cuts, strict=True):
            error = math.hypot(near.standard_error, far.standard_error)
            assert abs(near.loss_increase - far.loss_increase) < 4 * error + 0.01


@pytest.mark.slow
def test_shards_merge_to_the_very_bits_of_one_run(tmp_path):
    """Three shards, merged in another order than they were made."""
    parts = [look(tmp_path / str(i), shard=(i, 3)) for i in range(3)]
    assert merge(subject(), PARAMS, [parts[2], parts[0], parts[1]]) == whole()[1]


def test_a_missing_or_foreign_shard_is_refused(tmp_path):
    """Two of three shards are no measurement, nor are shards of different data."""
    part = look(tmp_path, shard=(0, 3))
    with pytest.raises(CompressionError, match="not all of 3"):
        merge(subject(), PARAMS, [part])
    other = msgspec.structs.replace(whole()[0], shard=1, shards=2, fixed=1.0)
    one = msgspec.structs.replace(whole()[0], shards=2)
    with pytest.raises(CompressionError, match="not of one measurement"):
        merge(subject(), PARAMS, [one, other])


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_identical_result(tmp_path):
    """SIGKILL after the second group, then the same call: what was evaluated is not evaluated again."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "from tests.compress.test_calibrated import look\n"
        "told = []\n"
        "def say(text):\n"
        "    told.append(text)\n"
        "    if len(told) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "look(Path(sys.argv[1]), say=say)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    killed = subprocess.run(command, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    told: list[str] = []
    assert look(tmp_path, say=told.append) == whole()[0]
    assert "were already looked at" in told[0]


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_to_the_identical_result(tmp_path):
    """With the first unit's evaluations on disk, those are taken and the rest is evaluated; half a
    file is as good as none.
    """
    seen = whole()[0]
    first = {key: cut for key, cut in seen.cuts.items() if key.startswith(subject().groups[0].name)}
    longest = max(len(cut.losses) for cut in first.values())
    assert longest > 1
    # A trace of its own: had these been evaluated again, the losses would be other ones.
    (key,) = [key for key, cut in first.items() if len(cut.losses) == longest][:1]
    cut = first[key]
    edited = msgspec.structs.replace(cut, losses=(cut.losses[0] + 1e-3, *cut.losses[1:]))
    path = tmp_path / SAVED_FILE
    path.write_bytes(msgspec.json.encode(Saved(shard=(0, 1), cuts=first | {key: edited}, joint={})))
    assert look(tmp_path).cuts[key].losses[0] == edited.losses[0]
    path.write_bytes(msgspec.json.encode(Saved(shard=(0, 1), cuts=first, joint={})))
    assert look(tmp_path) == seen
    path.write_bytes(path.read_bytes()[:-20])
    assert look(tmp_path) == seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "prune"),
    [
        (0.01, PruneParams(examples=100, compensate=False)),
        (0.6, PRUNE),
    ],
)
def test_it_never_costs_more_than_stated(tmp_path, budget, prune):
    """The cost is at most the bound: the budget's share, or the least for a model of few groups."""
    params = msgspec.structs.replace(PARAMS, budget=budget)
    measured = measure(subject(), params, prune, seed=0, work=tmp_path, say=lambda _: None)
    scored = 3 * 100 if prune.criterion == "taylor" else 0
    most = bound(subject(), params, prune, Fixed(scores=scored + 2, piece=16, calibration=64))
    assert measured.cost <= most


def test_the_cost_is_what_really_ran(tmp_path, monkeypatch):
    """Counted from outside: examples through the stem, backward passes as two more. What is replayed
    did not run, so that is at least what the stem saw.
    """
    seen = {"forward": 0, "backward": 0}
    module = subject().module

    def count(_module, given, made):
        seen["forward"] += len(given[0])
        if made.requires_grad:
            seen["backward"] += len(given[0])

    hook = module.stem[0].register_forward_hook(count)
    try:
        counted = look(tmp_path)
    finally:
        hook.remove()
    cost = merge(subject(), PARAMS, [counted]).cost
    assert 0 < seen["forward"] + 2 * seen["backward"] <= cost * 1.5
    assert seen["backward"] == counted.base.examples
    # Cuts behind the stem are evaluated without it: most evaluations never run it.
    pieces = sum(len(cut.losses) for cut in counted.cuts.values())
    assert sum(cut.cost for cut in counted.cuts.values()) < 0.9 * pieces * 16


@pytest.mark.slow
def test_a_ruined_cut_has_a_finite_rise(tmp_path):
    """A loss that is no number becomes a very large one, and other cuts keep theirs."""

    class Fragile(DigitsTask):
        def loss(self, module, batch, generator):
            found = super().loss(module, batch, generator)
            return found if module.hidden.out_features == 14 else found * float("nan")

    about = Subject(
        task=Fragile(model=Deep),
        module=subject().module,
        groups=subject().groups,
        cost=subject().cost,
    )
    measured = measure(about, PARAMS, PRUNE, seed=0, work=tmp_path, say=lambda _: None)
    rises = {group.group: [p.loss_increase for p in group.cuts] for group in measured.groups}
    assert all(math.isfinite(rise) for found in rises.values() for rise in found)
    assert all(rise > 500 for rise in rises["hidden"])
    assert all(rise < 20 for name, found in rises.items() for rise in found if name != "hidden")


@pytest.mark.slow
def test_blocks_are_cuts_too(tmp_path):
    """Each removable block gets a rise, an error and the model's cost without it."""
    about = subject(blocks=True)
    assert [block.name for block in about.blocks] == ["block1", "block2"]
    measured = measure(about, PARAMS, PRUNE, seed=0, work=tmp_path, say=lambda _: None)
    for block in measured.blocks:
        assert math.isfinite(block.loss_increase)
        assert block.standard_error > 0.0
        assert block.macs < about.cost({}).macs
    full = measure(
        about,
        msgspec.structs.replace(PARAMS, method="full"),
        PRUNE,
        seed=0,
        work=tmp_path / "full",
        say=lambda _: None,
    )
    for near, far in zip(measured.blocks, full.blocks, strict=True):
        error = math.hypot(near.standard_error, far.standard_error)
        assert abs(near.loss_increase - far.loss_increase) < 4 * error + 0.05


@pytest.mark.slow
def test_the_model_is_left_as_it_was(tmp_path):
    """No weight, statistic, hook or forward of the dense model changes."""
    module = subject().module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    look(tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    for layer in module.modules():
        assert "forward" not in layer.__dict__
        assert not layer._forward_hooks
        assert not layer._forward_pre_hooks
        assert not layer.training


@pytest.mark.slow
def test_only_tune_calibration_and_train_are_looked_at(tmp_path):
    """The task has no eval split at all: a look at it would fail here."""
    assert "eval" not in SIZES
    look(tmp_path)


@settings(max_examples=30, deadline=None)
@given(
    share=st.floats(0.01, 1.0),
    examples=st.integers(100, 5000),
    scores=st.integers(0, 5000),
    piece=st.integers(1, 128),
)
def test_parts_of_the_budget_never_exceed_it(share, examples, scores, piece):
    """Whatever the numbers: calibration, slopes, joint plans and evaluations fit into the bound."""
    from reprune.compress.sensitivity.spending import JOINT_PLANS, sizes

    params = msgspec.structs.replace(PARAMS, budget=share, examples=examples)
    fixed = Fixed(scores=scores, piece=piece, calibration=64)
    found = sizes(subject(), params, PRUNE, fixed)
    spent = scores + found.calibration + piece * (3 * found.slopes + JOINT_PLANS * found.joint)
    spent += sum(found.direct.values()) + found.free
    assert spent <= bound(subject(), params, PRUNE, fixed) + 1e-6


def test_a_cut_without_a_closed_form_has_no_slopes():
    """Zeros would be taken for known changes that never vary, and shrink its error to nothing."""
    about = subject()
    module = about.module
    batches = list(about.task.batches("tune", epoch=0, seed=0))
    changed = {"head": Refit(weight=module.head.weight.detach() * 0.9, bias=None)}
    found = slopes(about.task, module, {"closed": changed, "open": {}}, batches, seed=0)
    assert len(found.changes["closed"]) == len(batches)
    assert found.changes["open"] == ()
    rises = (0.1, 0.3, 0.2)
    told = estimate(Trace(rises=rises, slopes=found.changes["open"]), 0.7)
    assert told.per_piece == pytest.approx(np.var(rises, ddof=1))


@pytest.mark.slow
def test_every_piece_of_a_trace_is_of_one_model(tmp_path, monkeypatch):
    """Norms before a cut are the dense model's where its outputs are replayed: so they are where the cache
    is full and nothing is.
    """
    params = msgspec.structs.replace(PARAMS, precision=1e-6)
    prune = PruneParams(examples=100, criterion="l2", compensate=False)
    cached = look(tmp_path / "cached", params=params, prune=prune)
    monkeypatch.setattr("reprune.compress.sensitivity.slopes.CACHE_BYTES", -1)
    full = look(tmp_path / "full", params=params, prune=prune)
    deep = [group.name for group in subject().groups if group.name.startswith(("block2", "hidden"))]
    assert any(cached.cuts[key].repair for key in cached.cuts if key.startswith(tuple(deep)))
    for key, seen in full.cuts.items():
        both = list(zip(seen.losses, cached.cuts[key].losses, strict=False))
        assert all(one == pytest.approx(other, rel=1e-4) for one, other in both), key


@pytest.mark.parametrize(
    ("width", "expected"),
    [(2, {1: 1}), (3, {2: 0, 1: 2}), (4, {3: 0, 2: 1, 1: 2}), (64, {48: 0, 32: 1, 16: 2})],
)
def test_a_narrow_groups_cut_is_told_beside_its_like(width, expected):
    """Half of two channels is half, not the gentlest share, though it is the group's first cut."""
    cuts = (0.25, 0.5, 0.75)
    seen = CutSeen(slopes=(), losses=(1.0,))
    part = Observed(
        shard=0,
        shards=1,
        base=BatchLosses(losses=(1.0,), sizes=(1,)),
        fixed=0.0,
        cuts={f"g@{keep}": seen for keep in expected},
        joint={},
    )
    about = SimpleNamespace(groups=[SimpleNamespace(name="g", width=width)], blocks=())
    rows = _rows(about, SensitivityParams(cuts=cuts), [part])
    assert {int(row.key.removeprefix("g@")): row.share for row in rows} == expected
