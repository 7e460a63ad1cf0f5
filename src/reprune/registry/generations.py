"""What is told of a model's generations and of what waits for a person; registry.history reads it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from reprune.core.artifacts import Asked, Fact, Outcome

Kind: TypeAlias = Literal["judged", "adoption", "rollback", "closed", "foreign"]
State: TypeAlias = Literal[
    "serving", "promoted", "rolled back", "not promoted", "blocked", "inconclusive", "error", "dry run",
    "rollback", "superseded", "not ours", "not trusted",
]  # fmt: skip
Why: TypeAlias = Literal[
    "champion_lost", "champion_foreign", "override", "not_promoted", "inconclusive", "refused"
]


class Figure(Fact, kw_only=True):
    """What one rule measured. `change` is the receipt's; the interval is the verdict's, None without one.

    A ratio is of the dense model; a quality change is in the metric's `unit`, and `loss` is what of it is
    a loss (negative for a gain).
    """

    rule: str
    unit: str
    change: float
    low: float | None
    high: float | None
    loss: float


class Made(Fact, kw_only=True):
    """How a version was made, and what of the champion's was used. `table` is where its sensitivity's rows
    come from ("" where nobody asked), for `why`; it took `cost` examples, of `full_cost` that measuring all
    took last. `times` is where its latency tables come from, for `times_why`, which took `builds` engines, of
    `full_builds` that measuring all of them takes.

    `widths` says whether the champion's, where they were tried, were kept; the doubts, how much worse these
    and the table's plan may be, where that is more than is allowed; `kept` is the share of each group
    and removed block that the plan, asked the `question`, left, `rise` the rise in loss that it predicted.

    Recovery took `epochs` of `asked` (None where the champion's had no say), which saved about
    `recovery_saved` examples. `start` is what it began with where that might have been the champion, `taught`
    the champion's weight as a second teacher. Its learning rate is `rate`; where that is the champion's, it
    was found `rate_age` generations ago.
    """

    table: Literal["", "reused", "measured"] = ""
    why: str = ""
    cost: int = 0
    full_cost: int = 0
    epochs: int | None = None
    asked: int | None = None
    recovery_saved: int = 0
    start: Literal["", "champion", "cut"] = ""
    taught: float = 0.0
    rate: float | None = None
    rate_how: Literal["", "given", "champion", "tried"] = ""
    rate_age: int = 0
    table_doubt: str = ""
    widths: Literal["", "kept", "fresh"] = ""
    widths_doubt: str = ""
    times: Literal["", "reused", "measured"] = ""
    times_why: str = ""
    builds: int = 0
    full_builds: int = 0
    kept: dict[str, float] = {}
    rise: float | None = None
    question: Asked | None = None


class Generation(Fact, kw_only=True):
    """One version of `<name>-compressed`. `dense` are the dense versions that it is about.

    `signed` is False where the receipt is not by a key that we trust, None where nobody could check;
    `trouble` says what is wrong with it, and then there are no figures. `by` and `reason` are those of the
    person who overrode, rolled back or adopted; `until` is the last day of an override. `other` is the
    version that a rollback returned to, the one that an adoption is a copy of, the one that overrides the
    same verdict, or, with `second`, the one whose verdict came first for the lock, and counts. `back_by` is
    who rolled this one back, and `back_in` the version that holds the record. `time_s` is Unix time.
    `drops` are what each metric lost, `ratios` the latency by target, and `rooms` up to where each could go
    (see registry.figures).
    """

    version: str
    kind: Kind
    state: State
    serves: bool = False
    dense: tuple[str, ...] = ()
    outcome: Outcome | None = None
    overridden: bool = False
    attempt: int | None = None
    latency: Figure | None = None
    quality: Figure | None = None
    size_bytes: int | None = None
    time_s: float | None = None
    by: str = ""
    reason: str = ""
    until: str = ""
    other: str = ""
    second: bool = False
    back_by: str = ""
    back_in: str = ""
    headline: str = ""
    reasons: tuple[str, ...] = ()
    signed: bool | None = None
    trouble: str = ""
    verdict: str = ""
    lock: str = ""
    champion: str | None = None
    made: Made | None = None
    drops: dict[str, float] = {}
    ratios: dict[str, float] = {}
    rooms: dict[str, float] = {}

    @property
    def moved_champion(self) -> bool:
        """Whether the champion became another one by it, as far as we believe it."""
        if self.signed is False:
            return False
        if self.kind == "rollback":
            return True
        return self.kind in ("judged", "adoption") and self.state in (
            "serving",
            "promoted",
            "rolled back",
        )


class Waiting(Fact, kw_only=True):
    """What only a person can go on with. `next` is the command, or a sentence that names it in backticks."""

    why: Why
    version: str | None
    dense: str | None
    words: str
    next: str


class Rising(Fact, kw_only=True):
    """A figure that got worse over the generations, or a group that is left ever less or more wide, by more
    than chance. `name` is the metric ("" where no record names it), the target, or the group; `slope` is
    a generation's step (Theil-Sen) of the loss, the ratio, or the share of the group, `p_value` that of
    Mann and Kendall's one-sided test, over `of` generations, which began at `first` and end at `last`.

    `blocks_in` is in how many generations the gate would pass it no more if that goes on, 0 for now; None
    where the policy does not bound it, or nobody can say. With `cut_short` generations before these are left
    out, for plans were asked something else then.
    """

    what: Literal["quality", "predicted loss", "latency", "group"]
    name: str
    unit: str
    slope: float
    p_value: float
    of: int
    first: float
    last: float
    blocks_in: int | None = None
    cut_short: bool = False


class History(Fact, kw_only=True):
    """`generations` are the newest, newest first, of `total` versions, and `trends` are theirs. `unchecked`
    says why nobody could check signatures; it is empty where they were. `gaps` are receipts missing among
    those that were read.
    """

    name: str
    registry: str
    champion: str | None
    anchor: str | None
    unchecked: str
    total: int
    generations: tuple[Generation, ...]
    waiting: tuple[Waiting, ...]
    gaps: tuple[str, ...]
    trends: tuple[Rising, ...] = ()
