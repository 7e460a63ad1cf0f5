"""Converts a torch.export program to a float .tflite, in the environment that has litert-torch:

    python -m reprune.runtimes.litert_convert SPEC.json ANSWER.json

Nothing of the main environment but this package, torch of the same version and msgspec is needed there.
"""

from __future__ import annotations

import re
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reprune.core.artifacts import Fact
from reprune.core.children import answer
from reprune.core.errors import BuildError
from reprune.core.plugins import require
from reprune.core.store import write_bytes
from reprune.runtimes.torch_program import ROOT

EXTRA = "litert-convert"
# What torch.fx adds to any error in the middle of a graph, and what litert-torch says itself.
_WHERE = re.compile(r"target=torch\.ops\.([\w.]+)\]")
_MISSING = re.compile(r"Lowering not found: ([\w.]+)")


class ConvertSpec(Fact, kw_only=True):
    """`program` is a .pt2 file of torch `torch`; the .tflite is written to `destination`."""

    program: str
    torch: str
    destination: str


class Converted(Fact, kw_only=True):
    converter: str


def convert(spec: ConvertSpec) -> Converted:
    """Writes the .tflite, whole or not at all; the same program gives the same bytes. Tensors are named
    after the modules that made them: "<dotted name>;<number>", several of them where they were fused.

    Raises BuildError naming the operator that cannot be converted; MissingExtra.
    """
    import torch

    if torch.__version__.partition("+")[0] != spec.torch.partition("+")[0]:
        raise BuildError(
            f"the program was written by torch {spec.torch} and the environment that is to "
            f"convert it has {torch.__version__}",
            where=sys.executable,
            fix=f"install torch=={spec.torch.partition('+')[0]} there",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        litert_torch = require("litert_torch", EXTRA)
        program = torch.export.load(spec.program)
        module = program.module()
        _name_after_modules(module)
        try:
            content = litert_torch.convert(module, program.example_inputs[0])
            content.export(f"{spec.destination}.whole")
        except (RuntimeError, TypeError, ValueError, NotImplementedError, KeyError) as error:
            raise explained(error) from error
    write_bytes(Path(spec.destination), Path(f"{spec.destination}.whole").read_bytes())
    return Converted(converter=f"litert-torch {version('litert-torch')}")


def explained(error: BaseException) -> BuildError:
    """What litert-torch said, with the operator that it could not convert."""
    text = str(error)
    operators = _MISSING.findall(text) or _WHERE.findall(text)
    if operators:
        return BuildError(
            f"the operator {operators[0]} cannot be converted to LiteRT"
            + ("" if _MISSING.search(text) else f" ({_first_line(text)})"),
            fix="replace it in the task's model by supported operators, or move it out of the model",
        )
    return BuildError(
        f"the model cannot be converted to LiteRT: {_first_line(text) or type(error).__name__}",
        fix="replace what it names in the task's model, or move it out of the model",
    )


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _name_after_modules(module: Any) -> None:
    """Leaves of each node's path of modules only the last one's name: litert-torch names tensors so."""
    for node in module.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            inner = str(list(stack.values())[-1][0])
            node.meta["nn_module_stack"] = {"": ("", inner.removeprefix(ROOT).removeprefix("."))}


if __name__ == "__main__":
    sys.exit(answer(sys.argv[1:], ConvertSpec, convert))
