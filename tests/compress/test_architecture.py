"""Cuts as data: what JSON accepts, and that slicing keeps exact bits and refuses what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reprune.compress.structure.architecture import (
    Architecture,
    ModuleCut,
    apply,
    read_architecture,
    write_architecture,
)
from reprune.core.errors import CheckpointError, CompressionError, SchemaTooNew
from tests import models


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    cuts = []
    for name in draw(st.sets(st.text("abc.0", min_size=1, max_size=6), max_size=4)):
        keep = draw(st.sets(st.integers(0, 40), min_size=1))
        cuts.append(
            ModuleCut(
                module=name,
                axis=draw(st.sampled_from(["out", "in"])),
                size=max(keep) + draw(st.integers(1, 9)),
                keep=tuple(sorted(keep)),
            )
        )
    return Architecture(cuts=tuple(cuts))


@settings(deadline=None)
@given(architecture=architectures())
def test_writing_and_reading_is_identity(
    architecture: Architecture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any architecture survives its JSON, and is written the same again."""
    folder = tmp_path_factory.mktemp("architecture")
    write_architecture(folder / "one.json", architecture)
    again = read_architecture(folder / "one.json")
    assert again == architecture
    write_architecture(folder / "two.json", again)
    assert (folder / "one.json").read_bytes() == (folder / "two.json").read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        '{"schema": 1, "cuts": [], "extra": 1}',
        '{"schema": 1, "cuts": [{"module": "a", "axis": "up", "size": 2, "keep": [0]}]}',
        '{"schema": 1, "cuts": [{"module": "a", "axis": "in", "size": 2, "keep": []}]}',
        '{"schema": 1, "cuts": [{"module": "a", "axis": "in", "size": 2, "keep": [-1]}]}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    """What is not exactly an architecture is a CheckpointError that names the file."""
    path = tmp_path / "architecture.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"architecture\.json"):
        read_architecture(path)


def test_a_newer_format_is_refused_as_newer(tmp_path: Path) -> None:
    """A later schema says that Reprune must be upgraded."""
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps({"schema": 3, "cuts": []}))
    with pytest.raises(SchemaTooNew):
        read_architecture(path)


def one(module: str, axis: str, size: int, *keep: int) -> Architecture:
    return Architecture(cuts=(ModuleCut(module=module, axis=axis, size=size, keep=keep),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        (one("nowhere", "out", 8, 0), "no such layer"),
        (one("first.0", "out", 9, 0), "has 8 positions"),
        (one("first.0", "out", 8, 1, 0), "ascending"),
        (one("first.0", "out", 8, 0, 0), "ascending"),
        (one("first.0", "out", 8, 8), "ascending"),
        (one("first.1", "in", 8, 0), "cannot be cut"),
        (one("first", "out", 8, 0), "cannot be cut"),
        (
            Architecture(cuts=one("head", "in", 16, 0).cuts + one("head", "in", 16, 1).cuts),
            "cut twice",
        ),
    ],
)
def test_a_cut_that_does_not_fit_is_refused(architecture: Architecture, reason: str) -> None:
    """Unknown layers, other widths, and positions out of order or range change nothing and say why."""
    module = models.build("plain")
    with pytest.raises(CompressionError, match=reason):
        apply(module, architecture)
    assert module.first[0].out_channels == 8


def test_a_group_norm_loses_whole_groups_or_nothing() -> None:
    """Half a group would change the statistics of the rest; a whole one corrects num_groups."""
    module = nn.Sequential(nn.GroupNorm(4, 8))
    with pytest.raises(CompressionError, match="whole groups"):
        apply(module, one("0", "out", 8, 0, 1, 2))
    with pytest.raises(CompressionError, match="whole groups"):
        apply(module, one("0", "out", 8, 0, 3))
    smaller = apply(module, one("0", "out", 8, 0, 1, 4, 5))
    assert (smaller[0].num_groups, smaller[0].num_channels) == (2, 4)
    assert smaller(torch.randn(2, 4, 3)).shape == (2, 4, 3)


