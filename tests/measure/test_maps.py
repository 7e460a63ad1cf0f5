"""Feature maps: of the examples that changed most, in the layers that changed most, small, and true."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reprune.compress.structure.architecture import Architecture, ModuleCut, apply
from reprune.core.artifacts import MAPS_FILE, ShownMaps
from reprune.core.documents import decode_json
from reprune.measure.maps import MOST_CHANNELS, MOST_LAYERS, Compared, most_changed, write_maps
from reprune.measure.shown import MAX_SIDE
from reprune.task.protocol import Batch

KEPT = (0, 2, 5)


def net(width: int = 6) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 4, 3, padding=1),
        nn.Conv2d(4, 2, 1),
        nn.Flatten(),
        nn.Linear(2 * 16 * 16, 3),
    ).eval()


def batch(count: int = 4, side: int = 16, start: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(start)
    return Batch(
        inputs=(torch.rand((count, 1, side, side), generator=generator),),
        targets=torch.zeros(count, dtype=torch.int64),
        ids=tuple(f"e{start + row}" for row in range(count)),
        slices={},
    )


def pair(dense: nn.Module, candidate: nn.Module, **kept: object) -> Compared:
    return Compared(dense=dense, candidate=candidate, kept=kept.get("kept", {}))  # type: ignore[arg-type]


def written(out: Path, compared: Compared, batches: list[Batch], count: int = 3) -> ShownMaps:
    maps = write_maps(out, compared, batches, count)
    assert maps is not None
    raw = (out / MAPS_FILE).read_bytes()
    assert decode_json(raw, ShownMaps, name=MAPS_FILE) == maps
    return maps


def test_the_same_model_lost_nothing(tmp_path: Path) -> None:
    """A model against its copy differs nowhere, and every layer that makes images is there, in order."""
    maps = written(tmp_path, pair(net(), net()), [batch()])
    assert [one.layer for one in maps.layers] == ["0", "3", "4"]
    assert {one.relative for one in maps.layers} == {0.0}
    for one in maps.layers:
        assert len(one.maps) == len(maps.examples) == 3
        assert one.absent == ()
        assert one.strength == one.candidate_strength
        assert all(each.dense == each.candidate for each in one.maps)


def test_a_layer_that_was_masked_away_is_black(tmp_path: Path) -> None:
    """Where all of a layer's weights are masked, its map is empty and its channels are silent."""
    masked = net()
    with torch.no_grad():
        masked[3].weight.zero_()
        masked[3].bias.zero_()
    before = {name: value.clone() for name, value in masked.state_dict().items()}
    maps = written(tmp_path, pair(net(), masked), [batch()])
    by_name = {one.layer: one for one in maps.layers}
    assert by_name["3"].relative == 1.0
    assert by_name["0"].relative == 0.0
    assert set(by_name["3"].candidate_strength) == {0}
    assert all(set(each.candidate) == {0} and max(each.dense) == 255 for each in by_name["3"].maps)
    assert all(torch.equal(value, before[name]) for name, value in masked.state_dict().items())
    assert not any(module._forward_hooks for module in masked.modules())


def test_channels_that_were_cut_are_absent(tmp_path: Path) -> None:
    """The mean is over the dense model's channels; which are gone is said, and they have no strength."""
    dense = net()
    cuts = (
        ModuleCut(module="0", axis="out", size=6, keep=KEPT),
        ModuleCut(module="1", axis="out", size=6, keep=KEPT),
        ModuleCut(module="3", axis="in", size=6, keep=KEPT),
    )
    candidate = apply(dense, Architecture(cuts=cuts)).eval()
    given = batch(1)
    kept = {cut.module: (cut.size, cut.keep) for cut in cuts if cut.axis == "out"}
    maps = written(tmp_path, pair(dense, candidate, kept=kept), [given], 1)
    first = maps.layers[0]
    assert (first.layer, first.channels, first.absent) == ("0", 6, (1, 3, 4))
    assert [first.candidate_strength[place] for place in first.absent] == [0, 0, 0]
    with torch.no_grad():
        outputs = dense[0](*given.inputs)[0].abs()
    expected, left = outputs.mean(dim=0), outputs[list(KEPT)].sum(dim=0) / 6
    peak = float(torch.maximum(expected, left).max())
    shown = torch.tensor(list(first.maps[0].candidate)).reshape(16, 16)
    assert (shown - left / peak * 255).abs().max() <= 0.51
    assert first.relative == pytest.approx(
        float((expected - left).norm() / expected.norm()), rel=1e-4
    )


