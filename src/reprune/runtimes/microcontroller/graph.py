"""What a microcontroller computes, one operation after the other, on areas of one array of floats.

An area is a picture (channels, height, width) for one example; a vector is a picture of 1 x 1. Weights
come in the order in which they are used, so an operation names none of them: see `engine`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from reprune.core.errors import PayloadCorrupt
from reprune.runtimes.sparse.forms import varints

# Their numbers stand in files and in c/reprune_infer.c: never reorder, only append.
(CONV, TRANSPOSED, MAX_POOL, AVERAGE, ADD, MULTIPLY, CLAMP, LEAKY, SIGMOID, TANH, HARD_SIGMOID) = (
    range(11)
)
HARD_SWISH, SILU, AFFINE, PLACE, NEAREST, SOFTMAX, LOG_SOFTMAX = range(11, 18)

# Weighted operations: kernel, stride, padding, dilation (down and across), groups, flags.
STORED_WEIGHT, HAS_SCALE, HAS_BIAS = 1, 2, 4
_WINDOW = 10
# Pools: kernel, stride, padding; averages count padding or not.
# PLACE: where reading begins (channel, row, column), its steps down and across, how much is taken
# (channels, rows, columns), where it goes, and 1 if the rest of the output is kept, not made zero.
NUMBERS = {
    CONV: _WINDOW, TRANSPOSED: _WINDOW, MAX_POOL: 6, AVERAGE: 7, PLACE: 12, NEAREST: 2,
}  # fmt: skip
FLOATS = {CLAMP: 2, LEAKY: 1}
INPUTS = {ADD: 2, MULTIPLY: 2}
IN_EXP = frozenset({SIGMOID, TANH, SILU, SOFTMAX, LOG_SOFTMAX})
WEIGHTED = frozenset({CONV, TRANSPOSED})

# No microcontroller has as much: a file that asks for more is damaged.
MAX_ARENA, MAX_WEIGHTS, MAX_MACS = 1 << 24, 1 << 24, 1 << 33
MAX_SIDE = 65_535

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Area:
    """`shape` is channels, rows, columns; it begins at the arena's float number `offset`."""

    offset: int
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Op:
    code: int
    inputs: tuple[Area, ...]
    output: Area
    numbers: tuple[int, ...] = ()
    floats: tuple[float, ...] = ()

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of a weighted operation: as torch has it, a kernel of 1 x 1 without its two sides."""
        down, across, groups = self.numbers[0], self.numbers[1], self.numbers[8]
        inputs, outputs = self.inputs[0].shape[0], self.output.shape[0]
        sides = () if down == across == 1 else (down, across)
        if self.code == CONV:
            return (outputs, inputs // groups, *sides)
        return (inputs, outputs // groups, *sides)

    @property
    def macs(self) -> int:
        if self.code not in WEIGHTED:
            return math.prod(self.output.shape)
        pixels = self.output if self.code == CONV else self.inputs[0]
        return math.prod(self.weight_shape) * pixels.shape[1] * pixels.shape[2]


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output as its user knows it: its dimensions without the batch, and where it lies."""

    offset: int
    dims: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """`arena` is how many floats all areas need together."""

    arena: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    ops: tuple[Op, ...] = field(default=())


def write_graph(graph: Graph) -> bytes:
    out = bytearray(varints([graph.arena, len(graph.inputs)]))
    for port in graph.inputs:
        out += _port(port)
    out += varints([len(graph.outputs)])
    for port in graph.outputs:
        out += _port(port)
    out += varints([len(graph.ops)])
    for op in graph.ops:
        out += bytes([op.code])
        for area in (*op.inputs, op.output):
            out += varints([area.offset, *area.shape])
        out += varints(list(op.numbers)) if op.numbers else b""
        out += struct.pack(f"<{len(op.floats)}f", *op.floats)
    return bytes(out)


def _port(port: Port) -> bytes:
    return varints([port.offset, len(port.dims), *port.dims])


def read_graph(content: bytes) -> Graph:
    """The graph, every area inside the arena and every operation of a form that can be run.

    Raises PayloadCorrupt.
    """
    reader = Reader(content)
    arena = reader.varint()
    inputs = tuple(_read_port(reader) for _ in range(reader.count()))
    outputs = tuple(_read_port(reader) for _ in range(reader.count()))
    graph = Graph(
        arena=arena,
        inputs=inputs,
        outputs=outputs,
        ops=tuple(_read_op(reader) for _ in range(reader.count())),
    )
    if reader.place != len(content):
        raise corrupt("bytes behind its last operation")
    check(graph)
    return graph