def test_a_grouped_convolution_keeps_as_many_outputs_in_every_group() -> None:
    """Else it is no convolution any more; its axis "in" is that of one group, and counts for all."""
    grouped = nn.Sequential(nn.Conv2d(8, 12, 3, groups=2))
    for uneven in [(0, 1, 6), (0, 1, 2), (0,)]:
        with pytest.raises(CompressionError, match="same number of outputs"):
            apply(grouped, one("0", "out", 12, *uneven))
    smaller = apply(grouped, one("0", "out", 12, 0, 3, 7, 11))[0]
    assert (smaller.groups, smaller.in_channels, smaller.out_channels) == (2, 8, 4)
    assert torch.equal(smaller.weight, grouped[0].weight[[0, 3, 7, 11]])
    narrower = apply(grouped, one("0", "in", 4, 1, 2))[0]
    assert (narrower.groups, narrower.in_channels, narrower.out_channels) == (2, 4, 12)
    assert torch.equal(narrower.weight, grouped[0].weight[:, [1, 2]])
    image = torch.randn(2, 8, 5, 5)
    expected = F.conv2d(image[:, [1, 2, 5, 6]], narrower.weight, narrower.bias, groups=2)
    assert torch.equal(narrower(image[:, [1, 2, 5, 6]]), expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(8, 12, 3, groups=2),
        nn.LSTM(4, 8, proj_size=3),
    ],
)
def test_what_has_no_layout_is_refused(layer: nn.Module) -> None:
    """Grouped transposed convolutions and projected recurrent layers."""
    for axis in ("out", "in"):
        with pytest.raises(CompressionError, match="cannot be cut"):
            apply(nn.Sequential(layer), one("0", axis, 8, 0))


def test_a_depthwise_convolution_is_cut_on_one_axis() -> None:
    """groups, in_channels and out_channels of a depthwise convolution follow the cut."""
    depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8))
    smaller = apply(depthwise, one("0", "out", 8, 1, 6))[0]
    assert (smaller.groups, smaller.in_channels, smaller.out_channels) == (2, 2, 2)
    assert torch.equal(smaller.weight, depthwise[0].weight[[1, 6]])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_a_recurrent_layer_is_cut_in_every_gate_layer_and_direction(
    kind: type[nn.RNNBase], gates: int, bidirectional: bool
) -> None:
    """Against the weights written out; the result runs and its sizes are told."""
    ways = 2 if bidirectional else 1
    source = nn.Sequential(kind(5, 6, num_layers=2, bidirectional=bidirectional))
    cuts = one("0", "out", 6, 0, 2, 5).cuts + one("0", "in", 5, 1, 4).cuts
    smaller = apply(source, Architecture(cuts=cuts))[0]
    assert (smaller.hidden_size, smaller.input_size) == (3, 2)
    rows = [6 * gate + unit for gate in range(gates) for unit in (0, 2, 5)]
    read = [6 * way + unit for way in range(ways) for unit in (0, 2, 5)]
    for end in ("", "_reverse")[:ways]:
        old, new = source[0], smaller
        for name, columns in (
            (f"weight_ih_l0{end}", [1, 4]),
            (f"weight_hh_l0{end}", [0, 2, 5]),
            (f"weight_ih_l1{end}", read),
            (f"weight_hh_l1{end}", [0, 2, 5]),
        ):
            assert torch.equal(getattr(new, name), getattr(old, name)[rows][:, columns])
        assert torch.equal(getattr(new, f"bias_hh_l1{end}"), getattr(old, f"bias_hh_l1{end}")[rows])
    assert smaller(torch.randn(7, 2, 2))[0].shape == (7, 2, 3 * ways)


def test_kept_weights_have_their_very_bits_and_flags() -> None:
    """Slicing copies: bits and requires_grad stay, and the source does not see later changes."""
    source = nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6))
    source[0].weight.requires_grad_(False)
    result = apply(
        source,
        Architecture(
            cuts=(
                ModuleCut(module="0", axis="out", size=6, keep=(1, 5)),
                ModuleCut(module="0", axis="in", size=4, keep=(0, 3)),
                ModuleCut(module="1", axis="out", size=6, keep=(1, 5)),
            )
        ),
    )
    assert torch.equal(result[0].weight, source[0].weight[[0, 3]][:, [1, 5]])
    assert torch.equal(result[0].bias, source[0].bias[[1, 5]])
    assert not result[0].weight.requires_grad
    assert result[0].bias.requires_grad
    with torch.no_grad():
        result[1].running_mean.fill_(9.0)
    assert source[1].running_mean.max() == 0.0