def test_a_cut_that_nobody_can_place_is_not_drawn(tmp_path: Path) -> None:
    """Without the kept channels a narrower layer cannot be laid over the dense one: it is left out."""
    maps = written(tmp_path, pair(net(6), net(3)), [batch()])
    assert [one.layer for one in maps.layers] == ["3", "4"]


def test_the_examples_that_changed_most_come_first() -> None:
    """Over all batches, by |difference| / |dense| of the outputs; ids tell which."""

    class Twisted(nn.Module):
        def __init__(self, row: float) -> None:
            super().__init__()
            self.row = row

        def forward(self, image: Tensor) -> Tensor:
            flat = image.flatten(1)
            # What is brighter than the threshold is answered otherwise.
            return torch.where(flat.mean(dim=1, keepdim=True) > self.row, -flat, flat)

    batches = [batch(3), batch(3, start=3)]
    for place, one in enumerate(batches):
        one.inputs[0].mul_(0.01)
        one.inputs[0][place] += 1.0
    chosen = most_changed(pair(Twisted(9.0), Twisted(0.5)), batches, 2)
    assert [(one.ids[row]) for one, row in chosen] == ["e0", "e4"]


def test_pictures_are_few_and_small(tmp_path: Path) -> None:
    """Of a deep, wide model on large images: four layers, 48 pixels a side, 128 channels, 200 kB."""
    torch.manual_seed(1)
    widths = [1, *[MOST_CHANNELS + 2] * 7]
    layers = [nn.Conv2d(i, o, 1, bias=False) for i, o in pairwise(widths)]
    dense, other = nn.Sequential(*layers).eval(), copy.deepcopy(nn.Sequential(*layers)).eval()
    with torch.no_grad():
        for layer in other:
            layer.weight.mul_(0.8)
    maps = written(tmp_path, pair(dense, other), [batch(3, side=60)])
    # Each layer adds to the loss of those before it.
    assert [one.layer for one in maps.layers] == ["3", "4", "5", "6"]
    assert len(maps.layers) == MOST_LAYERS
    for one in maps.layers:
        assert len(one.strength) == MOST_CHANNELS < one.channels
        assert all(max(each.width, each.height) == MAX_SIDE for each in one.maps)
    assert (tmp_path / MAPS_FILE).stat().st_size < 200_000


def test_a_thin_line_fades_and_does_not_vanish(tmp_path: Path) -> None:
    """Making a picture smaller takes means: one bright row among hundreds still shows."""
    same = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)).eval()
    with torch.no_grad():
        same[0].weight.fill_(1.0)
    given = batch(1, side=480)
    given.inputs[0].zero_()
    given.inputs[0][0, 0, 123] = 1.0
    (layer,) = written(tmp_path, pair(same, same), [given], 1).layers
    shown = np.frombuffer(layer.maps[0].dense, dtype=np.uint8).reshape(MAX_SIDE, MAX_SIDE)
    assert (shown > 0).sum() == MAX_SIDE
    assert layer.maps[0].peak == pytest.approx(0.1, rel=1e-4)


def test_a_model_without_images_has_no_maps(tmp_path: Path) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).eval()
    assert write_maps(tmp_path, pair(linear, linear), [batch()], 3) is None
    assert not (tmp_path / MAPS_FILE).exists()
