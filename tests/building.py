"""Builds evidence for tests, out of the few numbers that a test is about.

    from tests.building import make_evidence, make_policy
    evidence = make_evidence(targets={"cpu": 0.6}, lost=5, gained=3)
    judgement = judge(evidence, make_policy())

`make_evidence` gives whole, valid evidence of a second generation: candidate, dense parent and
champion on each target, a latency ratio each with a little seeded noise, 0/1 records with `lost` and
`gained` flips against both baselines, two slice families, engines with good parity. Change a part
with `msgspec.structs.replace`, or with `edit(evidence, "quality.ids", ())`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from reprune.core.artifacts import Cost, EngineFact, Judgement, Parity
from reprune.core.machine import Machine
from reprune.core.policy import Policy
from reprune.judge.evidence import (
    CONTROL,
    ArmRecords,
    ArmTimes,
    Conditions,
    Evidence,
    QualityEvidence,
    TargetEvidence,
    Unit,
)

MACHINE = Machine(instance="sha256:1", kind="sha256:2", cpu="test", logical_cpus=2, os="Linux")
ARMS = ("candidate", "dense", "champion")
BASE_NS = 400_000

POLICY: dict[str, Any] = {
    "targets": {"cpu": "required"},
    "latency": {"vs_parent": {"max_ratio": 0.8}, "vs_champion": {"max_ratio": 1.05}},
    "quality": {
        "accuracy": {
            "vs_parent": {"max_drop": 0.03, "max_error_ratio": None},
            "vs_champion": {"max_drop": 0.03, "max_error_ratio": None},
            "floor": 0.85,
        }
    },
    "size": {"vs_parent": {"max_ratio": 0.9}},
}


def make_policy(**changes: Any) -> Policy:
    """A policy that `make_evidence()` passes, with whole sections exchanged."""
    return msgspec.convert({**POLICY, **changes}, Policy)


def make_unit(
    index: int, ns: Mapping[str, float], rng: random.Random, noise: float = 0.01, calls: int = 5
) -> Unit:
    """A unit whose arms take `ns` each, times a log-normal noise for each block."""
    arms = {
        arm: make_times(order, typical, rng, noise, calls)
        for order, (arm, typical) in enumerate(ns.items())
    }
    return Unit(
        index=index, process=index // 5, seed=index, started_s=1.0e9 + index, load=0.1, arms=arms
    )


def make_times(
    order: int, typical: float, rng: random.Random, noise: float, calls: int
) -> ArmTimes:
    """Two blocks of `calls` calls that take about `typical` ns."""
    blocks = []
    for _ in range(2):
        block = typical * rng.lognormvariate(0, noise)
        blocks.append(tuple(max(1, round(block * rng.uniform(0.99, 1.05))) for _ in range(calls)))
    return ArmTimes(order=order, blocks_ns=tuple(blocks), warmup_calls=10)


def make_units(
    count: int,
    ratios: Mapping[str, float],
    *,
    seed: int = 1,
    noise: float = 0.01,
    calls: int = 5,
    control: float | None = 1.0,
) -> tuple[Unit, ...]:
    """`count` units; `ratios` maps each baseline arm to the candidate's time over that arm's.

    `control` is the second dense session's time over the first's; None leaves it out.
    """
    rng, apart = random.Random(seed), random.Random(f"control {seed}")
    ns = {"candidate": BASE_NS, **{arm: BASE_NS / ratio for arm, ratio in ratios.items()}}
    units = tuple(make_unit(index, ns, rng, noise, calls) for index in range(count))
    if control is None:
        return units
    typical = ns.get("dense", BASE_NS) * control
    return tuple(
        msgspec.structs.replace(
            unit, arms={**unit.arms, CONTROL: make_times(len(ns), typical, apart, noise, calls)}
        )
        for unit in units
    )


def with_conditions(
    units: Sequence[Unit], change: Callable[[Unit, str, int], Mapping[str, Any]] | None = None
) -> tuple[Unit, ...]:
    """The units with the conditions of a quiet machine; `change` gives what differs in a block of an
    arm of a unit.
    """
    quiet = {"wall_ns": 10_000_000, "waited_ns": 0, "stolen": 0.0, "pulse_ns": 100_000}

    def told(unit: Unit, arm: str, times: ArmTimes) -> ArmTimes:
        changes = [change(unit, arm, b) if change else {} for b in range(len(times.blocks_ns))]
        conditions = tuple(msgspec.convert({**quiet, **c}, Conditions) for c in changes)
        return msgspec.structs.replace(times, conditions=conditions)

    return tuple(
        msgspec.structs.replace(u, arms={arm: told(u, arm, t) for arm, t in u.arms.items()})
        for u in units
    )


def flipped(base: Sequence[int], lost: int, gained: int, seed: int = 3) -> tuple[int, ...]:
    """`base` with `lost` ones turned to zero and `gained` zeros turned to one."""
    rng = random.Random(seed)
    right = [place for place, value in enumerate(base) if value]
    wrong = [place for place, value in enumerate(base) if not value]
    turned = {*rng.sample(right, lost), *rng.sample(wrong, gained)}
    return tuple(1 - value if place in turned else value for place, value in enumerate(base))


def make_quality(
    arms: Mapping[str, Mapping[str, Sequence[int]]],
    *,
    slices: Mapping[str, Sequence[str]] | None = None,
    sources: Sequence[str] | None = None,
) -> QualityEvidence:
    """Records by arm key and column, all of the same examples."""
    count = len(next(iter(next(iter(arms.values())).values())))
    return QualityEvidence(
        eval_digest="sha256:e",
        ids=tuple(f"example-{place:06d}" for place in range(count)),
        slices={family: tuple(values) for family, values in (slices or {}).items()},
        sources=None if sources is None else tuple(sources),
        arms={
            key: ArmRecords(columns={name: tuple(v) for name, v in columns.items()})
            for key, columns in arms.items()
        },
    )


def make_engine(arm: str, target: str, size: int) -> EngineFact:
    return EngineFact(
        arm=arm,  # type: ignore[arg-type]
        target=target,
        runtime="onnxruntime",
        runtime_version="1.0",
        precision="fp32",
        file=f"{target}/{arm}.onnx",
        bytes=size,
        bundle=f"sha256:{arm}",
        weights=f"sha256:{arm}-weights",
        inputs=("x",),
        parity=Parity(examples=64, max_abs=1e-5, cosine=0.999999, agreement=1.0),
        cost=Cost(params=1000, macs=10_000, bytes=4000),
    )


def make_evidence(
    *,
    targets: Mapping[str, float] | None = None,
    examples: int = 1000,
    errors: int = 40,
    lost: int = 5,
    gained: int = 5,
    units: int = 15,
    arms: Sequence[str] = ARMS,
    attempt: int = 1,
    sources: Sequence[str] | None = None,
) -> Evidence:
    """Valid evidence. `targets` maps a target to the candidate's time over the dense model's; the
    champion is as fast as the candidate. Dense and champion err on the same `errors` examples.
    """
    targets = targets or {"cpu": 0.6}
    base = tuple(int(place >= errors) for place in range(examples))
    mine = flipped(base, lost, gained)
    records: dict[str, dict[str, Sequence[int]]] = {"dense": {"correct": base}}
    for target in targets:
        for arm in arms:
            records[f"{arm}@{target}"] = {"correct": mine if arm == "candidate" else base}
    slices = {
        "light": [("day", "night")[place % 4 == 0] for place in range(examples)],
        "class": [str(place % 5) for place in range(examples)],
    }
    sizes = {"candidate": 500, "dense": 1000, "champion": 510, "anchor": 505}
    return Evidence(
        name="digits",
        dense_version="2",
        champion_version="1" if "champion" in arms else None,
        seed="sha256:seed",
        attempt=attempt,
        arms={arm: f"sha256:{arm}" for arm in arms},
        engines=tuple(make_engine(arm, t, sizes[arm]) for t in targets for arm in arms),
        targets=tuple(
            TargetEvidence(
                target=target,
                machine=MACHINE,
                batch_size=1,
                units=make_units(
                    units,
                    {arm: ratio if arm == "dense" else 1.0 for arm in arms if arm != "candidate"},
                    seed=place + 1,
                ),
            )
            for place, (target, ratio) in enumerate(targets.items())
        ),
        quality=make_quality(records, slices=slices, sources=sources),
        power=(),
        problems=(),
        uses=1,
    )


def notes_of(judgement: Judgement) -> tuple[str, ...]:
    """Its notes, without that on how much two sessions of one model differ."""
    return tuple(note for note in judgement.notes if "two sessions of one model" not in note)


def edit(struct: Any, path: str, value: Any) -> Any:
    """A copy of nested structs, dicts and tuples with the part at the dotted `path` exchanged.

    Parts of a path are field names, dict keys or positions. `value` may be a function of the old.
    """
    head, _, rest = path.partition(".")
    old = struct[int(head)] if isinstance(struct, tuple | list) else None
    if isinstance(struct, dict):
        old = struct[head]
    elif not isinstance(struct, tuple | list):
        old = getattr(struct, head)
    new = edit(old, rest, value) if rest else (value(old) if callable(value) else value)
    if isinstance(struct, dict):
        return {**struct, head: new}
    if isinstance(struct, tuple | list):
        return type(struct)([*struct[: int(head)], new, *struct[int(head) + 1 :]])
    return msgspec.structs.replace(struct, **{head: new})
