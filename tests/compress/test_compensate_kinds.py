"""Readers of every kind: fitted to the closed form where they can be, and named where they are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.compress import compensate as module_under_test
from reprune.compress import least_squares
from reprune.compress.compensate import compensated
from reprune.compress.layer_rows import input_rows
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.equality import architecture_of, difference
from reprune.compress.structure.groups import find_groups
from reprune.compress.structured import cut
from reprune.core.params import PruneParams
from tests import models
from tests.compress.test_compensate import batches_of

RIDGE = 1e-3
PLACES = {1: (9,), 2: (6, 5), 3: (4, 5, 3)}
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
ODD: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2}
READERS: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: nn.Conv1d(6, 4, **ODD),
    "conv1d, replicated": lambda: nn.Conv1d(6, 4, 3, padding=1, padding_mode="replicate"),
    "conv3d": lambda: nn.Conv3d(6, 4, **ODD, bias=False),
    "conv3d, same": lambda: nn.Conv3d(6, 4, (1, 3, 3), padding="same"),
    "up1d": lambda: nn.ConvTranspose1d(6, 4, **ODD, output_padding=1),
    "up2d": lambda: nn.ConvTranspose2d(6, 4, 2, stride=2),
    "up2d, odd": lambda: nn.ConvTranspose2d(
        6, 4, (3, 2), stride=(1, 3), padding=(2, 1), bias=False
    ),
    "up3d": lambda: nn.ConvTranspose3d(6, 4, (2, 1, 3), stride=(2, 1, 2), output_padding=(1, 0, 0)),
    "grouped 1d": lambda: nn.Conv1d(6, 4, 3, padding=1, groups=2),
    "grouped 2d": lambda: nn.Conv2d(6, 4, **ODD, groups=2),
    "grouped 2d, no bias": lambda: nn.Conv2d(6, 4, 3, groups=2, bias=False),
}


class Read(nn.Module):
    """A 1x1 convolution whose output the reader takes; the reader's outputs are not cut."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.make = CONVOLUTIONS[len(read.kernel_size)](3, 6, 1)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.read(torch.tanh(self.make(x)))


def cut_reader(name: str) -> tuple[Any, Any, Any, tuple[Tensor, ...], Any]:
    """Dense, sliced and refitted: channels 0 and 3 of `make` are gone, which fits two groups too."""
    torch.manual_seed(2)
    module = Read(READERS[name]()).eval()
    inputs = (torch.randn(24, 3, *PLACES[len(module.read.kernel_size)]),)
    groups = find_groups(module, (inputs[0][:2],), ("read",))
    (group,) = groups
    keep = range(1, group.width)  # a position of a grouped reader stands for one in every group
    architecture = architecture_of(module, groups, {group.name: keep})
    sliced = apply(module, architecture)
    made = compensated(module, sliced, architecture, groups, batches_of(inputs, 8), RIDGE)
    return module, sliced, made.module, inputs, made.unfitted


def design(layer: Any, x: Tensor, group: int) -> Tensor:
    """What each weight of one output of the group adds to that output, by running the layer with a single
    weight of 1: (rows, weights) in the order of the weight. Independent of how rows are gathered.
    """
    inputs = layer.in_channels // layer.groups
    read = x[:, group * inputs : (group + 1) * inputs]
    count = inputs * torch.Size(layer.kernel_size).numel()
    ones = torch.eye(count, dtype=x.dtype).reshape(count, inputs, *layer.kernel_size)
    single = type(layer)(
        inputs, count, layer.kernel_size, stride=layer.stride, padding=layer.padding,
        dilation=layer.dilation, bias=False, padding_mode=layer.padding_mode,
        **({"output_padding": layer.output_padding} if layer.transposed else {}),
    )  # fmt: skip
    single.to(x.dtype).weight.data.copy_(ones.movedim(0, 1) if layer.transposed else ones)
    return single(read).detach().movedim(1, -1).flatten(0, -2)


