"""The trainings of the LeNet benchmark: dense, torch.nn.utils.prune as its users run it, and ours."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks.lenet.task import LeNet, MnistTask
from reprune.compress.compact import Layer, sorted_by_weights, without_dead
from reprune.compress.compact.learning import BookShaper
from reprune.compress.masks.choosing import choose_masks, plan_counts, plan_sparsity, zeros_for
from reprune.compress.masks.scores import magnitude
from reprune.compress.masks.shaper import MaskShaper
from reprune.compress.training.recover import Lesson, recover
from reprune.compress.training.schedule import sparsity_at
from reprune.compress.training.shaping import Shaper
from reprune.core.params import DistillParams

DENSE_EPOCHS = 15
WEIGHTS = ("fc1.weight", "fc2.weight", "fc3.weight")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all arms of a row share. `held_out`: the last 5,000 training images are not trained on."""

    seed: int
    shifts: bool
    held_out: bool

    def task(self, *, batch_size: int = 128, rate: float = 1e-3) -> MnistTask:
        return MnistTask(
            shifts=self.shifts, held_out=self.held_out, batch_size=batch_size, rate=rate
        )


def dense(setting: Setting) -> LeNet:
    """15 epochs of Adam, 1e-3 along a cosine, batch 128."""
    torch.manual_seed(setting.seed)
    module = LeNet()
    _train(module, setting, epochs=DENSE_EPOCHS, seed=setting.seed)
    return module


def stock_once(start: nn.Module, sparsity: float, setting: Setting, *, epochs: int = 5) -> LeNet:
    """torch.nn.utils.prune, global L1 in one go, then fine-tuning as the dense model was trained."""
    module = copy.deepcopy(start)
    _prune_to(module, sparsity)
    _train(module, setting, epochs=epochs, seed=setting.seed + 1_000)
    return _without_masks(module)


def stock_gradual(
    start: nn.Module, sparsity: float, setting: Setting, *, gradual: int = 10, epochs: int = 15
) -> LeNet:
    """torch.nn.utils.prune, global L1 ten times an epoch along the cubic schedule, then held.

    Its learning rate is held until the masks are, as ours is: with a cosine from the start it loses
    over a point at 99 %.
    """
    module = copy.deepcopy(start)

    def follow(progress: float) -> None:
        share = min(progress / gradual, 1.0)
        _prune_to(module, sparsity * (1.0 - (1.0 - share) ** 3))

    _train(module, setting, epochs=epochs, seed=setting.seed + 1_000, hold=gradual, tenth=follow)
    return _without_masks(module)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Ours in `epochs`: masks grow along a cubic schedule for `gradual` epochs at a held learning rate,
    which then falls along a cosine. Knobs chosen on the held-out images.
    """

    epochs: int = 15
    gradual: float = 12.0
    rate: float = 2e-3
    batch_size: int = 64
    every: int = 20
    criterion: str = "magnitude-adam"


def ours_once(start: nn.Module, sparsity: float, setting: Setting, *, epochs: int = 5) -> LeNet:
    """One-shot masks by magnitude, then recovery: the rate held for one epoch, then a cosine."""
    scores = magnitude(start, WEIGHTS)
    masks = choose_masks(scores, plan_sparsity(scores, sparsity))
    recipe = Recipe(epochs=epochs, gradual=1.0)
    return _recovered(start, recipe, setting, MaskShaper(masks=masks))


def ours_gradual(
    start: nn.Module, sparsity: float, setting: Setting, recipe: Recipe | None = None
) -> LeNet:
    recipe = recipe or Recipe()
    steps = recipe.gradual * math.ceil(setting.task().count / recipe.batch_size)

    def share(done: int) -> float:
        progress = min(done / steps, 1.0)
        return sparsity_at("cubic", progress, final=sparsity) / sparsity if progress < 1 else 1.0

    # The tensors share the zeros between them as the training goes: an even split is but an expectation.
    shapes = {name: start.get_parameter(name).shape for name in WEIGHTS}
    even = {name: zeros_for(shape.numel(), sparsity) for name, shape in shapes.items()}
    shaper = MaskShaper(
        plan=plan_counts(shapes, even, scope="global"),
        share=share,
        criterion=recipe.criterion,  # type: ignore[arg-type]
        every=recipe.every,
    )
    return _recovered(start, recipe, setting, shaper)


def few_values(
    start: nn.Module, setting: Setting, bits: Mapping[str, int], recipe: Recipe
) -> LeNet:
    """Dead neurons folded away, then quantisation-aware recovery: every parameter on its book's values."""
    module = folded(start)
    return _recovered(module, recipe, setting, BookShaper(bits=bits))


