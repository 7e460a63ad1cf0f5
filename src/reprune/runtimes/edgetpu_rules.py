"""What the Edge TPU's compiler maps, by what is published about it, for models that it has not seen yet.

Source: coral.ai/docs/edgetpu/models-intro, "Model requirements" and "Supported operations", for compiler 16.
The compiler knows more limits than are published, so only its own log is proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from reprune.runtimes.tflite_file import TfliteModel, TfliteOperator, TfliteTensor

# On-chip memory for parameters; a part of it holds the program.
PARAMETER_CACHE_BYTES: Final = 8 * 2**20
SOFTMAX_ELEMENTS: Final = 16_000

SUPPORTED: Final = frozenset(
    {
        *("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS"),
        *("FULLY_CONNECTED", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN"),
        *("MINIMUM", "MUL", "PACK", "PAD", "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU"),
        *(
            "RELU6",
            "RELU_N1_TO_1",
            "RESHAPE",
            "RESIZE_BILINEAR",
            "RESIZE_NEAREST_NEIGHBOR",
            "RSQRT",
        ),
        *("SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUARED_DIFFERENCE", "SQUEEZE"),
        *("STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "TRANSPOSE_CONV"),
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    }
)
_TYPES = ("INT8", "UINT8", "INT32")
_OVER_AXES = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
# A mean over channels needs a multiple of this many.
_CHANNELS = 4


class Fallback(NamedTuple):
    """An operator that would run on the CPU, by its place among the model's."""

    place: int
    operator: str
    reason: str


def fallbacks(model: TfliteModel) -> tuple[Fallback, ...]:
    """The operators that would not run on the Edge TPU, in the order they run. The compiler maps one
    connected part, so what comes after an operator on the CPU is there as well.
    """
    found: list[Fallback] = []
    on_cpu: dict[str, str] = {}
    for place, operator in enumerate(model.operators):
        before = [on_cpu[one.name] for one in operator.inputs if one.name in on_cpu]
        reason = refusal(operator) or (f"comes after {before[0]} on the CPU" if before else "")
        if reason:
            found.append(Fallback(place, operator.name, reason))
            on_cpu |= {one.name: before[0] if before else operator.name for one in operator.outputs}
    return tuple(found)


def refusal(operator: TfliteOperator) -> str:
    """Why the Edge TPU does not compute it; "" if nothing that is published speaks against it."""
    if operator.name not in SUPPORTED:
        return "is not supported"
    tensors = (*operator.inputs, *operator.outputs)
    return next(
        (reason for reason in map(_tensor_refusal, tensors) if reason), _own_refusal(operator)
    )


def parameter_bytes(model: TfliteModel) -> int:
    """The bytes of all constants, each counted once."""
    constants = {
        tensor.name: tensor.constant_bytes for one in model.operators for tensor in one.inputs
    }
    return sum(constants.values())


def _tensor_refusal(tensor: TfliteTensor) -> str:
    if tensor.type not in _TYPES:
        return f"computes in {tensor.type}"
    if tensor.shape is None or -1 in tensor.shape:
        return "has a tensor of no fixed size"
    # Weights have four dimensions of their own.
    if not tensor.constant_bytes and any(size > 1 for size in tensor.shape[:-3]):
        return f"has a tensor of {list(tensor.shape)}, of which only the last three may be above 1"
    return ""


def _own_refusal(operator: TfliteOperator) -> str:
    rules: Mapping[str, Callable[[TfliteOperator], str]] = {
        "CONV_2D": _dilations,
        "DEPTHWISE_CONV_2D": _dilations,
        "FULLY_CONNECTED": _product,
        "SOFTMAX": _softmax,
        "CONCATENATION": _joined,
        "AVERAGE_POOL_2D": _fused,
        "MAX_POOL_2D": _fused,
        "PAD": _padded,
        "STRIDED_SLICE": _sliced,
        **dict.fromkeys(_OVER_AXES, _reduced),
    }
    rule = rules.get(operator.name)
    return rule(operator) if rule is not None else ""


def _dilations(operator: TfliteOperator) -> str:
    along = {operator.knobs.get(f"dilation{axis}Factor", 1) for axis in "HW"}
    return "has other dilations along x and y" if len(along) > 1 else ""


def _product(operator: TfliteOperator) -> str:
    if operator.knobs.get("weightsFormat", 0):
        return "has weights in a shuffled order"
    return "has more than one row of outputs" if _above_one(operator.outputs[0]) > 1 else ""


def _softmax(operator: TfliteOperator) -> str:
    given = operator.inputs[0]
    if _above_one(given) > 1 or max(given.shape or (1,)) > SOFTMAX_ELEMENTS:
        return f"is not over one dimension of up to {SOFTMAX_ELEMENTS} elements"
    return ""


def _joined(operator: TfliteOperator) -> str:
    if _fused(operator):
        return _fused(operator)
    has_constant = any(one.constant_bytes for one in operator.inputs)
    is_pair = len(operator.inputs) == 2
    return "joins a constant and more than one tensor" if has_constant and not is_pair else ""


def _fused(operator: TfliteOperator) -> str:
    return "has a fused activation" if operator.knobs.get("fusedActivationFunction", 0) else ""


def _padded(operator: TfliteOperator) -> str:
    """Paddings are (before, after) of each dimension: batch first, channels last."""
    paddings = operator.inputs[1].numbers
    is_spatial = not any((*paddings[:2], *paddings[-2:]))
    return "" if is_spatial else "pads the batch or channels"


def _sliced(operator: TfliteOperator) -> str:
    if operator.knobs.get("ellipsisMask", 0) or operator.knobs.get("newAxisMask", 0):
        return "has an ellipsis or a new axis"
    return "has a stride above 1" if any(step != 1 for step in operator.inputs[3].numbers) else ""


def _reduced(operator: TfliteOperator) -> str:
    shape = operator.inputs[0].shape or ()
    axes = {axis % len(shape) for axis in operator.inputs[1].numbers} if shape else set()
    if 0 in axes and shape[0] > 1:
        return "reduces the batch"
    if operator.name == "MEAN" and len(shape) - 1 in axes and shape[-1] % _CHANNELS:
        return f"is a mean over {shape[-1]} channels, no multiple of {_CHANNELS}"
    return ""


def _above_one(tensor: TfliteTensor) -> int:
    return sum(size > 1 for size in tensor.shape or ())
