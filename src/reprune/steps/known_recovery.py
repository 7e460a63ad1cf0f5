"""What recovery takes over from the champion's: how many epochs it needed, and the champion as a teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from reprune.core.artifacts import KnownRecovery, ModelBundle, Previous, Recovery
from reprune.core.errors import InputError
from reprune.core.params import DistillParams, GenerationsParams
from reprune.core.store import Artifact
from reprune.steps.inheriting import stored_part
from reprune.task.trained_on import TRAINED_ON

if TYPE_CHECKING:
    from reprune.compress.bundle import LoadedModel
    from reprune.compress.training.lesson import Second


@dataclass(frozen=True, kw_only=True)
class Known:
    """`fact` is what the result says of it; UNSET where nothing is taken over. `marks` are those of the
    examples that the second teacher was made with, as the result was then too (see task.trained_on).
    """

    fact: KnownRecovery | UnsetType = UNSET
    second: Second | None = None
    marks: bytes = b""


def known_recovery(
    previous: Artifact[Previous],
    dense: LoadedModel,
    distill: DistillParams,
    generations: GenerationsParams | UnsetType,
    say: Callable[[str], None],
) -> Known:
    """What this recovery begins with of the champion's. Nothing where it is not asked for, there is no
    champion, or it was not trained.
    """
    champion = None
    if generations is not UNSET and generations.reuse and distill.epochs:
        champion = stored_part(previous, "champion", ModelBundle)
    recovery = champion.manifest.recovery if champion is not None else None
    if generations is UNSET or champion is None or recovery is None or not recovery.epochs:
        return Known()
    needed = len(recovery.epochs)
    if generations.epochs_within:
        needed = epochs_needed(recovery, generations.epochs_within)
    # One lucky early epoch must not starve a recovery: never fewer than half.
    least = math.ceil(distill.epochs / 2) if generations.epochs_within else distill.epochs
    epochs = min(max(needed, least), distill.epochs)
    second = _second(champion, dense, generations.champion_weight, say)
    say(f"recovery: {epochs} of {distill.epochs} epochs, for the champion needed {needed}")
    return Known(
        fact=KnownRecovery(
            champion=champion.digest,
            asked=distill.epochs,
            epochs=epochs,
            needed=needed,
            second=second.digest if second else "",
            weight=second.weight if second else 0.0,
        ),
        second=second,
        marks=champion.file(TRAINED_ON).read_bytes() if second else b"",
    )


def epochs_needed(recovery: Recovery, within: float) -> int:
    """The first epoch whose loss on `tune` came within the share `within` of all that later epochs gained.

    A recovery that was itself shortened has a curve of its own, so it does not shorten the next one further;
    where its last epoch still gained more than that share, the next one has one more.
    """
    losses = [epoch.tune_loss for epoch in recovery.epochs]
    best = min(losses)
    room = within * (losses[0] - best)
    if recovery.known is not UNSET and recovery.known.epochs < recovery.known.asked:
        still = len(losses) > 1 and min(losses[:-1]) - losses[-1] > room
        return len(losses) + still
    return next(number for number, loss in enumerate(losses, start=1) if loss <= best + room)


def _second(
    champion: Artifact[ModelBundle],
    dense: LoadedModel,
    weight: float,
    say: Callable[[str], None],
) -> Second | None:
    """The champion, where it is to teach, answers as the dense model does and says what it was made with."""
    if not weight:
        return None
    if TRAINED_ON not in champion.manifest.payload:
        say(
            "recovery: the champion does not teach, for its bundle does not say which examples it was made "
            f"with (it has no {TRAINED_ON}), and they must not judge what it teaches"
        )
        return None
    from reprune.compress.bundle import load_bundle
    from reprune.compress.training.lesson import Second
    from reprune.measure.outputs import run_module
    from reprune.task.load import guarded

    try:
        loaded = guarded(
            lambda: load_bundle(champion), folder=champion.path.resolve(), doing="rebuilding it"
        )
        inputs = dense.task.example_inputs(2)
        mine, theirs = (
            [(tuple(out.shape), out.dtype) for out in run_module(model.module, inputs)]
            for model in (loaded, dense)
        )
    except (InputError, RuntimeError, ValueError, TypeError) as error:
        say(f"recovery: the champion does not teach, for it cannot be run here: {error}")
        return None
    same = mine == theirs and loaded.task.preprocess_digest == dense.task.preprocess_digest
    if not same:
        say("recovery: the champion does not teach, for its outputs or preprocessing are others")
        return None
    return Second(module=loaded.module, digest=champion.digest, weight=weight)
