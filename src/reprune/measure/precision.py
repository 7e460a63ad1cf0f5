"""Which layers stay in float: as few as make the quantised model as good as the policy of `build` asks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError
from reprune.core.params import BuildParams, Target
from reprune.measure.fidelity import Judged, Yardstick
from reprune.runtimes.base import Quantising, Runtime, Session, Source
from reprune.runtimes.isolated import build_within
from reprune.task.protocol import Task

if TYPE_CHECKING:
    from torch import nn

QUANTISED = ("int8", "int8-fp16", "int8-weights", "palette4")
# Of `tune`: all of them say how good an engine is, the first of them which layer hurts.
MOST_EXAMPLES, RANKING_EXAMPLES = 2000, 256


def with_float_layers(
    runtime: Runtime,
    source: Source,
    target: Target,
    task: Task,
    params: BuildParams,
    destination: Path,
) -> BuildFact:
    """Builds the engine at `destination`; a quantised one is held to the bounds of `params` on `tune`.

    An engine that loses more than they allow is built again with layers left in float, one more after
    the other from the one that hurts most, as few as bring it within the bounds. How much a layer
    hurts is what leaving it alone in float takes off the outputs' distance from the module's. At most
    `params.trials` builds are made; then the best of them is kept and a note says what it loses: the
    gate judges that. Equal arguments give equal engines.

    Raises BuildError where nothing can be built.
    """
    yardstick = yardstick_of(runtime, source.module, task, target)
    if yardstick is None or not isinstance(runtime, Quantising):
        return build_within(runtime, source, target, destination, seconds=params.max_seconds)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".trials-") as folder:
        trials = _Trials(runtime, source, target, yardstick, params, Path(folder))
        whole = trials.build(())
        best = whole
        if whole.judged.harm > 1.0 and params.trials > 1:
            best = _search(trials, runtime.quantisable(source, target), whole)
        shutil.move(best.engine, destination)
    return _told(best, whole, trials, target)


def yardstick_of(
    runtime: Runtime, module: nn.Module, task: Task, target: Target
) -> Yardstick | None:
    """What engines of `module` for `target` are held against; None where nothing is quantised by layers.

    Raises as Yardstick.
    """
    if target.precision not in QUANTISED or not isinstance(runtime, Quantising):
        return None
    return Yardstick(module, task, most=MOST_EXAMPLES, ranking=RANKING_EXAMPLES)


def judged_once(
    yardstick: Yardstick, session: Session, target: Target, params: BuildParams
) -> tuple[str, ...]:
    """What a quantised engine that is built only once loses, in words, and whether that is too much."""
    judged = yardstick.judge(yardstick.of_session(session), params)
    told = f"{target.precision} on {yardstick.examples} examples of tune: {judged.words}"
    if judged.harm <= 1.0:
        return (told,)
    return (
        told,
        f"the bound was not reached: {yardstick.bound(params)}; which layers to leave in float is not "
        "tried for engines that their device compiles: name them in the target's float_layers",
    )


@dataclass(frozen=True, kw_only=True)
class _Trial:
    engine: Path
    left: tuple[str, ...]
    fact: BuildFact
    judged: Judged


@dataclass
class _Trials:
    """Builds with some layers in float, and what each of them loses; `spent` counts them."""

    runtime: Runtime
    source: Source
    target: Target
    yardstick: Yardstick
    params: BuildParams
    folder: Path
    spent: int = 0
    known: dict[frozenset[str], _Trial] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.params.trials - self.spent

    def build(self, layers: Sequence[str]) -> _Trial:
        """The engine with `layers` in float, judged on all examples. Raises BuildError."""
        if frozenset(layers) not in self.known:
            path, fact = self._made(layers)
            fidelity = self.yardstick.of(self.runtime, path, self.target)
            judged = self.yardstick.judge(fidelity, self.params)
            self.known[frozenset(layers)] = _Trial(
                engine=path, left=tuple(layers), fact=fact, judged=judged
            )
        return self.known[frozenset(layers)]

    def distance(self, layers: Sequence[str]) -> float:
        """How far the outputs are from the module's with `layers` in float. Raises BuildError."""
        known = self.known.get(frozenset(layers))
        if known is not None:
            return self.yardstick.distance(self.runtime, known.engine, self.target)
        path, _ = self._made(layers)
        try:
            return self.yardstick.distance(self.runtime, path, self.target)
        finally:
            path.unlink()

    def _made(self, layers: Sequence[str]) -> tuple[Path, BuildFact]:
        self.spent += 1
        path = self.folder / f"{self.spent}{self.runtime.suffix}"
        source = replace(self.source, float_layers=(*self.source.float_layers, *layers))
        seconds = self.params.max_seconds
        return path, build_within(self.runtime, source, self.target, path, seconds=seconds)


