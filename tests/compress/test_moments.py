"""Closed forms against what they replace: compensation, finite differences, and evaluations from scratch."""

from __future__ import annotations

import copy
import itertools
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reprune.compress.compensate import compensate
from reprune.compress.losses import first_batches
from reprune.compress.planning.costs import cost_model
from reprune.compress.replay import replayed, share_run, timeline, watched
from reprune.compress.sensitivity.joint import check, correction, random_plans
from reprune.compress.sensitivity.moments import input_moments, readers, refits, repaired
from reprune.compress.sensitivity.pieces import pieces
from reprune.compress.sensitivity.slopes import slopes
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import find_groups
from reprune.core.artifacts import JointCheck
from reprune.measure.profile import count_cost
from tests.compress.small_digits import DigitsTask, trained
from tests.compress.test_compensate import batches_of
from tests.compress.test_compensate_kinds import READERS, cut_reader
from tests.compress.test_compensate_kinds import RIDGE as KINDS_RIDGE

RIDGE = 1e-3


@cache
def parts():
    task = DigitsTask()
    module = trained(task)
    return task, module, find_groups(module, task.example_inputs(2), ())


class InPlace(nn.Module):
    """In-place activations, a module used by a later one, a tuple from a block, an unused module."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.pair = Pair(6)
        self.last = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = self.act(self.stem(x))
        one, other = self.pair(x)
        x = F.relu_(self.last(one + other + x))
        return self.head(x.mean(dim=(2, 3)))


class Pair(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        made = self.conv(x)
        return made, torch.relu(made)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [12, 8, 4])
def test_the_closed_form_is_what_compensation_solves(keep):
    """For a group with one reader the outputs equal those of `compensate`, to rounding."""
    task, module, groups = parts()
    batches = first_batches(task, "calibration", examples=200, seed=0)
    group = groups[0]
    kept = {group.name: tuple(range(keep))}
    architecture = architecture_of(module, [group], kept)
    sliced = apply(module, architecture)
    slow = compensate(module, sliced, architecture, [group], batches, RIDGE)
    moments = input_moments(module, list(readers(group)), batches)
    made = refits(module, groups, kept, moments, RIDGE)
    fast = repaired(module, groups, kept, made)
    inputs = batches[0].inputs
    with torch.no_grad():
        assert not torch.allclose(slow(*inputs), sliced(*inputs), atol=1e-2)
        assert torch.allclose(fast(*inputs), slow(*inputs), atol=2e-3)


@pytest.mark.parametrize("name", READERS)
def test_the_closed_form_of_readers_of_every_kind(name: str) -> None:
    """Transposed and grouped ones too: what `compensate` makes of the reader, to rounding."""
    module, sliced, repaired_slowly, inputs, unfitted = cut_reader(name)
    assert not unfitted
    [group] = find_groups(module, (inputs[0][:2],), ("read",))
    kept = {group.name: tuple(range(1, group.width))}
    moments = input_moments(module, ["read"], batches_of(inputs, 8))
    made = refits(module, [group], kept, moments, KINDS_RIDGE)
    fast = repaired(module, [group], kept, made)
    with torch.no_grad():
        wanted = repaired_slowly(*inputs)
        assert not torch.allclose(sliced(*inputs), wanted, atol=1e-2)
        assert torch.allclose(fast(*inputs), wanted, atol=2e-3)


def test_a_batch_that_gives_a_reader_no_row_adds_nothing() -> None:
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.read = nn.Linear(4, 2)

        def forward(self, x):
            return self.read(x[x[:, 0] > 0]).sum() + x.sum()

    x = torch.randn(8, 4)
    x[:4, 0], x[4:, 0] = -1.0, 1.0
    [moment] = input_moments(Routed(), ["read"], batches_of((x,), 4)).values()
    [same] = input_moments(Routed(), ["read"], batches_of((x[4:],), 4)).values()
    assert torch.equal(moment, same)


def test_without_moments_a_repair_is_the_plain_cut():
    """No data, no refit: the very weights that slicing leaves."""
    _, module, groups = parts()
    kept = {group.name: tuple(range(group.width // 2)) for group in groups}
    plain = apply(module, architecture_of(module, groups, kept))
    made = repaired(module, groups, kept, refits(module, groups, kept, {}, RIDGE))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, made.state_dict()[name])


def test_the_first_order_change_is_the_derivative_of_the_loss():
    """Going a small step towards a refit changes the loss by that step's share of the stated change."""
    task, module, groups = parts()
    batches = list(pieces(first_batches(task, "tune", examples=100, seed=0), 25))
    kept = {groups[0].name: tuple(range(12))}
    moments = input_moments(module, list(readers(groups[0])), batches)
    made = refits(module, groups, kept, moments, RIDGE)
    found = slopes(task, module, {"cut": made}, batches, seed=0)
    step = 1e-3
    for number, batch in enumerate(batches):
        losses = []
        for sign in (1.0, -1.0):
            moved = copy.deepcopy(module).double()
            with torch.no_grad():
                for name, refit in made.items():
                    layer = moved.get_submodule(name)
                    layer.weight += sign * step * (refit.weight.double() - layer.weight)
                    layer.bias += sign * step * (refit.bias.double() - layer.bias)
            inputs = tuple(tensor.double() for tensor in batch.inputs)
            with torch.no_grad():
                losses.append(float(F.cross_entropy(moved(*inputs), batch.targets)))
        derivative = (losses[0] - losses[1]) / (2 * step)
        assert found.changes["cut"][number] == pytest.approx(derivative, rel=0.02, abs=1e-5)


