"""What of `prune.schedule`, and of training, would not do what it says: refused when the file is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from reprune.core.errors import DocumentError

if TYPE_CHECKING:
    from reprune.core.params import Params


def check_schedule(params: Params, path: Path) -> None:
    """Raises DocumentError for a schedule that is none, cuts without training between them, and knobs that do
    nothing.
    """
    schedule, channels = params.prune.schedule, params.plan.method == "channels"
    kind, steps, epochs = schedule.kind, schedule.steps, schedule.epochs
    knob = what = fix = ""
    if kind == "one-shot":
        if schedule != type(schedule)():
            what = (
                "a one-shot cut has no steps and no epochs of its own, what is set would do nothing"
            )
            fix = "set prune.schedule.kind, for example to cubic, or take all but the kind out"
    elif epochs < 1.0 or not epochs.is_integer():
        knob = ".epochs"
        what = f"the schedule '{kind}' needs training between its cuts, in whole epochs, not {epochs:g}"
        fix = "set it to a whole number of 1 or more, or prune.schedule.kind to one-shot"
    elif kind == "constant" and steps > 1:
        knob = ".steps"
        what = f"the schedule 'constant' cuts all at once, {steps} steps would do nothing"
        fix = "take it out, or set prune.schedule.kind to another, for example to iterative"
    elif kind != "constant" and steps < 2:
        knob = ".steps"
        what = f"the schedule '{kind}' is gradual, and in {steps} step it would cut all at once"
        fix = "set it to 2 or more, or prune.schedule.kind to one-shot and take epochs out"
    elif channels and epochs < steps:
        knob = ".epochs"
        what = (
            f"{steps} cuts of channels share {epochs:g} epochs, some would be left without recovery"
        )
        fix = f"set it to {steps} or more, or make fewer cuts (prune.schedule.steps)"
    if what:
        raise DocumentError(what, where=f"{path} (prune.schedule{knob})", fix=fix)
    _check_course(params, path)


def _check_course(params: Params, path: Path) -> None:
    """Refuses knobs that the kind of a schedule, or of what is cut, does not have, and an end before the
    beginning.
    """
    plan, schedule = params.plan, params.prune.schedule
    idle: dict[str, str] = {}
    if schedule.kind != "polynomial":
        idle |= {"power": "it is the exponent of the kind polynomial alone"}
    if schedule.kind == "constant":
        why = "the kind constant masks all of it at `begin`"
        idle |= dict.fromkeys(("initial", "end", "regrow"), why)
    if plan.method == "channels":
        why = "channels are cut in stages, each followed by its part of the epochs"
        idle |= dict.fromkeys(("initial", "begin", "end", "regrow"), why)
    for knob, why in idle.items():
        if getattr(schedule, knob) is not UNSET:
            raise DocumentError(
                f"would do nothing: {why}",
                where=f"{path} (prune.schedule.{knob})",
                fix="take it out",
            )
    begin, end = schedule.begin or 0.0, 1.0 if schedule.end is UNSET else schedule.end
    if begin >= end:
        raise DocumentError(
            f"the schedule ends at {end:g} of the training and begins at {begin:g}",
            where=f"{path} (prune.schedule.end)",
            fix="set it higher than prune.schedule.begin",
        )
    kept, of = (int(number) for number in plan.pattern.split(":"))
    final = plan.sparsity if plan.method == "weights" else 1.0 - kept / of
    if schedule.initial and schedule.initial >= final:
        raise DocumentError(
            f"the schedule would begin at a sparsity of {schedule.initial}, and the plan's is {final:g}",
            where=f"{path} (prune.schedule.initial)",
            fix="set it lower",
        )


def check_training(params: Params, path: Path) -> None:
    """Raises DocumentError for knobs of training that contradict each other or do nothing."""
    for key, what, fix in _wrongs(params):
        raise DocumentError(what, where=f"{path} ({key})", fix=fix)


def _wrongs(params: Params) -> Iterator[tuple[str, str, str]]:
    """Where, what and how to mend it."""
    distill, generations = params.distill, params.generations
    if distill.rate == "cosine" and 0 < distill.epochs <= distill.hold_epochs:
        yield (
            "distill.hold_epochs",
            f"the rate is held for {distill.hold_epochs:g} of {distill.epochs} epochs and would never fall",
            "set it lower than distill.epochs, or distill.rate to constant and take it out",
        )
    if generations and generations.champion_weight and not distill.weight:
        yield (
            "generations.champion_weight",
            "would do nothing: the champion teaches logits, and distill.weight 0 learns from none",
            "take it out, or set distill.weight, for example to 0.9",
        )
