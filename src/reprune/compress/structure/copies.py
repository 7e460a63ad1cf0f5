"""Copies of a user's model that can be traced, and what comes out of running one."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from reprune.core.errors import CompressionError

# What user code and torch-pruning raise when a model cannot be traced or run; not a bare except.
FORWARD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)

HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)


def run(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The floating outputs of `module(*inputs)` in order. Raises CompressionError if it fails."""
    try:
        return [output for output in leaves(module(*inputs)) if output.is_floating_point()]
    except FORWARD_ERRORS as error:
        raise CompressionError(
            f"the model does not run: {type(error).__name__}: {error}",
            fix="check the task's model() and example_inputs()",
        ) from error


def training_shapes(
    module: nn.Module, inputs: tuple[Tensor, ...], seed: int = 0
) -> list[torch.Size]:
    """The shapes of the floating outputs in training mode. Give it a copy: its mode and statistics change,
    and nothing else; no gradient is kept. Raises CompressionError if it fails.
    """
    with torch.no_grad(), _draws_of_its_own(seed):
        return [output.shape for output in run(module.train(), inputs)]


@contextmanager
def _draws_of_its_own(seed: int) -> Iterator[None]:
    """Every generator that a forward() may use on the CPU begins with `seed`, and goes on as if unused."""
    # These are the generators of others: no Generator of ours would do.
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def leaves(value: object) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists and mappings, in order; anything else is passed over."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner)


def plain_copy(module: nn.Module) -> nn.Module:
    """A deep copy whose parametrised tensors (weight_norm and the like) are plain parameters.

    Raises CompressionError for masks and norms that live in hooks: they cannot be copied or sliced.
    """
    for name, layer in module.named_modules():
        hooks = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, HOOKS)]
        if hooks:
            raise CompressionError(
                f"its weight is computed by a hook ({type(hooks[0]).__name__})",
                where=name,
                fix="make it permanent first: torch.nn.utils.prune.remove, remove_weight_norm or "
                "remove_spectral_norm",
            )
    result = copy.deepcopy(module)
    for layer in list(result.modules()):
        if parametrize.is_parametrized(layer):
            _make_plain(layer)
    return result


def _make_plain(layer: nn.Module) -> None:
    """Undoes parametrisation on a copy. torch's remove_parametrizations would delete the property from
    the class, which the copy shares with the original, and so break the original.
    """
    names = list(layer.parametrizations)  # type: ignore[arg-type]  # a ModuleDict
    values = {name: getattr(layer, name).detach().clone() for name in names}
    layer.__class__ = type(layer).__bases__[0]
    del layer.parametrizations
    for name, value in values.items():
        layer.register_parameter(name, nn.Parameter(value))
