"""`policy.yaml`: what the gate demands. Its own file, so that it can have its own owners."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType, structs

from reprune.core.documents import Document, read_yaml
from reprune.core.errors import DocumentError
from reprune.core.lock import Name
from reprune.core.params import Precision

POLICY_FILE = "policy.yaml"
LOOKS = (8, 15, 30, 60, 120)
BASELINES = frozenset({"vs_parent", "vs_champion", "vs_anchor"})

Alpha: TypeAlias = Annotated[float, Meta(ge=0.001, le=0.2)]
Ratio: TypeAlias = Annotated[float, Meta(gt=0.0, le=10.0)]
AtLeastOne: TypeAlias = Annotated[float, Meta(ge=1.0, le=10.0)]
Units: TypeAlias = Annotated[int, Meta(ge=20, le=1000)]
Drop: TypeAlias = Annotated[float, Meta(gt=0.0, le=1.0)]


class MaxRatio(Document, kw_only=True):
    max_ratio: Ratio


class ChampionRatio(Document, kw_only=True):
    """Below 1 is refused: it would block every second good generation."""

    max_ratio: AtLeastOne = 1.05


class TailRules(Document, kw_only=True):
    """Ratios of a percentile of single calls, judged once, at exactly `units` units; p99 needs 662 calls."""

    percentile: Literal[90, 95, 99] = 95
    units: Units = 60
    vs_parent: MaxRatio | None = None
    vs_champion: ChampionRatio | None = None
    vs_anchor: ChampionRatio | None = None


class LatencyObjective(Document, kw_only=True):
    """At most 100 - `percentile` in 100 calls of the candidate last longer than `max_ms`; judged once."""

    max_ms: Annotated[float, Meta(gt=0.0)]
    percentile: Literal[50, 90, 95, 99] = 99
    units: Units = 60


class LatencyRules(Document, kw_only=True):
    """Ratios of medians, candidate over baseline, judged on their intervals."""

    vs_parent: MaxRatio | None = None
    vs_champion: ChampionRatio | None = None
    vs_anchor: ChampionRatio | None = None
    tail: TailRules | None = None
    objective: LatencyObjective | None = None


class MinRatio(Document, kw_only=True):
    min_ratio: Ratio


class ChampionMinRatio(Document, kw_only=True):
    """Above 1 is refused: it would block every second good generation."""

    min_ratio: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.95


class ThroughputRules(Document, kw_only=True):
    """Examples a second, candidate over baseline, at each of the target's batch sizes; as latency."""

    vs_parent: MinRatio | None = None
    vs_champion: ChampionMinRatio | None = None
    vs_anchor: ChampionMinRatio | None = None


class MemoryRules(Document, kw_only=True):
    """Peak resident bytes of a process that loads one engine and runs it, less what it had before."""

    vs_parent: MaxRatio | None = None
    vs_champion: ChampionRatio | None = None
    vs_anchor: ChampionRatio | None = None
    ceiling_bytes: Annotated[int, Meta(ge=1)] | None = None


class Margin(Document, kw_only=True):
    """How much may be lost: the stricter of a drop in the metric's unit and a ratio of errors."""

    max_drop: Drop = 0.01
    max_error_ratio: Annotated[float, Meta(gt=1.0, le=100.0)] | None = 1.25


class SliceRules(Document, kw_only=True):
    """Harm on a slice blocks. Slices below `min_examples` are judged together as one."""

    max_drop: Drop = 0.05
    min_examples: Annotated[int, Meta(ge=10)] = 30
    required: tuple[str, ...] = ()


class QualityRules(Document, kw_only=True):
    """Rules for one metric. `floor` is absolute and judged on its one-sided 95 % limit."""

    vs_parent: Margin | None = None
    vs_champion: Margin | None = None
    vs_anchor: Margin | None = None
    floor: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None
    slices: SliceRules | None = None


class SizeRules(Document, kw_only=True):
    """Bytes of the engine file."""

    vs_parent: MaxRatio | None = None
    vs_champion: ChampionRatio | None = None
    ceiling_bytes: Annotated[int, Meta(ge=1)] | None = None


class ParityBounds(Document, kw_only=True):
    """How far an engine may be from the bundle it was built from. `max_abs` None: any distance."""

    max_abs: Annotated[float, Meta(gt=0.0)] | None = 1e-3
    min_cosine: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9999
    min_agreement: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.99


# Roundings of 2^-11 and 2^-8 add up over layers; a grid of 255 steps moves every output, so there only
# the direction and the answers are bounded.
PARITY_BY_PRECISION: Mapping[str, ParityBounds] = {
    "fp16": ParityBounds(max_abs=5e-2, min_cosine=0.999),
    "bf16": ParityBounds(max_abs=None, min_cosine=0.995, min_agreement=0.98),
    "int8": ParityBounds(max_abs=None, min_cosine=0.98, min_agreement=0.95),
    "int8-fp16": ParityBounds(max_abs=None, min_cosine=0.98, min_agreement=0.95),
    "int8-weights": ParityBounds(max_abs=None, min_cosine=0.99, min_agreement=0.97),
    "palette4": ParityBounds(max_abs=None, min_cosine=0.95, min_agreement=0.93),
}


class PrecisionBounds(Document, kw_only=True):
    """Bounds for one precision; those that are not written are the usual ones for it."""

    max_abs: Annotated[float, Meta(gt=0.0)] | UnsetType | None = UNSET
    min_cosine: Annotated[float, Meta(gt=0.0, le=1.0)] | UnsetType = UNSET
    min_agreement: Annotated[float, Meta(gt=0.0, le=1.0)] | UnsetType = UNSET


