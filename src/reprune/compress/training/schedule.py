"""How much is pruned when: sparsity as a pure function of training progress, by name.

`sparsity_at` is what gradual masks and staged cuts are made of. The functions named after TensorFlow
Model Optimization are its schedules, as it writes them: what `polynomial` and `constant` of
`prune.schedule` are held to.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Protocol

from reprune.core.errors import InputError
from reprune.core.plugins import lookup

SCHEDULES: dict[str, str] = {
    "agp": "reprune.compress.training.schedule:cubic",
    "constant": "reprune.compress.training.schedule:constant",
    "cubic": "reprune.compress.training.schedule:cubic",
    "exponential": "reprune.compress.training.schedule:exponential",
    "iterative": "reprune.compress.training.schedule:linear",
    "one-shot": "reprune.compress.training.schedule:constant",
    "polynomial": "reprune.compress.training.schedule:polynomial",
}


class Schedule(Protocol):
    def __call__(self, progress: float, *, initial: float, final: float) -> float:
        """The sparsity after the share `progress` of the schedule, 0 to 1: from `initial` to `final`."""


def sparsity_at(
    kind: str,
    progress: float,
    *,
    final: float,
    initial: float = 0.0,
    steps: int = 0,
    power: float | None = None,
) -> float:
    """The sparsity that the schedule `kind` asks for; a plug-in of `reprune.schedules` may be one.

    `progress` is the share of the schedule that is over: below 0 the sparsity is `initial`, from 1 on
    it is exactly `final`, in between it never falls and stays within the two. With `steps` > 0 it
    rises at `steps` instants only (at progress 1/steps, 2/steps, ... 1), as an iterative cut does.
    `power` is for the kind `polynomial`.

    Raises UnknownName for a kind that nobody registered, InputError where not 0 <= initial <= final <= 1.
    """
    if not 0.0 <= initial <= final <= 1.0:
        raise InputError(
            f"a schedule cannot go from a sparsity of {initial} to {final}",
            fix="ask for 0 <= initial <= final <= 1",
        )
    schedule = _schedule(kind)
    if math.isnan(progress) or progress < 0.0:
        return initial
    if progress >= 1.0:
        return final
    if steps > 0:
        # A tiny push, so that progress k/steps, which floats may put just below it, counts as done.
        progress = math.floor(progress * steps * (1.0 + 1e-12) + 1e-12) / steps
    more = {} if power is None else {"power": power}
    return min(max(schedule(progress, initial=initial, final=final, **more), initial), final)


def share_at(
    kind: str, progress: float, *, final: float, initial: float = 0.0, power: float | None = None
) -> float:
    """How much of a plan that removes the share `final` is done: `sparsity_at` as a part of `final`.

    Exactly 1 once the schedule is over. It is not the sparsity of a plan that removes everything: an
    exponential schedule has no way there.
    """
    if final <= 0.0:
        return 1.0  # there is nothing to do
    return sparsity_at(kind, progress, final=final, initial=initial, power=power) / final


def stage_sparsities(kind: str, steps: int, *, final: float) -> tuple[float, ...]:
    """The sparsities after cut 1, 2, ... `steps`; the last is exactly `final`."""
    return tuple(
        sparsity_at(kind, stage / steps, final=final, steps=steps) for stage in range(1, steps + 1)
    )


def constant(progress: float, *, initial: float, final: float) -> float:  # noqa: ARG001  one shape
    """All of it from the beginning."""
    return final


def linear(progress: float, *, initial: float, final: float) -> float:
    """The same share at every step."""
    return polynomial(progress, initial=initial, final=final, power=1.0)


def cubic(progress: float, *, initial: float, final: float) -> float:
    """s_f + (s_i - s_f)(1 - p)^3: much at first, while there is much to spare (Zhu and Gupta 2017,
    arXiv:1710.01878, equation 1: automated gradual pruning, AGP).
    """
    return polynomial(progress, initial=initial, final=final, power=3.0)


def polynomial(progress: float, *, initial: float, final: float, power: float = 3.0) -> float:
    """s_f + (s_i - s_f)(1 - p)^power."""
    return final + (initial - final) * math.pow(1.0 - progress, power)


def exponential(progress: float, *, initial: float, final: float) -> float:
    """The density falls by the same factor at every step: 1 - (1 - s_i)^(1 - p) (1 - s_f)^p."""
    if final >= 1.0:  # no factor leads to nothing: the limit is all of it after the first step
        return initial if progress <= 0.0 else final
    left = math.pow(1.0 - initial, 1.0 - progress) * math.pow(1.0 - final, progress)
    return 1.0 - left


def polynomial_decay(
    step: int,
    *,
    initial_sparsity: float,
    final_sparsity: float,
    begin_step: int,
    end_step: int,
    power: float = 3.0,
) -> float:
    """The sparsity of TF-MOT's `PolynomialDecay` at `step`: clamped to the two ends outside the range.

    Theirs is computed in float32, ours in float64: they agree to 1e-7.
    """
    _check_steps(begin_step, end_step, endless=False)
    _check_sparsities(initial_sparsity, final_sparsity)
    # An empty range divides 0 by 0 in TF-MOT; here the end has been reached.
    done = 1.0 if end_step == begin_step else (step - begin_step) / (end_step - begin_step)
    if end_step == begin_step and step < begin_step:
        done = 0.0
    return polynomial(
        min(max(done, 0.0), 1.0), initial=initial_sparsity, final=final_sparsity, power=power
    )


def constant_sparsity(step: int, *, target_sparsity: float) -> float:  # noqa: ARG001  as theirs
    """The sparsity of TF-MOT's `ConstantSparsity`: the target at every step, also before it begins;
    what begins and ends is `should_prune_in_step`.
    """
    _check_sparsities(target_sparsity)
    return target_sparsity


def should_prune_in_step(
    step: int, *, begin_step: int, end_step: int = -1, frequency: int = 100
) -> bool:
    """Whether TF-MOT's schedules prune at `step`: every `frequency` steps from `begin_step` on, up to
    and including `end_step` (-1: for ever). Theirs keep the last mask in the steps between.
    """
    _check_steps(begin_step, end_step, endless=True)
    if frequency <= 0:
        raise InputError(f"the frequency {frequency} is not above 0", fix="ask for 1 or more steps")
    inside = step >= begin_step and (end_step < 0 or step <= end_step)
    return inside and (step - begin_step) % frequency == 0


@cache
def _schedule(kind: str) -> Schedule:
    # Kept: gradual masks ask at every training step, and reading the entry points takes milliseconds.
    found: Schedule = lookup("schedules", kind, SCHEDULES)
    return found


def _check_steps(begin_step: int, end_step: int, *, endless: bool) -> None:
    forever = endless and end_step == -1
    if begin_step < 0 or (end_step < begin_step and not forever):
        raise InputError(
            f"a schedule cannot run from step {begin_step} to step {end_step}",
            fix="ask for 0 <= begin_step <= end_step",
        )


def _check_sparsities(*sparsities: float) -> None:
    for sparsity in sparsities:
        if not 0.0 <= sparsity < 1.0:
            raise InputError(
                f"a sparsity of {sparsity} is not in [0, 1)", fix="ask for less than 1"
            )
