"""A training as a checkpoint holds it, and back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from reprune.compress.training.checkpoint import (
    Progress,
    State,
    restore_optimizer,
    restore_scaler,
    split_optimizer,
)
from reprune.compress.training.lesson import on_cpu, part_of

if TYPE_CHECKING:
    from reprune.compress.training.pupil import Pupil


def state_of(pupil: Pupil) -> State:
    """All that `take_up` needs to go on."""
    tensors, scalars = split_optimizer(pupil.prepared)
    scaler = pupil.accelerator.scaler
    owned = {f"shaper{number}": shaper.state() for number, shaper in enumerate(pupil.shapers)}
    owned["teaching"] = pupil.teaching.state()
    owned["average"] = on_cpu(pupil.judged) if pupil.params.ema else {}
    owned |= {f"range-{name}": quantizer.state() for name, quantizer in pupil.quantizers.items()}
    return State(
        progress=Progress(
            identity=pupil.identity,
            steps=pupil.steps,
            taken=pupil.taken,
            best_epoch=pupil.best_epoch,
            best_loss=pupil.best_loss if math.isfinite(pupil.best_loss) else None,
            examples=pupil.examples,
            bar=pupil.bar,
            start_loss=pupil.start_loss if math.isfinite(pupil.start_loss) else None,
            unsettled=pupil.unsettled,
            epochs=tuple(pupil.epochs),
            running=pupil.running,
            scaler=scaler.state_dict() if scaler is not None else None,
            scalars=scalars,
        ),
        model=on_cpu(pupil.student),
        best=pupil.best,
        optimizer=tensors,
        more={
            f"{owner}/{name}": tensor
            for owner, tensors in owned.items()
            for name, tensor in tensors.items()
        },
    )


def take_up(pupil: Pupil, kept: State) -> bool:
    """Takes up a state that this very training left; False, and nothing done, for another's."""
    if kept.progress.identity != pupil.identity:
        return False
    if len(kept.progress.epochs) < pupil.params.epochs:
        pupil.prepare_teacher()
        pupil.check_crew()
    resume(pupil, kept)
    return True


def resume(pupil: Pupil, kept: State) -> None:
    """Gives the pupil all that `state_of` took; its teacher is not asked for anything."""
    progress = kept.progress
    pupil.student.load_state_dict(kept.model)
    for number, shaper in enumerate(pupil.shapers):
        shaper.begin(pupil.student, pupil.optimizer)
        shaper.restore(part_of(kept.more, f"shaper{number}"))
    # Again, for a shaper whose begin() changes the module.
    pupil.student.load_state_dict(kept.model)
    if pupil.params.ema:
        pupil.judged.load_state_dict(part_of(kept.more, "average"))
    for name, quantizer in pupil.quantizers.items():
        quantizer.restore(part_of(kept.more, f"range-{name}"))
    pupil.teaching.restore(part_of(kept.more, "teaching"))
    restore_optimizer(pupil.prepared, kept.optimizer, progress.scalars)
    if pupil.accelerator.scaler is not None and progress.scaler is not None:
        restore_scaler(pupil.accelerator.scaler, progress.scaler)
    pupil.bar, pupil.unsettled = progress.bar, progress.unsettled
    pupil.start_loss = math.inf if progress.start_loss is None else progress.start_loss
    pupil.steps, pupil.taken, pupil.examples = progress.steps, progress.taken, progress.examples
    pupil.best_epoch = progress.best_epoch
    pupil.best_loss = math.inf if progress.best_loss is None else progress.best_loss
    pupil.best, pupil.epochs, pupil.running = kept.best, list(progress.epochs), progress.running
