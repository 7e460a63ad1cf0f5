"""Comparisons of 0/1 records: Tango's score test, the score test of the error ratio, exact limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from reprune.judge.bootstrap import Integers
from reprune.judge.comparisons import MIN_UNITS, MarginTest, margin_test
from reprune.judge.distributions import beta_quantile, binomial_cdf, critical, tail
from reprune.judge.numeric import rounded
from reprune.judge.paired import (
    ASSUMED,
    assumed_differing,
    design_effect,
    error_ratio_limits,
    error_ratio_z,
    tango_upper,
    tango_z,
)


@dataclass(frozen=True, kw_only=True)
class BinaryComparison:
    """`clusters` has a row a source: examples, lost, gained, both wrong; None where none are declared."""

    examples: int
    baseline: float
    candidate: float
    lost: int
    gained: int
    both_wrong: int
    clusters: Integers | None = None

    @property
    def units(self) -> int:
        return self.examples if self.clusters is None else len(self.clusters)

    @property
    def trusted(self) -> bool:
        return self.clusters is None or self.units >= MIN_UNITS

    @property
    def changed(self) -> None:
        return None

    @property
    def loss(self) -> float:
        return (self.lost - self.gained) / self.examples

    @property
    def spread(self) -> float:
        """Of one source where sources are declared; one flip is assumed where none was seen."""
        flips = max(1, self.lost + self.gained) / self.examples
        effect = self._effect(1.0, -1.0, 0.0, assumed_differing(self.lost, self.gained))
        inflation = effect * self.units / self.examples
        return math.sqrt(max(flips - self.loss**2, flips / self.examples) * inflation)

    def drop_test(self, limit: float, alpha: float) -> MarginTest:
        """Tango's test, on effective counts and Student's t where sources are declared."""
        z = critical(alpha, self._df)
        high = tango_upper(*self._effective(self.lost, self.gained), z)
        gained, lost, n = self._effective(self.gained, self.lost)
        low = -tango_upper(gained, lost, n, z)
        p_harm = tail(tango_z(lost, gained, n, limit), self._df)
        return margin_test("drop", (low, high), limit, p_harm)

    def error_test(self, ratio: float, alpha: float) -> MarginTest:
        """The ratio's limits times the baseline's error rate, less that rate.

        A baseline without an error allows none: nothing passes, since none can be ruled out.
        """
        effect = self._effect(1.0, -ratio, 1.0 - ratio)
        lost, gained, both = (x / effect for x in (self.lost, self.gained, self.both_wrong))
        rest = self.examples / effect - lost - gained - both
        errors = (self.gained + self.both_wrong) / self.examples
        p_harm = tail(error_ratio_z(lost, gained, both, rest, ratio), self._df)
        if errors == 0.0:
            test = self.drop_test(0.0, alpha)
            return margin_test("errors", (test.low, test.high), 0.0, p_harm)
        low, high = error_ratio_limits(lost, gained, both, rest, critical(alpha, self._df))
        interval = ((low - 1) * errors, (high - 1) * errors)
        return margin_test("errors", interval, (ratio - 1) * errors, p_harm)

    def turned(self) -> BinaryComparison:
        """The same of a metric that counts what is wrong: its values are the rest of 1."""
        baseline, candidate = rounded(1.0 - self.baseline), rounded(1.0 - self.candidate)
        return replace(self, baseline=baseline, candidate=candidate)

    @property
    def _df(self) -> int | None:
        return None if self.clusters is None else max(1, self.units - 1)

    def _effective(self, worse: int, better: int) -> tuple[float, float, float]:
        """Both counts and the examples over the design effect of a limit that `worse` may be beyond."""
        effect = self._effect(1.0, -1.0, 0.0, assumed_differing(worse, better))
        return worse / effect, better / effect, self.examples / effect

    def _effect(
        self, lost: float, gained: float, both_wrong: float, assumed: float = ASSUMED
    ) -> float:
        """The design effect of the sum of these weights over examples."""
        if self.clusters is None:
            return 1.0
        rows = self.clusters.tolist()
        totals = [lost * row[1] + gained * row[2] + both_wrong * row[3] for row in rows]
        squares = self.lost * lost**2 + self.gained * gained**2 + self.both_wrong * both_wrong**2
        return design_effect([row[0] for row in rows], totals, squares, assumed)


def compare_binary(base: Integers, mine: Integers, codes: Integers | None) -> BinaryComparison:
    """`base` and `mine` are 1 where the arm was right; `codes` numbers each example's source."""
    table = np.stack(
        [np.ones_like(base), base & (1 - mine), (1 - base) & mine, (1 - base) & (1 - mine)], axis=1
    )
    examples, lost, gained, both_wrong = table.sum(axis=0).tolist()
    return BinaryComparison(
        examples=examples,
        baseline=rounded(int(base.sum()) / examples),
        candidate=rounded(int(mine.sum()) / examples),
        lost=lost,
        gained=gained,
        both_wrong=both_wrong,
        clusters=None if codes is None else sums_by_source(table, codes),
    )


@dataclass(frozen=True, kw_only=True)
class BinaryLevel:
    """How often one arm was right. `clusters` has a row a source: examples, right."""

    examples: int
    right: int
    clusters: Integers | None = None

    @property
    def units(self) -> int:
        return self.examples if self.clusters is None else len(self.clusters)

    @property
    def trusted(self) -> bool:
        return self.clusters is None or self.units >= MIN_UNITS

    @property
    def value(self) -> float:
        return rounded(self.right / self.examples)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Clopper and Pearson's exact limits; with sources on Korn and Graubard's (1998) effective n."""
        right, n = self._effective(alpha)
        return (
            rounded(beta_quantile(alpha, right, n - right + 1)),
            rounded(1.0 - beta_quantile(alpha, n - right, right + 1)),
        )

    def p_below(self, floor: float) -> float:
        right, n = self._effective(0.05)
        return rounded(binomial_cdf(right, n, floor))

    def _effective(self, alpha: float) -> tuple[float, float]:
        if self.clusters is None:
            return self.right, self.examples
        rows = self.clusters.tolist()
        effect = design_effect([r[0] for r in rows], [float(r[1]) for r in rows], self.right)
        effect *= (critical(alpha, max(1, self.units - 1)) / critical(alpha, None)) ** 2
        return self.right / effect, self.examples / effect


def binary_level(mine: Integers, codes: Integers | None) -> BinaryLevel:
    table = np.stack([np.ones_like(mine), mine], axis=1)
    return BinaryLevel(
        examples=len(mine),
        right=int(mine.sum()),
        clusters=None if codes is None else sums_by_source(table, codes),
    )


def sums_by_source(table: Integers, codes: Integers) -> Integers:
    """The rows of `table` summed over each source, sources in the order of their codes."""
    _, places = np.unique(codes, return_inverse=True)
    sums = np.zeros((int(places.max()) + 1, table.shape[1]), dtype=np.int64)
    np.add.at(sums, places, table)
    return sums
