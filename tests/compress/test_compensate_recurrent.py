"""LSTM, GRU and RNN refitted: to nothing lost where units or inputs repeat each other, else named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
)

from reprune.compress import compensate as module_under_test
from reprune.compress.compensate import compensated
from reprune.compress.recurrent_fit import call_of, unrolled
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of, difference
from reprune.compress.structure.groups import find_groups
from tests.compress.test_compensate import batches_of

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"batch_first": True},
    "steps first": {},
    "stacked": {"num_layers": 2, "batch_first": True},
    "both ways": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "no bias": {"bias": False, "batch_first": True},
}
KINDS: dict[str, Callable[..., nn.RNNBase]] = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN": nn.RNN,
    "RNN, relu": lambda *sizes, **knobs: nn.RNN(*sizes, nonlinearity="relu", **knobs),
}
LENGTHS = (3, 6, 1, 4)


class Sequence3(nn.Module):
    """Linear, a recurrent layer, Linear; the middle one begins with states where `started`."""

    def __init__(self, rnn: nn.RNNBase, *, packs: bool = False, started: bool = False) -> None:
        super().__init__()
        self.before = nn.Linear(4, 8)
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size * (1 + rnn.bidirectional), 5)
        self.start = nn.Linear(4, rnn.hidden_size) if started else None
        self.packs = packs

    def forward(self, x: Tensor) -> Tensor:
        read: Any = torch.tanh(self.before(x))
        if self.packs:
            lengths = sorted((LENGTHS[row % len(LENGTHS)] for row in range(len(x))), reverse=True)
            read = pack_padded_sequence(read, lengths, batch_first=True)
        if self.start is not None:
            made = self.rnn(read, torch.tanh(self.start(x.mean(1)))[None])[0]
        else:
            made = self.rnn(read)[0]
        if self.packs:
            made = made.data
        out: Tensor = self.head(made)
        return out


def repeat_units(layer: nn.RNNBase) -> None:
    """Unit 4 + i becomes what unit i is, in every gate, layer and direction."""
    with torch.no_grad():
        for name, tensor in layer.named_parameters():
            tensor.mul_(3.0)
            rows = tensor.unflatten(0, (-1, 8))
            rows[:, 4:] = rows[:, :4]
            if name.startswith("weight"):
                assert rows.data_ptr() == tensor.data_ptr()


def refitted(
    module: nn.Module, kept: dict[str, Sequence[int]], inputs: tuple[Tensor, ...]
) -> tuple[float, float, Any]:
    """How far the sliced and the refitted network are from the dense one, and what was refitted."""
    module.eval()
    groups = find_groups(module, (inputs[0][:4],), ())
    assert set(kept) <= {group.name for group in groups}
    architecture = architecture_of(module, groups, kept)
    sliced = apply(module, architecture)
    made = compensated(module, sliced, architecture, groups, batches_of(inputs, 8), 1e-9)
    return difference(module, sliced, [inputs]), difference(module, made.module, [inputs]), made


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_that_repeats_another_is_made_up_for(kind: str, shape: str) -> None:
    """The cut of one of each two equal units loses nothing, in every gate, layer and direction."""
    torch.manual_seed(0)
    layer = KINDS[kind](8, 8, **SHAPES[shape])
    repeat_units(layer)
    lost, left, made = refitted(Sequence3(layer), {"rnn": range(4)}, (torch.randn(64, 6, 4),))
    assert made.module.rnn.hidden_size == 4
    assert not made.unfitted
    assert lost > 1e-2
    assert left < 1e-2 * lost


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_input_that_repeats_another_is_made_up_for(kind: str, shape: str) -> None:
    torch.manual_seed(0)
    module = Sequence3(KINDS[kind](8, 8, **SHAPES[shape]))
    with torch.no_grad():
        module.before.weight[4:] = module.before.weight[:4]
        module.before.bias[4:] = module.before.bias[:4]
    lost, left, made = refitted(module, {"before": range(4)}, (torch.randn(64, 6, 4),))
    assert made.module.rnn.input_size == 4
    assert not made.unfitted
    assert lost > 1e-2
    assert left < 1e-2 * lost


@pytest.mark.parametrize("options", [{"packs": True}, {"started": True}])
def test_sequences_of_several_lengths_and_states_to_begin_with(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    layer = nn.GRU(8, 8, batch_first=True, bidirectional="packs" in options)
    repeat_units(layer)
    module = Sequence3(layer, **options)
    if module.start is not None:
        with torch.no_grad():
            module.start.weight[4:] = module.start.weight[:4]
            module.start.bias[4:] = module.start.bias[:4]
    lost, left, made = refitted(module, {"rnn": range(4)}, (torch.randn(64, 6, 4),))
    assert not made.unfitted
    assert lost > 1e-2
    assert left < 1e-2 * lost


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_unrolled_is_what_the_layer_does(kind: str, shape: str) -> None:
    """With and without states, one sequence, and packed ones of several lengths."""
    torch.manual_seed(0)
    layer = KINDS[kind](4, 6, **SHAPES[shape]).eval()
    first = SHAPES[shape].get("batch_first", False)
    x = torch.randn(5, 7, 4)
    states = layer.num_layers * (1 + layer.bidirectional)
    packed = pack_sequence([torch.randn(n, 4) for n in LENGTHS], enforce_sorted=False)
    for given in (x, x[0], packed):
        packs = isinstance(given, PackedSequence)
        count = () if not packs and given.dim() == 2 else (4 if packs else 5 if first else 7,)
        start: Any = torch.randn(states, *count, 6)
        if kind == "LSTM":
            start = (start, torch.randn(states, *count, 6))
        for places, named in (((given,), {}), ((), {"hx": start, "input": given})):
            wanted = layer(*places, **named)[0]
            ways = unrolled(layer, call_of(layer, places, named))[-1]
            steps = [torch.cat(made, 1) for made in zip(*(way.made for way in ways), strict=True)]
            joined = packs or given.dim() == 2
            made = torch.cat(steps) if joined else torch.stack(steps, 1 if first else 0)
            torch.testing.assert_close(made, wanted.data if packs else wanted)


def test_how_much_is_made_up_for_where_nothing_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of 16 random units, on sequences that no fit has seen: less than half as far from the dense
    network as the plain cut, and nearer than with the head alone refitted. A pass of both networks a layer is
    counted, beside a batch that shows the order of the layers and one that shows sizes.
    """
    torch.manual_seed(0)
    module = Sequence3(nn.LSTM(8, 16, batch_first=True)).eval()
    with torch.no_grad():
        for tensor in module.rnn.parameters():
            tensor.mul_(3.0)
    inputs, fresh = (torch.randn(256, 12, 4),), (torch.randn(64, 12, 4),)
    groups = find_groups(module, (inputs[0][:4],), ())
    architecture = architecture_of(module, groups, {"rnn": range(8)})
    sliced = apply(module, architecture)
    made = compensated(module, sliced, architecture, groups, batches_of(inputs, 32), 1e-3)
    assert made.forwarded == 2 * 32 + 4 * 256
    monkeypatch.setattr(module_under_test, "unrolls", lambda _: False)
    head_alone = compensated(module, sliced, architecture, groups, batches_of(inputs, 32), 1e-3)
    assert list(head_alone.unfitted) == ["rnn"]
    assert head_alone.forwarded == 2 * 32 + 2 * 256

    def apart(other: nn.Module) -> float:
        with torch.no_grad():
            return float((other(*fresh) - module(*fresh)).square().mean())

    assert apart(made.module) < 0.5 * apart(sliced)
    assert apart(made.module) < 0.9 * apart(head_alone.module)


