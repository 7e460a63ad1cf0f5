"""An ONNX graph as quantising reads and rewrites it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.plugins import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """`nodes` in the order they run; `makers` and `readers` by tensor; `inputs` and `outputs` by name."""

    model: ModelProto
    nodes: tuple[NodeProto, ...]
    constants: dict[str, Array]
    makers: dict[str, NodeProto]
    readers: dict[str, tuple[NodeProto, ...]]
    inputs: tuple[str, ...]
    outputs: frozenset[str]

    def attribute(self, node: NodeProto, name: str, default: Any) -> Any:
        """The value of an attribute, or `default`."""
        helper = require("onnx.helper", "onnx")
        for one in node.attribute:
            if one.name == name:
                return helper.get_attribute_value(one)
        return default

    def activated(self, node: NodeProto) -> str:
        """The tensor that the node gives after its ReLU, or its clip from 0, where nobody else reads it."""
        output = str(node.output[0])
        readers = self.readers.get(output, ())
        if output in self.outputs or len(readers) != 1:
            return output
        (reader,) = readers
        if reader.op_type == "Relu" or (reader.op_type == "Clip" and self._from_zero(reader)):
            return str(reader.output[0])
        return output

    def add_constant(self, name: str, values: Array) -> None:
        """Adds an initializer; one of that name is there only once."""
        if name not in self.constants:
            self.constants[name] = values
            self.model.graph.initializer.append(
                require("onnx.numpy_helper", "onnx").from_array(np.asarray(values), name)
            )

    def replace(self, nodes: Sequence[NodeProto]) -> None:
        """Puts `nodes` in place of the graph's; what nobody reads any more is gone, and so are the shapes of
        inner tensors, of which the exporter writes some that are wrong.
        """
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input} | self.outputs
        for tensor in [one for one in graph.initializer if one.name not in read]:
            graph.initializer.remove(tensor)
        del graph.value_info[:]

    def _from_zero(self, clip: NodeProto) -> bool:
        low = self.constants.get(clip.input[1]) if len(clip.input) > 1 else None
        return low is not None and low.size == 1 and float(low.item()) == 0.0


def read_graph(content: bytes) -> Graph:
    """The graph of a model; changing it does not change `content`."""
    onnx = require("onnx", "onnx")
    model = onnx.load_model_from_string(content)
    nodes = []
    for node in model.graph.node:
        own = onnx.NodeProto()
        own.CopyFrom(node)
        nodes.append(own)
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return Graph(
        model=model,
        nodes=tuple(nodes),
        constants={one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer},
        makers={name: node for node in nodes for name in node.output},
        readers={name: tuple(found) for name, found in readers.items()},
        inputs=tuple(value.name for value in model.graph.input),
        outputs=frozenset(value.name for value in model.graph.output),
    )
