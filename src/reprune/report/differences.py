"""What `reprune diff` finds between two verdicts or two plans. The JSON of the command is these structs."""

from __future__ import annotations

from typing import Literal, TypeAlias

from reprune.core.artifacts import Fact, Outcome, RuleResult, SliceResult

# What became of a measurement. "noise" is a change that the two intervals leave room for; "unknown" is one
# without intervals, or of what cannot be compared.
Moved: TypeAlias = Literal["better", "worse", "same", "noise", "unknown", "new", "gone"]
How: TypeAlias = Literal["cut more", "cut less", "as before", "new", "gone"]


class Side(Fact, kw_only=True):
    """One of the two. `given` is how the user named it, `version` the registry's number where it is from one.

    Of a plan alone, only `given` and `digest` are known (the digest is empty for a bare plan.yaml).
    """

    given: str
    digest: str = ""
    version: str = ""
    name: str = ""
    dense_version: str = ""
    champion: str | None = None
    attempt: int = 0
    outcome: Outcome | None = None
    headline: str = ""
    checked: str = ""


class Between(Fact, kw_only=True):
    """How far the second lies from the first: a difference, or for ratios a factor."""

    scale: Literal["difference", "factor"]
    value: float
    low: float | None = None
    high: float | None = None


class RuleDiff(Fact, kw_only=True):
    """One demand in both verdicts; None where one of them does not judge it."""

    rule: str
    baseline: str
    target: str | None
    moved: Moved
    before: RuleResult | None
    after: RuleResult | None
    between: Between | None = None


class SliceDiff(Fact, kw_only=True):
    """A slice that moved: judged otherwise, or changed by more than the two intervals leave room for."""

    rule: str
    target: str
    slice: str
    moved: Moved
    before: SliceResult | None
    after: SliceResult | None
    between: Between | None = None


class Amount(Fact, kw_only=True):
    value: float
    low: float | None = None
    high: float | None = None


class FigureDiff(Fact, kw_only=True):
    """A size, a count or a cost. `unit` is bytes, count, loss, ratio, share, or the currency."""

    what: str
    unit: str
    target: str = ""
    before: Amount | None
    after: Amount | None


class PartDiff(Fact, kw_only=True):
    """A group, a tensor or a block in two plans. A share, of what is kept, is None where a plan lacks it."""

    part: str
    how: How
    before: str
    after: str
    share_before: float | None
    share_after: float | None


class KeyDiff(Fact, kw_only=True):
    """A setting or a circumstance that is not the same; `place` is the file, or what it is a part of."""

    place: str
    key: str
    before: str
    after: str


class PlanDiff(Fact, kw_only=True):
    """`changed` are the parts that are cut otherwise, `same` how many are not."""

    changed: tuple[PartDiff, ...]
    same: int
    knobs: tuple[KeyDiff, ...] = ()
    figures: tuple[FigureDiff, ...] = ()


class FlipDiff(Fact, kw_only=True):
    """The same examples through both candidates: how many only one of them had right.

    `p` is McNemar's exact test, two-sided: how often two equally good models differ at least so much.
    `member` is whose answers they are in a set, empty where there is none.
    """

    target: str
    member: str = ""
    examples: int
    only_before: int
    only_after: int
    p: float


class VerdictDiff(Fact, kw_only=True):
    """Two verdicts. `flips` is empty where they share no right-or-wrong records of the same examples."""

    rules: tuple[RuleDiff, ...]
    slices: tuple[SliceDiff, ...]
    slices_same: int
    flips: tuple[FlipDiff, ...]
    figures: tuple[FigureDiff, ...]
    settings: tuple[KeyDiff, ...]
    notes: tuple[str, ...]


class Difference(Fact, kw_only=True):
    """`verdicts` is None where two plans were compared; `plan` is None where a verdict has no plan."""

    before: Side
    after: Side
    verdicts: VerdictDiff | None
    plan: PlanDiff | None
