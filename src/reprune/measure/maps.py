"""What layers make of an example before and after the cut: pictures that show where an answer was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from reprune.core.artifacts import (
    MAPS_FILE,
    MapPair,
    MappedLayer,
    ShownExample,
    ShownMaps,
)
from reprune.core.documents import canonical
from reprune.core.store import write_bytes
from reprune.measure.outputs import run_module
from reprune.measure.shown import MAX_SIDE, shown_example
from reprune.task.protocol import Batch

MOST_LAYERS = 4
MOST_CHANNELS = 128


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The dense model and the candidate. `kept` says, for each layer whose channels were cut, how many
    it had and which are left, in order.
    """

    dense: nn.Module
    candidate: nn.Module
    kept: Mapping[str, tuple[int, tuple[int, ...]]]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """One layer and one example: the mean of |output| over channels (H, W), and by channel (C,)."""

    image: Tensor
    strength: Tensor


def write_maps(out: Path, pair: Compared, batches: Sequence[Batch], count: int) -> ShownMaps | None:
    """Writes MAPS_FILE with the `count` examples of `batches` whose outputs the cut changed most, and what
    the layers that differ most make of them. None, and no file, for a model without layers that make
    images. Neither module is changed.
    """
    chosen = most_changed(pair, batches, count)
    looks = [_look(pair, batch, row) for batch, row in chosen]
    # A layer that one of the examples does not reach has nothing to compare.
    names = [name for name in looks[0] if all(name in look for look in looks)] if looks else []
    layers = [_mapped(name, [look[name] for look in looks], pair) for name in names]
    worst = sorted(layers, key=lambda one: -one.relative)[:MOST_LAYERS]
    if not worst:
        return None
    maps = ShownMaps(
        examples=tuple(_example(batch, row) for batch, row in chosen),
        layers=tuple(one for one in layers if one in worst),
    )
    write_bytes(out / MAPS_FILE, canonical(maps))
    return maps


def most_changed(pair: Compared, batches: Sequence[Batch], count: int) -> list[tuple[Batch, int]]:
    """The examples, as batch and row, whose outputs differ most between the two models, the first of them
    the most. What is compared is |difference| / |dense| over all outputs that are not integers.
    """
    found: list[tuple[float, Batch, int]] = []
    for batch in batches:
        outputs = [run_module(module, batch.inputs) for module in (pair.dense, pair.candidate)]
        gap, norm = torch.zeros(len(batch)), torch.zeros(len(batch))
        for one, other in zip(*outputs, strict=True):
            if one.is_floating_point() and one.shape == other.shape and len(one) == len(batch):
                gap += _square(one - other)
                norm += _square(one)
        share = (gap / norm.clamp_min(1e-30)).nan_to_num(posinf=0.0)
        found += [(float(share[row]), batch, row) for row in range(len(batch))]
    found.sort(key=lambda one: -one[0])
    return [(batch, row) for _, batch, row in found[:count]]


def _square(values: Tensor) -> Tensor:
    return values.detach().cpu().float().flatten(1).square().sum(dim=1)


def _example(batch: Batch, row: int) -> ShownExample:
    return shown_example(batch, row, None) or ShownExample(id=batch.ids[row])


def _look(pair: Compared, batch: Batch, row: int) -> dict[str, tuple[_Seen, _Seen]]:
    """What the layers that both models have make of one example, in the order in which they run."""
    dense, candidate = (_seen(module, batch, row) for module in (pair.dense, pair.candidate))
    found = {}
    for name, one in dense.items():
        other = _spread(candidate.get(name), len(one.strength), pair.kept.get(name))
        if other is not None and other.image.shape == one.image.shape:
            found[name] = (one, other)
    return found


def _seen(module: nn.Module, batch: Batch, row: int) -> dict[str, _Seen]:
    """By layer with weights that gives (N, C, H, W), what it gave the first time it ran."""
    found: dict[str, _Seen] = {}
    with _watched(module, len(batch), row, found):
        run_module(module, batch.inputs)
    return found


