"""What ONNX Runtime calls its fused operators, told as the modules that they came from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from reprune.runtimes.onnx_names import module_of, plain

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_WEIGHTED = re.compile(r"Conv|Gemm|MatMul")
_FURTHEST = 12


def caller(model: ModelProto) -> Callable[[str, str], str]:
    """A function of an operator's name and type that gives `<module>/<type>` where the graph of the engine
    tells which module it came from, else the name as it is.

    ONNX Runtime names a fused operator by a node of the engine or by the tensor that it makes. Of several
    modules upstream the nearest with weights is meant, the last one of equally near.
    """
    makers = {
        output: (place, node)
        for place, node in enumerate(model.graph.node)
        for output in node.output
    }
    names = {node.name for node in model.graph.node}
    known = makers.keys() | names

    def called(operator: str, kind: str) -> str:
        bare = plain(operator, known)
        if bare in names:
            return bare
        if bare not in makers:
            return operator
        node = makers[bare][1]
        if _WEIGHTED.search(kind) and not _WEIGHTED.search(node.op_type):
            node = _nearest(bare, makers) or node
        module = module_of(node)
        return f"{module}/{kind}" if module else operator

    return called


def _nearest(tensor: str, makers: dict[str, tuple[int, NodeProto]]) -> NodeProto | None:
    """The node with weights that is fewest steps upstream; None where there is none within reach."""
    front = [tensor]
    for _ in range(_FURTHEST):
        found = [makers[name] for name in front if name in makers]
        weighted = [one for one in found if _WEIGHTED.search(one[1].op_type)]
        if weighted:
            return max(weighted, key=lambda one: one[0])[1]
        front = [name for _, node in found for name in node.input]
    return None
