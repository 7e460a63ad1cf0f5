"""A latency budget: the widths are cut, built and timed, because MACs do not tell how long they take."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Protocol, TypeAlias

from reprune.core.errors import CompressionError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group
    from reprune.measure.calls import Array
    from reprune.measure.timing_place import TimingPlace
    from reprune.task.protocol import Task

Widths: TypeAlias = Mapping[str, int]

# Fresh sessions of either engine in one look.
ROUNDS = 7
# Where a budget is to be met: so many looks at one engine, fewer where the standard error of their mean is
# this share of it (two that happen to agree say little of that).
FEWEST, LOOKS, SURE = 3, 5, 0.005


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The dense model that cuts are timed against, and `where` its target is timed."""

    task: Task
    module: nn.Module
    groups: tuple[Group, ...]
    where: TimingPlace
    seed: int
    blocks: tuple[Block, ...] = ()


class Timing(Protocol):
    """The latency of the model cut to `widths` over the dense one's: one look, or the median of as many as
    make it `sure`.
    """

    def __call__(self, widths: Widths, *, sure: bool = False) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Found:
    """Widths, and the latency of a model cut to them over that of the dense one, as measured."""

    widths: dict[str, int]
    ratio: float


def search(
    at_macs: Callable[[float], dict[str, int]],
    time_ratio: Callable[[Widths], float],
    *,
    fraction: float,
    least: float,
    trials: int,
) -> Found:
    """The most MACs whose measured latency ratio is at most `fraction`, after at most `trials` timings.

    `at_macs(f)` are the widths for the fraction f of MACs (or of whatever else falls with latency), of
    which `least` is the smallest reachable.
    The first trial takes f = `fraction`; where that is too slow, the next one is `least`, which shows
    whether there is an answer at all; the others close in between what was too slow and what was not,
    at the place where a straight line between the two ratios meets the budget. Timings carry
    noise and latency falls in stairs, so the answer is good, not best; its ratio is measured.

    Raises CompressionError with the smallest ratio that was measured, if none met the budget.
    """
    measured: dict[tuple[tuple[str, int], ...], float] = {}

    def ratio_at(macs: float) -> Found | None:
        """None where another timing would be one too many; the same widths are timed once."""
        widths = at_macs(macs)
        key = tuple(sorted(widths.items()))
        if key not in measured:
            if len(measured) >= trials:
                return None
            measured[key] = time_ratio(widths)
        return Found(widths=widths, ratio=measured[key])

    slow, slow_ratio = 1.0, 1.0
    first = max(fraction, least)
    found = ratio_at(first)
    fast = first
    if found is not None and found.ratio > fraction:
        slow, slow_ratio, fast = first, found.ratio, least
        found = ratio_at(least)
    if found is None or found.ratio > fraction:
        raise unreachable(measured.values(), fraction, trials)
    # Every turn halves the bracket at the least, so that this ends where all trials gave known widths.
    while slow - fast > 1e-3:
        middle = _between(fast, slow, (fraction - found.ratio) / (slow_ratio - found.ratio))
        tried = ratio_at(middle)
        if tried is None:
            break
        if tried.ratio <= fraction:
            fast, found = middle, tried
        else:
            slow, slow_ratio = middle, tried.ratio
    return found


def _between(low: float, high: float, share: float) -> float:
    """The point at `share` of the way, kept out of the outer quarters so that the bracket shrinks."""
    return low + (high - low) * min(max(share, 0.25), 0.75)


def unreachable(
    ratios: Collection[float], fraction: float, trials: int, *, on: str = "", how: str = "measured"
) -> CompressionError:
    """That none of the `ratios`, measured or predicted, meets the budget (`on` a target of several)."""
    best = min(ratios)
    return CompressionError(
        f"no allowed widths are fast enough{on}: the smallest latency ratio {how} is {best:.3f}, "
        f"{'plan.fraction is' if not on else 'asked for is'} {fraction}",
        where="params.yaml (plan)",
        fix=("raise the limit" if on else "raise plan.fraction")
        + (", or plan.latency_trials" if trials < 2 else "")
        + ", or allow narrower layers with a smaller plan.min_keep",
    )


def timed_inputs(task: Task, batch_size: int) -> tuple[Array, ...]:
    """What a timed call is given: the commonest shape of the task's workload, of which profile's tables are.
    Raises TaskError for a workload that is none.
    """
    from reprune.measure.calls import commonest
    from reprune.measure.latency import timed_shapes

    return commonest(timed_shapes(task, batch_size)).inputs


@contextmanager
def timing(bench: Bench) -> Iterator[Timing]:
    """A function from widths (and 0 for the keys of blocks that go) to the latency of the model cut to
    them over the dense model's.

    Both are built with the target's runtime and timed side by side on `timed_inputs`; the dense one is built
    once, when something is timed. Looks at the same engines differ by a per cent or two. The channels of the
    smallest l1 norm go: which ones does not matter for time. The function raises BuildError, and what the
    place raises.
    """
    from reprune.compress.importance import channel_scores, lowest_removed
    from reprune.compress.structure.architecture import apply
    from reprune.compress.structure.equality import architecture_of
    from reprune.core.artifacts import block_key
    from reprune.core.params import PruneParams
    from reprune.measure.calls import write_inputs
    from reprune.measure.pairs import whole_calls
    from reprune.measure.source import CALIBRATION_EXAMPLES, source_of

    by_norm = PruneParams(criterion="l1")
    target = bench.where.target
    with tempfile.TemporaryDirectory(prefix="reprune-plan-") as folder:

        def built(name: str, module: nn.Module) -> Path:
            engine = Path(folder) / f"{name}{bench.where.runtime.suffix}"
            source = source_of(module, bench.task, target, examples=CALIBRATION_EXAMPLES)
            bench.where.make({engine: source}, target)
            return engine

        @cache
        def dense() -> tuple[Path, str]:
            """The engine, and the file of a call's inputs."""
            call = Path(folder) / "call.npz"
            write_inputs(call, timed_inputs(bench.task, target.batch_size))
            return built("dense", bench.module), str(call)

        @cache
        def scores() -> dict[str, Tensor]:
            return channel_scores(bench.task, bench.module, bench.groups, by_norm, bench.seed)

        def ratio(widths: Widths, *, sure: bool = False) -> float:
            kept = {
                name: lowest_removed(scores()[name], keep)
                for name, keep in widths.items()
                if name in scores()
            }
            gone = [block for block in bench.blocks if widths.get(block_key(block.name)) == 0]
            cut = apply(bench.module, architecture_of(bench.module, bench.groups, kept, gone))
            engine = built("cut", cut)
            whole, call = dense()

            def look(numbers: range) -> list[float]:
                pairs = [
                    whole_calls(engine, whole, call, rounds=ROUNDS, seed=bench.seed + number)
                    for number in numbers
                ]
                return [taken.ratio for taken in bench.where.take(pairs)]

            return surely(look) if sure else look(range(1))[0]

        yield ratio


def surely(look: Callable[[range], Sequence[float]]) -> float:
    """The median of looks number 0, 1, ...: of FEWEST, asked for together, at least and of LOOKS at most; no
    more once the standard error of their mean is at most the share SURE of it.
    """
    looks = [*look(range(FEWEST))]
    while len(looks) < LOOKS and stdev(looks) / sqrt(len(looks)) > SURE * fmean(looks):
        looks += look(range(len(looks), len(looks) + 1))
    return median(looks)