def folded(module: nn.Module) -> LeNet:
    """The same function without dead hidden neurons, the others in the order that codes best."""
    found = copy.deepcopy(module)
    places = [found.fc1, found.fc2, found.fc3]
    layers = [
        Layer(weight=place.weight.detach().numpy(), bias=place.bias.detach().numpy())
        for place in places
    ]
    for place, layer in zip(places, sorted_by_weights(without_dead(layers)), strict=True):
        with torch.no_grad():
            place.weight.copy_(torch.from_numpy(layer.weight))
            place.bias.copy_(torch.from_numpy(layer.bias))
    return found


def _recovered(start: nn.Module, recipe: Recipe, setting: Setting, shaper: Shaper) -> LeNet:
    task = setting.task(batch_size=recipe.batch_size, rate=recipe.rate)
    lesson = Lesson(task=task, student=start, teacher=start, teacher_digest="dense")
    params = DistillParams(
        epochs=recipe.epochs, warmup_epochs=0.0, hold_epochs=recipe.gradual, weight=0.0
    )
    with tempfile.TemporaryDirectory() as work:
        return recover(
            lesson,
            params,
            seed=setting.seed + 1_000,
            work=Path(work),
            say=lambda _: None,
            shapers=[shaper],
        ).module


def _train(
    module: nn.Module,
    setting: Setting,
    *,
    epochs: int,
    seed: int,
    hold: int = 0,
    tenth: Callable[[float], None] | None = None,
) -> None:
    """Adam, 1e-3 for `hold` epochs, then along a cosine.

    `tenth(epochs done)` is called ten times an epoch, and at each end.
    """
    task = setting.task()
    optimizer = task.optimizer(list(module.parameters()))
    steps = math.ceil(task.count / task.batch_size)
    marks = {round(steps * part / 10) for part in range(1, 11)}
    generator = torch.Generator()
    for epoch in range(epochs):
        for number, batch in enumerate(task.batches("train", epoch=epoch, seed=seed), start=1):
            done = epoch + (number - 1) / steps
            for group in optimizer.param_groups:
                group["lr"] = (
                    task.rate
                    * 0.5
                    * (1.0 + math.cos(math.pi * max(done - hold, 0.0) / (epochs - hold)))
                )
            loss = task.loss(module, batch, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if tenth is not None and number in marks:
                tenth(epoch + number / steps)


def _parameters(module: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(module.fc1, "weight"), (module.fc2, "weight"), (module.fc3, "weight")]


def _prune_to(module: nn.Module, sparsity: float) -> None:
    """Global L1 until `sparsity` of all weights is masked; what is masked stays so."""
    parts = _parameters(module)
    total = sum(getattr(layer, name).numel() for layer, name in parts)
    gone = sum(
        int((layer.weight_mask == 0).sum()) for layer, _ in parts if hasattr(layer, "weight_mask")
    )
    more = round(sparsity * total) - gone
    if more > 0:
        prune.global_unstructured(parts, pruning_method=prune.L1Unstructured, amount=more)


def _without_masks(module: nn.Module) -> LeNet:
    for layer, name in _parameters(module):
        if prune.is_pruned(layer):
            prune.remove(layer, name)
    return module
