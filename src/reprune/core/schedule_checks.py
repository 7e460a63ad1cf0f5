"""What of `prune.schedule`, and of training, would not do what it says: refused when the file is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from reprune.core.errors import DocumentError
from reprune.core.plugins import misspelt, registered

if TYPE_CHECKING:
    from reprune.core.params import Params, ScheduleParams


# The schedules that come with Reprune; packages may add more (entry points of `reprune.schedules`).
SCHEDULES = ("agp", "constant", "cubic", "exponential", "iterative", "one-shot", "polynomial")
# What can rank weights again and again while a model trains; of one weight every norm is its magnitude.
WHILE_TRAINING = ("magnitude", "taylor", "movement", "magnitude-adam", "l1", "l2")


def check_schedule(params: Params, path: Path) -> None:
    """Raises DocumentError for a schedule that is none, cuts without training between them, and knobs that do
    nothing.
    """
    knob, what, fix = _schedule_wrong(params.prune.schedule, params.plan.method == "channels")
    if what:
        raise DocumentError(what, where=f"{path} (prune.schedule{knob})", fix=fix)
    kind, criterion = params.prune.schedule.kind, params.prune.criterion
    if kind != "one-shot" and params.plan.method != "channels" and criterion not in WHILE_TRAINING:
        raise DocumentError(
            f"'{criterion}' cannot rank weights while the model trains, as the schedule '{kind}' wants",
            where=f"{path} (prune.criterion)",
            fix=f"use one of: {', '.join(WHILE_TRAINING)}; or prune.schedule.kind one-shot",
        )
    _check_course(params, path)


def _schedule_wrong(schedule: ScheduleParams, channels: bool) -> tuple[str, str, str]:
    """Which knob, what is wrong with it and how to mend it; empty where nothing is."""
    kind, steps, epochs = schedule.kind, schedule.steps, schedule.epochs
    knob = what = fix = ""
    meant = misspelt("schedules", kind, SCHEDULES)
    if meant:
        knob = ".kind"
        what = f"there is no schedule called '{kind}'; did you mean '{meant}'?"
        fix = f"use one of: {', '.join(sorted({*SCHEDULES, *registered('schedules')}))}"
    elif kind == "one-shot":
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
    return knob, what, fix


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


def _ladder_wrongs(params: Params) -> Iterator[tuple[str, str, str]]:
    """Of masks `check_plan` refuses the ladder as a whole."""
    ladder, distill = params.prune.ladder, params.distill
    falling = sorted(set(ladder.fractions), reverse=True)
    if params.plan.method != "channels":
        return
    if not ladder.fractions and ladder.epochs != type(ladder)().epochs:
        yield (
            "prune.ladder.epochs",
            "would do nothing: without fractions no gentler cut is tried",
            "set prune.ladder.fractions, for example to [0.75, 0.5], or take it out",
        )
    if list(ladder.fractions) != falling:
        yield (
            "prune.ladder.fractions",
            f"the rungs {', '.join(map(str, ladder.fractions))} do not fall, so a harsher cut would follow a "
            "gentler one",
            f"write them as [{', '.join(map(str, falling))}]",
        )
    if ladder.fractions and not distill.bar and not distill.bar_ratio:
        yield (
            "prune.ladder",
            "a ladder needs a bar that tells which cut is too much",
            "set distill.bar_ratio, for example to 1.1, or distill.bar",
        )


def check_training(params: Params, path: Path) -> None:
    """Raises DocumentError for knobs of training that contradict each other or do nothing."""
    for key, what, fix in _wrongs(params):
        raise DocumentError(what, where=f"{path} ({key})", fix=fix)


def _wrongs(params: Params) -> Iterator[tuple[str, str, str]]:
    """Where, what and how to mend it."""
    yield from _ladder_wrongs(params)
    distill, generations, push = params.distill, params.generations, params.prune.sparse_learning
    if push.method != "none" and not push.epochs:
        yield (
            "prune.sparse_learning.epochs",
            f"in 0 epochs the method '{push.method}' would do nothing",
            "set it to 1 or more, or take prune.sparse_learning out",
        )
    if distill.feature_modules and not distill.features and not distill.attention:
        yield (
            "distill.feature_modules",
            "would do nothing: neither features nor attention maps are learnt",
            "set distill.features or distill.attention above 0, or take it out",
        )
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
