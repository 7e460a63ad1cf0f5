"""Nodes of an exported graph named by the module that they came from: "layers.0.conv1/Conv"."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ROOT = "model"  # the exporter's own name for the module (onnx_export._positional)
SCOPES = "pkg.torch.onnx.name_scopes"
_AGAIN = re.compile(r"@\d+")
# What the runtime's passes add to the name of a node or tensor that they replace: a prefix, the layout's
# mark, a number that makes it unique.
_ADDED = re.compile(r"^fused |(?:_token_\d+|_nchwc|_nhwc|_fused|_quant|/duplicated)$")


def name_nodes(proto: ModelProto) -> None:
    """Afterwards every node is called `<module>/<operator>`, a second one of the two `..._1`.

    `module` is the dotted name in the module that was exported, "" for its own code. A layer that another
    was folded into keeps the name of the one whose weights it holds. Reads metadata that the exporter
    leaves and that is stripped later.
    """
    seen: Counter[str] = Counter()
    for node in proto.graph.node:
        module = _module(node)
        base = f"{module}/{node.op_type}" if module else node.op_type
        node.name = f"{base}_{seen[base]}" if seen[base] else base
        seen[base] += 1


def module_of(node: NodeProto) -> str:
    """The dotted name of the module that the node came from, "" where it is the model's own code."""
    return str(node.name).rpartition("/")[0]


def plain(name: str, known: Container[str]) -> str:
    """The runtime's `name` of an operator without what its passes added: as much of it as is in `known`,
    the graph's own names of nodes and tensors; without all additions where none of it is.
    """
    while name not in known and (shorter := _ADDED.sub("", name, count=1)) != name:
        name = shorter
    return name


def _module(node: NodeProto) -> str:
    for name in node.input[1:2]:
        owner, dot, attribute = name.rpartition(".")
        if dot and attribute == "weight":
            return str(owner).removeprefix(ROOT).removeprefix(".")
    scopes = [entry.value for entry in node.metadata_props if entry.key == SCOPES]
    if not scopes:
        return ""
    # The last scope is the operator itself.
    *modules, _ = ast.literal_eval(scopes[0]) or [""]
    last = _AGAIN.sub("", modules[-1]) if modules else ""
    return str(last)[len(ROOT) + 1 :] if last.startswith(f"{ROOT}.") else ""
