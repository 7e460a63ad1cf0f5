"""The layers whose time depends on widths, and how long each of their axes is at any widths of the groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from reprune.compress.structure.architecture import Axis, is_depthwise, layout
from reprune.compress.structure.bypass import inside
from reprune.compress.structure.groups import MAKERS
from reprune.core.artifacts import Fact
from reprune.measure.outputs import evaluating

if TYPE_CHECKING:
    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group

Lengths: TypeAlias = tuple[int, int]
Widths: TypeAlias = Mapping[str, int]

# Numbers of a layer that say how wide it is; all others are part of what it computes.
WIDTHS = frozenset({"in_channels", "out_channels", "in_features", "out_features", "groups"})


class Part(Fact, kw_only=True):
    """A group's share of an axis: how many positions each of its channels takes, one number where all
    take the same. `crosses`: it cuts every channel of the axis's other groups alike.
    """

    group: str
    width: int
    counts: tuple[int, ...]
    crosses: bool = False

    def lost(self, keep: int) -> int:
        """How many positions are gone with the first `keep` channels left."""
        if len(self.counts) == 1:
            return (self.width - keep) * self.counts[0]
        return sum(self.counts[keep:])


class AxisParts(Fact, kw_only=True):
    """An axis of full length `size` and what of it can be cut."""

    size: int
    parts: tuple[Part, ...] = ()

    def length(self, widths: Widths) -> int:
        """How long the axis is with these groups at these widths, the others whole."""
        left = across = self.size
        for part in self.parts:
            lost = part.lost(widths.get(part.group, part.width))
            if part.crosses:
                across -= lost
            else:
                left -= lost
        return left * across // self.size if self.size else 0


class Site(Fact, kw_only=True):
    """A layer that is timed. Two with equal `question` take the same at the same lengths of their axes.

    `block` is the removable block that it lies in, "" for none. `note` says what of its dependence on
    widths is not in the table.
    """

    layer: str
    question: str
    inputs: AxisParts
    outputs: AxisParts
    block: str = ""
    note: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that it touches, each once."""
        parts = (*self.inputs.parts, *self.outputs.parts)
        return tuple(dict.fromkeys(part.group for part in parts))

    @property
    def full(self) -> Lengths:
        """The lengths in the dense model."""
        return (self.inputs.size, self.outputs.size)

    def lengths(self, widths: Widths) -> Lengths:
        """The lengths of its input and output axes at these widths; 0 for one that it does not have."""
        return (self.inputs.length(widths), self.outputs.length(widths))


def sites_of(
    module: nn.Module,
    groups: Sequence[Group],
    example_inputs: Sequence[Tensor],
    kinds: Mapping[str, Sequence[str]],
    blocks: Sequence[Block] = (),
) -> tuple[Site, ...]:
    """The layers of `kinds` (to which the target's operators belong, with those operators' kinds), in
    the model's order. The kinds are part of a layer's question: a sum that is fused into it costs time.
    """
    shapes = _input_shapes(module, example_inputs)
    batch = len(example_inputs[0])
    parts = _parts(groups)
    found = []
    for name, layer in module.named_modules():
        if name not in kinds:
            continue
        axes = {axis: _axis(layer, name, axis, parts) for axis in ("in", "out")}
        shared = {p.group for p in axes["in"].parts} & {p.group for p in axes["out"].parts}
        note = ""
        if shared:
            # The two lengths cannot be set apart: one of them tells the time.
            note = f"reads and makes the channels of {', '.join(sorted(shared))}: timed by what it makes"
            axes["in"] = AxisParts(size=0)
        question = _question(layer, name, shapes.get(name), kinds[name], batch)
        found.append(
            Site(
                layer=name,
                question=f"{question} {axes['in'].size}->{axes['out'].size}",
                inputs=axes["in"],
                outputs=axes["out"],
                block=next((block.name for block in blocks if inside(name, [block.name])), ""),
                note=note,
            )
        )
    return tuple(found)


def timed_layers(module: nn.Module) -> tuple[str, ...]:
    """The layers that operators are given to: all that make channels, and norms and the like by channel."""
    return tuple(
        name
        for name, layer in module.named_modules()
        if isinstance(layer, MAKERS) or layout(layer, "out") is not None
    )


def _parts(groups: Sequence[Group]) -> dict[tuple[str, Axis], list[Part]]:
    parts: dict[tuple[str, Axis], list[Part]] = {}
    for group in groups:
        for member in group.members:
            counts = tuple(len(positions) for positions in member.positions)
            part = Part(
                group=group.name,
                width=group.width,
                counts=counts[:1] if len(set(counts)) == 1 else counts,
                crosses=group.across is not None,
            )
            parts.setdefault((member.module, member.axis), []).append(part)
    return parts


def _axis(
    layer: nn.Module, name: str, axis: Axis, parts: Mapping[tuple[str, Axis], list[Part]]
) -> AxisParts:
    found = layout(layer, axis)
    if found is None:
        return AxisParts(size=0)
    return AxisParts(size=found.size, parts=tuple(parts.get((name, axis), ())))


def _question(
    layer: nn.Module, name: str, shape: tuple[int, ...] | None, kinds: Sequence[str], batch: int
) -> str:
    """What the layer computes for an example of a `batch`, without its widths; a layer of a kind not known
    here is its own.
    """
    told = f"{type(layer).__name__}"
    if not isinstance(layer, _ConvNd | nn.Linear) or shape is None:
        return f"{told} {name} {'+'.join(kinds)}"
    numbers = [
        f"{key}={getattr(layer, key)}"
        for key in sorted(set(layer.__constants__) - WIDTHS)
        if hasattr(layer, key)
    ]
    if shape[0] != batch:
        # Windows, or tokens that were flattened into the batch.
        numbers.append(f"rows={Fraction(shape[0], batch)}")
    if isinstance(layer, _ConvNd):
        numbers.append("by channel" if is_depthwise(layer) else f"groups={layer.groups}")
        shape = shape[2:]
    else:
        shape = shape[1:-1]
    told += f" {' '.join(numbers)} bias={layer.bias is not None} on {'x'.join(map(str, shape))}"
    return f"{told} {'+'.join(kinds)}"


def _input_shapes(module: nn.Module, inputs: Sequence[Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of the first tensor that each layer is called with; the last call of several counts."""
    shapes: dict[str, tuple[int, ...]] = {}

    def noting(name: str) -> object:
        def note(_: nn.Module, args: tuple[object, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                shapes[name] = tuple(args[0].shape)

        return note

    hooks = [
        layer.register_forward_pre_hook(noting(name)) for name, layer in module.named_modules()
    ]
    try:
        with evaluating(module):
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def rungs_of(groups: Sequence[Group], steps: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The widths at which each group is worth timing: the multiples of its step, and whole."""
    return {
        group.name: (*range(step, group.width, step), group.width)
        for group in groups
        for step in [max(1, steps.get(group.name, 1))]
    }
