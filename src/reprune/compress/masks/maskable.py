"""Which weights of a model may be masked, and why others may not.

Masked are the weights that multiply what flows through the model: of convolutions, linear, recurrent
and attention layers. Never masked, and not listed either, are biases, the scales of norms and other
vectors. Every other tensor that is left out is in `skipped` with a reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.rnn import RNNBase, RNNCellBase
from torch.nn.utils import parametrize

from reprune.compress.masks.semistructured import UNSTRUCTURED, parse_pattern
from reprune.compress.structure.copies import HOOKS
from reprune.core.errors import CompressionError, TaskError, nearest

ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """`shapes` of the tensors that may be masked, by parameter name in the model's order; a tensor that
    several layers share is there once, under its first name. `skipped` maps others to a reason.
    """

    shapes: Mapping[str, torch.Size]
    skipped: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @property
    def size(self) -> int:
        """How many weights there are in all."""
        return sum(shape.numel() for shape in self.shapes.values())


def maskable(module: nn.Module, keep: Collection[str] = (), pattern: str = UNSTRUCTURED) -> Weights:
    """The weights of `module` that may be masked in `pattern`. `module` is not changed.

    `keep` names layers, or containers of layers, that stay whole. Embeddings stay whole too (a row is
    looked up, not multiplied, so that magnitude says how often a word occurs), also where a linear
    layer shares their tensor; so do frozen parameters, and weights that are computed from others.
    For "n:m", layers stay whole whose inputs are no multiple of m, and those for which no hardware
    has such kernels (transposed, grouped and depthwise convolutions).

    Raises CompressionError for masks and norms that live in hooks (torch.nn.utils.prune and the
    like: those weights are no parameters), TaskError for an unknown name in `keep`.
    """
    _refuse_hooks(module)
    _refuse_unknown(module, keep)
    reasons: dict[str, list[str]] = {}
    first: dict[tuple[object, ...], str] = {}
    parameters: dict[str, Tensor] = {}
    for owner, layer, name, parameter in _owned(module):
        place = (parameter.device, parameter.data_ptr(), parameter.shape, parameter.stride())
        known = first.setdefault(place, name) if parameter.numel() else name
        parameters.setdefault(known, parameter)
        reason = _reason(owner, layer, name, parameter, keep) or _pattern_reason(
            layer, parameter, pattern
        )
        # Every owner of a shared tensor has a say: one that needs it whole is enough.
        reasons.setdefault(known, []).extend([reason] if reason else [])
    _note_overlaps(parameters, reasons)
    return Weights(
        shapes={name: parameters[name].shape for name, why in reasons.items() if not why},
        skipped={name: why[0] for name, why in reasons.items() if why},
    )


def _owned(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """(owner's name, owner, full name, parameter) for every parameter with two dimensions or more."""
    for owner, layer in module.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.ndim >= 2:
                yield owner, layer, f"{owner}.{name}" if owner else name, parameter


def _reason(
    owner: str, layer: nn.Module, name: str, parameter: Tensor, keep: Collection[str]
) -> str:
    kept = next(
        (item for item in keep if not item or owner == item or owner.startswith(f"{item}.")), None
    )
    if kept is not None:
        return f"the task keeps '{kept}'"
    found = {
        "it is what a parametrisation computes the layer's weight from": isinstance(
            layer, parametrize.ParametrizationList
        ),
        "an embedding is looked up, not multiplied": isinstance(
            layer, nn.Embedding | nn.EmbeddingBag
        ),
        f"no weight of a layer that can be masked ({type(layer).__name__})": not _multiplies(
            layer, name.rpartition(".")[2]
        ),
        "its numbers are no floating point": not parameter.is_floating_point(),
        "it is frozen (requires_grad is False)": not parameter.requires_grad,
    }
    return next((reason for reason, holds in found.items() if holds), "")


def _multiplies(layer: nn.Module, name: str) -> bool:
    if isinstance(layer, _ConvNd | nn.Linear):
        return name == "weight"
    if isinstance(layer, RNNBase | RNNCellBase):
        return name.startswith("weight_")
    return isinstance(layer, nn.MultiheadAttention) and name in ATTENTION_WEIGHTS


def _pattern_reason(layer: nn.Module, parameter: Tensor, pattern: str) -> str:
    if pattern == UNSTRUCTURED:
        return ""
    if isinstance(layer, _ConvTransposeNd):
        return f"no hardware has {pattern} kernels for transposed convolutions"
    if isinstance(layer, _ConvNd) and layer.groups > 1:
        return f"no hardware has {pattern} kernels for grouped convolutions"
    inputs, m = parameter.shape[1], parse_pattern(pattern)[1]
    return f"its {inputs} inputs are no multiple of {m}" if inputs % m else ""


def _note_overlaps(parameters: Mapping[str, Tensor], reasons: Mapping[str, list[str]]) -> None:
    """Tensors that share memory in another shape (a transposed weight) cannot both be masked."""
    spans = {
        name: (tensor.data_ptr(), tensor.data_ptr() + _extent(tensor))
        for name, tensor in parameters.items()
        if tensor.numel() and tensor.device.type != "meta"
    }
    ordered = sorted(spans, key=lambda name: spans[name])
    for before, after in pairwise(ordered):
        if spans[after][0] < spans[before][1] and _same_device(parameters, before, after):
            reasons[before].append(f"shares memory with '{after}' in another shape")
            reasons[after].append(f"shares memory with '{before}' in another shape")


def _extent(tensor: Tensor) -> int:
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _same_device(parameters: Mapping[str, Tensor], one: str, other: str) -> bool:
    return parameters[one].device == parameters[other].device


def _refuse_hooks(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        for hook in layer._forward_pre_hooks.values():
            if isinstance(hook, HOOKS):
                raise CompressionError(
                    f"its weight is computed by a hook ({type(hook).__name__})",
                    where=name,
                    fix="make it permanent first: torch.nn.utils.prune.remove, "
                    "remove_weight_norm or remove_spectral_norm",
                )


def _refuse_unknown(module: nn.Module, keep: Collection[str]) -> None:
    known = [name for name, _ in module.named_modules()]
    for name in keep:
        if name not in known:
            raise TaskError(
                f"`keep` names '{name}', which the model does not have; {nearest(name, known)}",
                where="the task's keep",
                fix="use names of modules, as in model().named_modules()",
            )
