"""What an optimiser remembers of each parameter, carried over a cut: kept channels keep it, dead ones go."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from reprune.compress.structure.architecture import Architecture, apply
from reprune.compress.training.checkpoint import State
from reprune.compress.training.rates import build_optimizer, freeze

if TYPE_CHECKING:
    from reprune.core.params import DistillParams
    from reprune.task.protocol import Task

Moments: TypeAlias = Mapping[str, Mapping[str, Any]]
"""By parameter name and key (`momentum_buffer`, `exp_avg`, `step`): a tensor or a number."""


def parameter_names(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[str | None]:
    """The name of each of the optimiser's parameters in the order of its state; None: not of `module`."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names.get(id(p)) for group in optimizer.param_groups for p in group["params"]]


def moments_of(state: State, task: Task, module: nn.Module, params: DistillParams) -> Moments:
    """What a finished training of a copy of `module` with `params` left in its checkpoint."""
    student = copy.deepcopy(module)
    freeze(student, params.freeze)
    names = parameter_names(build_optimizer(task, student, params), student)
    found: dict[str, dict[str, Any]] = {}
    for key, value in (*state.optimizer.items(), *state.progress.scalars.items()):
        number, _, kind = key.partition("/")
        name = names[int(number)] if int(number) < len(names) else None
        if name is not None:  # projections go with their training
            found.setdefault(name, {})[kind] = value
    return found


def slice_moments(moments: Moments, module: nn.Module, architecture: Architecture) -> Moments:
    """`moments` of `module` as they are for `apply(module, architecture)`.

    They are sliced by the very code that slices the weights: for each kind, a copy of the model whose
    weights are the moments is cut. Parameters that the cut removed are gone.
    """
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    kinds = {
        kind
        for name, values in moments.items()
        for kind, value in values.items()
        if _is_sliced(value, shapes[name])
    }
    sliced = {kind: _sliced(moments, kind, module, architecture) for kind in sorted(kinds)}
    left = {name for name, _ in apply(module, architecture).named_parameters()}
    return {
        name: {
            kind: sliced[kind][name] if _is_sliced(value, shapes[name]) else value
            for kind, value in values.items()
        }
        for name, values in moments.items()
        if name in left
    }


def give_moments(optimizer: torch.optim.Optimizer, module: nn.Module, moments: Moments) -> None:
    """Gives a freshly built optimiser over `module` the state that fits its parameters; others get none."""
    state: dict[int, dict[str, Any]] = {}
    for number, name in enumerate(parameter_names(optimizer, module)):
        values = moments.get(name, {}) if name is not None else {}
        if values and name is not None and _fits(values, module.get_parameter(name)):
            state[number] = dict(values)
    if state:
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _fits(values: Mapping[str, Any], parameter: Tensor) -> bool:
    return all(
        not isinstance(value, Tensor) or value.dim() == 0 or value.shape == parameter.shape
        for value in values.values()
    )


def _is_sliced(value: object, shape: torch.Size) -> bool:
    """Not of a parameter that is one number: nothing of it is cut, and its moments look like a step count."""
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape == shape


def _sliced(
    moments: Moments, kind: str, module: nn.Module, architecture: Architecture
) -> dict[str, Tensor]:
    holder = copy.deepcopy(module).float().cpu()
    with torch.no_grad():
        for name, parameter in holder.named_parameters():
            value = moments.get(name, {}).get(kind)
            if isinstance(value, Tensor) and _is_sliced(value, parameter.shape):
                parameter.copy_(value)
            else:
                parameter.zero_()
    return {
        name: parameter.detach()
        for name, parameter in apply(holder, architecture).named_parameters()
    }