def test_dense_losses_and_outputs_come_with_the_slopes():
    """The losses are the model's own, the answers its outputs; no gradient is left anywhere."""
    task, module, groups = parts()
    batches = first_batches(task, "tune", examples=100, seed=0)
    module.zero_grad(set_to_none=True)
    found = slopes(task, module, {}, batches, seed=0, keep=("conv1",))
    with torch.no_grad():
        expected = module(*batches[0].inputs)
    assert torch.allclose(found.answers[0][0], expected, atol=1e-5)
    assert found.outputs[0]["conv1"].shape == (100, 16, 8, 8)
    assert found.losses.losses[0] == pytest.approx(
        float(F.cross_entropy(expected, batches[0].targets)), rel=1e-5
    )
    assert all(parameter.grad is None for parameter in module.parameters())
    assert len(groups) == 2


def test_a_replayed_model_gives_the_same_and_computes_less():
    """What ended before the change is not run again, in-place code and tuples included, twice in a row."""
    torch.manual_seed(0)
    module = InPlace().eval()
    inputs = torch.randn(4, 1, 8, 8)
    names = timeline(module, (inputs,)).before({"last"})
    assert set(names) == {"stem", "act", "pair"}
    with torch.no_grad(), watched(module, names) as seen:
        expected = module(inputs)
    with torch.no_grad():
        module.stem.weight.fill_(7.0)  # what is replayed is not looked at
        with replayed(module, seen):
            assert torch.equal(module(torch.zeros_like(inputs)), expected)
            assert torch.equal(module(torch.zeros_like(inputs)), expected)
        assert not torch.equal(module(inputs), expected)
    assert "forward" not in module.stem.__dict__


def test_nothing_is_skipped_that_a_change_may_reach():
    """Before the first layer nothing ends; an unused or unknown module skips nothing."""
    module = InPlace().eval()
    times = timeline(module, (torch.randn(1, 1, 8, 8),))
    assert times.before({"stem"}) == ()
    assert times.before({"head", "stem"}) == ()
    assert times.before({"unused"}) == ()
    assert "head" not in times.before({"head"})


def test_a_module_that_is_called_twice_is_never_skipped():
    """Its output is not one thing: neither it nor a change to it is replayed."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(self.a(x)))

    times = timeline(Twice().eval(), (torch.randn(1, 4),))
    assert times.before({"b"}) == ()
    assert times.before({"a"}) == ()


def test_the_share_that_ran_counts_macs_outside_what_was_skipped():
    """A skipped container takes its layers with it."""
    macs = {"a": 10, "b.c": 20, "b.d": 30, "e": 40}
    assert share_run(macs, 100, ("b",)) == pytest.approx(0.5)
    assert share_run(macs, 100, ("a", "b.c")) == pytest.approx(0.7)
    assert share_run(macs, 0, ()) == 1.0


@given(size=st.integers(1, 40))
def test_pieces_are_the_batches_again(size):
    """Nearly equal pieces, in order, none larger than asked; ids and targets go with them."""
    task, _, _ = parts()
    batches = first_batches(task, "tune", examples=200, seed=0)
    found = list(pieces(batches, size))
    assert [i for piece in found for i in piece.ids] == [i for b in batches for i in b.ids]
    assert torch.equal(
        torch.cat([p.targets for p in found]), torch.cat([b.targets for b in batches])
    )
    lengths = [len(piece) for piece in found]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(fraction=st.floats(0.3, 0.9), seed=st.integers(0, 1000))
def test_random_plans_lie_around_the_budget(fraction, seed):
    """Within the widths allowed, at 0.8 to 1.2 of the budget or at the least there is; the same again."""
    _, module, groups = parts()
    cost = cost_model(module, groups, count_cost(module, (torch.zeros(1, 1, 8, 8),)))
    widths = {group.name: group.width for group in groups}
    least = {group.name: group.width // 4 for group in groups}
    plans = random_plans(widths, least, cost, count=8, fraction=fraction, seed=seed)
    assert plans == random_plans(widths, least, cost, count=8, fraction=fraction, seed=seed)
    for plan in plans:
        assert all(least[name] <= keep <= widths[name] for name, keep in plan.items())
        share = cost(plan).macs / cost({}).macs
        assert share <= max(1.2 * fraction, cost(least).macs / cost({}).macs) + 1e-9
    assert len({tuple(plan.values()) for plan in plans}) > 4


@given(st.lists(st.tuples(st.floats(0.01, 10.0), st.floats(-1.0, 20.0)), min_size=1, max_size=12))
def test_a_correction_never_falls_and_keeps_zero(pairs):
    """Monotone from 0 on, whatever was measured."""
    joint = JointCheck(
        predicted=tuple(x for x, _ in pairs),
        measured=tuple(y for _, y in pairs),
        rank_correlation=0.0,
    )
    corrected = correction(joint)
    values = [corrected(float(x)) for x in np.linspace(0.0, 15.0, 60)]
    assert values[0] == 0.0
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(values))


def test_a_biased_sum_is_corrected():
    """Sums that are half of what was measured are doubled."""
    joint = check((0.5, 1.0, 2.0), (1.0, 2.0, 4.0))
    assert joint.rank_correlation == pytest.approx(1.0)
    assert correction(joint)(1.5) == pytest.approx(3.0)
    assert correction(joint)(3.0) == pytest.approx(6.0)
