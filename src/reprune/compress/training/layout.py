"""How the weights of convolutions lie in memory while a model trains."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from reprune.core.errors import InputError
from reprune.task.outputs import outputs_of

if TYPE_CHECKING:
    from reprune.core.params import DistillParams
    from reprune.task.protocol import Task

WHERE = "params.yaml (distill.memory_format)"
# What two layouts of the same sums may differ by, of the largest output.
ROUNDING = 1e-2
EXAMPLES = 2


def lay_out(module: nn.Module, task: Task, params: DistillParams) -> None:
    """With `params.memory_format` channels-last the module's weights of four dimensions lie in
    torch.channels_last afterwards, and so does what convolutions make of their inputs. No value changes.

    Raises InputError for a module without such weights, and for one that does not compute the same then:
    mostly because it calls `view` on what a convolution returns.
    """
    if params.memory_format != "channels-last":
        return
    weights = [weight for weight in module.parameters() if weight.dim() == 4]
    if not weights:
        raise InputError(
            "channels-last is for convolutions over images, and the model has no weight of four dimensions",
            where=WHERE,
            fix="take it out",
        )
    probe = copy.deepcopy(module).eval()
    # Not its example inputs: of zeros, every order of a convolution's outputs may look alike.
    batch = next(iter(task.batches("calibration", epoch=0, seed=0)), None)
    given = task.example_inputs(EXAMPLES) if batch is None else batch.inputs
    inputs = tuple(each[:EXAMPLES].to(weights[0].device) for each in given)
    with torch.no_grad():
        before = outputs_of(probe, inputs)
        to_channels_last(probe)
        try:
            after = outputs_of(probe, inputs)
        except RuntimeError as error:
            raise InputError(
                f"the model does not run in channels-last: {str(error).splitlines()[0]}",
                where=WHERE,
                fix="use `flatten` or `reshape` in place of `view` in its forward, or take it out",
            ) from error
    pairs = zip(before, after, strict=True)
    if any((one - other).abs().max() > ROUNDING * one.abs().max() for one, other in pairs):
        raise InputError(
            "the model's outputs are others in channels-last",
            where=WHERE,
            fix="take it out: something in its forward depends on how its inputs lie in memory",
        )
    to_channels_last(module)


def to_channels_last(module: nn.Module) -> None:
    """In place, and only what has four dimensions: `Module.to` raises where a weight has five."""
    for weight in module.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
