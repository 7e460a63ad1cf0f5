"""Which channels of which layers must go together: torch-pruning's graph, read with our own traversal.

Only the graph's edges and index maps are used. torch-pruning's own groups keep one root channel an
index, so two channels that meet (a gated unit, x.chunk(2) multiplied) lose each other silently; here
they become one channel. Its pruning functions, histories, importances and ratios are not used at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from reprune.compress.structure.architecture import Axis, is_depthwise
from reprune.compress.structure.copies import FORWARD_ERRORS, leaves, plain_copy, run
from reprune.compress.structure.index_maps import Shapes, map_by_shapes, map_singly
from reprune.compress.structure.recurrent import Final, real_names, traced_layer, with_stand_ins
from reprune.core.errors import CompressionError
from reprune.core.plugins import require
from reprune.measure.outputs import evaluating

__all__ = ["Coupling", "Follower", "Group", "Member", "couple", "evaluating", "trace"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One axis of one layer. `positions[c]` are the indices on it that belong to the group's channel c."""

    module: str
    axis: Axis
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Follower:
    """An integer attribute of a module that forward() reads; it shrinks with the share that is kept."""

    module: str
    attribute: str
    value: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """`width` channels that exist in all `members` at once; named after the first layer that makes them.

    `unit` says what a channel is: one of a layer, a whole attention head (or key-value group), or the
    same dimension of all heads. A group that crosses another (dimensions cross heads: each position
    belongs to one of both) names it in `across`.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    unit: Literal["channel", "head", "dimension"] = "channel"
    followers: tuple[Follower, ...] = ()
    across: str | None = None


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """A group as traced, before anything was refused.

    `foreign` names what it touches besides layers' axes: parameters of no layer, and `output` where
    it reaches the model's output. `crossing` is set where a GroupNorm's group is only partly in it.
    """

    group: Group
    foreign: tuple[str, ...]
    output: bool
    crossing: bool


def trace(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """torch-pruning's DependencyGraph of a copy of `module`; `module` is left exactly as it was.

    Raises CompressionError for a model that does not run on `inputs`, whose outputs do not depend on
    its parameters, or that torch-pruning cannot trace.
    """
    traced = with_stand_ins(plain_copy(module)).eval()
    for parameter in traced.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)  # a frozen parameter would vanish from the graph
    graph_type = require("torch_pruning", "torch").DependencyGraph
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        # Run first: torch-pruning answers any error of the model with a second call of its own.
        outputs = run(traced, inputs)
        if not any(output.requires_grad for output in outputs):
            raise CompressionError(
                "the model's outputs do not depend on its parameters as far as autograd can see",
                fix="remove no_grad, detach or argmax from forward()",
            )
        graph = graph_type()
        shapes = Shapes()
        try:
            with shapes:
                graph.build_dependency(
                    traced, tuple(inputs), output_transform=_differentiable, verbose=False
                )
        except FORWARD_ERRORS as error:
            if not map_singly(graph, error):
                raise CompressionError(
                    f"the model cannot be traced: {type(error).__name__}: {error}",
                    fix="name what forward() does there in `keep`, or write it with plain layers",
                ) from error
    map_by_shapes(graph, shapes)
    return graph


def couple(graph: Any, root: str) -> Coupling:
    """Everything that must be cut together with the output channels of the layer `root`.

    Raises CompressionError where torch-pruning's index maps fail or failed (odd splits, packed attention).
    """
    layer = traced_layer(graph.model, root)
    pruner = graph.get_pruner_of_module(layer)
    walk = _Walk(periods=_periods(graph), limit=_most_channels(graph))
    count = pruner.get_out_channels(layer)
    walk.arrive(graph.module2node[layer], pruner.prune_out_channels, _hybrid(count))
    while walk.pending:
        node, function, indices = walk.pending.pop()
        for edge in node.dependencies:
            if edge.is_triggered_by(function):
                walk.arrive(edge.target, edge.handler, _mapped(edge, indices))
    crossing = _join_within(walk)
    return _coupling(graph, root, walk, crossing=crossing)


@dataclass
class _Walk:
    """Root channels spread over the graph. `at` maps (node, function) to {index: root channel}.

    `periods` maps (module, function) to (period, count): of `count` indices there those that are a
    multiple of `period` apart are one channel. No tensor has more than `limit` channels.
    """

    periods: dict[tuple[Any, Any], tuple[int, int]]
    limit: int
    at: dict[tuple[Any, Any], dict[int, int]] = field(default_factory=dict)
    pending: list[tuple[Any, Any, list[Any]]] = field(default_factory=list)
    parent: dict[int, int] = field(default_factory=dict)

    def find(self, channel: int) -> int:
        while self.parent.get(channel, channel) != channel:
            channel = self.parent[channel]
        return channel

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.find(one), self.find(other)))
        self.parent[high] = low

    def arrive(self, node: Any, function: Any, indices: list[Any]) -> None:
        """Notes which channel lies where; two channels at one index become one. New indices go on."""
        if not indices:  # a concatenation or split that this part does not touch
            return
        known = self.at.setdefault((node, function), {})
        fresh = []
        for index in self._with_siblings(node, function, indices):
            if index.idx in known:
                self.join(known[index.idx], index.root_idx)
            else:
                known[index.idx] = index.root_idx
                fresh.append(index)
        # A map that multiplies indices, around a residual connection, would go on for ever.
        if len(known) > self.limit:
            raise CompressionError(
                "its channels cannot be followed: they are mapped to more places than there are"
            )
        if fresh:
            self.pending.append((node, function, fresh))

    def _with_siblings(self, node: Any, function: Any, indices: list[Any]) -> list[Any]:
        period, count = self.periods.get((node.module, function), (0, 0))
        if not period:
            return indices
        return [
            type(index)(idx=place, root_idx=index.root_idx)
            for index in indices
            for place in range(index.idx % period, count, period)
        ]


def _most_channels(graph: Any) -> int:
    """More than any tensor can have channels: as many as all layers together read and write."""
    return sum(sum(parameter.shape[:2]) for parameter in graph.model.parameters())


def _periods(graph: Any) -> dict[tuple[Any, Any], tuple[int, int]]:
    """Where one channel has several indices by the nature of a layer: a grouped convolution keeps as
    many in every group, and a recurrent layer the same units in both directions.
    """
    found: dict[tuple[Any, Any], tuple[int, int]] = {}
    for module in graph.module2node:
        pruner = graph.get_pruner_of_module(module)
        if isinstance(module, _ConvNd) and module.groups > 1 and not is_depthwise(module):
            inputs, outputs = module.in_channels, module.out_channels
            found[module, pruner.prune_in_channels] = (inputs // module.groups, inputs)
            found[module, pruner.prune_out_channels] = (outputs // module.groups, outputs)
    for units, name in real_names(graph.model).items():
        if units in graph.module2node:
            pruner, count = graph.get_pruner_of_module(units), units.out_features
            directions = graph.model.get_submodule(name).directions
            found[units, pruner.prune_out_channels] = (count // directions, count)
    return found


def _join_within(walk: _Walk) -> bool:
    """Joins what can only go together inside one node; True if a GroupNorm's group is only partly here.

    A GroupNorm group goes whole or not at all (its statistics are over all its channels). chunk()
    cuts at equal shares of whatever width is left, so the same channel goes from each equal part.
    """
    crossing = False
    for (node, _), known in walk.at.items():
        if isinstance(node.module, nn.GroupNorm):
            size = node.module.num_channels // node.module.num_groups
            crossing |= _join(walk, known, {index: index // size for index in known}, full=size)
        sizes = getattr(node.module, "split_sizes", None)
        if sizes and len(sizes) > 1 and len(set(sizes)) == 1 and None not in sizes:
            size = sizes[0]
            _join(walk, known, {index: index % size for index in known}, full=len(sizes))
    return crossing


def _join(walk: _Walk, known: Mapping[int, int], keys: Mapping[int, int], *, full: int) -> bool:
    """Joins the channels whose indices share a key; True if some key has fewer than `full` of them."""
    classes: dict[int, list[int]] = {}
    for index, channel in known.items():
        classes.setdefault(keys[index], []).append(channel)
    for first, *others in classes.values():
        for other in others:
            walk.join(first, other)
    return any(len(members) != full for members in classes.values())


def _coupling(graph: Any, root: str, walk: _Walk, *, crossing: bool) -> Coupling:
    channels = sorted(
        {walk.find(channel) for known in walk.at.values() for channel in known.values()}
    )
    place = {channel: number for number, channel in enumerate(channels)}
    names = graph._module2name | real_names(graph.model)
    members: list[Member] = []
    foreign: list[str] = []
    output = False
    for (node, function), known in walk.at.items():
        if isinstance(node.module, nn.Parameter):
            foreign.append(graph._param_to_name.get(node.module, "a parameter"))
        elif type(node.module).__name__ == "_OutputOp":
            output = True
        elif node.module in graph._module2name and not _is_no_member(node.module):
            axis = _axis(graph, node, function)
            positions: list[set[int]] = [set() for _ in channels]
            # Both directions of a recurrent layer, and the inputs of all groups, are one position.
            period, _ = walk.periods.get((node.module, function), (0, 0))
            if isinstance(node.module, _ConvNd) and axis == "out":
                period = 0
            for index, channel in known.items():
                positions[place[walk.find(channel)]].add(index % period if period else index)
            members.append(
                Member(
                    module=names[node.module],
                    axis=axis,
                    positions=tuple(tuple(sorted(indices)) for indices in positions),
                )
            )
    order = {name: number for number, (name, _) in enumerate(graph.model.named_modules())}
    members.sort(key=lambda member: (order[member.module], member.axis == "in"))
    group = Group(name=root, width=len(channels), members=tuple(members))
    return Coupling(group=group, foreign=tuple(sorted(foreign)), output=output, crossing=crossing)


def _is_no_member(layer: nn.Module) -> bool:
    """A PReLU with one slope for all channels has nothing to cut; final states are the layer's own."""
    return isinstance(layer, Final) or (isinstance(layer, nn.PReLU) and layer.num_parameters == 1)


def _axis(graph: Any, node: Any, function: Any) -> Axis:
    return "out" if function == graph.get_pruner_of_module(node.module).prune_out_channels else "in"


def _mapped(edge: Any, indices: list[Any]) -> list[Any]:
    for mapping in edge.index_mapping:
        if mapping is not None:
            try:
                indices = mapping(indices)
            except (LookupError, TypeError) as error:
                to = f" to {edge.target._name}" if edge.target._name else ""
                raise CompressionError(
                    f"its channels cannot be followed{to} through what forward() does"
                ) from error
    return indices


def _hybrid(count: int) -> list[Any]:
    index_type = require("torch_pruning._helpers", "torch")._HybridIndex
    return [index_type(idx=index, root_idx=index) for index in range(count)]


def _differentiable(outputs: object) -> list[Tensor]:
    return [output for output in leaves(outputs) if output.requires_grad]
