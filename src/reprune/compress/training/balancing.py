"""Keeping the parts of a loss at the shares they were given, however large each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DECAY = 0.99
# A part this much smaller than the largest one is 0 but for rounding, and no part weighs more than so many
# times what the plain sum gives it: the gradient of a distance to what is almost reached is far larger, for
# its value, than that of other losses.
ROUNDING = 1e-6
MOST = 1000.0
# What a file that does not count has counted: enough that its mean moves as it did.
MANY = 1_000_000


@dataclass
class Balancer:
    """Each part is divided by its running magnitude (as the loss ratios of Groenendijk et al. 2021,
    arXiv:2009.01717, section 3), so that it gives the share it was given of the whole; the whole keeps
    the magnitude that the plain sum has, so that the learning rate need not change. A part that is far
    smaller than the others counts for MOST times its plain weight.

    `magnitudes` are means of the last hundred values or so, or of as many as `counts` says where fewer.
    A part's values count from the first one that is not 0: a student that teaches itself begins there.
    """

    magnitudes: Tensor | None = None
    counts: Tensor | None = None

    def combine(self, parts: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
        """The balanced sum of `parts`; always the same parts in the same order."""
        now = torch.stack([part.detach().double().abs() for part in parts.values()]).cpu()
        sizes = self._seen(now)
        whole = sum(shares[name] * size for name, size in zip(parts, sizes, strict=True))
        total = sum(shares[name] for name in parts)
        # A part that is 0 throughout has nothing to give and is not blown up.
        weights = [
            shares[name] * (min(whole / total / size, MOST) if size > 0.0 else 1.0)
            for name, size in zip(parts, sizes, strict=True)
        ]
        return torch.stack(
            [weight * part for weight, part in zip(weights, parts.values(), strict=True)]
        ).sum()

    def state(self) -> dict[str, Tensor]:
        if self.magnitudes is None or self.counts is None:
            return {}
        return {"magnitudes": self.magnitudes, "counts": self.counts}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes up what `state` gave; an older file has no counts."""
        self.magnitudes, self.counts = state.get("magnitudes"), state.get("counts")
        if self.magnitudes is not None and self.counts is None:
            self.counts = torch.full(self.magnitudes.shape, MANY)

    def _seen(self, now: Tensor) -> list[float]:
        """The parts' magnitudes, the values `now` among them."""
        if self.magnitudes is None or self.counts is None:
            self.magnitudes = torch.zeros_like(now)
            self.counts = torch.zeros(now.shape, dtype=torch.int64)
        begun = (self.counts > 0) | (now > ROUNDING * now.max())
        self.counts = self.counts + begun
        # The recursion of a mean with decay that is corrected for having begun at 0.
        moved = (1.0 - DECAY) / (1.0 - DECAY ** self.counts.clamp_min(1).double())
        self.magnitudes = self.magnitudes + begun * moved * (now - self.magnitudes)
        return list(map(float, self.magnitudes))
