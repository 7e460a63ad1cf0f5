"""torch-pruning's index maps, made node by node: one that fails costs its own channels alone.

An index map says at which position a channel lies behind a concatenation, split, slice or reshape.
torch-pruning makes all of them when it builds its graph, and gives the whole model up where one fails.
"""

from __future__ import annotations

import itertools
import math
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch.overrides import TorchFunctionMode

from reprune.compress.structure.copies import FORWARD_ERRORS, leaves
from reprune.core.errors import CompressionError
from reprune.core.plugins import require


class Shapes(TorchFunctionMode):
    """The shape of what each node of autograd's graph made, while it is entered: nodes do not say it."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[Any, torch.Size] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        self.of |= {one.grad_fn: one.shape for one in leaves(made) if one.grad_fn is not None}
        return made


def map_by_shapes(graph: Any, shapes: Shapes) -> None:
    """Makes the maps that torch-pruning makes wrong or leaves out, as it takes widths from the layers around:
    of a flattened image that is concatenated with something, and of what is concatenated and then flattened.
    """
    kinds = require("torch_pruning.ops", "torch").OPTYPE
    for node in graph.module2node.values():
        made = shapes.of.get(node.grad_fn)
        if made is None or not node.enable_index_mapping:
            continue
        if node.type == kinds.RESHAPE:
            given: Any = getattr(node.grad_fn, "_saved_self_sym_sizes", ())
            if len(given) > 2 and made == (given[0], math.prod(given[1:])):
                _flatten(node, math.prod(given[2:]))
        if node.type == kinds.CONCAT and len(made) not in (1, 3):
            parts = [tuple(shapes.of.get(source.grad_fn, ())) for source in node.inputs]
            widths = [part[1] for part in parts if len(part) == len(made)]
            if sum(widths) == made[1] and not any(e.index_mapping[1] for e in node.dependencies):
                _concatenate(node, widths)


def _flatten(node: Any, stride: int) -> None:
    mapping = require("torch_pruning.dependency.index_mapping", "torch")._FlattenIndexMapping
    for source in node.inputs:
        for holder, target, back in ((node, source, True), (source, node, False)):
            for edge in holder.dependencies:
                if edge.target is target:
                    edge.index_mapping[0] = mapping(stride=stride, reverse=back)


def _concatenate(node: Any, widths: list[int]) -> None:
    mapping = require("torch_pruning.dependency.index_mapping", "torch")._ConcatIndexMapping
    ends = list(itertools.accumulate(widths, initial=0))
    for source, *span in zip(node.inputs, ends, ends[1:], strict=False):
        for holder, target, back in ((node, source, True), (source, node, False)):
            # A source that comes in twice has an edge for each time, in the same order.
            edges = (edge for edge in holder.dependencies if edge.target is target)
            free = next((edge for edge in edges if edge.index_mapping[1] is None), None)
            if free is not None:
                free.index_mapping[1] = mapping(offset=span, reverse=back)


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
        edge.index_mapping = [refuse, None]
