"""What is told of a model's generations and of what waits for a person; registry.history reads it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from reprune.core.artifacts import Fact, Outcome

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
    """How a version was made. `table` is where its sensitivity's rows come from ("" where nobody asked), for
    `why`; it took `cost` examples, of `full_cost` that measuring all took last. Recovery took `epochs` of
    `asked`. `times` is where its latency tables come from, for `times_why`, which took `builds` engines, of
    `full_builds` that measuring all of them takes. `kept` is the share of each group that the plan left,
    `rise` the rise in loss that it predicted.
    """

    table: Literal["", "reused", "measured"] = ""
    why: str = ""
    cost: int = 0
    full_cost: int = 0
    epochs: int | None = None
    asked: int | None = None
    times: Literal["", "reused", "measured"] = ""
    times_why: str = ""
    builds: int = 0
    full_builds: int = 0
    kept: dict[str, float] = {}
    rise: float | None = None


class Generation(Fact, kw_only=True):
    """One version of `<name>-compressed`. `dense` are the dense versions that it is about.

    `signed` is False where the receipt is not by a key that we trust, None where nobody could check;
    `trouble` says what is wrong with it, and then there are no figures. `by` and `reason` are those of the
    person who overrode, rolled back or adopted; `until` is the last day of an override. `other` is the
    version that a rollback returned to, the one that an adoption is a copy of, the one that overrides the
    same verdict, or, with `second`, the one whose verdict came first for the lock, and counts. `back_by` is
    who rolled this one back, and `back_in` the version that holds the record. `time_s` is Unix time.
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


class History(Fact, kw_only=True):
    """`generations` are the newest, newest first, of `total` versions. `unchecked` says why nobody could
    check signatures; it is empty where they were. `gaps` are receipts missing among those that were read.
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
