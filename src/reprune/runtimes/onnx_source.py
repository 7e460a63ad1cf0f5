"""A Source as the bytes of one ONNX file, in float or in int8: what every ONNX-based runtime builds from."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reprune.core.artifacts import BuildFact
from reprune.core.params import Target
from reprune.runtimes.base import Source, float_patterns
from reprune.runtimes.onnx_export import export_onnx
from reprune.runtimes.onnx_plan import Style, layers_of, matches
from reprune.runtimes.onnx_quantize import quantise
from reprune.runtimes.onnx_rewrite import rewrite

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    Array = np.ndarray[Any, np.dtype[Any]]

# The model exported last: choosing which layers stay in float builds it many times.
_last: list[tuple[weakref.ref[nn.Module], str, bytes]] = []


def float_onnx(source: Source) -> bytes:
    """The model in fp32, with what `onnx_rewrite` can write exactly in faster operators.

    The one exported last is kept and given again for the very same module with the same weights.
    Raises BuildError as export_onnx.
    """
    digest = _digest(source)
    for module, known, content in _last:
        if module() is source.module and known == digest:
            return content
    content = rewrite(export_onnx(source.module, source.example_inputs, source.input_names))
    _last[:] = [(weakref.ref(source.module), digest, content)]
    return content


def int8_onnx(source: Source, target: Target, style: Style) -> tuple[bytes, BuildFact]:
    """The model in int8 with the layers of Source.float_layers and Target.float_layers in float, and what
    was left so. Raises BuildError as export_onnx and quantise.
    """
    content = float_onnx(source)
    layers = layers_of(content, style)
    patterns = float_patterns(source, target)
    small = quantise(
        content,
        calibration_arrays(source),
        ranges=target.ranges,
        style=style,
        float_layers=patterns,
    )
    left = [name for pattern in patterns for name in layers if matches(name, [pattern])]
    strange = [
        f"'{pattern}' of float_layers fits no layer that would be quantised"
        for pattern in patterns
        if not any(matches(name, [pattern]) for name in layers)
    ]
    fact = BuildFact(
        float_layers=tuple(dict.fromkeys(left)),
        notes=tuple(strange),
        details={"quantised layers": f"{len(layers) - len(set(left))} of {len(layers)}"},
    )
    return small, fact


def quantisable_layers(source: Source, target: Target, style: Style) -> tuple[str, ...]:
    """The dotted names of the modules that `int8_onnx` would quantise, in the order they run."""
    patterns = float_patterns(source, target)
    return tuple(
        name for name in layers_of(float_onnx(source), style) if not matches(name, patterns)
    )


def calibration_arrays(source: Source) -> Sequence[Sequence[Array]]:
    """The calibration batches as arrays."""
    return [[tensor.detach().cpu().numpy() for tensor in batch] for batch in source.calibration]


def _digest(source: Source) -> str:
    known = hashlib.sha256(repr(tuple(source.input_names)).encode())
    for tensor in source.example_inputs:
        known.update(f"{tuple(tensor.shape[1:])} {tensor.dtype}".encode())
    for name, tensor in source.module.state_dict(keep_vars=False).items():
        known.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        known.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return known.hexdigest()
