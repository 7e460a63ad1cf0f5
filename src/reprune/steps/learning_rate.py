"""The learning rate of a recovery: as given, as the champion's recovery had it, or the best of some tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from reprune.core.artifacts import ModelBundle, Previous, RateChoice, TriedRate
from reprune.core.errors import Diverged
from reprune.core.params import DistillParams, GenerationsParams
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.steps.inheriting import age_of, stored_part

if TYPE_CHECKING:
    from reprune.compress.training.recover import Recovered

Train: TypeAlias = "Callable[[DistillParams, Path], Recovered]"

# Rates are tried at these multiples of one that is likely; while the outermost is the best, the next one
# beyond it too, so often on either side.
STEP, BEYOND = 3.0, 2
TRIAL_EPOCHS = 1


def chosen_rate(
    params: DistillParams,
    previous: Artifact[Previous],
    generations: GenerationsParams | UnsetType,
    train: Train,
    ctx: Context,
) -> RateChoice | UnsetType:
    """The rate to train with. What is in params.yaml wins; "auto" is the champion's, unless another optimiser
    had it or it is `cold_every` generations old, and else the best of some that `train` tries for an epoch
    each, in folders of their own below the work folder, around the champion's where there is one. UNSET
    where nothing is trained.

    Raises Diverged where training diverges at every rate.
    """
    if not params.epochs:
        return UNSET
    if params.learning_rate != "auto":
        return RateChoice(
            learning_rate=params.learning_rate, how="given", optimizer=params.optimizer
        )
    from reprune.compress.training.rates import base_rate

    before = _champions(params, previous, generations)
    age = age_of(previous.manifest, before.age) if before is not None else 0
    if before is not None and generations is not UNSET and age < generations.cold_every:
        ctx.say(f"recovery: learning rate {before.learning_rate:g}, the champion's")
        return RateChoice(
            learning_rate=before.learning_rate,
            how="champion",
            optimizer=params.optimizer,
            age=age,
        )
    found = _tried(
        base_rate(params) if before is None else before.learning_rate, params, train, ctx
    )
    ctx.say(
        f"recovery: learning rate {found.learning_rate:g}, the best of {len(found.tried)} that were tried "
        f"for {TRIAL_EPOCHS} epoch each"
    )
    return found


def _champions(
    params: DistillParams, previous: Artifact[Previous], generations: GenerationsParams | UnsetType
) -> RateChoice | None:
    """How the champion's recovery came to its rate; None where that is not asked for, not known, or of
    another optimiser.
    """
    if generations is UNSET or not generations.reuse:
        return None
    champion = stored_part(previous, "champion", ModelBundle)
    recovery = champion.manifest.recovery if champion is not None else None
    rate = (recovery.rate or None) if recovery is not None else None
    return rate if rate is not None and rate.optimizer == params.optimizer else None


def _tried(likely: float, params: DistillParams, train: Train, ctx: Context) -> RateChoice:
    from reprune.compress.training.rates import for_epochs

    seen: dict[int, TriedRate] = {}
    examples = 0
    trouble: Diverged | None = None
    for power in (0, -1, 1, *range(-2, -2 - BEYOND, -1), *range(2, 2 + BEYOND)):
        if abs(power) > 1 and not _outermost(seen, inside=power - int(math.copysign(1, power))):
            continue
        rate = _rounded(likely * STEP**power)
        trial = replace(for_epochs(params, TRIAL_EPOCHS), learning_rate=rate, patience=UNSET)
        ctx.say(f"recovery: trying the learning rate {rate:g}")
        try:
            recovery = train(trial, ctx.work / f"rate-{rate:g}").recovery
        except Diverged as error:
            trouble = error
            seen[power] = TriedRate(learning_rate=rate, tune_loss=None)
            continue
        examples += recovery.examples
        seen[power] = TriedRate(learning_rate=rate, tune_loss=recovery.epochs[-1].tune_loss)
    if trouble is not None and all(one.tune_loss is None for one in seen.values()):
        raise trouble
    return RateChoice(
        learning_rate=seen[_best(seen)].learning_rate,
        how="tried",
        optimizer=params.optimizer,
        tried=tuple(one for _, one in sorted(seen.items())),
        examples=examples,
    )


def _outermost(seen: dict[int, TriedRate], *, inside: int) -> bool:
    """Whether the rate beside, one step further in, was tried and is the best one."""
    return inside in seen and _best(seen) == inside


def _best(seen: dict[int, TriedRate]) -> int:
    """Of the powers that were tried the one with the least loss, of equal ones the smallest."""

    def loss(power: int) -> float:
        found = seen[power].tune_loss
        return math.inf if found is None else found

    return min(sorted(seen), key=loss)


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
