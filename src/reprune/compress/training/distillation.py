"""What two models give for one input, and how far a student's outputs are from its teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.compress.structure.copies import leaves
from reprune.core.errors import CompressionError


@dataclass(frozen=True, kw_only=True)
class Call:
    """One time that a module was called; `features` are what parts of it gave meanwhile, by name."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: object
    features: Mapping[str, tuple[Tensor, ...]]


@contextmanager
def calls_of(module: nn.Module, names: Sequence[str] = ()) -> Iterator[list[Call]]:
    """Collects every call of `module` inside the block, and what its modules `names` give in it.

    A module that gives several tensors counts as giving the first.
    """
    calls: list[Call] = []
    heard: dict[str, list[Tensor]] = {name: [] for name in names}

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        features = {name: tuple(found) for name, found in heard.items()}
        calls.append(Call(args=args, kwargs=kwargs, output=output, features=features))
        for found in heard.values():
            found.clear()

    def hear(name: str) -> Callable[..., None]:
        def note_part(_: nn.Module, __: object, output: object) -> None:
            heard[name].extend(islice(leaves(output), 1))

        return note_part

    handles = [
        module.get_submodule(name).register_forward_hook(hear(name)) for name in heard if name
    ]
    handles.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def distance(student: object, teacher: object, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the outputs softened by T (Hinton et al. 2015), a scalar.

    Every floating tensor of at least two dimensions in the outputs, however nested, is read as
    logits over dimension 1, as in torch's cross_entropy: (N, C), and (N, C, ...) for segmentation
    and sequences, averaged over the other dimensions; where C is 1, as the logit of a yes or no.
    Several tensors count alike. Outputs that are no logits (boxes, embeddings) need distill.weight 0.

    Raises CompressionError if the two models' outputs are not alike, or hold no such tensor.
    """
    ours, theirs = list(logits_of(student)), list(logits_of(teacher))
    if not ours or [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        raise CompressionError(
            f"the outputs cannot be distilled: student {_shapes(ours)}, teacher {_shapes(theirs)}",
            where="distill",
            fix="let the model return logits of shape (N, C, ...), or set distill.weight to 0",
        )
    parts = [_softened_kl(s, t, temperature) for s, t in zip(ours, theirs, strict=True)]
    return torch.stack(parts).mean()


def _softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    # In float32 whatever the precision: log-softmax of half floats loses what is to be learnt.
    s, t = student.float() / temperature, teacher.float() / temperature
    if s.shape[1] == 1:
        s, t = (torch.cat([torch.zeros_like(logit), logit], dim=1) for logit in (s, t))
    divergence = F.kl_div(
        F.log_softmax(s, dim=1), F.log_softmax(t, dim=1), reduction="none", log_target=True
    )
    return divergence.sum(dim=1).mean() * temperature**2


def logits_of(output: object) -> Iterator[Tensor]:
    """The tensors in `output` that `distance` reads, in its order."""
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.dim() >= 2:
            yield output
    elif isinstance(output, Mapping):
        for key in sorted(output):
            yield from logits_of(output[key])
    elif isinstance(output, list | tuple):
        for item in output:
            yield from logits_of(item)


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "none"
