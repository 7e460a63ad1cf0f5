"""Which layer of the module each fused operator of ONNX Runtime belongs to, so that its times can be summed
by layer. What belongs to no layer goes to the one whose tensor it works on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_grouped
from typing import TYPE_CHECKING, Any

from reprune.core.plugins import require
from reprune.runtimes.base import LayerTime
from reprune.runtimes.onnx_names import module_of, plain

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Their time goes with the length of what they join, which is what the next layer reads.
GATHERING = ("Concat",)


@dataclass
class _Owners:
    """`nodes` and `tensors` by name to the layer they belong to; `kinds` of each layer as exported."""

    nodes: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def layer_times(
    content: bytes, events: Iterable[Mapping[str, Any]], layers: Collection[str], *, calls: int
) -> tuple[LayerTime, ...]:
    """The time of each of `layers` in the last `calls` calls that `events` (the runtime's own profile) tell
    of, in the order they run: the median in a call of every operator that belongs to it, added up.

    An operator belongs to the layer whose module it is named after. Any other follows the data: it
    goes to the layer that made its input (the last of several), a concatenation to the layer that
    reads it, and one of the runtime's own (a change of layout) to whichever ran before it.
    """
    owners = owners_of(require("onnx", "onnx").load_model_from_string(content), layers)
    took, order = _durations(events)
    whose = _assign(order, owners)
    seen = min((len(found) for found in took.values()), default=1)
    sums: dict[str, float] = {}
    for key in order:
        each = len(took[key]) // seen  # an operator inside a loop runs several times a call
        last = took[key][-calls * each :]
        # Whole microseconds, rounded down: the middle of the tick, and between ticks by their counts.
        middle = median_grouped([value + 0.5 for value in last], interval=1.0)
        sums[whose[key]] = sums.get(whose[key], 0.0) + middle * each
    return tuple(
        LayerTime(layer=layer, us=us, kinds=tuple(owners.kinds.get(layer, ())))
        for layer, us in sums.items()
    )


def owners_of(model: ModelProto, layers: Collection[str]) -> _Owners:
    """Every node and tensor of the exported graph with the layer it belongs to ("" before the first)."""
    owners = _Owners()
    waiting: dict[str, list[NodeProto]] = {}
    rank: dict[str, int] = {"": -1}
    for node in model.graph.node:
        given = [name for name in node.input if name in owners.tensors or name in waiting]
        module = module_of(node)
        if module in layers:
            rank.setdefault(module, len(rank))
            _settle(owners, module, [waiting.pop(name) for name in given if name in waiting])
            _own(owners, node, module)
        elif node.op_type in GATHERING or any(name in waiting for name in given):
            held = [node, *(old for name in given for old in waiting.get(name, ()))]
            waiting.update(dict.fromkeys(node.output, held))
        else:
            found = [owners.tensors[name] for name in given]
            _own(owners, node, max(found, key=rank.__getitem__, default=""))
    for held in waiting.values():
        for node in held:
            if node.name not in owners.nodes:
                made = [owners.tensors.get(name, "") for name in node.input]
                _own(owners, node, max(made, key=rank.__getitem__, default=""))
    return owners


def _settle(owners: _Owners, layer: str, held: Iterable[Sequence[NodeProto]]) -> None:
    for nodes in held:
        for node in reversed(nodes):
            if node.name not in owners.nodes:
                _own(owners, node, layer)


def _own(owners: _Owners, node: NodeProto, layer: str) -> None:
    owners.nodes[node.name] = layer
    owners.tensors.update(dict.fromkeys(node.output, layer))
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        owners.kinds[layer].append(node.op_type)


def _assign(order: Sequence[tuple[str, str]], owners: _Owners) -> dict[tuple[str, str], str]:
    """The layer of each operator that ran; those before the first known one go to that one."""
    found: dict[tuple[str, str], str] = {}
    before = ""
    known = owners.nodes.keys() | owners.tensors.keys()
    for name, index in order:
        own = plain(name, known)
        layer = owners.nodes.get(own, owners.tensors.get(own))
        before = before if layer is None else layer
        found[name, index] = before
    first = next((layer for layer in found.values() if layer), "")
    return {key: layer or first for key, layer in found.items()}


def _durations(
    events: Iterable[Mapping[str, Any]],
) -> tuple[dict[tuple[str, str], list[int]], list[tuple[str, str]]]:
    """Microseconds of every run of every operator, and the operators in the order they first ran."""
    took: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            key = (name.removesuffix("_kernel_time"), str(event["args"].get("node_index", "")))
            took[key].append(int(event["dur"]))
    return took, list(took)
