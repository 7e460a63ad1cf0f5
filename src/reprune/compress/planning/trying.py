"""What allocators that try have in common: a counted look at measured losses, starts, and the way back
under the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from reprune.compress.planning.allocate import Problem, Widths

Sampler = Literal["tpe", "nsga2"]

# How many joint cuts an allocator that tries may evaluate where plan.evaluations says nothing.
EVALUATIONS = 100
# The starts that nobody gives: the uniform widths, and those with the least predicted sum.
STARTS = 2
# Halvings of a scale: closer than one rung of the widest group there is.
HALVINGS = 40


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The layer that makes a group's channels: `outputs` x `inputs` kernels of size `kernel`, applied at
    `stride` to `height` x `width` positions (1 x 1 for a linear layer); `macs` are its own.
    """

    outputs: int
    inputs: int
    height: int
    width: int
    stride: int
    kernel: int
    macs: int


@dataclass(frozen=True, kw_only=True)
class Tries:
    """What an allocator may use beside the problem: at most `evaluations` calls of `problem.evaluate`
    for different widths, and what it needs to know of the model.

    `importance` lists each group's channel scores, on a scale that groups share, falling; `shapes`
    are the groups' layers; `starts` are widths that are worth a look before anything else. `remaining`,
    where several runs share their evaluations, says how many are left to all of them, and `runs` how many
    runs may still come, the next one included (None: no others); `tied` says
    whether what was measured of two sets of widths cannot tell the first from the second; `knows`, whether
    `problem.evaluate` has measured widths already (None: asking it again costs nothing).
    """

    evaluations: int = EVALUATIONS
    seed: int = 0
    sampler: Sampler = "tpe"
    importance: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    starts: tuple[Mapping[str, int], ...] = ()
    remaining: Callable[[], int] | None = None
    runs: Callable[[], int] | None = None
    tied: Callable[[Widths, Widths], bool] | None = None
    knows: Callable[[Widths], bool] | None = None

    @property
    def fewest(self) -> int:
        """How many evaluations look at one thing beside the starts."""
        return STARTS + len(self.starts) + 1

    def of_next_run(self) -> int:
        """Its part of the evaluations that are left: an equal one, or what it needs to search at all."""
        if self.remaining is None or self.runs is None:
            return self.evaluations
        return max(self.fewest, self.remaining() // max(1, self.runs()))


def shared_out(
    tries: Tries | None, left: Callable[[], int], say: Callable[[str], None]
) -> Tries | None:
    """With what is left of the evaluations shared out anew for every run, of which `left` may still come; it
    is said where that is too little to search with.
    """
    remaining = None if tries is None else tries.remaining
    if tries is None or remaining is None:
        return tries
    fewest = tries.fewest

    def runs() -> int:
        if remaining() < fewest:
            say(
                f"plan: {remaining()} of plan.evaluations are left, and {fewest} is the least to search "
                "with: only starts are looked at"
            )
        return left()

    return replace(tries, runs=runs)


class Looks:
    """The measured rises that one run of an allocator has seen, and how many more it may see: the run begins
    where this is made.

    The same widths are counted once. Widths that differ only inside a block that is gone are the same.
    """

    def __init__(self, problem: Problem) -> None:
        if problem.evaluate is None or problem.tries is None:
            raise CompressionError(
                "this allocator measures joint cuts, and nothing was given to measure them with",
                fix="give the problem `evaluate` and `tries`",
            )
        self._problem = problem
        self._evaluate = problem.evaluate
        self._seen: dict[tuple[int, ...], float] = {}
        self._remaining = problem.tries.remaining
        self.most = problem.tries.of_next_run()
        self.best: dict[str, int] | None = None
        self.best_rise = float("inf")

    @property
    def left(self) -> int:
        """How many more different widths may be looked at."""
        own = max(0, self.most - len(self._seen))
        return own if self._remaining is None else min(own, max(0, self._remaining()))

    def rise(self, widths: Widths) -> float | None:
        """The measured rise in loss; None where another look would be one too many. The best widths
        that fit are remembered, of equal ones the first.
        """
        whole = canonical(self._problem, widths)
        key = tuple(whole.values())
        if key not in self._seen:
            if not self.left:
                return None
            self._seen[key] = self._evaluate(whole)
        rise = self._seen[key]
        if (self.best is None or rise < self.best_rise) and self._problem.allows(whole):
            self.best, self.best_rise = whole, rise
        return rise

    def chosen(self) -> dict[str, int]:
        """The best widths that fit, or a given start that is tied with them: generations of the same shape
        can be compared. Where none could be looked at, those with the least predicted sum.
        """
        problem, best = self._problem, self.best
        if best is None:
            return starts(problem)[-1]
        tries = problem.tries
        tied = tries.tied if tries is not None else None
        if tries is None or tied is None:
            return best
        for given in tries.starts:
            start = canonical(problem, given) if allowed(problem, given) else {}
            if tuple(start.values()) in self._seen and tied(start, best):
                return start
        return best


def canonical(problem: Problem, widths: Widths) -> dict[str, int]:
    """The same model with the groups inside removed blocks at full width, in the problem's order."""
    gone = {
        group for block, groups in problem.blocks.items() if widths[block] == 0 for group in groups
    }
    return {
        name: rungs[-1] if name in gone else widths[name] for name, rungs in problem.rungs.items()
    }


def starts(problem: Problem) -> list[dict[str, int]]:
    """Widths that fit and are looked at first: the uniform ones (where widths alone can meet the budget),
    the given ones that fit, and those with the least predicted sum.
    """
    from reprune.compress.planning.allocate import at_share, uniform
    from reprune.compress.planning.local_search import by_sensitivity

    found: list[dict[str, int]] = []
    if problem.fits(at_share(problem, Fraction(0))):
        found.append(uniform(problem))
    given = problem.tries.starts if problem.tries is not None else ()
    found += [canonical(problem, widths) for widths in given if allowed(problem, widths)]
    found.append(by_sensitivity(problem))
    known = [canonical(problem, widths) for widths in found]
    return [widths for number, widths in enumerate(known) if widths not in known[:number]]


def allowed(problem: Problem, widths: Widths) -> bool:
    """Whether these are widths of the problem, and within its budgets and floors."""
    known = all(widths.get(name) in rungs for name, rungs in problem.rungs.items())
    return known and problem.allows(widths)


def onto_budget(problem: Problem, wish: Widths) -> dict[str, int]:
    """The widths nearest in kind to `wish` that use the budget up: they fit, and no group can be a rung
    wider.

    The levels (numbers of rungs) of all groups are scaled by one factor, the largest that fits, up or
    down; then groups are widened a rung at a time, those first that were rounded down most. Blocks
    that `wish` removes stay out; where even the narrowest widths of the others do not fit, more
    blocks go, those first that are predicted to lose least.
    """
    from reprune.compress.planning.local_search import by_sensitivity

    rungs = problem.rungs
    gone = [block for block in problem.blocks if wish[block] == 0]
    spare = sorted(
        (block for block in problem.blocks if wish[block] != 0 and 0 in rungs[block]),
        key=lambda block: (problem.rises[block][0], block),
    )
    while not problem.fits(_narrowest(problem, gone)) and spare:
        gone.append(spare.pop(0))
    out = {group for block in gone for group in problem.blocks[block]}
    free = [
        name
        for name, widths in rungs.items()
        if name not in problem.blocks and name not in out and len(widths) > 1
    ]
    wanted = {name: rungs[name].index(wish[name]) for name in free}
    floor = _narrowest(problem, gone) | {name: rungs[name][-1] for name in out}

    def at(factor: float) -> dict[str, int]:
        return floor | {
            name: rungs[name][min(len(rungs[name]) - 1, int(factor * level + 0.5))]
            for name, level in wanted.items()
        }

    low = 0.0
    high = max([1.0, *((len(rungs[n]) - 1) / level for n, level in wanted.items() if level)])
    if problem.fits(at(high)):
        low = high
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if problem.fits(at(middle)) else (low, middle)
    short = {name: low * level - rungs[name].index(at(low)[name]) for name, level in wanted.items()}
    order = sorted(free, key=lambda name: (-short[name], free.index(name)))
    found = canonical(problem, _filled(problem, at(low), order))
    # Where narrower is dearer (an odd width that misses a kernel), scaling may not get there.
    return found if problem.fits(found) else canonical(problem, by_sensitivity(problem))


def _narrowest(problem: Problem, gone: list[str]) -> dict[str, int]:
    """The least widths with these blocks gone and all others kept."""
    kept = {block: 0 if block in gone else problem.rungs[block][-1] for block in problem.blocks}
    return problem.least | kept


def _filled(problem: Problem, widths: dict[str, int], order: list[str]) -> dict[str, int]:
    """Groups widened in turn, a rung at a time, until nothing more fits."""
    found = dict(widths)
    waiting = list(order)
    while waiting:
        still = []
        for name in waiting:
            rungs = problem.rungs[name]
            level = rungs.index(found[name]) + 1
            if level < len(rungs) and problem.fits(found | {name: rungs[level]}):
                found[name] = rungs[level]
                still.append(name)
        waiting = still
    return found
