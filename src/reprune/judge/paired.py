"""Score tests for two models judged right or wrong on the same examples.

Counts are written as in a 2x2 table: `lost` examples went from right to wrong, `gained` from wrong
to right. They may be fractions: clustered counts are divided by their design effect first.
"""

from __future__ import annotations

import math

from reprune.judge.numeric import halve

ASSUMED = 3.0  # differing examples, see design_effect
_BALANCED, _ONE_SIDED = 0.5, 14.0  # and see assumed_differing


def tango_z(lost: float, gained: float, examples: float, drop: float) -> float:
    """The score statistic of H0: the true drop is `drop`; large where more was lost.

    Tango (1998), Statistics in Medicine 17, 891-908: the variance is taken at the most likely
    discordance under H0, so that it holds where nothing was lost at all.
    """
    a = 2 * examples
    b = -lost - gained + (2 * examples - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    # The larger root of a q^2 + b q + c, in the form that does not cancel.
    gain = (root - b) / (2 * a) if b <= 0 else -2 * c / (root + b)
    variance = examples * (2 * gain + drop * (1 - drop))
    return _standardised(lost - gained - examples * drop, variance)


def tango_upper(lost: float, gained: float, examples: float, z: float) -> float:
    """The upper limit of the drop: the largest one that the score test at `z` does not reject.

    The lower limit is minus the upper limit with `lost` and `gained` swapped.
    """
    seen = (lost - gained) / examples
    return halve(lambda drop: tango_z(lost, gained, examples, drop) > -z, seen, 1.0)


def error_ratio_z(
    lost: float, gained: float, both_wrong: float, rest: float, ratio: float
) -> float:
    """The score statistic of H0: the candidate errs `ratio` times as often; large where it errs more.

    `rest` counts the examples that both got right. Nam and Blackwelder (2002), Statistics in
    Medicine 21, 689-699, with their closed form of the most likely discordance under H0.
    """
    examples = lost + gained + both_wrong + rest
    mine, theirs = (both_wrong + lost) / examples, (both_wrong + gained) / examples
    p10, p01 = lost / examples, gained / examples
    square = ratio * ratio
    root = math.sqrt(max(0.0, (mine - square * theirs) ** 2 + 4 * square * p10 * p01))
    gain = (root - mine + square * (theirs + 2 * p10)) / (2 * ratio * (ratio + 1))
    loss = ratio * gain - (ratio - 1) * (lost + gained + both_wrong) / examples
    variance = ratio * max(0.0, gain + loss) / examples
    return _standardised(mine - ratio * theirs, variance)


def error_ratio_limits(
    lost: float, gained: float, both_wrong: float, rest: float, z: float
) -> tuple[float, float]:
    """The limits of the ratio of error rates that the score test at `z` does not reject.

    The baseline must have erred at least once.
    """

    def score(ratio: float) -> float:
        return error_ratio_z(lost, gained, both_wrong, rest, ratio)

    seen = (both_wrong + lost) / (both_wrong + gained)
    top = max(1.0, 2 * seen)
    while score(top) > -z:
        top *= 2
    return halve(lambda ratio: score(ratio) > z, 0.0, seen), halve(
        lambda ratio: score(ratio) > -z, seen, top
    )


def design_effect(
    sizes: list[int], totals: list[float], squares: float, assumed: float = ASSUMED
) -> float:
    """How many times larger the variance of a mean is because examples of one source are alike.

    `totals` are the sums over each source, `squares` the sum of squares over examples. Dividing
    counts by it is Rao and Scott's (1992) correction. Two guards: it is at least 1; and `assumed`
    more examples are taken to differ, each with all of its source, so that few differences (which
    cannot show that sources are alike) do not count as proof that they are not.
    """
    examples, sources = sum(sizes), len(sizes)
    mean = math.fsum(totals) / examples
    between = math.fsum((t - mean * n) ** 2 for n, t in zip(sizes, totals, strict=True))
    between *= sources / max(1, sources - 1)
    within = max(0.0, squares - examples * mean * mean)
    worst = sum(n * n for n in sizes) / examples
    return max(1.0, (between + assumed * worst) / (within + assumed))


def assumed_differing(lost: float, gained: float) -> float:
    """How many more differing examples `design_effect` assumes for the upper limit of a loss: 0.5 to 14.5.

    Few where no more was lost than gained, more the more losses prevail. Sources that only lose have
    skewed totals, of which a sample without the rare bad source shows both too small a mean and too
    small a variance. For the lower limit exchange the two. Simulated with the truth at the margin
    (sources of 5 and 20, correlations of 0.1 and 0.3, 200 to 10,000 examples, 1-10 % flips of which
    all may be losses) at most 2.7 % pass at a level of 2.5 % and at most 2.8 % are blocked, and at most
    4.9 % pass in ten attempts at alpha / (i (i + 1)); with 3 whatever the differences, 6 % pass at the
    first.
    """
    return _BALANCED + _ONE_SIDED * max(0.0, lost - gained) / max(1.0, lost + gained)


def _standardised(difference: float, variance: float) -> float:
    if variance > 0.0:
        return difference / math.sqrt(variance)
    return math.copysign(math.inf, difference) if difference else 0.0
