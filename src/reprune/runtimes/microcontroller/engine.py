"""The engine file: exactly the bytes that lie in flash, with the graph, the coded and the stored weights.

    4 bytes   "RPM" and the format, 1
    varint    length of the graph, then the graph (graph.write_graph)
    varint    length of the coded weights, then a compact file of the coding "mcu"
    varint    length of the stored weights, then a file of sparse tensors in fp32 (no n:m form)
    4 bytes   CRC-32 of all before it, little endian

A weighted operation takes its weight from the next coded tensor, or, by its flag, from the next stored
one; its scale and its bias (one number an output channel each) are the next stored ones after that. An
AFFINE takes a stored scale and bias.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprune.core.errors import SchemaTooNew
from reprune.runtimes.compact import Quantised, decode, encode
from reprune.runtimes.microcontroller.graph import (
    AFFINE,
    HAS_BIAS,
    HAS_SCALE,
    MAX_WEIGHTS,
    STORED_WEIGHT,
    WEIGHTED,
    Graph,
    Op,
    Reader,
    corrupt,
    read_graph,
    write_graph,
)
from reprune.runtimes.sparse.file import read_stored, write_stored
from reprune.runtimes.sparse.forms import FORMS, Stored, restored, stored, varints

MAGIC, FORMAT = b"RPM", 1
_FORMS = tuple(form for form in FORMS if form != "n:m")

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """What one operation takes. `weight` is coded, or stored as it is, or none (AFFINE)."""

    weight: Quantised | Array | None = None
    scale: Array | None = None
    bias: Array | None = None

    def values(self) -> Array:
        """The weight in floats, before its scale."""
        if isinstance(self.weight, Quantised):
            return self.weight.values()
        return self.weight if self.weight is not None else np.zeros(0, np.float32)


def flagged(graph: Graph, weights: Sequence[Weights]) -> Graph:
    """The graph with the flags of its weighted operations as `weights`, one an operation, needs them."""
    ops = []
    for op, one in zip(graph.ops, weights, strict=True):
        if op.code in WEIGHTED:
            flags = (
                STORED_WEIGHT * (not isinstance(one.weight, Quantised))
                | HAS_SCALE * (one.scale is not None)
                | HAS_BIAS * (one.bias is not None)
            )
            ops.append(replace(op, numbers=(*op.numbers[:9], flags)))
        else:
            ops.append(op)
    return replace(graph, ops=tuple(ops))


def write_engine(graph: Graph, weights: Sequence[Weights]) -> bytes:
    """The file; `weights` holds one entry an operation, and the graph is `flagged` for them.

    The same graph and weights give the same bytes. Raises CompressionError for a book that an mcu file
    does not hold.
    """
    coded: dict[str, Quantised] = {}
    kept: dict[str, Stored] = {}
    for one in weights:
        parts = [one.scale, one.bias]
        if isinstance(one.weight, Quantised):
            coded[str(len(coded))] = one.weight
        elif one.weight is not None:
            parts.insert(0, one.weight)
        for part in parts:
            if part is not None:
                kept[str(len(kept))] = _shortest(part)
    out = bytearray(MAGIC + bytes([FORMAT]))
    for section in (write_graph(graph), encode(coded, coding="mcu"), write_stored(kept)):
        out += varints([len(section)]) + section
    return bytes(out) + binascii.crc32(out).to_bytes(4, "little")


def _shortest(array: Array) -> Stored:
    found = [stored(np.asarray(array, dtype=np.float32), form) for form in _FORMS]
    return min(found, key=lambda one: len(one.payload))


@dataclass(frozen=True, kw_only=True)
class Sections:
    """The parts of an engine file, and where the coded and the stored weights begin in it."""

    graph: Graph
    coded: bytes
    stored: bytes
    coded_at: int
    stored_at: int


def sections(data: bytes) -> Sections:
    """Raises PayloadCorrupt for a file that is cut short, changed or none of ours, SchemaTooNew."""
    if len(data) < 11 or data[:3] != MAGIC:
        raise corrupt("not an engine for a microcontroller")
    if binascii.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise corrupt("its checksum is wrong")
    if data[3] != FORMAT:
        raise SchemaTooNew(
            f"an engine of format {data[3]}, this version reads {FORMAT}",
            where="engine",
            fix="upgrade reprune",
        )
    reader = Reader(data[:-4], 4)
    graph = read_graph(reader.take(reader.varint()))
    parts, places = [], []
    for _ in range(2):
        length = reader.varint()
        places.append(reader.place)
        parts.append(reader.take(length))
    if reader.place != len(reader.content):
        raise corrupt("bytes behind its last weight")
    return Sections(
        graph=graph, coded=parts[0], stored=parts[1], coded_at=places[0], stored_at=places[1]
    )


def read_engine(data: bytes) -> tuple[Graph, list[Weights]]:
    """The graph, and what each of its operations takes (empty where it takes nothing), bit for bit.

    Raises PayloadCorrupt, SchemaTooNew.
    """
    parts = sections(data)
    coded = list(decode(parts.coded, max_elements=MAX_WEIGHTS).values())
    kept = [restored(one) for one in read_stored(parts.stored, 2 * MAX_WEIGHTS).values()]
    coded.reverse()
    kept.reverse()
    found = [_taken(op, coded, kept) for op in parts.graph.ops]
    if coded or kept:
        raise corrupt("weights that no operation takes")
    return parts.graph, found


def _taken(op: Op, coded: list[Any], kept: list[Any]) -> Weights:
    channels = (op.output.shape[0],)
    if op.code == AFFINE:
        return Weights(scale=_next(kept, channels), bias=_next(kept, channels))
    if op.code not in WEIGHTED:
        return Weights()
    flags = op.numbers[9]
    weight: Quantised | Array
    is_stored = flags & STORED_WEIGHT
    weight = _next(kept, op.weight_shape) if is_stored else _next_coded(coded, op.weight_shape)
    return Weights(
        weight=weight,
        scale=_next(kept, channels) if flags & HAS_SCALE else None,
        bias=_next(kept, channels) if flags & HAS_BIAS else None,
    )


def _next_coded(coded: list[Any], shape: tuple[int, ...]) -> Quantised:
    found = coded.pop() if coded else None
    if not isinstance(found, Quantised) or found.codes.shape != shape:
        raise corrupt("a coded weight is missing or has another shape")
    return found


def _next(kept: list[Any], shape: tuple[int, ...]) -> Array:
    found = kept.pop() if kept else None
    if found is None or found.dtype != np.float32 or math.prod(found.shape) != math.prod(shape):
        raise corrupt("a stored weight is missing or has another shape")
    whole: Array = found.reshape(shape)
    return whole
