"""Keeping the parts of a loss at the shares they were given, however large each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DECAY = 0.99


@dataclass
class Balancer:
    """Each part is divided by its running magnitude (as the loss ratios of Groenendijk et al. 2021,
    arXiv:2009.01717, section 3), so that it gives the share it was given of the whole; the whole keeps
    the magnitude that the plain sum has, so that the learning rate need not change.
    """

    magnitudes: Tensor | None = None

    def combine(self, parts: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
        """The balanced sum of `parts`; always the same parts in the same order."""
        now = torch.stack([part.detach().double().abs() for part in parts.values()]).cpu()
        if self.magnitudes is None:
            self.magnitudes = now
        else:
            self.magnitudes = DECAY * self.magnitudes + (1.0 - DECAY) * now
        # A part that is 0 throughout has nothing to give and is not blown up.
        sizes = self.magnitudes.tolist()
        whole = sum(shares[name] * size for name, size in zip(parts, sizes, strict=True))
        total = sum(shares[name] for name in parts)
        weights = [
            shares[name] / total * whole / size if size > 0.0 else shares[name]
            for name, size in zip(parts, sizes, strict=True)
        ]
        return torch.stack(
            [weight * part for weight, part in zip(weights, parts.values(), strict=True)]
        ).sum()
