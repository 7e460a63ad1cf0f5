"""What each operator of an exported module becomes: a function of the lowering and the node."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reprune.runtimes.microcontroller import graph as g
from reprune.runtimes.microcontroller.lowering import Lowering, Step, Value, refusal, shape_of

if TYPE_CHECKING:
    from torch import fx

SUPPORTED = (
    "Linear", "Conv1d", "Conv2d", "ConvTranspose2d", "BatchNorm", "ReLU", "ReLU6", "Hardtanh",
    "LeakyReLU", "Sigmoid", "Tanh", "Hardsigmoid", "Hardswish", "SiLU", "Softmax", "LogSoftmax",
    "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "mean over the picture", "Upsample (nearest)",
    "Flatten and reshape", "Dropout", "cat", "chunk, slice and pad", "add, sub, mul and div",
)  # fmt: skip
Rule = Callable[[Lowering, "fx.Node"], None]
Float = NDArray[np.float64]


def _argument(node: fx.Node, place: int, default: Any = None) -> Any:
    """A positional or keyword argument, by the operator's own schema."""
    if place < len(node.args):
        return node.args[place]
    schema = node.target._schema  # type: ignore[union-attr]
    return node.kwargs.get(schema.arguments[place].name, default)


def _pair(value: Any, default: int = 1) -> tuple[int, int]:
    """Down and across. One number is for both, or, for sequences, across alone (see `_flat`)."""
    if value is None or value == []:
        return default, default
    numbers = [value, value] if isinstance(value, int) else list(value)
    return (numbers[0], numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _convolution(state: Lowering, node: fx.Node) -> None:
    weight = state.constant(_argument(node, 1), node)
    stride, dilation = (_pair(_argument(node, at)) for at in (3, 5))
    groups = _argument(node, 6, 1)
    given = _argument(node, 4, 0)
    kernel = _kernel(weight)
    if weight.ndim == 3:  # a sequence is a picture of one row
        stride, dilation = (1, stride[1]), (1, dilation[1])
        padding = (0, _pair(given, 0)[1]) if not isinstance(given, str) else (0, 0)
    else:
        padding = _pair(given, 0) if not isinstance(given, str) else (0, 0)
    if given == "same":
        whole = [reach * (side - 1) for reach, side in zip(dilation, kernel, strict=True)]
        if any(side % 2 for side in whole):
            raise refusal(node, "pads more on one side than on the other")
        padding = (whole[0] // 2, whole[1] // 2)
    numbers = (*kernel, *stride, *padding, *dilation, groups)
    _weighted(state, node, g.CONV, weight, numbers)


def _transposed(state: Lowering, node: fx.Node) -> None:
    weight = state.constant(_argument(node, 1), node)
    numbers = (
        *_kernel(weight),
        *_pair(_argument(node, 3)),
        *_pair(_argument(node, 4, 0), 0),
        *_pair(_argument(node, 7)),
        _argument(node, 6, 1),
    )
    _weighted(state, node, g.TRANSPOSED, weight, numbers)


def _linear(state: Lowering, node: fx.Node) -> None:
    weight = state.constant(node.args[1], node)
    if len(state.value(node.args[0], node).dims) != 1:
        raise refusal(node, "works on more than a vector", fix="flatten what it is given")
    _weighted(state, node, g.CONV, weight, (1, 1, 1, 1, 0, 0, 1, 1, 1))


def _kernel(weight: NDArray[Any]) -> tuple[int, int]:
    sides = weight.shape[2:]
    return (1, sides[0]) if len(sides) == 1 else (sides[0], sides[1])


def _weighted(
    state: Lowering, node: fx.Node, code: int, weight: NDArray[Any], numbers: Sequence[int]
) -> None:
    bias = _argument(node, 2)
    sides = weight.shape[:2] if math.prod(weight.shape[2:]) == 1 else weight.shape
    if weight.ndim == 3 and len(sides) == 3:
        sides = (*weight.shape[:2], 1, weight.shape[2])
    step = Step(
        code=code,
        inputs=(state.value(node.args[0], node),),
        output=state.fresh(node),
        numbers=(*(int(number) for number in numbers), 0),
        weight=weight.reshape(sides).astype(np.float32),
        bias=None if bias is None else state.constant(bias, node).astype(np.float64),
    )
    state.add(step, node)


def _batch_norm(state: Lowering, node: fx.Node) -> None:
    """Y = x * scale + shift, with the statistics that were learnt; in float64, rounded once."""
    value = state.value(node.args[0], node)
    mean, variance = (state.constant(_argument(node, at), node) for at in (3, 4))
    gamma, beta = (_argument(node, at) for at in (1, 2))
    scale = 1.0 / np.sqrt(variance.astype(np.float64) + float(_argument(node, 7)))
    if gamma is not None:
        scale = scale * state.constant(gamma, node)
    shift = -mean.astype(np.float64) * scale
    if beta is not None:
        shift = shift + state.constant(beta, node)
    _affine(state, node, value, scale, shift)


def _affine(state: Lowering, node: fx.Node, value: Value, scale: Float, shift: Float) -> None:
    """Joins the layer that made `value`, if nobody else reads that; else an operation of its own."""
    source = node.args[0]
    alone = state.value(source, node) is value and len(source.users) == 1  # type: ignore[union-attr]
    before = next((step for step in reversed(state.steps) if step.output is value), None)
    if before and before.code in g.WEIGHTED and alone:
        before.scale = scale if before.scale is None else before.scale * scale
        before.bias = shift if before.bias is None else before.bias * scale + shift
        state.values[node.name] = value
        return
    state.add(
        Step(
            code=g.AFFINE,
            inputs=(value,),
            output=_over(state, node, value),
            scale=scale,
            bias=shift,
        ),
        node,
    )


def _over(state: Lowering, node: fx.Node, value: Value) -> Value:
    """Where an operation of each number alone writes: over its input, if nobody reads that later."""
    readers = {
        user.name
        for name, other in state.values.items()
        if other.buffer == value.buffer
        for user in state.nodes[name].users
    }
    done = state.values.keys() | {node.name}
    if readers <= done and _is_made(state, value):
        return Value(buffer=value.buffer, dims=state.dims(node))
    return state.fresh(node)


def _is_made(state: Lowering, value: Value) -> bool:
    """Not an input of the model: what its user put there stays."""
    return any(step.output.buffer == value.buffer for step in state.steps)


def _unary(code: int, floats: Callable[[fx.Node], tuple[float, ...]] = lambda _: ()) -> Rule:
    def rule(state: Lowering, node: fx.Node) -> None:
        value = state.value(node.args[0], node)
        out = _over(state, node, value)
        state.add(Step(code=code, inputs=(value,), output=out, floats=floats(node)), node)

    return rule


def _clamp(node: fx.Node) -> tuple[float, ...]:
    low, high = _argument(node, 1), _argument(node, 2)
    return (-math.inf if low is None else float(low), math.inf if high is None else float(high))


def _softmax(code: int) -> Rule:
    def rule(state: Lowering, node: fx.Node) -> None:
        value = state.value(node.args[0], node)
        axis = _argument(node, 1)
        if (axis if axis >= 0 else axis + len(value.dims) + 1) != 1:
            raise refusal(node, "works on another dimension than the channels")
        out = _over(state, node, value)
        state.add(Step(code=code, inputs=(value,), output=out), node)

    return rule


def _alias(state: Lowering, node: fx.Node) -> None:
    """A view: the same numbers in the same order."""
    value = state.value(node.args[0], node)
    dims = state.dims(node)
    if math.prod(dims) != math.prod(value.dims):
        raise refusal(node, "mixes the examples of a batch")
    state.values[node.name] = Value(buffer=value.buffer, dims=dims)


def _max_pool(state: Lowering, node: fx.Node) -> None:
    kernel = _pair(node.args[1])
    if _pair(_argument(node, 4)) != (1, 1):
        raise refusal(node, "is dilated")
    stride = _pair(_argument(node, 2) or list(kernel))
    numbers = (*kernel, *stride, *_pair(_argument(node, 3, 0), 0))
    _window(state, node, g.MAX_POOL, numbers)


def _average_pool(state: Lowering, node: fx.Node) -> None:
    kernel = _pair(node.args[1])
    if _argument(node, 4, False) or _argument(node, 6) is not None:
        raise refusal(node, "has a ceil_mode or divisor of its own")
    stride = _pair(_argument(node, 2) or list(kernel))
    counted = int(bool(_argument(node, 5, True)))
    numbers = (*kernel, *stride, *_pair(_argument(node, 3, 0), 0), counted)
    _window(state, node, g.AVERAGE, numbers)


def _adaptive(state: Lowering, node: fx.Node) -> None:
    shape, goal = state.value(node.args[0], node).shape, shape_of(state.dims(node))
    if any(side % wanted for side, wanted in zip(shape[1:], goal[1:], strict=True)):
        raise refusal(node, f"divides {list(shape[1:])} into {list(goal[1:])} unequal parts")
    kernel = (shape[1] // goal[1], shape[2] // goal[2])
    _window(state, node, g.AVERAGE, (*kernel, *kernel, 0, 0, 1))


def _mean(state: Lowering, node: fx.Node) -> None:
    value = state.value(node.args[0], node)
    rank = len(value.dims) + 1
    axes = sorted(axis % rank for axis in _argument(node, 1) or [])
    if axes != list(range(2, rank)) or rank < 3:
        raise refusal(node, "averages over other dimensions than the whole picture")
    kernel = value.shape[1:]
    out = state.fresh(node)
    pooled = Value(buffer=out.buffer, dims=(value.shape[0],))
    numbers = (*kernel, *kernel, 0, 0, 1)
    state.add(Step(code=g.AVERAGE, inputs=(value,), output=pooled, numbers=numbers), node)
    state.values[node.name] = out


def _window(state: Lowering, node: fx.Node, code: int, numbers: Sequence[int]) -> None:
    step = Step(
        code=code,
        inputs=(state.value(node.args[0], node),),
        output=state.fresh(node),
        numbers=tuple(numbers),
    )
    state.add(step, node)


def _binary(code: int, sign: float = 1.0) -> Rule:
    """Two activations, or an activation and a constant (a number, or one for each channel)."""

    def rule(state: Lowering, node: fx.Node) -> None:
        one, other = node.args[:2]
        alpha: Any = node.kwargs.get("alpha", 1)
        factor = float(alpha) * sign
        name = getattr(other, "name", "")
        if name in state.values:
            _two(state, node, code, factor)
            return
        value = state.value(one, node)
        number = _by_channel(node, value, state.constants.get(name, other))
        ones, none = np.ones_like(number), np.zeros_like(number)
        if code == g.ADD:
            _affine(state, node, value, ones, number * factor)
        else:
            _affine(state, node, value, number**sign, none)

    return rule


def _two(state: Lowering, node: fx.Node, code: int, factor: float) -> None:
    one, other = (state.value(part, node) for part in node.args[:2])
    if factor != 1.0:
        raise refusal(node, "of two activations is supported as a plain sum or product only")
    made = shape_of(state.dims(node))
    if one.shape != made:
        one, other = other, one
    if one.shape != made or other.shape not in {made, (made[0], 1, 1)}:
        raise refusal(node, "spreads a tensor over other dimensions than the picture")
    state.add(Step(code=code, inputs=(one, other), output=state.fresh(node)), node)


def _by_channel(node: fx.Node, value: Value, other: Any) -> Float:
    channels = value.shape[0]
    number = np.asarray(other, dtype=np.float64)
    sides = (1,) * (len(value.dims) + 1 - number.ndim) + number.shape
    fits = number.size == 1 or (sides[1] == channels and number.size == channels)
    if not fits or len(sides) != len(value.dims) + 1:
        raise refusal(node, "takes a constant that is neither a number nor one for each channel")
    found: Float = np.broadcast_to(number.reshape(-1), (channels,)).copy()
    return found


def _cat(state: Lowering, node: fx.Node) -> None:
    parts = [state.value(part, node) for part in node.args[0]]  # type: ignore[union-attr]
    if _argument(node, 1, 0) not in {1, -len(parts[0].dims)}:
        raise refusal(node, "joins other dimensions than the channels")
    out, channel = state.fresh(node), 0
    for place, part in enumerate(parts):
        numbers = (0, 0, 0, 1, 1, *part.shape, channel, 0, 0, int(place > 0))
        state.add(Step(code=g.PLACE, inputs=(part,), output=out, numbers=numbers), node)
        channel += part.shape[0]


def _slice(state: Lowering, node: fx.Node) -> None:
    value = state.value(node.args[0], node)
    axis = _argument(node, 1, 0) % (len(value.dims) + 1)
    start, step = _argument(node, 2) or 0, _argument(node, 4, 1)
    if state.dims(node) == value.dims:
        state.values[node.name] = value
        return
    _cut(state, node, (axis, start, step))


def _select_chunk(state: Lowering, node: fx.Node) -> None:
    """`chunk` and `split` give lists; each part is taken by its number."""
    whole, place = node.args[0], node.args[1]
    source = whole.args[0]  # type: ignore[union-attr]
    value = state.value(source, node)
    axis = _argument(whole, 2, 0) % (len(value.dims) + 1)  # type: ignore[arg-type]
    before = [part.shape[axis] for part in whole.meta["val"][:place]]  # type: ignore[union-attr]
    _cut(state, node, (axis, sum(before), 1), value)


def _cut(
    state: Lowering, node: fx.Node, cut: tuple[int, int, int], value: Value | None = None
) -> None:
    axis, start, step = cut
    value = value or state.value(node.args[0], node)
    if axis == 0 or (axis == 1 and step != 1):
        raise refusal(node, "takes some of the examples, or every n-th channel")
    # A sequence is a picture of one row: its dimension 2 lies across.
    place = axis - 1 if len(value.dims) != 2 or axis == 1 else 2
    begin, steps = [0, 0, 0], [1, 1, 1]
    begin[place] = start if start >= 0 else start + value.shape[place]
    steps[place] = step
    out = state.fresh(node)
    numbers = (*begin, *steps[1:], *out.shape, 0, 0, 0, 0)
    state.add(Step(code=g.PLACE, inputs=(value,), output=out, numbers=numbers), node)


def _pad(state: Lowering, node: fx.Node) -> None:
    value, given = state.value(node.args[0], node), list(node.args[1])  # type: ignore[arg-type]
    if _argument(node, 2, "constant") != "constant" or (_argument(node, 3) or 0) != 0:
        raise refusal(node, "pads with something else than zeros")
    sides = [0] * (2 * len(value.dims) - len(given)) + [
        number for at in range(len(given) - 2, -1, -2) for number in given[at : at + 2]
    ]
    before = sides[::2] if len(value.dims) != 2 else [sides[0], 0, sides[2]]
    before += [0] * (3 - len(before))
    if min(sides) < 0:
        raise refusal(node, "cuts by negative padding")
    numbers = (0, 0, 0, 1, 1, *value.shape, *before, 0)
    state.add(Step(code=g.PLACE, inputs=(value,), output=state.fresh(node), numbers=numbers), node)


def _nearest(state: Lowering, node: fx.Node) -> None:
    given, made = state.value(node.args[0], node).shape, shape_of(state.dims(node))
    factors = (made[1] // given[1], made[2] // given[2])
    if (given[1] * factors[0], given[2] * factors[1]) != made[1:]:
        raise refusal(node, "enlarges by a factor that is not whole")
    _window(state, node, g.NEAREST, factors)


def _nothing(state: Lowering, node: fx.Node) -> None:
    """A list: its parts are taken one by one."""


_VIEWS = (
    "flatten.using_ints", "view.default", "reshape.default", "squeeze.dim", "squeeze.dims",
    "unsqueeze.default", "dropout.default", "feature_dropout.default", "contiguous.default", "alias.default",
    "clone.default", "detach.default", "detach_.default", "dropout_.default", "_unsafe_view.default",
    "squeeze.default", "unflatten.int",
)  # fmt: skip
_CLAMPS: dict[str, Callable[[Any], tuple[float, ...]]] = {
    "relu": lambda _: (0.0, math.inf),
    "relu6": lambda _: (0.0, 6.0),
    "hardtanh": lambda node: (float(_argument(node, 1, -1)), float(_argument(node, 2, 1))),
    "clamp": _clamp,
    "clamp_min": lambda node: (float(_argument(node, 1)), math.inf),
}
_PLAIN = {
    "sigmoid": g.SIGMOID,
    "tanh": g.TANH,
    "hardsigmoid": g.HARD_SIGMOID,
    "hardswish": g.HARD_SWISH,
    "silu": g.SILU,
}


def _slope(node: fx.Node) -> tuple[float, ...]:
    return (float(_argument(node, 1, 0.01)),)


# In-place operators ("relu_") are exported as such; nobody reads what they write over.
_EITHER: dict[str, Rule] = {
    **{name: _unary(g.CLAMP, floats) for name, floats in _CLAMPS.items()},
    **{name: _unary(code) for name, code in _PLAIN.items()},
    "leaky_relu": _unary(g.LEAKY, _slope),
}
OPERATORS: dict[str, Rule] = {
    **{f"aten.{name}{suffix}.default": rule for name, rule in _EITHER.items() for suffix in ("", "_")},
    **{f"aten.{name}": _alias for name in _VIEWS},
    **{
        f"aten.{name}{suffix}.{kind}": rule
        for name, rule in {
            "add": _binary(g.ADD),
            "sub": _binary(g.ADD, -1.0),
            "mul": _binary(g.MULTIPLY),
            "div": _binary(g.MULTIPLY, -1.0),
        }.items()
        for suffix in ("", "_")
        for kind in ("Tensor", "Scalar")
    },
    "aten.linear.default": _linear,
    "aten.conv1d.default": _convolution,
    "aten.conv1d.padding": _convolution,
    "aten.conv2d.default": _convolution,
    "aten.conv2d.padding": _convolution,
    "aten.conv_transpose2d.input": _transposed,
    "aten.batch_norm.default": _batch_norm,
    "aten.max_pool2d.default": _max_pool,
    "aten.avg_pool2d.default": _average_pool,
    "aten.adaptive_avg_pool2d.default": _adaptive,
    "aten.mean.dim": _mean,
    "aten.softmax.int": _softmax(g.SOFTMAX),
    "aten.log_softmax.int": _softmax(g.LOG_SOFTMAX),
    "aten.cat.default": _cat,
    "aten.slice.Tensor": _slice,
    "aten.chunk.default": _nothing,
    "aten.split.Tensor": _nothing,
    "aten.split_with_sizes.default": _nothing,
    "<built-in function getitem>": _select_chunk,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
    "aten.upsample_nearest2d.vec": _nearest,
    "aten.upsample_nearest2d.default": _nearest,
}  # fmt: skip
