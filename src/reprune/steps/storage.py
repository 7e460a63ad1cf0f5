"""What the zeros of masked models come to in bytes, in every form that they can be stored in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from reprune.core.artifacts import Arm, StorageFact
from reprune.core.errors import CompressionError
from reprune.measure.source import sparsity_pattern
from reprune.runtimes.sparse import storage_lines
from reprune.steps.arms import ArmModel

# The form n:m of a model that is masked in no such pattern is asked about by the one that hardware has.
HARDWARE = "2:4"


def storage_of(
    arms: Mapping[Arm, ArmModel], say: Callable[[str], None]
) -> dict[Arm, tuple[StorageFact, ...]]:
    """The floats of each masked arm in fp32, fp16 and int8; nothing of arms without masks, whose few
    zeros are chance. What no form can hold is said and left out: nothing is decided by it.
    """
    found: dict[Arm, tuple[StorageFact, ...]] = {}
    for arm, model in arms.items():
        if _pattern(model):
            try:
                found[arm] = _lines(model)
            except CompressionError as error:
                say(f"the bytes of the {arm}'s zeros were not counted: {error.what}")
    return found


def _pattern(model: ArmModel) -> str:
    return sparsity_pattern(model.bundle.manifest.surgery)


def _lines(model: ArmModel) -> tuple[StorageFact, ...]:
    pattern = _pattern(model) if ":" in _pattern(model) else HARDWARE
    # Plus 0: a weight that was masked by multiplying may be -0.0, which the forms keep as a value.
    floats = {
        name: (tensor.detach().cpu().float() + 0.0).numpy()
        for name, tensor in model.loaded.module.state_dict().items()
        if tensor.is_floating_point()
    }
    return tuple(
        StorageFact(dtype=line.dtype, pattern=pattern, forms=line.forms, file=line.file)
        for line in storage_lines(floats, pattern)
    )
