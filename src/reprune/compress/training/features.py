"""What a student learns from inside its teacher: outputs of named modules, and attention maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.core.errors import CompressionError, InputError, nearest

Heard = Mapping[str, Sequence[Tensor]]
"""Outputs of modules by name, one for each time that the module was called."""


def check_names(names: Sequence[str], models: Mapping[str, nn.Module]) -> None:
    """Raises InputError where there is no name, or one that a model does not have."""
    fix = (
        "name modules of model.named_modules() in distill.feature_modules or the task's `features`"
    )
    if not names:
        raise InputError("no module is named whose outputs are distilled", where="distill", fix=fix)
    for whose, model in models.items():
        known = [name for name, _ in model.named_modules()]
        for name in names:
            if name not in known:
                raise InputError(
                    f"the {whose} has no module '{name}'; {nearest(name, known)}",
                    where="distill",
                    fix=fix,
                )


def channel_dim(feature: Tensor) -> int:
    """Where a feature's channels lie: dimension 1 of (N, C) and of images (N, C, H, W, ...), the last
    of sequences (N, L, C).
    """
    return 2 if feature.dim() == 3 else 1


class Projections(nn.Module):
    """A learnt linear map a module name, from the student's channels to its teacher's, where the two
    differ; thrown away after training. Orthogonal at first, from `seed`.
    """

    def __init__(self, student: Heard, teacher: Heard, *, seed: int) -> None:
        super().__init__()
        self.names: dict[str, str] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, features in student.items():
            ours, theirs = (_width(item, name) for item in (features, teacher[name]))
            if ours == theirs:
                continue
            key = f"map{len(self.names)}"  # a module's name has dots, a parameter's cannot
            weight = torch.empty(theirs, ours)
            nn.init.orthogonal_(weight, generator=generator)
            self.register_parameter(key, nn.Parameter(weight))
            self.names[name] = key

    def forward(self, name: str, feature: Tensor) -> Tensor:
        """`feature` with as many channels as the teacher's."""
        if name not in self.names:
            return feature
        dim = channel_dim(feature)
        weight: Tensor = getattr(self, self.names[name])
        return F.linear(feature.movedim(dim, -1), weight).movedim(-1, dim)


def feature_distance(
    student: Heard, teacher: Heard, projections: Projections, *, normalized: bool
) -> Tensor:
    """The mean over modules of the mean squared difference; with `normalized`, divided by the mean
    square of the teacher's, so that layers of any scale count alike. float32.

    Raises CompressionError where the two models' features do not fit each other.
    """
    parts = []
    for name, ours, theirs in _pairs(student, teacher):
        mapped = projections(name, ours.float())
        target = theirs.float()
        if mapped.shape != target.shape:
            raise _unlike(name, mapped, target)
        error = F.mse_loss(mapped, target)
        parts.append(error / target.square().mean().clamp_min(1e-12) if normalized else error)
    return torch.stack(parts).mean()


def attention_distance(student: Heard, teacher: Heard) -> Tensor:
    """The mean over modules and examples of ||q_s - q_t||^2, where q is the attention map of a feature:
    at each place of an image (N, C, H, W), or for each token of a sequence (N, L, C), the mean over
    channels of its squares, as a vector of length 1 (Zagoruyko and Komodakis 2017, arXiv:1612.03928,
    section 3.1, for images; the same is done with tokens, padding included). Widths may differ, places
    and numbers of tokens may not. float32.

    Raises CompressionError for features that are neither, or of other sizes.
    """
    parts = []
    for name, ours, theirs in _pairs(student, teacher):
        if ours.dim() not in {3, 4} or _places(ours) != _places(theirs):
            raise _unlike(name, ours, theirs)
        gap = _attention(ours) - _attention(theirs)
        parts.append(gap.square().sum(dim=1).mean())
    return torch.stack(parts).mean()


def _places(feature: Tensor) -> tuple[int, ...]:
    """The feature's sizes without that of its channels: examples first, then places or tokens."""
    dim = channel_dim(feature)
    return (*feature.shape[:dim], *feature.shape[dim + 1 :])


def _attention(feature: Tensor) -> Tensor:
    squares = feature.float().square().mean(dim=channel_dim(feature))
    return F.normalize(squares.flatten(1), dim=1)


def _pairs(student: Heard, teacher: Heard) -> list[tuple[str, Tensor, Tensor]]:
    pairs = []
    for name, ours in student.items():
        theirs = teacher.get(name, ())
        if not ours or len(ours) != len(theirs):
            raise CompressionError(
                f"the student calls it {len(ours)} times, the teacher {len(theirs)} times",
                where=f"distill ({name})",
                fix="name modules that both models call equally often, at least once",
            )
        pairs += [(name, *pair) for pair in zip(ours, theirs, strict=True)]
    return pairs


def _width(features: Sequence[Tensor], name: str) -> int:
    if not features or features[0].dim() < 2:
        raise CompressionError(
            "it gives no tensor of at least two dimensions",
            where=f"distill ({name})",
            fix="name a module whose output is (N, C), (N, L, C) or (N, C, H, W)",
        )
    return features[0].shape[channel_dim(features[0])]


def _unlike(name: str, ours: Tensor, theirs: Tensor) -> CompressionError:
    return CompressionError(
        f"the features cannot be compared: student {tuple(ours.shape)}, teacher "
        f"{tuple(theirs.shape)}",
        where=f"distill ({name})",
        fix="name modules with outputs of the same places; attention needs (N, C, H, W) or (N, L, C)",
    )