def check(graph: Graph) -> None:
    """Raises PayloadCorrupt for a graph that could not be run, or only on a far larger machine."""
    if not (0 < graph.arena <= MAX_ARENA and graph.inputs and graph.outputs):
        raise corrupt(f"an arena of {graph.arena} floats")
    for port in (*graph.inputs, *graph.outputs):
        if port.offset + math.prod(port.dims) > graph.arena or 0 in port.dims:
            raise corrupt("an input or output outside the arena")
    for place, op in enumerate(graph.ops):
        for area in (*op.inputs, op.output):
            if not all(1 <= side <= MAX_SIDE for side in area.shape):
                raise corrupt(f"operation {place} has a side of no or too many places")
            if area.offset + math.prod(area.shape) > graph.arena:
                raise corrupt(f"operation {place} reaches outside the arena")
        if not _fits(op):
            raise corrupt(f"operation {place} does not fit what it is given")
    _check_work(graph)


def _check_work(graph: Graph) -> None:
    if sum(math.prod(op.weight_shape) for op in graph.ops if op.code in WEIGHTED) > MAX_WEIGHTS:
        raise corrupt(f"more than {MAX_WEIGHTS} weights")
    if sum(op.macs for op in graph.ops) > MAX_MACS:
        raise corrupt(f"more than {MAX_MACS} multiplications")


def _fits(op: Op) -> bool:  # noqa: PLR0911  # one line an operation
    given, made = op.inputs[0].shape, op.output.shape
    if any(number > MAX_SIDE for number in op.numbers):
        return False
    if op.code in WEIGHTED:
        groups = op.numbers[8]
        whole = groups > 0 and given[0] % groups == 0 and made[0] % groups == 0
        return whole and all(op.numbers[:4]) and all(op.numbers[6:8]) and op.numbers[9] < 8
    if op.code in {MAX_POOL, AVERAGE}:
        pads = all(op.numbers[4 + axis] < op.numbers[axis] for axis in (0, 1))
        reached = all(_begins_inside(op, axis) for axis in (0, 1))
        return all(op.numbers[:4]) and pads and reached and given[0] == made[0]
    if op.code in {ADD, MULTIPLY}:
        other = op.inputs[1].shape
        return given == made and other in {made, (made[0], 1, 1)}
    if op.code == PLACE:
        return _places_inside(op)
    if op.code == NEAREST:
        factors = op.numbers
        return all(factors) and made == (given[0], given[1] * factors[0], given[2] * factors[1])
    return given == made


def _begins_inside(op: Op, axis: int) -> bool:
    """The last window of a pool holds at least one place of the picture."""
    last = (op.output.shape[1 + axis] - 1) * op.numbers[2 + axis]
    return last < op.inputs[0].shape[1 + axis] + op.numbers[4 + axis]


def _places_inside(op: Op) -> bool:
    begin, steps, taken, goal = op.numbers[:3], op.numbers[3:5], op.numbers[5:8], op.numbers[8:11]
    given, made = op.inputs[0].shape, op.output.shape
    reads = all(
        at + (count - 1) * step < side
        for at, count, step, side in zip(begin, taken, (1, *steps), given, strict=True)
    )
    goes = all(at + count <= side for at, count, side in zip(goal, taken, made, strict=True))
    return reads and goes and all(taken) and all(steps) and op.numbers[11] < 2


def _read_port(reader: Reader) -> Port:
    offset = reader.varint()
    return Port(offset=offset, dims=tuple(reader.varint() for _ in range(reader.count(8))))


def _read_op(reader: Reader) -> Op:
    code = reader.take(1)[0]
    if code > LOG_SOFTMAX:
        raise corrupt(f"operation {code} is not known")
    areas = [_read_area(reader) for _ in range(INPUTS.get(code, 1) + 1)]
    numbers = tuple(reader.varint() for _ in range(NUMBERS.get(code, 0)))
    count = FLOATS.get(code, 0)
    floats = struct.unpack(f"<{count}f", reader.take(4 * count))
    return Op(code=code, inputs=tuple(areas[:-1]), output=areas[-1], numbers=numbers, floats=floats)


def _read_area(reader: Reader) -> Area:
    offset, *shape = (reader.varint() for _ in range(4))
    return Area(offset=offset, shape=(shape[0], shape[1], shape[2]))


@dataclass
class Reader:
    """Bytes that are read from their beginning; what they do not hold is an error."""

    content: bytes
    place: int = 0

    def take(self, count: int) -> bytes:
        part = self.content[self.place : self.place + count]
        if len(part) != count:
            raise corrupt("it ends too early")
        self.place += count
        return part

    def varint(self) -> int:
        number = 0
        for shift in (0, 7, 14, 21):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise corrupt("a number of more than 28 bits")

    def count(self, most: int = 65_535) -> int:
        found = self.varint()
        if found > most:
            raise corrupt(f"{found} of what there are at most {most}")
        return found


def corrupt(what: str) -> PayloadCorrupt:
    return PayloadCorrupt(
        f"a microcontroller engine does not decode: {what}",
        where="engine",
        fix="build the engine again",
    )
