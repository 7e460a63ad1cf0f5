"""The points of the curve: which layers go, and how many heads and FFN columns each other layer keeps."""

from __future__ import annotations

from pathlib import Path

import msgspec
from torch import nn

from reprune.compress.architecture import Architecture, Removal, apply
from reprune.compress.equality import architecture_of
from reprune.compress.groups import Group, Member

CONFIG = Path(__file__).parent.parent / "configs" / "minilm_plans.json"


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`heads` and `ffn` say what each layer keeps, from the first; 0 heads and 0 columns: it is removed."""

    heads: tuple[int, ...]
    ffn: tuple[int, ...]

    @property
    def removed(self) -> tuple[int, ...]:
        return tuple(
            i for i, (h, f) in enumerate(zip(self.heads, self.ffn, strict=True)) if not h + f
        )


class Plans(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`main` is the point that the claims are about; `how` says how the points were chosen."""

    main: str
    points: dict[str, Point]
    how: str


def read_plans(path: Path = CONFIG) -> Plans:
    return msgspec.json.decode(path.read_bytes(), type=Plans)


def layer_name(number: int) -> str:
    return f"bert.encoder.layer.{number}"


def head_group(module: nn.Module, number: int) -> Group:
    """The heads of one layer: q, k and v make them, the attention's output layer reads them."""
    base = f"{layer_name(number)}.attention"
    size = module.get_submodule(f"{base}.self").attention_head_size
    channels = module.get_submodule(f"{base}.self.query").out_features
    positions = tuple(
        tuple(range(head * size, (head + 1) * size)) for head in range(channels // size)
    )
    makers = tuple(
        Member(module=f"{base}.self.{part}", axis="out", positions=positions)
        for part in ("query", "key", "value")
    )
    reader = Member(module=f"{base}.output.dense", axis="in", positions=positions)
    return Group(name=f"{base}.heads", width=len(positions), members=(*makers, reader))


def ffn_group(module: nn.Module, number: int) -> Group:
    """The columns of one layer's FFN."""
    base = layer_name(number)
    width = module.get_submodule(f"{base}.intermediate.dense").out_features
    positions = tuple((column,) for column in range(width))
    return Group(
        name=f"{base}.ffn",
        width=width,
        members=(
            Member(module=f"{base}.intermediate.dense", axis="out", positions=positions),
            Member(module=f"{base}.output.dense", axis="in", positions=positions),
        ),
    )


def groups_of(module: nn.Module, layers: tuple[int, ...]) -> tuple[Group, ...]:
    return tuple(
        group
        for number in layers
        for group in (head_group(module, number), ffn_group(module, number))
    )


def kept_layers(point: Point) -> tuple[int, ...]:
    return tuple(number for number in range(len(point.heads)) if number not in point.removed)


def widths_of(point: Point) -> dict[str, int]:
    """The width of each group of the layers that stay."""
    widths = {}
    for number in kept_layers(point):
        widths[f"{layer_name(number)}.attention.heads"] = point.heads[number]
        widths[f"{layer_name(number)}.ffn"] = point.ffn[number]
    return widths


def removal_of(point: Point) -> Architecture:
    return Architecture(
        removed=tuple(Removal(module=layer_name(number)) for number in point.removed)
    )


def shaped(module: nn.Module, point: Point) -> nn.Module:
    """`module` with the point's shapes; which heads and columns stay has no meaning."""
    groups = groups_of(module, kept_layers(point))
    kept = {name: range(width) for name, width in widths_of(point).items()}
    return apply(apply(module, removal_of(point)), architecture_of(module, groups, kept))
