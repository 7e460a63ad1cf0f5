"""A module as the bytes of a Core ML package (an ML program), its weights stored as the precision asks."""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.errors import BuildError
from reprune.core.params import Precision
from reprune.core.plugins import require
from reprune.runtimes.coreml_package import WEIGHTS, pack

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from reprune.runtimes.base import Source

# Smaller ones cost more in scales, tables and masks than they save.
LEAST_ELEMENTS = 256
# Sixteen values are few for a small layer, often the first or the last one, which matter most.
LEAST_PALETTE_ELEMENTS = 2048
# Below this share of zeros, a bit for every weight costs more than the zeros do.
LEAST_ZEROS = 0.1
# Masked weights are zero exactly; this is below the smallest number that fp16 holds.
ZERO = 1e-12
# The mixed forms, sparse and small at once, are as old as this.
JOINT = "iOS18"
_MISSING = re.compile(
    r"(?:convert function for op '([\w.:]+)' not implemented"
    r"|Unsupported fx node \w+, kind ([\w.:]+))"
)


def converted(source: Source, precision: Precision, deployment: str, batch_size: int) -> bytes:
    """The package for `batch_size` examples a call: inputs are called as the task calls them, outputs
    output_0, output_1, ... in the module's order, float32 or int32.

    "fp32" computes in fp32, everything else in fp16. Zeros of masked weights are stored in a bit each,
    beside int8 weights or palettes only from iOS18 on. The same module gives the same bytes. Raises
    BuildError naming the operator that cannot be converted; MissingExtra.
    """
    from reprune.runtimes.torch_program import export_program

    program = _simplified(export_program(source, batch_size))
    with quiet():
        tools = require("coremltools", "coreml")
        try:
            model = tools.convert(
                program,
                convert_to="mlprogram",
                inputs=_inputs(tools, source, batch_size),
                outputs=_outputs(tools, program),
                minimum_deployment_target=getattr(tools.target, deployment),
                compute_precision=getattr(
                    tools.precision, "FLOAT32" if precision == "fp32" else "FLOAT16"
                ),
                skip_model_load=True,
            )
            model = _stored(model, source, precision, deployment)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, KeyError) as error:
            raise explained(error) from error
        return _packed(model)


def explained(error: BaseException) -> BuildError:
    """What coremltools said, with the operator that it could not convert."""
    text = str(error)
    found = _MISSING.search(text)
    if found is not None:
        return BuildError(
            f"the operator {found[1] or found[2]} cannot be converted to Core ML",
            fix="replace it in the task's model by supported operators, or move it out of the model",
        )
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return BuildError(
        f"the model cannot be converted to Core ML: {first or type(error).__name__}",
        fix="replace what it names in the task's model, or move it out of the model",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Progress is drawn, and an import off macOS says what it cannot load; none of it is for users."""
    logger = logging.getLogger("coremltools")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _simplified(program: ExportedProgram) -> ExportedProgram:
    """The program less what coremltools does not know and others say as well: second names for one tensor,
    ones shaped by another, a number to choose, `&` of booleans.
    """
    import torch
    from torch._decomp import get_decompositions

    aten = torch.ops.aten
    table = get_decompositions([aten.new_ones, aten.new_zeros])
    simple: ExportedProgram = program.run_decompositions(dict(table))
    for node in list(simple.graph.nodes):
        if node.target is aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            simple.graph.erase_node(node)
        elif node.target is aten.__and__.Tensor and node.meta["val"].dtype is torch.bool:
            node.target = aten.logical_and.default
        elif node.target is aten.where.ScalarOther:
            condition, tensor, number = node.args
            with simple.graph.inserting_before(node):
                filled = simple.graph.call_function(aten.full_like.default, (tensor, number))
            filled.meta = dict(tensor.meta)
            node.target, node.args = aten.where.self, (condition, tensor, filled)
    return simple


def _inputs(tools: Any, source: Source, batch_size: int) -> list[Any]:
    return [
        tools.TensorType(
            name=name,
            shape=(batch_size, *tensor.shape[1:]),
            dtype=np.float32 if tensor.is_floating_point() else np.int32,
        )
        for name, tensor in zip(source.input_names, source.example_inputs, strict=True)
    ]


def _outputs(tools: Any, program: Any) -> list[Any]:
    values = next(node for node in program.graph.nodes if node.op == "output").args[0]
    found = [node.meta["val"] for node in values]
    return [
        tools.TensorType(
            name=f"output_{place}", dtype=np.float32 if one.is_floating_point() else np.int32
        )
        for place, one in enumerate(found)
    ]


def _stored(model: Any, source: Source, precision: Precision, deployment: str) -> Any:
    """The model with its weights stored small, where the precision or masks ask for it."""
    pruned = bool(source.sparsity) and (precision in ("fp32", "fp16") or deployment == JOINT)
    optimize = require("coremltools.optimize.coreml", "coreml")
    if pruned:
        zeros = optimize.OpThresholdPrunerConfig(
            threshold=ZERO,
            minimum_sparsity_percentile=LEAST_ZEROS,
            weight_threshold=LEAST_ELEMENTS,
        )
        model = optimize.prune_weights(model, optimize.OptimizationConfig(global_config=zeros))
    if precision == "int8-weights":
        scaled = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", weight_threshold=LEAST_ELEMENTS
        )
        return optimize.linear_quantize_weights(
            model, optimize.OptimizationConfig(global_config=scaled), joint_compression=pruned
        )
    if precision == "palette4":
        table = optimize.OpPalettizerConfig(
            mode="kmeans", nbits=4, weight_threshold=LEAST_PALETTE_ELEMENTS
        )
        return optimize.palettize_weights(
            model, optimize.OptimizationConfig(global_config=table), joint_compression=pruned
        )
    return model


def _packed(model: Any) -> bytes:
    """Without the day of conversion, and in one order of what has none."""
    with tempfile.TemporaryDirectory(prefix="reprune-coreml-") as name:
        package = Path(name) / "model.mlpackage"
        model.save(str(package))
        weights = package / WEIGHTS
        stored = weights.read_bytes() if weights.is_file() else None
    specification = model.get_spec()
    specification.description.metadata.userDefined.clear()
    return pack(specification.SerializeToString(deterministic=True), stored)
