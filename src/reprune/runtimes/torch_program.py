"""A module as a torch.export program of one batch size; its inputs and outputs are plain tensors in order."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING

from reprune.core.errors import BuildError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from reprune.runtimes.base import Source

# Where the module itself sits in the program; what comes after it is a module's own dotted name.
ROOT = "model"


def export_program(source: Source, batch_size: int) -> ExportedProgram:
    """The program for inputs of exactly `batch_size` examples; outputs are a tuple, a dict's in insertion
    order. The module is not changed.

    Raises BuildError where the module's forward pass cannot be written as a graph, or takes another
    number of inputs than the task names.
    """
    import torch

    if len(source.input_names) != len(source.example_inputs):
        raise BuildError(
            f"the task names {len(source.input_names)} inputs and gives "
            f"{len(source.example_inputs)}",
            fix="make input_names and example_inputs agree",
        )
    inputs = tuple(examples_of(tensor, batch_size) for tensor in source.example_inputs)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(_flat(copy.deepcopy(source.module).eval().cpu()), inputs)
    except (RuntimeError, TypeError, ValueError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise BuildError(
            f"the model cannot be written as a graph: {first or type(error).__name__}",
            fix="keep control flow that depends on values out of the model's forward pass",
        ) from error
    return program


def examples_of(tensor: Tensor, count: int) -> Tensor:
    """The first `count` examples of `tensor`, begun again where there are fewer."""
    import torch

    repeats = -(-count // tensor.shape[0])
    return torch.cat([tensor.cpu()] * repeats)[:count].contiguous()


def _flat(module: nn.Module) -> nn.Module:
    """The module behind a `forward(*inputs)` that returns a tuple of its tensors."""
    import torch
    from torch.utils._pytree import tree_leaves

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            found = tree_leaves(self.model(*inputs))
            return tuple(leaf for leaf in found if isinstance(leaf, torch.Tensor))

    return Flat().eval()