class ParityRules(ParityBounds, kw_only=True):
    """The bounds in fp32, and, by precision, those that replace the usual ones for it."""

    by_precision: dict[Precision, PrecisionBounds] = {}

    def bounds(self, precision: str) -> ParityBounds:
        """What holds for an engine of that precision."""
        usual = PARITY_BY_PRECISION.get(precision, self)
        if precision not in self.by_precision:
            return usual
        written = structs.asdict(self.by_precision[precision])
        return structs.replace(usual, **{k: v for k, v in written.items() if v is not UNSET})


class GuardRules(Document, kw_only=True):
    """What keeps a speed rule from passing on a machine that cannot be trusted; it never blocks.

    `control` measures a second session of the dense model in every unit: two sessions of one model
    must come out equal. `max_waiting` is the largest share of a block that a process may have waited
    for a core, `max_disturbed` the largest share of units in which one did; `max_clock_change` the
    largest ratio of the machine's slowest to its fastest speed over the units; `max_interval` the widest
    interval, as the ratio of its ends. None switches one off; what is off is said in the report.
    """

    control: bool = True
    max_waiting: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = 0.2
    max_disturbed: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.5
    max_clock_change: Annotated[float, Meta(gt=1.0, le=10.0)] | None = 2.0
    max_interval: Annotated[float, Meta(gt=1.0, le=10.0)] | None = 1.5


class EvalRules(Document, kw_only=True):
    """Judged on more often than `max_uses` times, an eval split is warned about: it wears out."""

    max_uses: Annotated[int, Meta(ge=1, le=100_000)] = 20


class Policy(Document, kw_only=True):
    """The whole file. `targets` says which of params' targets must pass and which only inform.

    With `mode` dry-run everything is judged and reported and nothing is ever promoted.
    `on_inconclusive` says what an undecided verdict is: held for a person, or blocked.
    """

    schema: Literal[1] = 1
    targets: dict[Name, Literal["required", "advisory"]]
    alpha: Alpha = 0.05
    looks: tuple[Annotated[int, Meta(ge=5, le=1000)], ...] = LOOKS
    latency: LatencyRules | None = None
    quality: dict[str, QualityRules] = {}
    throughput: ThroughputRules | None = None
    memory: MemoryRules | None = None
    size: SizeRules | None = None
    parity: ParityRules = ParityRules()
    guards: GuardRules = GuardRules()
    eval: EvalRules = EvalRules()
    mode: Literal["enforce", "dry-run"] = "enforce"
    on_inconclusive: Literal["hold", "block"] = "hold"
    valid_for_days: Annotated[float, Meta(gt=0.0, le=365.0)] = 14.0


def read_policy(path: Path) -> Policy:
    """The policy at `path`. Raises DocumentError with file, key and line; demanding nothing is one."""
    policy = read_yaml(path, Policy)
    check_policy(policy, where=str(path))
    return policy


def check_policy(policy: Policy, *, where: str) -> None:
    """Raises DocumentError for a policy that decodes but can judge nothing, or not what it says."""
    sections: dict[str, Document | None] = {
        name: getattr(policy, name) for name in ("latency", "throughput", "memory", "size")
    }
    sections |= {f"quality.{name}": part for name, part in policy.quality.items()}
    rules = {name: _named_rules(part) for name, part in sections.items() if part is not None}
    if not any(rules.values()):
        raise DocumentError(
            "demands nothing: every model would pass",
            where=where,
            fix="add at least one rule under latency, throughput, memory, quality or size",
        )
    if "required" not in policy.targets.values():
        raise DocumentError(
            "has no required target", where=f"{where} (targets)", fix="mark one as required"
        )
    tail = policy.latency.tail if policy.latency is not None else None
    if tail is not None and not (tail.vs_parent or tail.vs_champion or tail.vs_anchor):
        raise DocumentError(
            "compares slow calls with nobody",
            where=f"{where} (latency.tail)",
            fix="add vs_parent, vs_champion or vs_anchor to it, or use latency.objective",
        )
    empty = [name for name, found in rules.items() if not found]
    if empty:
        raise DocumentError(
            "demands nothing: what it is about would not be judged",
            where=f"{where} ({empty[0]})",
            fix="add a rule to it, such as vs_parent, or delete it",
        )
    if not policy.looks or list(policy.looks) != sorted(set(policy.looks)):
        raise DocumentError("must rise from look to look", where=f"{where} (looks)")
    _check_last_look(policy, where)


def _check_last_look(policy: Policy, where: str) -> None:
    """Raises DocumentError where no look can decide a rule on speed, not even at a first attempt: of so few
    units even the least and the largest leave too much to chance, 2 to the minus so many on either side.
    """
    compared = [_named_rules(part) for part in (policy.latency, policy.throughput) if part]
    level = policy.alpha / 2 / len(policy.looks)
    if any(BASELINES & set(rules) for rules in compared) and 0.5 ** policy.looks[-1] > level:
        raise DocumentError(
            f"{policy.looks[-1]} units give no interval of a typical call: no rule on speed could be decided",
            where=f"{where} (looks)",
            fix=f"end with a look at {math.ceil(-math.log2(level))} units or more",
        )


def _named_rules(part: Document) -> list[str]:
    """The rules of a section. A tail that is compared with nobody is none."""
    set_ = {field: getattr(part, field) for field in part.__struct_fields__}
    if isinstance(tail := set_.get("tail"), TailRules):
        set_["tail"] = tail.vs_parent or tail.vs_champion or tail.vs_anchor
    return [field for field, value in set_.items() if value is not None]
