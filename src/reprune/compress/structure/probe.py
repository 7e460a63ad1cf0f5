"""Whether a group may be cut, tried: the sliced copy must be the masked copy."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from reprune.compress.structure.architecture import apply
from reprune.compress.structure.copies import run
from reprune.compress.structure.coupling import Group
from reprune.compress.structure.equality import architecture_of, difference, mask
from reprune.core.errors import CompressionError
from reprune.measure.outputs import evaluating

# Rounding differs between a sliced and a masked sum; a wrong cut is off by more, but not always by
# much: one that changed the outputs by 1e-4 was met. Relative to the largest output.
TRIAL_TOLERANCE = 1e-9
FLOAT32_TOLERANCE = 1e-4
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
            (trial for trial in _trials(module, inputs) if _is_finite(*trial[:2])),
            (copy.deepcopy(module).eval(), inputs, FLOAT32_TOLERANCE),
        )
        with evaluating(self.module):
            self.scale = max(
                (float(output.abs().max()) for output in run(self.module, self.inputs)), default=0.0
            )

    def fault(self, group: Group) -> str | None:
        """Why the group cannot be cut, or None: sliced copies are the masked copies."""
        generator = torch.Generator().manual_seed(TRIAL_SEED)
        for _ in range(TRIALS):
            order = torch.randperm(group.width, generator=generator).tolist()
            kept = {group.name: sorted(order[: group.width // 2])}
            try:
                sliced = apply(self.module, architecture_of(self.module, [group], kept))
                apart = difference(mask(self.module, [group], kept), sliced, [self.inputs])
            except CompressionError as error:
                return f"a trial cut failed: {error.what}"
            if apart > self.tolerance * self.scale:
                return (
                    f"a trial cut changed the function: outputs are off by {apart:.2g} from the "
                    f"masked model (forward() depends on the position or number of these channels)"
                )
        return None


def _trials(
    module: nn.Module, inputs: tuple[Tensor, ...]
) -> Iterator[tuple[nn.Module, tuple[Tensor, ...], float]]:
    """Module, inputs and tolerance, the best trial first; each copy is made when it is asked for."""
    generator = torch.Generator().manual_seed(TRIAL_SEED)
    perturbed = copy.deepcopy(module).eval()
    moved = tuple(_perturbed(tensor, generator) for tensor in inputs)
    with torch.no_grad():
        for parameter in perturbed.parameters():
            parameter.copy_(_perturbed(parameter, generator))
    yield _doubled(perturbed), tuple(_in_double(tensor) for tensor in moved), TRIAL_TOLERANCE
    yield perturbed, moved, FLOAT32_TOLERANCE
    plain = _doubled(copy.deepcopy(module).eval())
    yield plain, tuple(_in_double(tensor) for tensor in inputs), TRIAL_TOLERANCE


def _doubled(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).double()


def _in_double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _is_finite(module: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether the module runs on the inputs (float32 may be written into forward()) without NaN."""
    try:
        with evaluating(module):
            outputs = run(module, inputs)
    except CompressionError:
        return False
    return all(bool(torch.isfinite(output).all()) for output in outputs)


def _perturbed(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor.detach().clone()
    size = math.sqrt(float(tensor.detach().float().square().mean())) or 1.0
    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
    return tensor.detach() + 0.1 * size * noise
