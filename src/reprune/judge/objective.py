"""How large a share of the candidate's calls lasts longer than allowed, with calls of a unit alike.

For independent calls the rule is that of MLPerf LoadGen's early stopping: the binomial distribution
says how surprising so few (or so many) calls beyond the bound would be at a share of 1 - percentile.
Calls of one unit are not independent: they share a session and a moment. So counts are first divided
by a design effect over units (Rao and Scott 1992, Biometrics 48, 577-585) and by what the few units
leave uncertain about it (the ratio of Student's quantiles squared: Korn and Graubard 1998, Survey
Methodology 24, 193-201). The effect is taken at the bound and at the candidate's own percentile, and
the larger one holds: far below the bound no call is beyond it, and nothing there could show that
slow calls come in crowds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reprune.judge.distributions import beta_quantile, binomial_cdf, critical
from reprune.judge.evidence import Unit
from reprune.judge.numeric import rounded

NS_A_MS = 1e6


@dataclass(frozen=True, kw_only=True)
class Exceedance:
    """`beyond` of `calls` lasted longer than the bound; `worth` is how many independent calls they are.

    `low` and `high` are one-sided limits of the true share. `p_harm` is against 'the share is within
    the limit', `typical_ms` the candidate's own percentile.
    """

    calls: int
    beyond: int
    worth: float
    low: float
    high: float
    p_harm: float
    typical_ms: float

    @property
    def share(self) -> float:
        return rounded(self.beyond / self.calls)


def exceedance(units: Sequence[Unit], max_ms: float, percentile: int, alpha: float) -> Exceedance:
    """The candidate's calls of these units, two or more, against `max_ms`; limits at `alpha` each."""
    calls = [[c for b in unit.arms["candidate"].blocks_ns for c in b] for unit in units]
    ordered = sorted(call for of_unit in calls for call in of_unit)
    count = len(ordered)
    own = ordered[-(-percentile * count // 100) - 1]
    bound = max_ms * NS_A_MS
    sizes = [len(of_unit) for of_unit in calls]
    over = [sum(call > bound for call in of_unit) for of_unit in calls]
    beyond_own = [sum(call > own for call in of_unit) for of_unit in calls]
    effect = max(crowding(sizes, over), crowding(sizes, beyond_own))
    known = critical(alpha, count - 1) / critical(alpha, len(units) - 1)
    worth = max(1.0, count / effect * known * known)
    seen = sum(over) * worth / count
    allowed = 1 - percentile / 100
    return Exceedance(
        calls=count,
        beyond=sum(over),
        worth=rounded(worth),
        low=rounded(beta_quantile(alpha, seen, worth - seen + 1)),
        high=rounded(beta_quantile(1 - alpha, seen + 1, worth - seen)),
        p_harm=rounded(1.0 - binomial_cdf(seen - 1, worth, allowed)),
        typical_ms=rounded(own / NS_A_MS),
    )


def crowding(sizes: Sequence[int], totals: Sequence[int]) -> float:
    """The design effect of a share: its variance over units by that of independent calls; at least 1.

    `totals` are the counts among each unit's `sizes` calls. The worst unit counts twice: crowds are
    rare, and the few that were seen do not show how much they vary. Simulated with slow crowds in
    3 % of the blocks, p99 and 60 units, that takes false passes at the limit from 5 % to 3 % (of a
    nominal 2.5 %).
    """
    count, units = sum(sizes), len(sizes)
    share = sum(totals) / count
    if share in (0.0, 1.0) or units < 2:
        return 1.0
    squares = [(t - share * n) ** 2 for n, t in zip(sizes, totals, strict=True)]
    between = (math.fsum(squares) + max(squares)) * units / (units - 1)
    return max(1.0, between / (count * share * (1 - share)))
