"""Whether a group may be cut, tried: the sliced copy must be the masked copy."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from reprune.compress.structure.architecture import Architecture, apply
from reprune.compress.structure.copies import run, training_shapes
from reprune.compress.structure.coupling import Group
from reprune.compress.structure.equality import architecture_of, beyond, both_outputs, mask
from reprune.core.errors import CompressionError
from reprune.measure.outputs import evaluating

# Rounding differs between a sliced and a masked sum; a wrong cut is off by more, but not always by
# much: one that changed the outputs by 1e-4 was met. Relative to how far the outputs move with the weights.
TRIAL_TOLERANCE = 1e-9
FLOAT32_TOLERANCE = 1e-4
# An entry of -1e9 + x moves by less of itself; one that is filled in one run only moves by more than others.
LEAST_MOVE, LARGEST_MOVE = 1e-6, 1e4
TRIALS = 2
TRIAL_SEED = 0


class Probe:
    """Cuts half of one group on a copy and compares it with the masked copy.

    Weights and inputs are perturbed: a trained or fresh model may hold zeros (the last BatchNorm of a
    block) that would hide a wrong cut. It is done in float64 where the model runs so, because a wrong
    cut may change little: attention that is nearly even hides channels that moved between heads
    within the rounding of float32.
    """

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.module, self.inputs, self.tolerance = next(
            (trial for trial in _trials(module, inputs) if _is_sound(*trial[:2], module, inputs)),
            (copy.deepcopy(module).eval(), inputs, FLOAT32_TOLERANCE),
        )
        self.scales = _scales(self.module, self.inputs)
        self.training = InTraining(((self.module, self.inputs), (module, inputs)))

    def fault(self, group: Group) -> str | None:
        """Why the group cannot be cut, or None: sliced copies are the masked copies, and one trains."""
        generator = torch.Generator().manual_seed(TRIAL_SEED)
        kept: dict[str, list[int]] = {}
        for _ in range(TRIALS):
            order = torch.randperm(group.width, generator=generator).tolist()
            kept = {group.name: sorted(order[: group.width // 2])}
            try:
                sliced = apply(self.module, architecture_of(self.module, [group], kept))
                outputs = both_outputs(mask(self.module, [group], kept), sliced, self.inputs)
            except CompressionError as error:
                return f"a trial cut failed: {error.what}"
            apart = max(
                (
                    beyond(expected, found, self.tolerance, scale)
                    for (expected, found), scale in zip(outputs, self.scales, strict=True)
                ),
                default=0.0,
            )
            if apart:
                return (
                    f"a trial cut changed the function: outputs are off by {apart:.2g} from the "
                    f"masked model (forward() depends on the position or number of these channels)"
                )
        return self.training.fault(architecture_of(self.module, [group], kept))


class InTraining:
    """Runs a cut copy once in training mode, for branches of forward() that are taken there alone.

    Of the `trials` (a model and its inputs) the first is used that runs so uncut; if none does, nothing is
    said. Shapes are compared where they are not drawn by chance.
    """

    def __init__(self, trials: Iterable[tuple[nn.Module, tuple[Tensor, ...]]]) -> None:
        self.module: nn.Module | None = None
        for module, inputs in trials:
            try:
                shapes, again = (
                    training_shapes(copy.deepcopy(module), inputs, seed) for seed in (0, 1)
                )
            except CompressionError:
                continue
            self.module, self.inputs = module, inputs
            self.shapes = shapes if shapes == again else None
            return

    def fault(self, cut: Architecture) -> str | None:
        """Why what is left by the cut would not train, or None."""
        if self.module is None:
            return None
        try:
            shapes = training_shapes(apply(self.module, cut), self.inputs)
        except CompressionError as error:
            return f"in training a trial cut fails: {error.what}"
        if self.shapes not in (None, shapes):
            return "in training a trial cut changes the shape of an output"
        return None


def _trials(
    module: nn.Module, inputs: tuple[Tensor, ...]
) -> Iterator[tuple[nn.Module, tuple[Tensor, ...], float]]:
    """Module, inputs and tolerance, the best trial first; each copy is made when it is asked for."""
    generator = torch.Generator().manual_seed(TRIAL_SEED)
    perturbed = _moved(module, generator)
    moved = tuple(_perturbed(tensor, generator) for tensor in inputs)
    yield _doubled(perturbed), tuple(_in_double(tensor) for tensor in moved), TRIAL_TOLERANCE
    yield perturbed, moved, FLOAT32_TOLERANCE
    plain = _doubled(copy.deepcopy(module).eval())
    yield plain, tuple(_in_double(tensor) for tensor in inputs), TRIAL_TOLERANCE


def _doubled(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).double()


def _in_double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _is_sound(
    trial: nn.Module, moved: tuple[Tensor, ...], module: nn.Module, inputs: tuple[Tensor, ...]
) -> bool:
    """Whether `trial` runs on `moved` (float32 may be written into forward()) with no NaN, and infinite
    only where `module` is: masked logits.
    """
    try:
        with evaluating(module), evaluating(trial):
            pairs = list(zip(run(module, inputs), run(trial, moved), strict=True))
    except CompressionError:
        return False
    return all(
        expected.shape == found.shape
        and not bool(found.isnan().any())
        and bool((found.isinf() == expected.isinf()).all())
        for expected, found in pairs
    )


def _scales(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[float]:
    """For each output how far its entries move, at most, where every weight moves by a tenth.

    The largest value would not do: a model may fill entries of its outputs with -1e9 or infinity, and
    relative to that any cut is right. 0 for an output that does not move, or where moved weights
    do not run: each entry's own size is all that can be said then.
    """
    with evaluating(module):
        still = run(module, inputs)
        try:
            moved = run(_moved(module, torch.Generator().manual_seed(TRIAL_SEED + 1)), inputs)
        except CompressionError:
            return [0.0] * len(still)
    if [one.shape for one in still] != [one.shape for one in moved]:
        return [0.0] * len(still)
    return [_movement(*pair) for pair in zip(still, moved, strict=True)]


def _movement(still: Tensor, moved: Tensor) -> float:
    moves = (moved - still).abs()
    moves = moves[moves.isfinite() & (moves > LEAST_MOVE * still.abs())]
    if not moves.numel():
        return 0.0
    return float(moves[moves <= LARGEST_MOVE * moves.median()].max())


def _moved(module: nn.Module, generator: torch.Generator) -> nn.Module:
    moved = copy.deepcopy(module).eval()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.copy_(_perturbed(parameter, generator))
    return moved


def _perturbed(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor.detach().clone()
    size = math.sqrt(float(tensor.detach().float().square().mean())) or 1.0
    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
    return tensor.detach() + 0.1 * size * noise
