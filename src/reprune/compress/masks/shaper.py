"""Masks while a model trains: held as they are, or grown along a schedule, exact at the end.

After every step of any optimiser masked weights are exactly zero and so is whatever the optimiser
remembers of them: weight decay, momentum and Adam's moments cannot bring a dead weight back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from reprune.compress.masks.choosing import Masks, choose_masks, verify_masks, zero_masked
from reprune.compress.masks.scores import magnitude, magnitude_adam
from reprune.compress.training.lesson import fingerprint
from reprune.compress.training.shaping import Moment
from reprune.core.artifacts import SparsityPlan
from reprune.core.documents import digest_of
from reprune.core.errors import CompressionError, UnknownName, nearest

Criterion: TypeAlias = Literal["magnitude", "taylor", "movement", "magnitude-adam"]
CRITERIA: tuple[Criterion, ...] = ("magnitude", "taylor", "movement", "magnitude-adam")
SHARE = "share"
GATHERED_STEPS = "gathered_steps"
# These leave a weight and their own state at zero where all that is zero and the gradient too, so that
# only new masks have to be put on their state. (Of others, Adagrad's accumulator begins above zero.)
INERT = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def at_once(done: int) -> float:
    """The schedule that masks everything after the first step."""
    return 1.0 if done else 0.0


@dataclass(kw_only=True)
class MaskShaper:
    """A Shaper (compress.training.shaping) that holds `masks`, or with a `plan` grows them until they are it.

    `share(done)` is the part of the plan in [0, 1] that is masked once `done` optimiser steps are
    taken; it is looked at before the first step (where the criterion can rank without gradients), after
    every `every` steps, and after the last step of all the plan is whole, whatever it says (`share_name`
    tells it from others in a checkpoint). From then on the masks stay. Each look that finds another
    share than the last ranks the weights anew:
    - magnitude: |w|; magnitude-adam: w^2 sqrt(v) of the optimiser's own v;
    - taylor: |w g|, the mean over the steps since the last look;
    - movement: -w g, summed from the first step on (Sanh et al., arXiv:2005.07683, section 4).
    Without `regrow` a masked weight stays masked. With it, a masked weight keeps the score and value
    that it had, and comes back with that value where it outranks another now (as masks over dense
    weights do in Zhu and Gupta, arXiv:1710.01878). With `recalibrate` the training may renew BatchNorm
    statistics whenever it judges (see compress.training.shaping).

    The module's weights are zeroed in place. A shaper that adds to gradients comes before this one.
    Copies (deepcopy) are independent of each other.
    """

    masks: dict[str, Tensor] = field(default_factory=dict)
    plan: SparsityPlan | None = None
    share: Callable[[int], float] = at_once
    share_name: str = ""
    criterion: Criterion = "magnitude"
    every: int = 1
    regrow: bool = False
    recalibrate: bool = True
    replicated: ClassVar[bool] = True
    _done: float = 0.0
    _steps: int = 0
    _gathered: dict[str, Tensor] = field(default_factory=dict)
    _values: dict[str, Tensor] = field(default_factory=dict)
    _scores: dict[str, Tensor] = field(default_factory=dict)
    _bits: dict[tuple[str, torch.dtype], Tensor] = field(default_factory=dict)
    _fresh: bool = True

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise UnknownName(
                f"there is no criterion for masks in training called '{self.criterion}'; "
                f"{nearest(self.criterion, CRITERIA)}"
            )
        if self.every < 1:
            raise CompressionError(f"masks cannot grow every {self.every} steps")
        if self.plan is None and not self.masks:
            raise CompressionError("there is nothing to mask: neither masks nor a plan")
        self.masks = dict(self.masks)

    @property
    def settings(self) -> str:
        """What tells these masks from others: the plan, how it is reached, and the masks given; of
        `share`, which is code, only `share_name`.
        """
        plan = digest_of(self.plan) if self.plan else ""
        given = fingerprint({name: self.masks[name] for name in sorted(self.masks)})
        how = f"{self.criterion} {self.every} {self.regrow} {self.recalibrate}"
        return f"{plan} {how} {self.share_name} {given}"

    @property
    def settled(self) -> bool:
        """Whether the masks are, by now, what they will be in the end."""
        return self.plan is None or self._done >= 1.0

    def begin(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Zeroes what is masked already; growing starts with whole tensors, or from `masks`."""
        names = [item.tensor for item in self.plan.tensors] if self.plan else list(self.masks)
        for name in names:
            weight = _weight(module, name)
            mask = self.masks.get(name)
            self.masks[name] = (
                torch.ones_like(weight, dtype=torch.bool)
                if mask is None
                else mask.to(weight.device)
            )
            if self.plan is not None and self.criterion in ("taylor", "movement"):
                self._gathered[name] = torch.zeros_like(weight)
            if self.plan is not None and self.regrow:
                self._values[name] = weight.clone()
                self._scores[name] = torch.zeros_like(weight)
            if self.plan is not None and not module.get_parameter(name).requires_grad:
                self._refuse_frozen(name)
        if not self.settled and self._can_rank(optimizer):
            share = self._share(0)
            # On a resume this finds none but dead weights: as many and more are masked by then.
            if share > 0.0:
                self._rank(module, optimizer, share)
        self._renew()
        self._hold(module, optimizer)
        self._fresh = True  # the optimiser may be given a state to begin with after this

    def after_backward(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,  # noqa: ARG002  the Shaper's signature
        moment: Moment,  # noqa: ARG002  as above
    ) -> None:
        """Takes the scores that need gradients, then zeroes the gradients of masked weights."""
        gathering = bool(self._gathered) and not self.settled
        for name in self.masks:
            parameter = module.get_parameter(name)
            if parameter.grad is None:
                continue
            if gathering:
                product = parameter.detach() * parameter.grad
                self._gathered[name] += -product if self.criterion == "movement" else product.abs()
            self._silence(name, parameter.grad)
        self._steps += int(gathering)

    def after_step(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, moment: Moment
    ) -> None:
        """Ranks and masks anew where the schedule says so; then nothing masked is alive."""
        if not self.settled:
            done = moment.step + 1
            last = done >= moment.steps
            share = 1.0 if last else self._share(done)
            due = last or (self._can_rank(optimizer) and (share >= 1.0 or done % self.every == 0))
            if due and share > 0.0 and share != self._done:
                self._rank(module, optimizer, share)
        self._hold(module, optimizer)

    def state(self) -> dict[str, Tensor]:
        parts: dict[str, Mapping[str, Tensor]] = {
            "mask": self.masks,
            "gathered": self._gathered,
            "value": self._values,
            "score": self._scores,
        }
        found = {
            f"{part}/{name}": tensor.detach().clone()
            for part, tensors in parts.items()
            for name, tensor in tensors.items()
        }
        found[SHARE] = torch.tensor(self._done, dtype=torch.float64)
        found[GATHERED_STEPS] = torch.tensor(self._steps)
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Raises CompressionError for the state of a shaper that is set up otherwise."""
        if state.keys() != self.state().keys():
            raise CompressionError(
                "the masks of the checkpoint are not those of this training",
                fix="remove the checkpoint and begin again",
            )
        parts = {
            "mask": self.masks,
            "gathered": self._gathered,
            "value": self._values,
            "score": self._scores,
        }
        for key, tensor in state.items():
            part, _, name = key.partition("/")
            if part in parts:
                parts[part][name] = tensor.to(parts[part][name].device).clone()
        self._renew()
        self._done, self._steps = float(state[SHARE]), int(state[GATHERED_STEPS])

    def _share(self, done: int) -> float:
        share = self.share(done)
        if not 0.0 <= share <= 1.0:
            raise CompressionError(f"the schedule's share after {done} steps is {share}")
        return share

    def _rank(self, module: nn.Module, optimizer: torch.optim.Optimizer, share: float) -> None:
        if self.plan is None:
            return
        scores = self._living_scores(module, optimizer)
        if self.regrow:
            scores = {
                name: torch.where(self.masks[name], score, self._scores[name])
                for name, score in scores.items()
            }
        chosen = choose_masks(
            scores, self.plan, share=share, alive=None if self.regrow else self.masks
        )
        if self.regrow:
            self._bring_back(module, chosen, scores)
        self.masks = chosen
        self._renew()
        self._done = share
        if self.criterion == "taylor":
            self._gathered = {name: torch.zeros_like(t) for name, t in self._gathered.items()}
            self._steps = 0
        if self.settled:
            zero_masked(module, self.masks)
            verify_masks(module, self.masks, self.plan)

    def _refuse_frozen(self, name: str) -> None:
        if self.criterion != "magnitude":
            raise CompressionError(
                f"it is frozen and has no gradient for '{self.criterion}' to rank it by",
                where=name,
                fix="train it (distill.freeze), rank by magnitude, or name its layer in the task's `keep`",
            )

    def _can_rank(self, optimizer: torch.optim.Optimizer) -> bool:
        """Not before there are gradients to rank by: fp16 leaves out steps, the first ones above all."""
        if self.criterion == "magnitude-adam":
            return bool(optimizer.state)
        return self.criterion == "magnitude" or self._steps > 0

    def _living_scores(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, Tensor]:
        if self.criterion == "magnitude":
            return magnitude(module, self.masks)
        if self.criterion == "magnitude-adam":
            return magnitude_adam(module, optimizer, self.masks)
        if not self._steps:
            raise CompressionError(
                f"there was no step with finite gradients for '{self.criterion}' to rank weights by",
                where="prune",
                fix="rank by magnitude, end prune.schedule earlier, or set distill.precision to no",
            )
        if self.criterion == "taylor":
            return {name: total / self._steps for name, total in self._gathered.items()}
        return dict(self._gathered)

    def _bring_back(self, module: nn.Module, chosen: Masks, scores: Mapping[str, Tensor]) -> None:
        """Remembers what goes now, and gives what comes back the value it went with."""
        for name, mask in chosen.items():
            weight, before = _weight(module, name), self.masks[name]
            goes = before & ~mask
            self._values[name] = torch.where(goes, weight, self._values[name])
            self._scores[name] = torch.where(goes, scores[name], self._scores[name])
            weight.copy_(torch.where(mask & ~before, self._values[name], weight))

    def _renew(self) -> None:
        """After the masks have changed."""
        self._bits = {}
        self._fresh = True

    def _hold(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        remembered = optimizer.state if self._fresh or type(optimizer) not in INERT else {}
        self._fresh = False
        for name in self.masks:
            parameter = module.get_parameter(name)
            self._silence(name, parameter.detach())
            for value in remembered.get(parameter, {}).values():
                if (
                    isinstance(value, Tensor)
                    and value.shape == parameter.shape
                    and value.is_floating_point()
                ):
                    self._silence(name, value)

    def _silence(self, name: str, tensor: Tensor) -> None:
        """Makes `tensor` +0.0 where the weight `name` is masked, in place.

        By its bits: a product would leave -0.0 and NaN, and filling by a mask takes ten times as long.
        """
        integer = INTEGERS[tensor.element_size()]
        key = (name, integer)
        if key not in self._bits:
            self._bits[key] = self.masks[name].to(integer).neg()  # all bits set where kept
        tensor.view(integer).bitwise_and_(self._bits[key])


def _weight(module: nn.Module, name: str) -> Tensor:
    try:
        return module.get_parameter(name).detach()
    except AttributeError as error:
        raise CompressionError(f"the model has no parameter '{name}' to mask") from error
