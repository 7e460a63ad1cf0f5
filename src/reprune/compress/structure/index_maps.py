"""torch-pruning's index maps, made node by node: one that fails costs its own channels alone.

An index map says at which position a channel lies behind a concatenation, split, slice or reshape.
torch-pruning makes all of them when it builds its graph, and gives the whole model up where one fails.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from reprune.compress.structure.copies import FORWARD_ERRORS
from reprune.core.errors import CompressionError
from reprune.core.plugins import require


def map_singly(graph: Any, error: BaseException) -> bool:
    """Makes the maps of a graph whose building ended with `error` while it made them; False where it
    ended earlier. Channels that come to a node whose map fails cannot be followed: CompressionError.
    """
    maps = require("torch_pruning.dependency.index_mapping", "torch")
    whole = maps.update_index_mapping.__code__
    if all(frame.f_code is not whole for frame, _ in traceback.walk_tb(error.__traceback__)):
        return False
    kinds = require("torch_pruning.ops", "torch").OPTYPE
    updates: dict[Any, Callable[[Any, Any], None]] = {
        kinds.CONCAT: maps.update_concat_index_mapping,
        kinds.SPLIT: maps.update_split_index_mapping,
        kinds.RESHAPE: maps.update_reshape_index_mapping,
        kinds.UNBIND: maps.update_unbind_index_mapping,
        kinds.EXPAND: maps.update_expand_index_mapping,
        kinds.SLICE: maps.update_slice_index_mapping,
    }
    for node in graph.module2node.values():
        if node.type in updates:
            try:
                updates[node.type](graph, node)
            except FORWARD_ERRORS:
                _close(node)
    return True


def _close(node: Any) -> None:
    """Every edge from and to the node refuses what comes."""

    def refuse(_: object) -> NoReturn:
        kind = type(node.module).__name__.strip("_").removesuffix("Op").lower()
        raise CompressionError(f"its channels cannot be followed through a {kind} in forward()")

    edges = [edge for edge in node.dependencies if edge.target is not node]
    for neighbour in (*node.inputs, *node.outputs):
        edges += [edge for edge in neighbour.dependencies if edge.target is node]
    for edge in edges:
        edge.index_mapping = [refuse]
