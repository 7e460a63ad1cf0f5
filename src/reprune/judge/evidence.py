"""Everything that a decision rests on, as one value. `judge.verdict.judge(evidence, policy)` decides."""

from __future__ import annotations

from typing import Literal

import msgspec

from reprune.core.artifacts import EngineFact, Fact, PowerFact
from reprune.core.machine import Machine


class ArmTimes(Fact, kw_only=True):
    """One arm in one unit: durations of single calls in ns, a list for each of its two blocks.

    The first calls after a switch of arms are not in here. `order` is the place in the permutation.
    """

    order: int
    blocks_ns: tuple[tuple[int, ...], ...]
    warmup_calls: int


class Unit(Fact, kw_only=True):
    """One freshly created set of sessions, one an arm: the unit of latency evidence.

    `process` numbers the fresh process it ran in; `started_s` is Unix time, used only for the age of
    the evidence. `load` is the machine's 1-minute load average when it began.
    """

    index: int
    process: int
    seed: int
    started_s: float
    load: float
    arms: dict[str, ArmTimes]


class TargetEvidence(Fact, kw_only=True):
    """All units of one target on one machine, in the order they were taken."""

    target: str
    machine: Machine
    batch_size: int
    units: tuple[Unit, ...]


class ArmRecords(Fact, kw_only=True):
    """One arm's records over all judged examples: column name to one integer an example."""

    columns: dict[str, tuple[int, ...]]


class QualityEvidence(Fact, kw_only=True):
    """The same examples through all arms, in one order. `slices` maps family to value per example.

    Keys of `arms`: `<arm>@<target>` for every arm's engine on every target, and `dense` for the
    dense model as trained (run by its own framework), which is what `vs_parent` means.
    """

    eval_digest: str
    ids: tuple[str, ...]
    slices: dict[str, tuple[str, ...]]
    sources: tuple[str, ...] | None
    arms: dict[str, ArmRecords]


class Problem(Fact, kw_only=True):
    """Something that makes the evidence unusable: the outcome is `error`, never a pass."""

    code: str
    words: str


class Evidence(Fact, kw_only=True):
    """The whole of it. `arms` maps arm to bundle digest; candidate and dense are always there.

    `attempt` is 1 for the first look at the sealed data for this dense version. `problems` are what
    the gate found when it assembled the evidence (wrong machine, stale lock, failed data contract).
    """

    name: str
    dense_version: str
    champion_version: str | None
    seed: str
    attempt: int
    arms: dict[str, str]
    engines: tuple[EngineFact, ...]
    targets: tuple[TargetEvidence, ...]
    quality: QualityEvidence
    power: tuple[PowerFact, ...]
    problems: tuple[Problem, ...]


LatencyOutcome = Literal["pass", "block", "inconclusive"]


def decode_units(raw: bytes) -> tuple[Unit, ...]:
    """The units in a `latency/<target>.json` payload."""
    return msgspec.json.decode(raw, type=tuple[Unit, ...])