@contextmanager
def _watched(module: nn.Module, size: int, row: int, found: dict[str, _Seen]) -> Iterator[None]:
    def noting(name: str) -> Callable[[nn.Module, object, object], None]:
        def note(_: nn.Module, __: object, output: object) -> None:
            if name not in found and isinstance(output, Tensor) and _is_image(output, size):
                mine = output[row].detach().cpu().float().abs()
                found[name] = _Seen(image=mine.mean(dim=0), strength=mine.mean(dim=(1, 2)))

        return note

    handles = []
    for name, inner in module.named_modules():
        if name and isinstance(getattr(inner, "weight", None), nn.Parameter) and _weighs(inner):
            handles.append(inner.register_forward_hook(noting(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _weighs(module: nn.Module) -> bool:
    """Whether it mixes channels: a norm only scales what another layer made."""
    return module.get_parameter("weight").ndim > 1


def _is_image(output: Tensor, size: int) -> bool:
    fits = output.ndim == 4 and len(output) == size and min(output.shape[2:]) > 1
    return fits and output.is_floating_point()


def _spread(
    seen: _Seen | None, channels: int, kept: tuple[int, tuple[int, ...]] | None
) -> _Seen | None:
    """The candidate's layer over the dense one's channels, those that were cut 0; None where that cannot
    be told.
    """
    if seen is None or len(seen.strength) == channels:
        return seen
    if kept is None or kept[0] != channels or len(kept[1]) != len(seen.strength):
        return None
    strength = torch.zeros(channels)
    strength[list(kept[1])] = seen.strength
    return _Seen(image=seen.image * (len(kept[1]) / channels), strength=strength)


def _mapped(name: str, looks: Sequence[tuple[_Seen, _Seen]], pair: Compared) -> MappedLayer:
    gap = sum(float((one.image - other.image).square().sum()) for one, other in looks)
    norm = sum(float(one.image.square().sum()) for one, _ in looks)
    strengths = _strengths(looks)
    channels = len(looks[0][0].strength)
    size, left = pair.kept.get(name, (channels, ()))
    was_cut = bool(left) and size == channels
    peak = max(float(one.max()) for one in strengths)
    return MappedLayer(
        layer=name,
        relative=float(f"{(gap / norm) ** 0.5 if norm else float(gap > 0):.6g}"),
        channels=channels,
        absent=tuple(sorted(set(range(channels)) - set(left))) if was_cut else (),
        strength=_bytes(strengths[0][:MOST_CHANNELS], peak),
        candidate_strength=_bytes(strengths[1][:MOST_CHANNELS], peak),
        maps=tuple(_pair(one.image, other.image) for one, other in looks),
    )


def _strengths(looks: Sequence[tuple[_Seen, _Seen]]) -> tuple[Tensor, Tensor]:
    """By channel, the mean over the examples: of the dense model and of the candidate."""
    dense = torch.stack([one.strength for one, _ in looks]).mean(dim=0)
    return dense, torch.stack([other.strength for _, other in looks]).mean(dim=0)


def _pair(one: Tensor, other: Tensor) -> MapPair:
    small = [_small(image) for image in (one, other)]
    peak = max(float(image.max()) for image in small)
    height, width = small[0].shape
    return MapPair(
        width=width,
        height=height,
        peak=float(f"{peak:.6g}"),
        dense=_bytes(small[0], peak),
        candidate=_bytes(small[1], peak),
    )


def _small(image: Tensor) -> Tensor:
    """At most MAX_SIDE a side, by means: thin lines fade and do not vanish."""
    factor = max(1.0, max(image.shape) / MAX_SIDE)
    size = (max(1, int(image.shape[0] / factor)), max(1, int(image.shape[1] / factor)))
    small: Tensor = adaptive_avg_pool2d(image[None, None], size)[0, 0]
    return small.nan_to_num(posinf=0.0, neginf=0.0)


def _bytes(values: Tensor, peak: float) -> bytes:
    shares = values.nan_to_num(posinf=0.0) / peak if peak > 0 else torch.zeros_like(values)
    return bytes((shares.clamp(0, 1) * 255).round().to(torch.uint8).flatten().tolist())
