"""Recovery fine-tuning: what a cut took from the model is learnt again from the dense one."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET
from torch import nn

from reprune.compress.training.checkpoint import State, read_state, write_state
from reprune.compress.training.crew import Crew
from reprune.compress.training.lesson import Lesson, identity_of
from reprune.compress.training.pupil import Pupil
from reprune.compress.training.pupil_state import resume, state_of, take_up
from reprune.compress.training.rates import cut_away, rate_at
from reprune.core.artifacts import Recovery

if TYPE_CHECKING:
    from reprune.compress.training.shaping import Shaper
    from reprune.core.params import DistillParams

__all__ = ["CHECKPOINT", "Lesson", "Recovered", "rate_at", "recover"]

CHECKPOINT = "recovery.safetensors"


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """`module` is on the CPU, in eval mode, in float32."""

    module: nn.Module
    recovery: Recovery


def recover(
    lesson: Lesson,
    params: DistillParams,
    *,
    seed: int,
    work: Path,
    say: Callable[[str], None],
    shapers: Sequence[Shaper] = (),
) -> Recovered:
    """Trains a copy of the student on `train`; the epoch with the least loss on `tune` is kept.

    The optimiser is the task's own `optimizer(params)`, else that of `params`, which also say what is
    learnt from the teacher (see core.params.DistillParams). The student trains in train mode (its
    batch norms learn the new statistics), the teacher stays in eval mode. Where no epoch beats the
    student as it came, that is kept and `best_epoch` is 0. `Recovery.examples` counts every example
    that went through a model: student, teacher (once each where its answers are kept), and the looks
    at `tune`.

    Where `params` set a bar, training stops as soon as it is out of reach, and with `patience` where epochs
    gain nothing any more (see compress.training.reach); `Recovery.stopped` says so. The best epoch is
    returned all the same.

    With `params.quantize` the losses on `tune` are those of simulated integers (training.quantization).

    `shapers` act on the training copy in their order (see compress.training.shaping). Only states that all of
    them call settled can be the best; where there is none, the last state is returned. Where one says
    `recalibrate`, each look at `tune` is also taken with the BatchNorm statistics of `calibration`, and
    what is lower counts and is kept.

    The state is written to `work` after each epoch and, in between, every
    `params.checkpoint_seconds`. A run that was killed at any step goes on from there and ends, on a
    CPU, in the same bits as one that was not. A state that another student, teacher, seed or other
    params left in `work` is not taken up. Lesson's modules are not modified.

    With a crew in the lesson every process of it calls this alike, and all return the same; only the
    first writes to `work` and reads from it. The result is that of one process up to float rounding,
    but for dropout, of which each process draws its own. Raises RepruneError where they drift apart.

    Raises Diverged where the loss is not finite, InputError for a precision that this machine cannot
    train in and, before anything trains, for a pattern of `params.freeze` that fits no parameter of either
    model; TaskError for a task that cannot be trained.
    """
    for pattern in cut_away(params.freeze, lesson.student, lesson.teacher):
        say(
            f"recovery: '{pattern}' of distill.freeze freezes nothing, for the cut took all that fits it"
        )
    pupil = Pupil.start(lesson, params, seed, shapers)
    path, crew = work / CHECKPOINT, lesson.crew
    if params.epochs:
        kept = _kept(path, crew)
        if kept is not None and take_up(pupil, kept):
            say(f"recovery: goes on after {_reached(pupil)} of {params.epochs}")
        else:
            pupil.begin()
    written = time.monotonic()
    while pupil.epoch <= params.epochs and not pupil.stopped:
        for _ in pupil.steps_of_epoch():
            if crew.first and time.monotonic() - written >= params.checkpoint_seconds:
                write_state(path, state_of(pupil))
                written = time.monotonic()
        record = pupil.close_epoch()
        if crew.first:
            write_state(path, state_of(pupil))
        written = time.monotonic()
        say(
            f"recovery: epoch {record.epoch} of {params.epochs}, train loss "
            f"{record.train_loss:.4f}, tune loss {record.tune_loss:.4f}"
        )
    if pupil.stopped:
        say(f"recovery: stopped {pupil.stopped}")
    return _recovered(lesson, pupil)


def recovered(
    lesson: Lesson,
    params: DistillParams,
    *,
    seed: int,
    work: Path,
    shapers: Sequence[Shaper] = (),
) -> Recovered | None:
    """What `recover` with these arguments returned in other processes, read from `work`; None where it
    has not come to its end there. Nothing is trained.
    """
    kept = read_state(work / CHECKPOINT)
    if kept is None or kept.progress.identity != identity_of(lesson, params, seed, shapers):
        return None
    endless = kept.progress.bar is None and params.patience is UNSET
    if len(kept.progress.epochs) < params.epochs and endless:
        return None
    pupil = Pupil.start(lesson, params, seed, shapers)
    resume(pupil, kept)
    done = len(kept.progress.epochs) >= params.epochs or pupil.stopped
    return _recovered(lesson, pupil) if done else None


def _recovered(lesson: Lesson, pupil: Pupil) -> Recovered:
    module = copy.deepcopy(lesson.student).float().cpu()
    module.load_state_dict(pupil.best)
    return Recovered(module=module.eval(), recovery=pupil.recovery())


def _kept(path: Path, crew: Crew) -> State | None:
    """The state at `path`; in a crew, as the first process sees it, whatever the others would."""
    if not crew.together:
        return read_state(path)
    content = crew.told(path.read_bytes() if crew.first and path.is_file() else b"")
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / CHECKPOINT
        copied.write_bytes(content)
        return read_state(copied)


def _reached(pupil: Pupil) -> str:
    done = f"epoch {pupil.epoch - 1}"
    return f"{done} and {pupil.running.batches} batches" if pupil.running.batches else done
