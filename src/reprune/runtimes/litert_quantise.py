"""Quantises a float .tflite, in the environment that has ai-edge-quantizer:

python -m reprune.runtimes.litert_quantise SPEC.json ANSWER.json
"""

from __future__ import annotations

import re
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors.numpy import load_file

from reprune.core.artifacts import Fact
from reprune.core.children import answer
from reprune.core.errors import BuildError
from reprune.core.params import Precision
from reprune.core.plugins import require
from reprune.core.store import write_bytes
from reprune.runtimes.litert_convert import EXTRA
from reprune.runtimes.litert_ranges import ranges_of

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]


class QuantiseSpec(Fact, kw_only=True):
    """`calibration` is a .safetensors of arrays "0", "1", ..., one an input, whose first dimension is that
    of `batch_size` examples a call. `operators` (names of the quantiser) are quantised where they may
    be, all that can be where it is empty; those whose output is a tensor in `keep` stay in float.
    """

    model: str
    destination: str
    precision: Precision
    calibration: str
    batch_size: int
    ranges: Literal["minmax", "percentile"]
    activations: Literal["static", "dynamic"]
    io: Literal["float", "int8"]
    operators: tuple[str, ...]
    keep: tuple[str, ...]


class Quantised(Fact, kw_only=True):
    quantiser: str


def quantise(spec: QuantiseSpec) -> Quantised:
    """Writes the quantised .tflite, whole or not at all. Weights of convolutions have a scale for each
    channel, and those of matrix products too unless `io` is int8 (the Edge TPU knows only one there).

    Raises BuildError for calibration that cannot give ranges and models that cannot be quantised.
    """
    content = Path(spec.model).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantizer = require("ai_edge_quantizer.quantizer", EXTRA).Quantizer(content)
        _add_recipe(quantizer, spec)
        try:
            ranges = _calibration(content, spec) if quantizer.need_calibration else None
            made = quantizer.quantize(
                ranges, enable_progress_report=False, enable_progress_bar=False
            ).quantized_model
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise BuildError(
                f"the model cannot be quantised to {spec.precision}: {error}",
                fix="leave the layer that it names in float (float_layers), or use another precision",
            ) from error
    write_bytes(Path(spec.destination), bytes(made))
    return Quantised(quantiser=f"ai-edge-quantizer {version('ai-edge-quantizer')}")


def _add_recipe(quantizer: Any, spec: QuantiseSpec) -> None:
    module = require("ai_edge_quantizer.qtyping", EXTRA)
    known, everything = module.TFLOperationName, module.TFLOperationName.ALL_SUPPORTED
    if spec.precision == "fp16":
        quantizer.add_weight_only_config(".*", everything, 16, algorithm_key="float_casting")
    elif spec.precision == "int8-weights":
        quantizer.add_weight_only_config(".*", everything, 8)
    elif spec.activations == "dynamic":
        quantizer.add_dynamic_config(".*", everything, 8)
    else:
        for name in spec.operators or (everything,):
            quantizer.add_static_config(".*", known(name), 8, 8)
        if spec.io == "int8":
            one_scale = module.QuantGranularity.TENSORWISE
            quantizer.add_static_config(".*", known.FULLY_CONNECTED, 8, 8, one_scale)
    if spec.io == "float":
        for ends in (known.INPUT, known.OUTPUT):
            quantizer.update_quantization_recipe(".*", ends, None, "no_quantize")
    if spec.io == "float" and spec.precision != "fp16":
        # A table that is looked up stays small: its rows alone become float, when they are read.
        quantizer.add_dynamic_config(".*", known.EMBEDDING_LOOKUP, 8)
    for tensor in spec.keep:
        # The scope of an operator is its outputs' names, each ended by ";".
        quantizer.update_quantization_recipe(
            f"^{re.escape(tensor)};$", everything, None, "no_quantize"
        )


def _calibration(content: bytes, spec: QuantiseSpec) -> dict[str, dict[str, Array]]:
    arrays = load_file(spec.calibration)
    inputs = [arrays[str(place)] for place in range(len(arrays))]
    batches = [
        [array[start : start + spec.batch_size] for array in inputs]
        for start in range(0, len(inputs[0]) - spec.batch_size + 1, spec.batch_size)
    ]
    return {
        name: {
            "min": np.full(rank * (1,), low, np.float32),
            "max": np.full(rank * (1,), high, np.float32),
        }
        for name, (low, high, rank) in ranges_of(content, batches, spec.ranges).items()
    }


if __name__ == "__main__":
    sys.exit(answer(sys.argv[1:], QuantiseSpec, quantise))