def _search(trials: _Trials, layers: Sequence[str], whole: _Trial) -> _Trial:
    """The engine with the fewest of the worst layers in float that is within bounds; else the nearest."""
    # Doubling up to all layers, then halving the last step.
    reserve = 2 * max(1, len(layers).bit_length())
    ranked = _ranked(trials, layers, trials.left - reserve)
    below, count = 0, 1
    found: list[_Trial] = [whole]
    above: int | None = None
    while trials.left > 0 and (above is None or above - below > 1):
        try:
            trial = trials.build(ranked[:count])
        except BuildError:
            break
        found.append(trial)
        if trial.judged.harm <= 1.0:
            above = count
        elif count == len(ranked):
            break
        else:
            below = count
        count = (below + above) // 2 if above is not None else min(2 * count, len(ranked))
    within = [trial for trial in found if trial.judged.harm <= 1.0]
    if within:
        return min(within, key=lambda trial: len(trial.left))
    return min(found, key=lambda trial: (trial.judged.harm, len(trial.left)))


def _ranked(trials: _Trials, layers: Sequence[str], budget: int) -> list[str]:
    """The layers, the one first whose being in float helps most; with fewer builds than layers, runs of
    neighbours are tried together, and the run that helps most is halved again and again.
    """
    if budget < 1 or not layers:
        return list(layers)
    last = trials.spent + budget
    before = trials.distance(())
    count = len(layers) if budget >= len(layers) else max(1, budget // 2)
    size = -(-len(layers) // count)
    runs = [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]
    helps = {run: _help(trials, run, before) for run in runs}
    while trials.spent + 2 <= last:
        wide = [run for run in helps if len(run) > 1]
        if not wide:
            break
        widest = max(wide, key=lambda run: helps[run])
        del helps[widest]
        half = len(widest) // 2
        for part in (widest[:half], widest[half:]):
            helps[part] = _help(trials, part, before)
    order = {name: place for place, name in enumerate(layers)}
    ranked = sorted(helps, key=lambda run: (-helps[run] / len(run), order[run[0]]))
    return [name for run in ranked for name in run]


def _help(trials: _Trials, run: Sequence[str], before: float) -> float:
    """What leaving `run` in float takes off the distance; less than any where it cannot be built."""
    try:
        return before - trials.distance(run)
    except BuildError:
        return float("-inf")


def _told(best: _Trial, whole: _Trial, trials: _Trials, target: Target) -> BuildFact:
    others = [name for name in best.fact.float_layers if name not in best.left]
    bound = trials.yardstick.bound(trials.params)
    notes = [
        f"{target.precision} on {trials.yardstick.examples} examples of tune: {whole.judged.words}"
    ]
    if best.left:
        notes.append(
            f"with {len(best.left)} more layers in float: {best.judged.words} ({trials.spent} builds)"
        )
    if best.judged.harm > 1.0:
        notes.append(f"the bound was not reached: {bound}")
    return structs.replace(
        best.fact, float_layers=(*best.left, *others), notes=(*best.fact.notes, *notes)
    )
