"""Building a .tflite: converted, quantised and tried, each in a process of its own."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from safetensors.numpy import save_file

from reprune.core.artifacts import BuildFact
from reprune.core.children import ask
from reprune.core.errors import BuildError, RepruneError
from reprune.core.params import Target
from reprune.runtimes.base import Source, float_patterns
from reprune.runtimes.litert_check import Checked, CheckSpec
from reprune.runtimes.litert_convert import Converted, ConvertSpec
from reprune.runtimes.litert_layers import layers_of, weighted_modules
from reprune.runtimes.litert_quantise import Quantised, QuantiseSpec
from reprune.runtimes.onnx_plan import matches
from reprune.runtimes.tflite_file import WEIGHTED, TfliteModel, read_tflite

if TYPE_CHECKING:
    import numpy as np
    from torch.export import ExportedProgram

    Array = np.ndarray[Any, np.dtype[Any]]

Answer = TypeVar("Answer")

CONVERTING_SECONDS = 1800.0
# The largest of their values sets a scale on which all others are a few steps: a norm or a softmax
# written out in them is nothing in eight bits.
WIDE = frozenset(
    {
        *("DIV", "EXP", "GELU", "LOG", "POW", "RSQRT", "SOFTMAX", "SQRT", "SQUARE"),
        *("SQUARED_DIFFERENCE", "SUM"),
    }
)
# As the quantiser calls them: TRANSPOSE_CONV has another name there.
_PRODUCTS = tuple(
    "CONV_2D_TRANSPOSE" if name == "TRANSPOSE_CONV" else name for name in sorted(WEIGHTED)
)


class FloatModel(msgspec.Struct, frozen=True, kw_only=True):
    """A converted module. `layers` are litert_layers.layers_of it."""

    content: bytes
    parsed: TfliteModel
    layers: dict[str, tuple[str, ...]]
    converter: str


def converted(source: Source, target: Target) -> FloatModel:
    """The module as a float .tflite. That of the last call is kept, as choosing the layers that stay in
    float builds one module many times.
    """
    import torch

    from reprune.runtimes.torch_program import export_program

    _refuse_without_converter(target)
    program = export_program(source, target.batch_size)
    key = (_digest(program), target.python)
    if _LAST.get("key") == key:
        kept: FloatModel = _LAST["model"]
        return kept
    with tempfile.TemporaryDirectory(prefix="reprune-litert-") as name:
        folder = Path(name)
        torch.export.save(program, folder / "model.pt2")
        spec = ConvertSpec(
            program=str(folder / "model.pt2"),
            torch=str(torch.__version__),
            destination=str(folder / "model.tflite"),
        )
        told = _ask("litert_convert", spec, Converted, folder, target)
        content = (folder / "model.tflite").read_bytes()
    parsed = read_tflite(content, where="the converted model")
    model = FloatModel(
        content=content,
        parsed=parsed,
        layers=layers_of(parsed, weighted_modules(program)),
        converter=told.converter,
    )
    _LAST.update(key=key, model=model)
    return model


_LAST: dict[str, Any] = {}


def quantised(
    model: FloatModel, source: Source, target: Target, options: Mapping[str, str]
) -> tuple[bytes, BuildFact]:
    """The model in the target's precision, layers that the target or the source names in float; a pattern of
    the target's that fits none is noted. Raises BuildError for layers of the source's that are not there.
    """
    if target.ranges == "entropy" and target.precision == "int8":
        raise BuildError(
            "litert does not take ranges by entropy",
            where="params.yaml (targets)",
            fix="set ranges: minmax or ranges: percentile",
        )
    strange = [name for name in source.float_layers if name not in model.layers]
    if strange:
        raise BuildError(
            f"the layer {strange[0]} cannot be left in float: no operator of the engine is its own",
            fix=f"name some of: {', '.join(model.layers)}",
        )
    left, idle = kept_layers(model, source, target)
    wide = sorted({one.name for one in model.parsed.operators} & WIDE)
    products_only = bool(wide) and options["io"] == "float"
    with tempfile.TemporaryDirectory(prefix="reprune-litert-") as name:
        folder = Path(name)
        (folder / "float.tflite").write_bytes(model.content)
        if target.precision == "int8" and options["activations"] == "static":
            save_file(calibration_arrays(source, target), folder / "calibration.safetensors")
        spec = QuantiseSpec(
            model=str(folder / "float.tflite"),
            destination=str(folder / "model.tflite"),
            precision=target.precision,
            calibration=str(folder / "calibration.safetensors"),
            batch_size=target.batch_size,
            ranges="percentile" if target.ranges == "percentile" else "minmax",
            activations="dynamic" if options["activations"] == "dynamic" else "static",
            io="int8" if options["io"] == "int8" else "float",
            operators=_PRODUCTS if products_only else (),
            keep=tuple(tensor for layer in left for tensor in model.layers[layer]),
        )
        told = _ask("litert_quantise", spec, Quantised, folder, target)
        content = (folder / "model.tflite").read_bytes()
    products = f"only matrix products and convolutions are in int8: the model has {', '.join(wide)}"
    static = target.precision == "int8" and spec.activations == "static"
    return content, BuildFact(
        float_layers=left,
        notes=(*((products,) if products_only and static else ()), *idle),
        details={"converter": model.converter, "quantiser": told.quantiser},
    )


def kept_layers(
    model: FloatModel, source: Source, target: Target
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers that stay in float, and a note on each name or pattern that fits none."""
    patterns = float_patterns(source, target)
    left = [name for pattern in patterns for name in model.layers if matches(name, [pattern])]
    idle = [
        f"'{pattern}' of float_layers fits no layer that would be quantised"
        for pattern in patterns
        if not any(matches(name, [pattern]) for name in model.layers)
    ]
    return tuple(dict.fromkeys(left)), tuple(idle)