class Doubled(nn.LSTM):
    """Does more than nn.LSTM does."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        made, state = super().forward(input, hx)
        return 2.0 * made, state


@pytest.mark.parametrize("kept", [{"before": range(4)}, {"rnn": range(4)}])
def test_a_layer_with_a_forward_of_its_own_is_left_and_named(kept: dict[str, range]) -> None:
    """Its weights have the bits that slicing left, and other readers are refitted."""
    torch.manual_seed(0)
    module = Sequence3(Doubled(8, 8, batch_first=True)).eval()
    inputs = (torch.randn(16, 5, 4),)
    groups = find_groups(module, (inputs[0][:4],), ())
    architecture = architecture_of(module, groups, kept)
    sliced = apply(module, architecture)
    made = compensated(module, sliced, architecture, groups, batches_of(inputs, 8), 1e-3)
    assert made.unfitted == {"rnn": "no least squares for Doubled"}
    before = sliced.rnn.state_dict()
    assert all(
        torch.equal(value, before[key]) for key, value in made.module.rnn.state_dict().items()
    )
    assert torch.equal(made.module.head.weight, sliced.head.weight) == ("before" in kept)


def test_a_layer_too_large_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacked and both ways, 4 units a way: the upper layer reads 8 numbers and its own 4."""
    layer = nn.GRU(8, 8, num_layers=2, bidirectional=True, batch_first=True)
    # Two ways with a GRU's two largest sums each, and two more to solve one.
    most = 8 * (2 * 2 + 2) * 13**2
    for limit, reason in ((most, ""), (most - 1, "over its 12 inputs would take")):
        monkeypatch.setattr(module_under_test, "FIT_BYTES", limit)
        made = refitted(Sequence3(layer), {"rnn": range(4)}, (torch.randn(16, 6, 4),))[2]
        assert ("rnn" in made.unfitted) == bool(reason)
        assert reason in made.unfitted.get("rnn", "")


def test_a_part_that_cannot_be_fitted_is_counted() -> None:
    """Sequences of one step that begin with nothing never show what a state is for."""
    torch.manual_seed(0)
    module = Sequence3(nn.GRU(8, 8, batch_first=True))
    made = refitted(module, {"before": range(4)}, (torch.randn(64, 1, 4),))[2]
    assert "inputs are all zero" in made.unfitted["rnn"]
    assert made.unfitted["rnn"].endswith("(in 1 of 3 parts)")


def test_under_autocast_the_layer_is_refitted() -> None:
    """What comes to it is bfloat16, and its weights are not."""

    class Cast(Sequence3):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x).float()

    torch.manual_seed(0)
    layer = nn.LSTM(8, 8, batch_first=True)
    repeat_units(layer)
    lost, left, made = refitted(Cast(layer), {"rnn": range(4)}, (torch.randn(64, 6, 4),))
    assert not made.unfitted
    assert left < 0.2 * lost
