"""Which operator of a .tflite computes which module: by the names that litert_convert gave its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reprune.runtimes.tflite_file import WEIGHTED, TfliteModel, TfliteOperator
from reprune.runtimes.torch_program import ROOT

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# torch operators that have weights and become one of WEIGHTED.
_PRODUCTS = re.compile(r"aten\.(linear|addmm|mm|matmul|_?convolution|conv\w*)\.")
_NUMBER = re.compile(r";\d*$")


def weighted_modules(program: ExportedProgram) -> tuple[str, ...]:
    """The dotted names of the modules whose weights are multiplied with, in the order they first run."""
    found: dict[str, None] = {}
    for node in program.graph.nodes:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        if node.op == "call_function" and _PRODUCTS.match(str(node.target)) and stack:
            name = str(stack[-1][0]).removeprefix(ROOT).removeprefix(".")
            if name:
                found.setdefault(name)
    return tuple(found)


def layers_of(model: TfliteModel, modules: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Module name -> the first output's name of each operator that computes it, for those of `modules`
    that can be told apart, in the order they run. A module that runs twice has two.

    Fused operators carry several names: those that only one module can own are given away first, and
    what is left decides the others.
    """
    owners = {
        operator.outputs[0].name: [name for name in modules if name in names_in(operator)]
        for operator in model.operators
        if operator.name in WEIGHTED and _has_weights(operator)
    }
    known: dict[str, str] = {}
    while True:
        new = {
            tensor: names[0] for tensor, names in _left(owners, known).items() if len(names) == 1
        }
        if not new:
            break
        known |= new
    found: dict[str, list[str]] = {}
    for tensor in owners:
        if tensor in known:
            found.setdefault(known[tensor], []).append(tensor)
    return {name: tuple(found[name]) for name in modules if name in found}


def names_in(operator: TfliteOperator) -> frozenset[str]:
    """The module names that its outputs, weights and bias carry."""
    constants = (tensor for tensor in operator.inputs if tensor.constant_bytes)
    tensors = (*operator.outputs, *constants)
    return frozenset(
        piece for tensor in tensors for piece in _NUMBER.sub("", tensor.name).split(";;")
    )


def _left(owners: Mapping[str, Sequence[str]], known: Mapping[str, str]) -> dict[str, list[str]]:
    """The operators without an owner yet, and who may be it: nobody who has one, if others are left."""
    taken = set(known.values())
    left = {}
    for tensor, names in owners.items():
        if tensor not in known:
            free = [name for name in names if name not in taken]
            left[tensor] = free or list(names)
    return left


def _has_weights(operator: TfliteOperator) -> bool:
    place = WEIGHTED[operator.name]
    return len(operator.inputs) > place and operator.inputs[place].constant_bytes > 0
