"""Computes an ML program with torch, so that what a Core ML package holds is checked where there is no macOS.

    from tests.mil import evaluate
    outputs = evaluate(content, {"image": array})

Operators are those of the zoo's convolutional models; another one is a KeyError. Everything is computed in
float32, whatever the program says.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reprune.runtimes.coreml import specification
from reprune.runtimes.coreml_convert import quiet
from reprune.runtimes.coreml_package import write_folder


@functools.lru_cache(maxsize=1)
def program(content: bytes) -> Any:
    """The main function of the package, weights included."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from coremltools.converters.mil.frontend.milproto.load import load

        package = write_folder(content, Path(folder), where="")
        spec = specification(content)
        weights = package / "Data/com.apple.CoreML/weights"
        loaded = load(
            spec,
            specification_version=spec.specificationVersion,
            file_weights_dir=str(weights),
        )
    return loaded.functions["main"]


def operators(content: bytes) -> list[str]:
    """The names of all operators but constants, in the order they run."""
    return [op.op_type for op in program(content).operations if op.op_type != "const"]


def evaluate(content: bytes, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs, in order."""
    function = program(content)
    known: dict[str, Tensor] = {
        name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()
    }

    def value(variable: Any) -> Any:
        if variable is None:
            return None
        if variable.name in known:
            return known[variable.name]
        return variable.val

    for op in function.operations:
        # What has a mask as well feeds a constexpr_sparse_to_dense, which knows what to make of both.
        if op.op_type == "const" or (op.op_type.startswith("constexpr") and len(op.outputs) > 1):
            continue
        if op.op_type.startswith("constexpr"):
            stored = op.materialized_val_inference()
            known[op.outputs[0].name] = torch.from_numpy(np.array(stored)).float()
            continue
        given = {
            name: value(one) if not isinstance(one, (tuple, list)) else [value(v) for v in one]
            for name, one in op.inputs.items()
        }
        known[op.outputs[0].name] = OPERATORS[op.op_type](given)
    return [known[one.name].numpy() for one in function.outputs]


def _tensor(value: Any) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    return torch.from_numpy(np.array(value)).float()


def _pads(given: Mapping[str, Any], x: Tensor, kernel: tuple[int, ...]) -> list[int]:
    """As F.pad takes them: the last dimension first."""
    kind = str(given["pad_type"])
    if kind == "valid":
        return [0] * 4
    if kind == "custom":
        top, bottom, left, right = (int(one) for one in given["pad"])
        return [left, right, top, bottom]
    found: list[int] = []
    for dim in (1, 0):
        stride = int(given["strides"][dim])
        size = x.shape[2 + dim]
        whole = max((-(-size // stride) - 1) * stride + kernel[dim] - size, 0)
        less, more = whole // 2, whole - whole // 2
        found += [less, more] if kind == "same" else [more, less]
    return found


def _conv(given: Mapping[str, Any]) -> Tensor:
    weight = _tensor(given["weight"])
    x = F.pad(given["x"].float(), _pads(given, given["x"], tuple(weight.shape[2:])))
    return F.conv2d(
        x,
        weight,
        _tensor(given["bias"]),
        stride=[int(one) for one in given["strides"]],
        dilation=[int(one) for one in given["dilations"]],
        groups=int(given["groups"]),
    )


def _conv_transpose(given: Mapping[str, Any]) -> Tensor:
    assert not any(_pads(given, given["x"], (1, 1)))
    return F.conv_transpose2d(
        given["x"].float(),
        _tensor(given["weight"]),
        _tensor(given["bias"]),
        stride=[int(one) for one in given["strides"]],
        groups=int(given["groups"]),
    )


def _max_pool(given: Mapping[str, Any]) -> Tensor:
    kernel = tuple(int(one) for one in given["kernel_sizes"])
    pads = _pads(given, given["x"], kernel)
    x = F.pad(given["x"].float(), pads, value=-torch.inf)
    return F.max_pool2d(x, kernel, stride=[int(one) for one in given["strides"]])


def _upsample(given: Mapping[str, Any]) -> Tensor:
    scale = (float(given["scale_factor_height"]), float(given["scale_factor_width"]))
    return F.interpolate(given["x"].float(), scale_factor=scale, mode="nearest")


def _slice(given: Mapping[str, Any]) -> Tensor:
    x, rank = given["x"], given["x"].dim()

    def flags(name: str) -> list[bool]:
        value = given.get(name)
        return [False] * rank if value is None else [bool(one) for one in value]

    begin, end = ([int(one) for one in given[name]] for name in ("begin", "end"))
    strides = given.get("stride")
    steps = [1] * rank if strides is None else [int(one) for one in strides]
    return x[
        tuple(
            slice(
                None if flags("begin_mask")[d] else begin[d],
                None if flags("end_mask")[d] else end[d],
                steps[d],
            )
            for d in range(rank)
        )
    ]


def _pad(given: Mapping[str, Any]) -> Tensor:
    assert str(given["mode"]) == "constant"
    ends = [int(one) for one in given["pad"]]
    pairs = [ends[n : n + 2] for n in range(0, len(ends), 2)][::-1]
    return F.pad(
        given["x"].float(),
        [one for pair in pairs for one in pair],
        value=float(given["constant_val"]),
    )


OPERATORS: Mapping[str, Callable[[Mapping[str, Any]], Tensor]] = {
    "cast": lambda given: given["x"],
    "relu": lambda given: given["x"].relu(),
    "add": lambda given: _tensor(given["x"]) + _tensor(given["y"]),
    "linear": lambda given: F.linear(
        given["x"].float(), _tensor(given["weight"]), _tensor(given["bias"])
    ),
    "reduce_mean": lambda given: (
        given["x"]
        .float()
        .mean(dim=[int(one) for one in given["axes"]], keepdim=bool(given["keep_dims"]))
    ),
    "concat": lambda given: torch.cat(list(given["values"]), dim=int(given["axis"])),
    "conv": _conv,
    "slice_by_index": _slice,
    "pad": _pad,
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
    "upsample_nearest_neighbor": _upsample,
}
