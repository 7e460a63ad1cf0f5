"""Training that empties channels before they are cut, so that the cut takes little away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reprune.compress.structure.architecture import layout
from reprune.compress.structure.layouts import indices
from reprune.core.documents import digest_of
from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from reprune.compress.structure.groups import Group
    from reprune.compress.training.shaping import Moment

# DepGraph's alpha: the weakest channel of a group is pushed 2^4 times as hard as the strongest.
ALPHA = 4.0
# GReg-1: the penalty grows by `strength` every so many steps, up to a ceiling.
GROW_EVERY = 10
CEILING = 1.0


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A parameter's share in a group: `owner` says for each index of `dim` its channel, or `width`."""

    parameter: nn.Parameter
    dim: int
    owner: Tensor
    scale: bool


@dataclass(kw_only=True)
class SparsePush:
    """A Shaper that adds the gradient of a penalty on the channels of `groups`:
    - group-norm: strength x gamma_k / 2 x ||w_k||^2 over all that is coupled in channel k, with gamma
      from 1 for the strongest channel of a group to 2^4 for the weakest (DepGraph, Fang et al. 2023,
      arXiv:2301.12900, section 3.3);
    - bn-scale: strength x |scale| of the groups' BatchNorms (network slimming, Liu et al. 2017,
      arXiv:1708.06519, section 3);
    - growing: lambda / 2 x ||w_k||^2 on the channels alone that `widths` leaves no room for, the ones
      of the least norm when training begins; lambda grows by strength every 10 steps, up to 1 (GReg-1,
      Wang et al. 2021, arXiv:2012.09243, section 3.2).
    """

    method: Literal["group-norm", "bn-scale", "growing"]
    strength: float
    groups: Sequence[Group]
    widths: Mapping[str, int]
    settled: bool = False
    _parts: dict[str, list[_Part]] = field(default_factory=dict)
    _doomed: dict[str, Tensor] = field(default_factory=dict)

    @property
    def settings(self) -> str:
        """What tells this push from others."""
        names = [group.name for group in self.groups]
        return digest_of((self.method, self.strength, names, dict(self.widths)))

    def begin(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002  the Shaper's signature
        """Finds the groups' parameters. Raises CompressionError where there is nothing to push."""
        self._parts = {group.name: _parts(module, group) for group in self.groups}
        if self.method == "bn-scale" and not any(
            part.scale for parts in self._parts.values() for part in parts
        ):
            raise CompressionError(
                "no group has a BatchNorm whose scale could be pushed",
                where="params.yaml (prune.sparse_learning.method)",
                fix="use group-norm or growing",
            )
        if self.method == "growing":
            for group in self.groups:
                gone = group.width - self.widths.get(group.name, group.width)
                order = self._squares(group).sort(stable=True).indices
                doomed = torch.zeros(group.width + 1, device=order.device)
                doomed[order[:gone]] = 1.0
                self._doomed[group.name] = doomed

    def after_backward(
        self,
        module: nn.Module,  # noqa: ARG002  the Shaper's signature
        optimizer: torch.optim.Optimizer,  # noqa: ARG002  as above
        moment: Moment,
    ) -> None:
        """Adds the penalty's gradient to the loss's."""
        for group in self.groups:
            if self.method == "bn-scale":
                self._push_scales(group)
                continue
            weights = (
                self._gammas(group)
                if self.method == "group-norm"
                else self._doomed[group.name] * self._grown(moment)
            )
            for part in self._parts[group.name]:
                shape = [1] * part.parameter.dim()
                shape[part.dim] = -1
                push = weights[part.owner].reshape(shape) * part.parameter.detach()
                _add(part.parameter, push)

    def after_step(
        self,
        module: nn.Module,  # noqa: ARG002  the Shaper's signature
        optimizer: torch.optim.Optimizer,  # noqa: ARG002  as above
        moment: Moment,
    ) -> None:
        """Only the model after the last step is what the cut is made from."""
        self.settled = moment.step + 1 >= moment.steps

    def state(self) -> dict[str, Tensor]:
        doomed = {f"doomed/{name}": doomed for name, doomed in self._doomed.items()}
        return doomed | {"settled": torch.tensor(self.settled)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.settled = bool(state["settled"])
        for name, doomed in self._doomed.items():
            doomed.copy_(state[f"doomed/{name}"])

    def norms(self) -> dict[str, Tensor]:
        """The Euclidean norm of all that is coupled in each channel, by group."""
        return {group.name: self._squares(group).sqrt() for group in self.groups}

    def _grown(self, moment: Moment) -> float:
        return min(self.strength * (moment.step // GROW_EVERY + 1), CEILING)

    def _gammas(self, group: Group) -> Tensor:
        squares = self._squares(group)
        span = squares.max() - squares.min()
        share = (squares.max() - squares) / span.clamp_min(torch.finfo(span.dtype).tiny)
        gammas = self.strength * 2.0 ** (ALPHA * share)
        return torch.cat([gammas, gammas.new_zeros(1)])

    def _push_scales(self, group: Group) -> None:
        for part in self._parts[group.name]:
            if part.scale:
                inside = part.owner < group.width
                _add(part.parameter, self.strength * inside * part.parameter.detach().sign())

    def _squares(self, group: Group) -> Tensor:
        parts = self._parts[group.name]
        total = torch.zeros(group.width + 1, device=parts[0].parameter.device)
        for part in parts:
            rows = part.parameter.detach().float().square().movedim(part.dim, 0)
            total.index_add_(0, part.owner, rows.reshape(len(rows), -1).sum(dim=1))
        return total[:-1]


def _parts(module: nn.Module, group: Group) -> list[_Part]:
    parts = []
    for member in group.members:
        layer = module.get_submodule(member.module)
        found = layout(layer, member.axis)
        if found is None:
            continue
        for span in found.spans:
            parameter = getattr(layer, span.tensor, None)
            if not isinstance(parameter, nn.Parameter) or not parameter.requires_grad:
                continue
            owner = torch.full((parameter.shape[span.dim],), group.width)
            for channel, positions in enumerate(member.positions):
                owner[indices(span, found.size, positions)] = channel
            scale = isinstance(layer, _BatchNorm) and span.tensor == "weight"
            owner = owner.to(parameter.device)
            parts.append(_Part(parameter=parameter, dim=span.dim, owner=owner, scale=scale))
    if not parts:
        raise CompressionError("it has no parameter that trains", where=group.name)
    return parts


def _add(parameter: nn.Parameter, push: Tensor) -> None:
    if parameter.grad is None:  # the loss does not depend on it: the penalty does
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad.add_(push)
