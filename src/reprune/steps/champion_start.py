"""Whether recovery begins with the cut model or with the champion, which has learnt back already."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from reprune.core.artifacts import ChampionStart
from reprune.core.params import GenerationsParams

if TYPE_CHECKING:
    from torch import nn

    from reprune.compress.bundle import LoadedModel


def champion_start(
    pupil: LoadedModel,
    champion: LoadedModel,
    generations: GenerationsParams,
    seed: int,
    say: Callable[[str], None],
) -> ChampionStart | None:
    """Both losses on the same examples of `tune`, and whether the champion is to be the start: it must lose
    less than the cut model. None where their tensors have other names or shapes, or weights are masked.
    """
    if pupil.masks or champion.masks or _shapes(pupil.module) != _shapes(champion.module):
        say("recovery: begins with the cut model, for the champion has another shape")
        return None
    from reprune.compress.paired import at_most, batch_losses

    batches = list(at_most(pupil.task, "tune", examples=generations.examples, seed=seed))
    theirs, mine = (
        batch_losses(pupil.task, module, batches, seed=seed)
        for module in (champion.module, pupil.module)
    )
    # A loss that is no number is never the less.
    taken = math.isfinite(theirs.mean) and not mine.mean <= theirs.mean
    name = "champion" if taken else "cut model"
    say(
        f"recovery: begins with the {name}: loss on tune {theirs.mean:.4f} of the champion, "
        f"{mine.mean:.4f} of the cut model"
    )
    return ChampionStart(
        taken=taken,
        champion_loss=theirs.mean,
        cut_loss=mine.mean,
        cost=theirs.examples + mine.examples,
    )


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