def closed_form(layer: Any, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """The ridge solution of each group by stacking the penalty under the rows, solved by QR."""
    weight = layer.weight.detach().double()
    filters = (weight.movedim(0, 1) if layer.transposed else weight).chunk(layer.groups)
    biases = [None] * layer.groups if layer.bias is None else layer.bias.chunk(layer.groups)
    found = []
    for group, (own, bias) in enumerate(zip(filters, biases, strict=True)):
        rows = design(layer, x.double(), group)
        wanted = y.double().chunk(layer.groups, dim=1)[group].movedim(1, -1).flatten(0, -2)
        penalty = torch.full((rows.shape[1],), RIDGE * float(rows.square().mean()))
        now = own.flatten(1).T
        if bias is not None:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
            penalty = torch.cat([penalty, 1e-6 * penalty[:1]])
            now = torch.cat([now, bias.detach().double()[None]])
        root = (penalty.double() * len(rows)).sqrt()
        stacked = torch.cat([rows, root.diag()])
        target = torch.cat([wanted, root[:, None] * now])
        best = torch.linalg.lstsq(stacked, target).solution
        count = own[0].numel()
        found.append((best[:count].T.reshape(own.shape), None if bias is None else best[count]))
    return found


@pytest.mark.parametrize("name", READERS)
def test_every_kind_of_reader_gets_the_closed_form(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the calibration examples the reader's outputs are nearer to the dense one's, and no nearer
    weights exist for the penalty (without the limit on their growth, which one of them would meet).
    """
    monkeypatch.setattr(least_squares, "MAX_GROWTH", 10.0)
    module, sliced, repaired, inputs, unfitted = cut_reader(name)
    assert not unfitted
    with torch.no_grad():
        wanted = module(*inputs)
        read = torch.tanh(sliced.make(*inputs))
        before = (sliced(*inputs) - wanted).square().mean()
        after = (repaired(*inputs) - wanted).square().mean()
        assert before > 1e-3
        assert after < 0.9 * before
        layer = repaired.read
        expected = closed_form(sliced.read, read, wanted)
        weight = layer.weight.movedim(0, 1) if layer.transposed else layer.weight
        for own, (filters, _) in zip(weight.chunk(layer.groups), expected, strict=True):
            assert torch.allclose(own.double(), filters, atol=1e-5)
        if layer.bias is not None:
            assert torch.allclose(
                layer.bias.double(), torch.cat([b for _, b in expected if b is not None]), atol=1e-5
            )
        assert torch.equal(repaired.make.weight, sliced.make.weight)


@pytest.mark.parametrize("name", READERS)
def test_rows_are_what_the_layer_reads(name: str) -> None:
    """Rows at chosen places, times the weights, are the layer's outputs there."""
    layer: Any = READERS[name]()
    x = torch.randn(2, 6, *PLACES[len(layer.kernel_size)])
    with torch.no_grad():
        y = layer(x)
        chosen = torch.arange(0, y[0, 0].numel(), 2)
        rows = input_rows(layer, x, y.shape[2:], chosen).chunk(layer.groups, dim=1)
        weight = layer.weight.movedim(0, 1) if layer.transposed else layer.weight
        made = torch.cat(
            [r @ w.flatten(1).T for r, w in zip(rows, weight.chunk(layer.groups), strict=True)], 1
        )
        made = made if layer.bias is None else made + layer.bias
        expected = y.flatten(2)[:, :, chosen].movedim(1, 2).flatten(0, 1)
    assert torch.allclose(made, expected, atol=1e-5)
    alone = input_rows(layer, x[0], y.shape[2:], chosen)
    assert torch.equal(alone, input_rows(layer, x[:1], y.shape[2:], chosen))


def test_a_grouped_reader_whose_outputs_are_cut_too_is_exact_where_it_can_be() -> None:
    """Channels 0 and 4 repeat 1 and 5; of the reader's outputs each group loses one."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.Conv2d(6, 2, 1)
    ).eval()
    with torch.no_grad():
        for tensor in module[0].parameters():
            tensor[[0, 4]] = tensor[[1, 5]]
        module[3].weight[:, [2, 5]] = 0.0  # what is cut there is not missed
    inputs = (torch.randn(16, 3, 6, 6),)
    groups = find_groups(module, (inputs[0][:2],), ())
    architecture = architecture_of(module, groups, {"0": (1, 2, 3), "2": (0, 1)})
    sliced = apply(module, architecture)
    made = compensated(module, sliced, architecture, groups, batches_of(inputs, 8), 1e-9)
    assert (made.module[2].in_channels, made.module[2].out_channels) == (6, 4)
    assert difference(module, sliced, [inputs]) > 1e-2
    assert difference(module, made.module, [inputs]) < 1e-4
    assert not made.unfitted


def dead(module: nn.Module) -> None:
    with torch.no_grad():
        module.conv.weight.zero_()
        module.conv.bias.fill_(-1.0)


@pytest.mark.parametrize(
    ("spoil", "limit", "reason"),
    [
        (dead, 2**30, "inputs are all zero"),
        (lambda module: None, 3 * 8 * 49**2, ""),
        (lambda module: None, 3 * 8 * 49**2 - 1, "over its 48 inputs would take"),
    ],
)
def test_what_is_not_refitted_says_why(
    spoil: Callable[[nn.Module], None], limit: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No input to fit on, too large for memory; a layer just within the limit is fitted."""
    monkeypatch.setattr(module_under_test, "FIT_BYTES", limit)
    module = models.build("flattened")
    inputs = models.inputs("flattened", 64)
    groups = find_groups(module, models.inputs("flattened", 2), ())
    spoil(module)
    architecture = architecture_of(module, groups, {"conv": range(3, 6)})
    sliced = apply(module, architecture)
    made = compensated(module, sliced, architecture, groups, batches_of(inputs, 32), RIDGE)
    assert list(made.unfitted) == (["fc1"] if reason else [])
    assert reason in made.unfitted.get("fc1", "")
    assert torch.equal(made.module.fc1.weight, sliced.fc1.weight) == bool(reason)


def test_what_cannot_be_bounded_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ridge is strong enough for a limit that the layer's own weights break."""
    monkeypatch.setattr(least_squares, "MAX_GROWTH", 0.5)
    module, sliced, repaired, _, unfitted = cut_reader("grouped 2d")
    assert "no solution keeps its weights within 0.5 times" in unfitted["read"]
    assert unfitted["read"].endswith("(in 2 of 2 groups)")
    assert torch.equal(repaired.read.weight, sliced.read.weight)
    assert module.read.groups == 2


@pytest.mark.slow
def test_the_cut_says_and_records_what_was_not_made_up_for(
    model_task: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the console and in the surgery's facts; nothing where all was refitted, behind removed blocks too,
    or where compensation is off.
    """
    name = "resnet-b"
    module = models.build(name)
    task: Any = model_task(name)
    groups = find_groups(module, models.inputs(name, 2), ())
    blocks = [
        b for b in find_blocks(module, models.inputs(name, 2), ()).blocks if b.name == "block3"
    ]
    widths = {"block2.conv1": 8}

    def told(params: PruneParams, gone: Sequence[Any] = ()) -> tuple[str, Any]:
        lines: list[str] = []
        made = cut(task, module, groups, widths, params, 0, lines.append, blocks=gone)
        return "\n".join(lines), made.surgery

    plain = PruneParams(examples=64, criterion="l2")
    text, surgery = told(plain)
    assert not surgery.unfitted
    assert "refitted" not in text
    text, surgery = told(plain, blocks)
    assert "no weight makes up for the removed blocks (block3)" in text
    text, surgery = told(PruneParams(examples=64, criterion="l2", refit="onwards"), blocks)
    assert not surgery.unfitted
    assert "refitted" not in text
    assert not surgery.left
    text, surgery = told(PruneParams(examples=8, criterion="l2", refit="onwards"), blocks)
    (layer, *_), (reason, *_) = surgery.left.keys(), surgery.left.values()
    assert "fewer than 4 rows an input" in reason
    assert f"left as they are behind the cut, because {reason}: {layer}" in text
    monkeypatch.setattr(module_under_test, "FIT_BYTES", 1000)
    text, surgery = told(plain)
    assert list(surgery.unfitted) == ["block2.conv2"]
    assert f"not refitted: block2.conv2 ({surgery.unfitted['block2.conv2']})" in text
    text, surgery = told(PruneParams(examples=64, criterion="l2", compensate=False), blocks)
    assert not surgery.unfitted
    assert "refitted" not in text


def test_the_up_convolution_of_a_unet_is_refitted() -> None:
    """The transposed convolution that reads the bottleneck: nearer than with its weights as they were."""
    module = models.build("unet")
    inputs = models.inputs("unet", 64)
    groups = find_groups(module, models.inputs("unet", 2), ())
    (down,) = (g for g in groups if any(m.module == "up" and m.axis == "in" for m in g.members))
    architecture = architecture_of(module, [down], {down.name: range(down.width // 2)})
    sliced = apply(module, architecture)
    made = compensated(module, sliced, architecture, [down], batches_of(inputs, 32), RIDGE)
    assert not made.unfitted
    with torch.no_grad():
        apart = [F.mse_loss(net(*inputs), module(*inputs)) for net in (sliced, made.module)]
    assert apart[1] < 0.9 * apart[0]
