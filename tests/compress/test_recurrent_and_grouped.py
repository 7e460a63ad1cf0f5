"""Recurrent layers and grouped convolutions: their groups, and that every cut is the masked model."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from reprune.compress.planning.costs import cost_model
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of, difference, mask
from reprune.compress.structure.groups import Survey, survey
from reprune.measure.profile import count_cost


def generic(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return module.eval()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def every_cut_is_the_mask(module: nn.Module, inputs: tuple[Tensor, ...], found: Survey) -> None:
    """Each group alone and all together, whatever half of the channels is kept."""
    for size, offset in itertools.product((1, len(found.groups)), range(3)):
        for chosen in itertools.combinations(found.groups, size):
            kept = {
                group.name: sorted((offset + 2 * n) % group.width for n in range(group.width // 2))
                for group in chosen
            }
            kept = {name: sorted(set(channels)) for name, channels in kept.items()}
            sliced = apply(module, architecture_of(module, chosen, kept))
            assert difference(mask(module, chosen, kept), sliced, [inputs]) < 1e-5


class Tagger(nn.Module):
    """A linear layer, a recurrent one, and readers of its outputs and of its last states."""

    def __init__(self, kind: type[nn.RNNBase], layers: int, bidirectional: bool) -> None:
        super().__init__()
        ways = 2 if bidirectional else 1
        self.before = nn.Linear(4, 6)
        self.rnn = kind(6, 8, layers, batch_first=True, bidirectional=bidirectional)
        self.token = nn.Linear(8 * ways, 6)
        self.whole = nn.Linear(8, 5)
        self.head = nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        made, state = self.rnn(torch.tanh(self.before(x)))
        last = state[0] if isinstance(state, tuple) else state
        both = [F.relu(self.token(made)).mean(1), F.relu(self.whole(last[-1]))]
        return self.head(torch.cat(both, dim=-1))


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_hidden_units_are_a_group_with_all_that_read_them(
    kind: type[nn.RNNBase], layers: int, bidirectional: bool
) -> None:
    """Outputs of both directions, last states, the layers above: one unit is one channel everywhere."""
    module = generic(Tagger(kind, layers, bidirectional))
    inputs = (torch.randn(3, 5, 4),)
    found = survey(module, inputs, ())
    assert {group.name: group.width for group in found.groups} == {
        "before": 6, "rnn": 8, "token": 6, "whole": 5,
    }  # fmt: skip
    assert list(found.skipped) == ["head"]
    (units,) = [group for group in found.groups if group.name == "rnn"]
    places = {(m.module, m.axis): m.positions[3] for m in units.members}
    assert places == {
        ("rnn", "out"): (3,),
        ("token", "in"): (3, 11) if bidirectional else (3,),
        ("whole", "in"): (3,),
    }
    every_cut_is_the_mask(module, inputs, found)


class Sequences(nn.Module):
    """Two recurrent layers in a row; the first is given packed sequences, the second its first state."""

    def __init__(self, unpacks: bool) -> None:
        super().__init__()
        self.unpacks = unpacks
        self.encoder = nn.GRU(4, 6, bidirectional=True)
        self.bridge = nn.Linear(6, 8)
        self.decoder = nn.LSTM(12 if unpacks else 4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        packed: PackedSequence = pack_padded_sequence(x, [5] * len(x), batch_first=True)
        made, state = self.encoder(packed)
        start = torch.tanh(self.bridge(state[1:]))
        read = pad_packed_sequence(made)[0] if self.unpacks else x.transpose(0, 1)
        return self.head(self.decoder(read, (start, start))[0][-1])


class Usual(nn.Module):
    """What tutorials write: first states of the layer's own shape, given by name."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.before = nn.Linear(4, 6)
        self.rnn = kind(6, 8, 2, bidirectional=True, batch_first=True, dropout=0.1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.rnn.flatten_parameters()
        ways = 2 if self.rnn.bidirectional else 1
        start = x.new_zeros(self.rnn.num_layers * ways, len(x), self.rnn.hidden_size)
        state = (start, start) if self.rnn.mode == "LSTM" else start
        given = torch.tanh(self.before(x)).reshape(len(x), -1, self.rnn.input_size)
        made, _ = self.rnn(input=given, hx=state)
        read = (self.rnn.bias, self.rnn.batch_first, self.rnn.dropout, self.rnn.proj_size)
        assert read == (True, True, 0.1, 0)
        return self.head(made[:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_forward_reads_of_a_recurrent_layer_is_there(kind: type[nn.RNNBase]) -> None:
    """flatten_parameters, the layer's numbers and its arguments by name: models are cut as others are."""
    module = generic(Usual(kind))
    inputs = (torch.randn(3, 5, 4),)
    found = survey(module, inputs, ())
    assert {group.name: group.width for group in found.groups} == {"before": 6, "rnn": 8}
    every_cut_is_the_mask(module, inputs, found)


class Final(nn.Module):
    """The last layer's final states of both directions side by side, alone or beside the outputs' mean."""

    def __init__(self, kind: type[nn.RNNBase], layers: int, beside: bool) -> None:
        super().__init__()
        self.rnn = kind(4, 6, layers, bidirectional=True, batch_first=True)
        self.wide = nn.Linear(24 if beside else 12, 8)
        self.head = nn.Linear(8, 3)
        self.beside = beside

    def forward(self, x: Tensor) -> Tensor:
        made, state = self.rnn(x)
        hidden = state[0] if isinstance(state, tuple) else state
        both = torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1)
        read = torch.cat([made.mean(1), both], dim=1) if self.beside else both
        return self.head(torch.relu(self.wide(read)))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(("layers", "beside"), [(1, False), (2, False), (2, True)])
def test_final_states_of_both_directions_are_followed(
    kind: type[nn.RNNBase], layers: int, beside: bool
) -> None:
    """What tutorials read of a bidirectional layer; the model was refused whole."""
    module = generic(Final(kind, layers, beside))
    inputs = (torch.randn(3, 5, 4),)
    found = survey(module, inputs, ())
    assert {group.name: group.width for group in found.groups} == {"rnn": 6, "wide": 8}
    every_cut_is_the_mask(module, inputs, found)


@pytest.mark.parametrize("unpacks", [False, True])
def test_packed_sequences_and_first_states_are_followed(unpacks: bool) -> None:
    """What makes the first state has the units of the layer that it starts."""
    module = generic(Sequences(unpacks))
    inputs = (torch.randn(3, 5, 4),)
    found = survey(module, inputs, ())
    groups = {group.name: {(m.module, m.axis) for m in group.members} for group in found.groups}
    readers = {("bridge", "in")} | ({("decoder", "in")} if unpacks else set())
    assert groups["encoder"] == {("encoder", "out")} | readers
    assert groups["bridge"] == {("bridge", "out"), ("decoder", "out"), ("head", "in")}
    every_cut_is_the_mask(module, inputs, found)


class FixedState(nn.Module):
    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.before = nn.Linear(4, 6)
        self.rnn = layer
        self.head = nn.Linear(3, 3)
        self.wide = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        read = self.before(x.transpose(0, 1))
        if getattr(self.rnn, "proj_size", 0):
            return self.head(self.rnn(read)[0][-1])
        return self.wide(self.rnn(read, read.new_zeros(1, len(x), 8))[0][-1])


# What torch says of projections on this machine.
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_what_cannot_be_cut_of_a_recurrent_layer_is_said() -> None:
    """A state whose size is written into forward(), projections, and cells."""
    inputs = (torch.randn(2, 5, 4),)
    fixed = survey(generic(FixedState(nn.GRU(6, 8))), inputs, ())
    assert "trial cut failed" in fixed.skipped["rnn"]
    assert [group.name for group in fixed.groups] == ["before"]
    projected = survey(generic(FixedState(nn.LSTM(6, 8, proj_size=3))), inputs, ())
    assert "proj_size" in projected.skipped["rnn"]
    assert projected.skipped["before"]
    assert projected.groups == ()

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before = nn.Linear(4, 6)
            self.cell = nn.GRUCell(6, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(self.before(x[:, 0])))

    celled = survey(generic(Cell()), inputs, ())
    assert celled.groups == ()
    assert "GRUCell" in celled.skipped["cell"]
    assert celled.skipped["before"]


class Grouped(nn.Module):
    """Grouped convolutions in a row, one of them fed by two layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 1)
        self.right = nn.Conv2d(3, 4, 1)
        self.two = nn.Conv2d(12, 16, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(16)
        self.four = nn.Conv2d(16, 8, 3, padding=1, groups=4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], dim=1)
        x = F.relu(self.four(F.relu(self.norm(self.two(both)))))
        return self.head(x.mean((2, 3)))


def test_a_grouped_convolution_loses_the_same_place_in_every_group() -> None:
    """Whatever writes its inputs goes together, also through a concatenation; groups stay."""
    module = generic(Grouped())
    inputs = (torch.randn(2, 3, 6, 6),)
    found = survey(module, inputs, ())
    widths = {group.name: group.width for group in found.groups}
    assert widths == {"left": 2, "right": 4, "two": 4, "four": 2}
    first, mixed, second, third = (
        {(m.module, m.axis): m.positions for m in group.members} for group in found.groups
    )
    # Inputs 0..5 and 6..11 of `two` are its groups: 1 goes with 7, and 2 with 8, which `right` makes.
    assert first["left", "out"][1] == (1, 7)
    assert (mixed["left", "out"][0], mixed["right", "out"][0]) == ((2,), (0,))
    assert mixed["two", "in"][0] == (2,)
    # Two groups of 8 outputs, four groups of 4 inputs: what meets is every fourth channel.
    assert second["two", "out"][1] == second["norm", "out"][1] == (1, 5, 9, 13)
    assert second["four", "in"][1] == (1,)
    assert third["head", "in"][1] == (1, 3, 5, 7)
    every_cut_is_the_mask(module, inputs, found)
    kept = {"two": [0, 2, 3]}
    sliced = apply(module, architecture_of(module, found.groups, kept))
    assert (sliced.two.out_channels, sliced.four.in_channels, sliced.four.groups) == (12, 12, 4)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 2, 3, padding=1, groups=2), "one output for several inputs"),
        (nn.ConvTranspose2d(4, 8, 1, groups=2), "grouped transposed"),
    ],
)
def test_other_grouped_layers_and_what_feeds_them_are_left_out_by_name(
    layer: nn.Module, reason: str
) -> None:
    """torch-pruning takes any layer with one output a group for depthwise; here it is said."""
    width = layer.out_channels
    module = generic(
        nn.Sequential(nn.Conv2d(3, 4, 1), layer, nn.Conv2d(width, 6, 1), nn.Conv2d(6, 2, 1))
    )
    found = survey(module, (torch.randn(2, 3, 6, 6),), ())
    assert [group.name for group in found.groups] == ["2"]
    assert reason in found.skipped["1"]
    assert reason in found.skipped["0"]


def test_inputs_of_one_input_groups_stay_and_their_outputs_are_cut() -> None:
    """Two outputs an input: an output of every group goes, an input of every group cannot."""
    layer = nn.Conv2d(4, 8, 3, padding=1, groups=4)
    module = generic(nn.Sequential(nn.Conv2d(3, 4, 1), layer, nn.Conv2d(8, 2, 1)))
    inputs = (torch.randn(2, 3, 6, 6),)
    found = survey(module, inputs, ())
    assert {group.name: group.width for group in found.groups} == {"1": 2}
    assert found.skipped["0"] == "it has one channel"
    every_cut_is_the_mask(module, inputs, found)


def ungrouped(module: nn.Conv2d) -> nn.Conv2d:
    """The same function as an ordinary convolution with zeros between the groups."""
    result = nn.Conv2d(module.in_channels, module.out_channels, module.kernel_size, padding=1)
    inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
    with torch.no_grad():
        result.weight.zero_()
        for group in range(module.groups):
            rows = slice(group * outputs, (group + 1) * outputs)
            columns = slice(group * inputs, (group + 1) * inputs)
            result.weight[rows, columns] = module.weight[rows]
        result.bias.copy_(module.bias)
    return result


def test_a_cut_grouped_convolution_is_the_ordinary_one_cut_at_the_same_places() -> None:
    """Against the same function without groups, its rows and columns taken by hand."""
    layer = nn.Conv2d(8, 12, 3, padding=1, groups=4)
    module = generic(nn.Sequential(nn.Conv2d(3, 8, 1), layer, nn.Conv2d(12, 2, 1)))
    inputs = torch.randn(2, 3, 6, 6)
    found = survey(module, (inputs,), ())
    kept = {"0": [1], "1": [0, 2]}
    sliced = apply(module, architecture_of(module, found.groups, kept))
    inside, outside = [1, 3, 5, 7], [0, 2, 3, 5, 6, 8, 9, 11]
    plain = ungrouped(layer)
    expected = F.conv2d(inputs, module[0].weight[inside], module[0].bias[inside])
    expected = F.conv2d(expected, plain.weight[outside][:, inside], plain.bias[outside], padding=1)
    expected = F.conv2d(expected, module[2].weight[:, outside], module[2].bias)
    assert torch.allclose(sliced(inputs), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda: Tagger(nn.LSTM, 2, True), torch.randn(1, 5, 4)),
        (lambda: Tagger(nn.GRU, 1, False), torch.randn(1, 5, 4)),
        (Grouped, torch.randn(1, 3, 6, 6)),
    ],
)
def test_the_cost_of_any_widths_is_what_the_cut_model_costs(
    build: Callable[[], nn.Module], inputs: Tensor
) -> None:
    """Parameters, MACs and bytes of recurrent and grouped layers, predicted against counted."""
    module = generic(build())
    found = survey(module, (inputs,), ())
    predicted = cost_model(module, found.groups, count_cost(module, (inputs,)))
    for keep in (1, 2):
        for groups in [(group,) for group in found.groups] + [found.groups]:
            widths = {group.name: min(keep, group.width) for group in groups}
            kept = {name: range(width) for name, width in widths.items()}
            sliced = apply(module, architecture_of(module, groups, kept))
            assert predicted(widths) == count_cost(sliced, (inputs,)).cost
