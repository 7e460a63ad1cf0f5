"""How far a student's outputs are from its teacher's: each by what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from reprune.compress.structure.copies import leaves
from reprune.core.errors import CompressionError
from reprune.task.outputs import Kind

WORDS = "'logits' (classes in dimension 1), 'logits-last', a number (values, in units of it) or 'unread'"


def distance(
    student: object, teacher: object, temperature: float, kinds: Sequence[Kind] | None = None
) -> Tensor:
    """How far the tensors in the outputs, however nested, are from the teacher's: the mean over them of what
    each one's kind (`kinds_of`, where none are given) asks for, a scalar.

    - logits: T^2 KL(teacher || student) of the outputs softened by T (Hinton et al. 2015) over dimension 1,
      or the last, averaged over the other dimensions; where there is one class, as the logit of a yes or no;
    - a number: the mean squared difference in units of it.

    Raises CompressionError if the two models' outputs are not alike, or none of them is read.
    """
    ours, theirs = list(outputs_in(student)), list(outputs_in(teacher))
    kinds = kinds_of(theirs) if kinds is None else kinds
    if len(ours) == len(theirs) == len(kinds):
        read = [pair for pair in zip(kinds, ours, theirs, strict=True) if pair[0] != "unread"]
        if read and all(s.shape == t.shape for _, s, t in read):
            return torch.stack([_apart(*pair, temperature) for pair in read]).mean()
    raise CompressionError(
        f"the outputs cannot be distilled: student {_shapes(ours)}, teacher {_shapes(theirs)}",
        where="distill",
        fix="let the model return logits of shape (N, C, ...), say in the task what its outputs are "
        f"(`outputs_are`: {WORDS}), or set distill.weight to 0",
    )


def kinds_of(
    outputs: Sequence[Tensor], said: Kind | Sequence[Kind] = "", targets: object = None
) -> tuple[Kind, ...]:
    """What each output is: what is `said` of it or of all, else logits over dimension 1 for floating ones of
    two or more dimensions, as in torch's cross_entropy. Of (N, A, B) the classes are in the dimension that
    whole numbers among the `targets`, (N, B) or (N, A), do not have.

    Raises CompressionError for one of which nobody can tell, and where other outputs were told of.
    """
    each = [said] * len(outputs) if isinstance(said, str | int | float) else said
    if len(each) != len(outputs):
        raise CompressionError(
            f"the task tells of {len(each)} outputs (`outputs_are`), the model gives {_shapes(outputs)}",
            where="distill",
            fix="say what each one is, in order, or set distill.weight to 0",
        )
    return tuple(
        _kind(kind, output, targets, place)
        for place, (kind, output) in enumerate(zip(each, outputs, strict=True))
    )


def _kind(said: Kind, output: Tensor, targets: object, place: int) -> Kind:
    if not output.is_floating_point() or (said == "" and output.dim() < 2):
        return "unread"
    if said not in ("", "undeclared"):
        return said
    if said == "" and output.dim() != 3:
        return "logits"
    fits = {
        "logits" if target.shape[1] == output.shape[2] else "logits-last"
        for target in leaves(targets)
        if not target.is_floating_point() and target.dim() == 2 and len(target) == len(output)
        if target.shape[1] in output.shape[1:] and output.shape[1] != output.shape[2]
    }
    if said == "" and len(fits) == 1:
        return fits.pop()
    raise CompressionError(
        f"nobody says what output {place} of shape {tuple(output.shape)} is, and what to learn from it",
        where="distill",
        fix=f"say it in the task, as `outputs_are`: {WORDS}; or set distill.weight to 0",
    )


def outputs_in(output: object) -> Iterator[Tensor]:
    """The tensors in `output` with a row for each example, in the order in which `distance` reads them."""
    if isinstance(output, Tensor):
        if output.dim() >= 1:
            yield output
    elif isinstance(output, Mapping):
        for key in sorted(output):
            yield from outputs_in(output[key])
    elif isinstance(output, list | tuple):
        for item in output:
            yield from outputs_in(item)


def _apart(kind: Kind, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    # In float32 whatever the precision: log-softmax of half floats loses what is to be learnt.
    s, t = student.float(), teacher.float()
    if isinstance(kind, int | float):
        return F.mse_loss(s / kind, t / kind)
    if s.dim() == 1:
        s, t = s[:, None], t[:, None]
    if kind == "logits-last":
        s, t = s.movedim(-1, 1), t.movedim(-1, 1)
    return _softened_kl(s / temperature, t / temperature) * temperature**2


def _softened_kl(s: Tensor, t: Tensor) -> Tensor:
    if s.shape[1] == 1:
        s, t = (torch.cat([torch.zeros_like(logit), logit], dim=1) for logit in (s, t))
    divergence = F.kl_div(
        F.log_softmax(s, dim=1), F.log_softmax(t, dim=1), reduction="none", log_target=True
    )
    return divergence.sum(dim=1).mean()


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "none"
