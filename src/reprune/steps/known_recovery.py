"""What recovery takes over from the champion's: epochs, the champion as a teacher, and as a start."""

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
from reprune.steps.champion_start import champion_start
from reprune.steps.inheriting import age_of, stored_part
from reprune.task.trained_on import TRAINED_ON

if TYPE_CHECKING:
    from reprune.compress.bundle import LoadedModel
    from reprune.compress.training.lesson import Second


@dataclass(frozen=True, kw_only=True)
class Known:
    """`fact` is what the result says of it; UNSET where nothing is taken over. `second` is the champion where
    it teaches, `start` where training begins with it. `marks` are then those of the examples that it was
    made with, as the result is too (see task.trained_on).
    """

    fact: KnownRecovery | UnsetType = UNSET
    second: Second | None = None
    start: LoadedModel | None = None
    marks: bytes = b""


def known_recovery(
    previous: Artifact[Previous],
    pupil: LoadedModel,
    dense: LoadedModel,
    distill: DistillParams,
    generations: GenerationsParams | UnsetType,
    seed: int,
    say: Callable[[str], None],
    *,
    code: str,
) -> Known:
    """What this recovery of `pupil` begins with of the champion's. Nothing where it is not asked for, there
    is no champion, it was not trained, or the last recovery that took nothing over is
    `generations.cold_every` generations old. `code` is the digest of the pupil's task: training does not
    begin with the weights of a champion of another one.
    """
    champion = None
    if generations is not UNSET and generations.reuse and distill.epochs:
        champion = stored_part(previous, "champion", ModelBundle)
    recovery = champion.manifest.recovery if champion is not None else None
    if generations is UNSET or champion is None or recovery is None or not recovery.epochs:
        return Known()
    age = age_of(previous.manifest, (recovery.known.age or 0) if recovery.known else 0)
    if age >= generations.cold_every:
        say(
            f"recovery: nothing is taken over from the champion's, as was last so {age} generations ago "
            "(generations.cold_every)"
        )
        return Known()
    advice = _advice(distill, generations, say)
    wanted = bool(advice or generations.champion_start)
    loaded = _loaded(champion, dense, say) if wanted else None
    start = None
    if loaded is not None and generations.champion_start:
        if champion.manifest.task.digest == code:
            start = champion_start(pupil, loaded, generations, seed, say)
        else:  # its network would be trained, and its weights stored beside another
            say(
                "recovery: begins with the cut model, for the task's code is another than the champion's"
            )
    began = loaded if start is not None and start.taken else None
    epochs, needed = epochs_taken(recovery, distill, generations, from_champion=began is not None)
    say(f"recovery: {epochs} of {distill.epochs} epochs, for the champion needed {needed}")
    second = None
    if loaded is not None and advice:
        from reprune.compress.training.lesson import Second

        second = Second(module=loaded.module, digest=champion.digest, weight=advice)
    return Known(
        fact=KnownRecovery(
            champion=champion.digest,
            asked=distill.epochs,
            epochs=epochs,
            needed=needed,
            second=second.digest if second else "",
            weight=second.weight if second else 0.0,
            start=start or UNSET,
            age=age,
        ),
        second=second,
        start=began,
        marks=champion.file(TRAINED_ON).read_bytes() if second or began else b"",
    )


def _advice(
    distill: DistillParams, generations: GenerationsParams, say: Callable[[str], None]
) -> float:
    """The champion's share of what is learnt from teachers; 0, and it is said, where nothing is."""
    if generations.champion_weight and not distill.weight:
        say(
            "recovery: the champion does not teach, for nothing is learnt from logits (distill.weight)"
        )
        return 0.0
    return generations.champion_weight


def epochs_taken(
    recovery: Recovery,
    distill: DistillParams,
    generations: GenerationsParams,
    *,
    from_champion: bool,
) -> tuple[int, int]:
    """How many epochs to take, and how many the champion needed. What a recovery from a champion's weights
    needed says nothing of one from a cut model, nor the other way round.
    """
    within = generations.epochs_within
    needed = epochs_needed(recovery, within) if within else len(recovery.epochs)
    if not within:
        return distill.epochs, needed
    # One lucky early epoch must not starve a recovery.
    least = math.ceil(distill.epochs / (4 if from_champion else 2))
    before = recovery.known or None
    if from_champion == bool(before is not None and before.start and before.start.taken):
        return min(max(needed, least), distill.epochs), needed
    return least if from_champion else distill.epochs, needed


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


def _loaded(
    champion: Artifact[ModelBundle], dense: LoadedModel, say: Callable[[str], None]
) -> LoadedModel | None:
    """The champion, where it answers as the dense model does and says what it was made with."""
    if TRAINED_ON not in champion.manifest.payload:
        say(
            "recovery: nothing is learnt from the champion, for its bundle does not say which examples it "
            f"was made with (it has no {TRAINED_ON}), and they must not judge what comes of it"
        )
        return None
    from reprune.compress.bundle import load_bundle
    from reprune.measure.outputs import run_module
    from reprune.task.load import guarded

    inputs = dense.task.example_inputs(2)
    try:
        loaded = guarded(
            lambda: load_bundle(champion), folder=champion.path.resolve(), doing="rebuilding it"
        )
        answers = guarded(
            lambda: run_module(loaded.module, inputs),
            folder=champion.path.resolve(),
            doing="running it",
        )
        mine, theirs = (
            [(tuple(out.shape), out.dtype) for out in found]
            for found in (answers, run_module(dense.module, inputs))
        )
    except InputError as error:
        say(f"recovery: nothing is learnt from the champion, for it cannot be run here: {error}")
        return None
    same = mine == theirs and loaded.task.preprocess_digest == dense.task.preprocess_digest
    if not same:
        say(
            "recovery: nothing is learnt from the champion, for its outputs or preprocessing are others"
        )
        return None
    return loaded
