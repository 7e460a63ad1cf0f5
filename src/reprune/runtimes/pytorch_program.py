"""A module as a torch.export program of any batch size in one file without pickles, and back. Loads torch.

A call takes what the module's own takes, and some 10 us to find the weights (7 % of one of 0.4 ms).

torch.export.load would execute a pickle that lies in the file. Ours hold none: weights are raw bytes, the
graph is JSON, example inputs are left out. A file that holds one is refused before torch sees it.
"""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass
from torch.utils._pytree import tree_leaves

from reprune.core.errors import BuildError
from reprune.core.params import Precision
from reprune.runtimes.base import Source
from reprune.runtimes.converters import explained, quiet
from reprune.runtimes.fixed_batch import Signature

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    Array = np.ndarray[Any, np.dtype[Any]]

INTO = "a torch program"
TYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
# Where an archive says whether a weight is a pickle, and where its example inputs, a pickle, would lie.
CONFIGS, EXAMPLES = "_config.json", "/data/sample_inputs/"
# What torch's own functions do in one step less than the operators that an export names; the very same
# kernels run. Without it a small model would seem slower in torch than it is.
_DIRECT = (
    "add sub mul div matmul bmm conv1d conv2d conv_transpose2d batch_norm layer_norm group_norm "
    "instance_norm linear relu relu_ sigmoid tanh softmax gelu silu hardtanh clamp mean sum cat stack "
    "flatten unsqueeze squeeze transpose permute select max_pool2d adaptive_avg_pool2d embedding dropout "
    "scaled_dot_product_attention pad masked_fill eq where"
)


def exported(source: Source, precision: Precision, device: str) -> ExportedProgram:
    """The program for any number of examples, its weights in `precision` on `device`; inputs and outputs
    that are floating keep their own types. The module is not changed.

    Raises BuildError where the module's forward pass cannot be written as a graph, or fixes its batch.
    """
    if len(source.input_names) != len(source.example_inputs):
        raise BuildError(
            f"the task names {len(source.input_names)} inputs and gives "
            f"{len(source.example_inputs)}",
            fix="make input_names and example_inputs agree",
        )
    # A batch of one would be taken for a constant.
    inputs = tuple(torch.cat([tensor[:1], tensor[:1]]).cpu() for tensor in source.example_inputs)
    batch = torch.export.Dim("batch", min=1)
    module = _Cast(copy.deepcopy(source.module).eval().cpu(), TYPES[precision])
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                module, inputs, dynamic_shapes={"inputs": tuple({0: batch} for _ in inputs)}
            )
            return move_to_device_pass(program, device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise explained(error, INTO) from error


class _Cast(nn.Module):
    """The module in `kind` behind a `forward(*inputs)` that takes and gives float32, as a tuple."""

    def __init__(self, module: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.model = module if kind == torch.float32 else module.to(kind)
        self.kind = kind

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """All tensors of what the module returns, a dict's in insertion order."""
        if self.kind != torch.float32:
            inputs = tuple(x.to(self.kind) if x.is_floating_point() else x for x in inputs)
        found = [leaf for leaf in tree_leaves(self.model(*inputs)) if isinstance(leaf, Tensor)]
        if self.kind != torch.float32:
            found = [x.float() if x.is_floating_point() else x for x in found]
        return tuple(found)


def signatures_of(source: Source) -> list[Signature]:
    """Type and shape of each input, without the batch."""
    arrays = [tensor[:1].cpu().numpy() for tensor in source.example_inputs]
    return [(array.dtype, array.shape[1:]) for array in arrays]


def written(signatures: Sequence[Signature]) -> str:
    """Signatures as JSON, for `read`."""
    return json.dumps([[str(kind), list(sizes)] for kind, sizes in signatures])


def read(text: str) -> list[Signature]:
    """The signatures that `written` wrote."""
    return [(np.dtype(kind), tuple(sizes)) for kind, sizes in json.loads(text)]


def program_bytes(program: ExportedProgram, signatures: Sequence[Signature]) -> bytes:
    """The program as a file: the same program gives the same bytes, without paths or examples."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    program.example_inputs = None
    stream = io.BytesIO()
    with quiet():
        torch.export.save(program, stream, extra_files={"inputs.json": written(signatures)})
    return stream.getvalue()


def load_program(engine: Path) -> tuple[nn.Module, list[Signature]]:
    """The program as a module, and what it takes. Raises BuildError for a file that is none of ours."""
    try:
        content = engine.read_bytes()
        _refuse_pickles(content, engine)
        more = {"inputs.json": ""}
        with quiet():
            program = torch.export.load(io.BytesIO(content), extra_files=more)
            module: torch.fx.GraphModule = program.module(check_guards=False)
        _call_directly(module)
        return module, read(more["inputs.json"])
    except BuildError:
        raise
    except Exception as error:  # whatever a damaged archive makes torch stumble over
        raise unreadable(engine, error) from error


def unreadable(engine: Path, error: Exception) -> BuildError:
    """What is said of a file that torch cannot load."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return BuildError(
        f"torch cannot load it: {first.strip()}", where=str(engine), fix="build the engine again"
    )


def _refuse_pickles(content: bytes, engine: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            is_pickle = (EXAMPLES in entry.filename and entry.file_size > 0) or (
                entry.filename.endswith(CONFIGS)
                and any(
                    one.get("use_pickle", True)
                    for one in json.loads(archive.read(entry))["config"].values()
                )
            )
            if is_pickle:
                raise BuildError(
                    f"the file holds a pickle, {entry.filename}, and a pickle can do anything",
                    where=str(engine),
                    fix="build the engine again",
                )


def _call_directly(module: torch.fx.GraphModule) -> None:
    """Replaces operators by torch's functions of the same name and arguments (_DIRECT)."""
    names = _DIRECT.split()
    for node in module.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            space, _, name = node.target._schema.name.partition("::")
            direct = getattr(torch, name, None) or getattr(torch._C._nn, name, None)
            if space == "aten" and name in names and direct is not None:
                node.target = direct
    # Inputs are checked by the session, and are a flat list already; both would cost 100 us a call.
    module._forward_pre_hooks.clear()
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
