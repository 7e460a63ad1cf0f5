"""Widths obey `round_to` on every axis, and what cannot is said, never left whole in silence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from reprune.compress.planning.allocate import ladder
from reprune.compress.planning.costs import cost_model
from reprune.compress.planning.curves import Curve
from reprune.compress.planning.options import Options
from reprune.compress.structure.alignment import alignments
from reprune.compress.structure.architecture import apply, layout
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import Group, survey
from reprune.core.params import PlanParams
from reprune.measure.profile import count_cost
from tests.architectures import Grouped, Spec, UNetLevel, build, inputs, specs


def options(module: nn.Module, groups: tuple[Group, ...], inputs: tuple, round_to: int) -> Options:
    curves = {
        group.name: Curve(keeps=(group.width,), increases=(0.0,), errors=(0.0,)) for group in groups
    }
    cost = cost_model(module, groups, count_cost(module, inputs))
    params = PlanParams(round_to=round_to, min_keep=0.01)
    return Options.of(curves, cost, params, alignments(module, groups, round_to))


@settings(deadline=None)
@given(
    width=st.integers(1, 300),
    round_to=st.integers(1, 64),
    min_keep=st.floats(0.01, 1.0).map(lambda share: round(share, 3)),
)
def test_every_width_is_aligned_or_the_whole(width: int, round_to: int, min_keep: float) -> None:
    """No width is 0, above the full one or unaligned; the full width is always among them."""
    rungs = ladder(width, round_to=round_to, min_keep=min_keep)
    assert rungs[-1] == width
    assert all(0 < rung < width and rung % round_to == 0 for rung in rungs[:-1])
    assert all(rung >= min_keep * width for rung in rungs[:-1])
    assert list(rungs) == sorted(set(rungs))
    whole = min_keep * width <= round_to < width
    assert not whole or rungs[0] == round_to  # never left whole where one step fits


def test_any_allowed_width_leaves_every_axis_aligned() -> None:
    """Plain, grouped, transposed and concatenated: all lengths that a cut leaves are multiples of 4."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.Conv2d(16, 32, 3, padding=1, groups=4),
        UNetLevel(32, 8),
        nn.Conv2d(40, 8, 1),
        nn.Flatten(),
        nn.Linear(8 * 16, 3),
    ).eval()
    inputs = (torch.randn(1, 3, 4, 4),)
    found = survey(module, inputs, ())
    chosen = options(module, found.groups, inputs, 4)
    assert chosen.rungs["1"] == (1, 2, 3, 4, 5, 6, 7, 8)  # a channel is a place in each of 4 groups
    assert chosen.rungs["3"] == (4, 8)
    for level in range(4):
        widths = {name: rungs[min(level, len(rungs) - 1)] for name, rungs in chosen.rungs.items()}
        kept = {name: range(width) for name, width in widths.items()}
        cut = apply(module, architecture_of(module, found.groups, kept))
        for layer in cut.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.out_channels % 4 == 0
                assert layer.in_channels % 4 == 0 or layer.in_channels == 3


def places(groups: tuple[Group, ...], names: set[str]) -> dict[tuple[str, str], set[int]]:
    """Every index of every (layer, axis) that a channel of one of `names` is made of."""
    found: dict[tuple[str, str], set[int]] = {}
    for member in (member for group in groups if group.name in names for member in group.members):
        mine = found.setdefault((member.module, member.axis), set())
        mine.update(index for positions in member.positions for index in positions)
    return found


@pytest.mark.slow
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a spec is small enough to read as it is
)
@given(data=st.data(), spec=specs(), round_to=st.sampled_from([2, 3, 4, 8]))
def test_any_allowed_cut_of_a_generated_network_is_aligned(
    data: st.DataObject, spec: Spec, round_to: int
) -> None:
    """What a cut group leaves on any axis is a multiple; a group is left whole only where none fits."""
    module, given_inputs = build(spec), inputs(spec, 2)
    groups = survey(module, given_inputs, (), dimensions=True).groups
    chosen = options(module, groups, given_inputs, round_to)
    steps = alignments(module, groups, round_to)
    kept = {}
    for group in groups:
        rungs = chosen.rungs[group.name]
        assert (len(rungs) == 1) == (steps[group.name] >= group.width)
        width = data.draw(st.sampled_from(rungs), label=group.name)
        kept[group.name] = data.draw(st.permutations(range(group.width)))[:width]
    cut = {group.name for group in groups if len(kept[group.name]) < group.width}
    architecture = architecture_of(module, groups, kept)
    touched = places(groups, cut)
    assert {(one.module, one.axis) for one in architecture.cuts} == touched.keys()
    for one in architecture.cuts:
        found = layout(module.get_submodule(one.module), one.axis)
        assert found is not None
        untouched = one.size - len(touched[one.module, one.axis])
        assert (len(one.keep) - untouched) * found.per_position % round_to == 0, one.module
    with torch.no_grad():
        assert apply(module, architecture)(*given_inputs).isfinite().all()


def test_channels_of_different_sizes_stay_whole_where_they_cannot_be_aligned() -> None:
    """Two places here, one there: only all of them together are sure to be a multiple."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 1), Grouped(6, 3), nn.Flatten(), nn.Linear(6 * 16, 3))
    (group, *_) = survey(module.eval(), (torch.randn(1, 3, 4, 4),), ()).groups
    ragged = Group(
        name="ragged",
        width=3,
        members=tuple(
            type(member)(module=member.module, axis=member.axis, positions=((0, 1), (2,), (3,)))
            for member in group.members[:1]
        ),
    )
    assert alignments(module, [ragged], 8) == {"ragged": 3}
    assert alignments(module, [ragged], 1) == {"ragged": 1}
