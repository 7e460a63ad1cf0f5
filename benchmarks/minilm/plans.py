"""The points of the curve: which layers go, and how many heads and FFN columns each other layer keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from torch import nn

from benchmarks.sst2 import Sst2Task
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.blocks import Block, find_blocks
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import Group, find_groups

CONFIG = Path(__file__).parent.parent / "configs" / "minilm_plans.json"
KEEP = ("head",)


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`heads` and `ffn` say what each layer keeps, from the first; 0 heads and 0 columns: it is removed."""

    heads: tuple[int, ...]
    ffn: tuple[int, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that stay."""
        pairs = enumerate(zip(self.heads, self.ffn, strict=True))
        return tuple(number for number, (heads, columns) in pairs if heads + columns)


class Plans(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`main` is the point that the claims are about; `how` says how the points were chosen."""

    main: str
    how: str
    points: dict[str, Point]


@dataclass(frozen=True, kw_only=True)
class Cuttable:
    """What the product finds in a MiniLM that can be cut."""

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]


def read_plans(path: Path = CONFIG) -> Plans:
    return msgspec.json.decode(path.read_bytes(), type=Plans)


def cuttable(task: Sst2Task, module: nn.Module) -> Cuttable:
    inputs = task.example_inputs(2)
    return Cuttable(
        groups=find_groups(module, inputs, KEEP), blocks=find_blocks(module, inputs, KEEP).blocks
    )


def layer_name(number: int) -> str:
    return f"bert.encoder.layer.{number}"


def heads_of(number: int) -> str:
    """The name of the group of a layer's heads."""
    return f"{layer_name(number)}.attention.self:heads"


def ffn_of(number: int) -> str:
    """The name of the group of a layer's FFN columns."""
    return f"{layer_name(number)}.intermediate.dense"


def widths_of(point: Point) -> dict[str, int]:
    """The width of each group of the layers that stay."""
    return {
        name: width
        for number in point.layers
        for name, width in (
            (heads_of(number), point.heads[number]),
            (ffn_of(number), point.ffn[number]),
        )
    }


def removed_by(point: Point, blocks: Sequence[Block]) -> tuple[Block, ...]:
    stay = {layer_name(number) for number in point.layers}
    return tuple(block for block in blocks if block.name not in stay)


def shaped(task: Sst2Task, module: nn.Module, point: Point) -> nn.Module:
    """`module` with the point's shapes; which heads and columns stay has no meaning."""
    found = cuttable(task, module)
    kept = {name: range(width) for name, width in widths_of(point).items()}
    gone = removed_by(point, found.blocks)
    return apply(module, architecture_of(module, found.groups, kept, gone))