def calibration_arrays(source: Source, target: Target) -> dict[str, Array]:
    """The calibration examples by the place of their input ("0"), a multiple of the target's batch size.

    Raises BuildError where there are none.
    """
    import torch

    from reprune.runtimes.torch_program import examples_of

    if not source.calibration:
        raise BuildError(
            "int8 needs calibration examples, and there are none",
            fix="give the task a calibration split",
        )
    inputs = [torch.cat(parts) for parts in zip(*source.calibration, strict=True)]
    count = max(len(inputs[0]) // target.batch_size, 1) * target.batch_size
    return {str(place): examples_of(one, count).numpy() for place, one in enumerate(inputs)}


def check_runs(content: bytes, source: Source, target: Target, *, where: str) -> None:
    """Runs the engine once, apart. Raises BuildError for one that does not run or has outputs without
    the batch, RepruneError for one that ends its process.
    """
    from reprune.runtimes.torch_program import examples_of

    size = target.batch_size
    with tempfile.TemporaryDirectory(prefix="reprune-litert-") as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(content)
        examples = {
            str(place): examples_of(one, size).numpy()
            for place, one in enumerate(source.example_inputs)
        }
        save_file(examples, folder / "inputs.safetensors")
        spec = CheckSpec(
            engine=str(folder / "model.tflite"),
            name=where,
            inputs=str(folder / "inputs.safetensors"),
        )
        try:
            found = ask(
                "reprune.runtimes.litert_check",
                spec,
                Checked,
                folder / "check",
                threads=1,
                hang_seconds=CONVERTING_SECONDS,
                doing="running what was converted to LiteRT",
            )
        except BuildError:
            raise
        except RepruneError as error:
            raise BuildError(
                f"LiteRT cannot run what it was converted to: {error.what}",
                where=where,
                fix="leave layers in float (float_layers; io: float), or use another precision",
            ) from error
    if any(not shape or shape[0] != size for shape in found.outputs):
        raise BuildError(
            f"an output of the model does not have the batch as its first dimension: "
            f"{[list(shape) for shape in found.outputs]} for {size} example(s)",
            fix="return tensors whose first dimension is the example",
        )


def _ask(module: str, spec: object, kind: type[Answer], folder: Path, target: Target) -> Answer:
    """The answer of one of our own modules, run where litert-torch is."""
    return ask(
        f"reprune.runtimes.{module}",
        spec,
        kind,
        folder / module,
        threads=target.threads,
        hang_seconds=CONVERTING_SECONDS,
        doing="converting to LiteRT",
        python=target.python,
    )


def _refuse_without_converter(target: Target) -> None:
    if not target.python and find_spec("litert_torch") is None:
        raise BuildError(
            "converting to LiteRT needs litert-torch, which is not installed here",
            where=sys.executable,
            fix="make an environment for it (python -m venv .venv-litert; "
            ".venv-litert/bin/pip install 'reprune[litert-convert]') and name its interpreter in "
            "params.yaml (python: .venv-litert/bin/python of the target)",
        )


def _digest(program: ExportedProgram) -> str:
    """Of what the program computes: its graph, its weights and the shapes of its inputs."""
    digest = hashlib.sha256(str(program.graph).encode())
    digest.update(repr([tuple(one.shape) for one in program.example_inputs[0]]).encode())
    for name, tensor in sorted({**program.state_dict, **program.constants}.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
