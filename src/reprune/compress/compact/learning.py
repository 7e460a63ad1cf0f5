"""Learning with few values: quantisation-aware recovery of the kept weights (needs torch).

The gradient is taken at the quantised weights and moves hidden full-precision ones (the
straight-through estimator; Bengio et al., arXiv:1308.3432, section 4), and the books follow the
hidden weights as in k-means (Han et al., "Deep Compression", arXiv:1510.00149, section 3). The module
holds nothing but book values after every step, so what is judged on `tune` is what will be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from reprune.compress.training.shaping import Moment
from reprune.core.errors import CompressionError, nearest
from reprune.runtimes.compact.tensors import Levels, cluster, linear_levels, nearest_codes, snapped

LATENT, LEVELS = "latent", "levels"


@dataclass(kw_only=True)
class BookShaper:
    """A Shaper (compress.training.shaping) that keeps the parameters named in `bits` at few values.

    A matrix gets 2**bits values that are learnt, a vector 2**bits - 2 evenly spaced ones; weights that
    are 0 at the beginning stay 0 and need none. Books are fitted again after every `refit` steps, for
    the first `fit_share` of the training, so that the weights settle on fixed books in the end.
    """

    bits: Mapping[str, int]
    refit: int = 100
    fit_share: float = 0.5
    _places: dict[str, Tensor] = field(default_factory=dict)
    _latent: dict[str, Tensor] = field(default_factory=dict)
    _books: dict[str, Levels] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, bits in self.bits.items():
            if not 1 <= bits <= 7:
                raise CompressionError(f"a book of {bits} bits: between 1 and 7", where=name)

    @property
    def settings(self) -> str:
        """What tells these books from others."""
        return f"{sorted(self.bits.items())} {self.refit} {self.fit_share}"

    def begin(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        """Quantises the parameters, in place."""
        known = dict(module.named_parameters())
        for name in self.bits:
            if name not in known:
                raise CompressionError(
                    f"the model has no parameter '{name}'; {nearest(name, known)}"
                )
            flat = known[name].detach().flatten()
            self._places[name] = flat.nonzero().flatten()
            self._latent[name] = flat[self._places[name]]
        self._fit(module)
        self._show(module)

    def after_backward(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, moment: Moment
    ) -> None:
        """Nothing: the gradient at the quantised weights is the hidden weights' own."""

    def after_step(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,  # noqa: ARG002  the Shaper's signature
        moment: Moment,
    ) -> None:
        """Gives the step to the hidden weights and shows their nearest book values."""
        for name, places in self._places.items():
            moved = module.get_parameter(name).detach().flatten()[places]
            self._latent[name] += moved - self._shown(name)
        done = moment.step + 1
        if done % self.refit == 0 and done <= self.fit_share * moment.steps:
            self._fit(module)
        self._show(module)

    def state(self) -> dict[str, Tensor]:
        found = {f"{LATENT}/{name}": latent.clone() for name, latent in self._latent.items()}
        for name, book in self._books.items():
            found[f"{LEVELS}/{name}"] = torch.tensor([book.exponent, *book.levels])
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Raises CompressionError for the state of a shaper that is set up otherwise."""
        if state.keys() != self.state().keys():
            raise CompressionError(
                "the books of the checkpoint are not those of this training",
                fix="remove the checkpoint and begin again",
            )
        for name, latent in self._latent.items():
            self._latent[name] = state[f"{LATENT}/{name}"].to(latent.device).clone()
            exponent, *levels = state[f"{LEVELS}/{name}"].tolist()
            self._books[name] = Levels(levels=tuple(levels), exponent=exponent)

    def _fit(self, module: nn.Module) -> None:
        for name, latent in self._latent.items():
            values = latent.double().cpu().numpy()
            if module.get_parameter(name).dim() > 1:
                self._books[name] = snapped(cluster(values, 1 << self.bits[name]))
            else:
                half = (1 << (self.bits[name] - 1)) - 1 or 1
                step = float(np.abs(values).max(initial=0.0)) / half
                self._books[name] = linear_levels(half, step or 1.0)

    def _shown(self, name: str) -> Tensor:
        latent, book = self._latent[name], self._books[name].book()
        if not latent.numel():
            return latent
        codes = nearest_codes(latent.cpu().numpy(), book)
        return torch.from_numpy(book[codes]).to(latent.device)

    def _show(self, module: nn.Module) -> None:
        for name, places in self._places.items():
            parameter = module.get_parameter(name)
            flat = torch.zeros_like(parameter).flatten()
            flat[places] = self._shown(name)
            with torch.no_grad():
                parameter.copy_(flat.view(parameter.shape))
