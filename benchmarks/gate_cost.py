"""What the gate costs: CPU seconds of reading, assembling and judging a large verdict.

    python -m benchmarks.gate_cost [--quick] [--verify] [--json FILE]

10,000 examples in 20 slices, of 2,000 sources or none; 3 targets of 120 units, 4 arms and the control
arm, 30 calls a block; accuracy and Dice against three baselines with floors and slices; medians, a
percentile, an objective, throughput and the guards. `--quick` times every part once, otherwise the
best of five counts. The bound is 4 s on a usual core. `--verify` asks in its place for at most twice what is
committed: another core may be as much slower, the work itself is not.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.common import committed, options, result, table, write
from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.core.documents import canonical
from reprune.judge.verdict import judge
from reprune.steps.assemble import assemble
from reprune.steps.gate import read_grounds
from tests.faults import EXAMPLES, MEMORY, RATES, RECORDS, UNITS, Forged, rebuilt, write_base

BOUND_S = 4.0
TAIL_UNITS = 20
T = TypeVar("T")
TARGETS = ("cpu-a", "cpu-b", "cpu-c")
BASE_NS = {"dense": 400_000, "candidate": 240_000, "champion": 240_000, "anchor": 240_000}


def main() -> int:
    given = options(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for sources in (False, True)
            for row in _measured(Path(folder), sources, times=1 if given.quick else 5)
        ]
    print(table(rows, ("sources", "part", "cpu_s")))
    whole = max(row["cpu_s"] for row in rows if row["part"] == "assemble and judge")
    if given.json:
        write(given.json, result({"cpu_s": whole, "bound_s": BOUND_S}, rows))
    most = 2.0 * committed("gate_cost")["figures"]["cpu_s"] if given.verify else BOUND_S
    print(f"{whole:.2f} s of {most:.2f} s")
    return 0 if whole <= most else 1


def _measured(folder: Path, sources: bool, times: int) -> list[dict[str, Any]]:
    verdict = large(folder / str(sources), sources=sources)
    read_s, grounds = cpu(lambda: read_grounds(store.read(verdict, Verdict)), times)
    assemble_s, evidence = cpu(lambda: assemble(grounds), times)
    judge_s, judgement = cpu(lambda: judge(evidence, grounds.policy), times)
    write_s, _ = cpu(lambda: (canonical(evidence), canonical(judgement)), times)
    parts = {
        "read and check digests": read_s,
        "assemble": assemble_s,
        "judge": judge_s,
        "assemble and judge": assemble_s + judge_s,
        "write": write_s,
    }
    return [{"sources": sources, "part": part, "cpu_s": spent} for part, spent in parts.items()]


def cpu(function: Callable[[], T], times: int) -> tuple[float, T]:
    """The least CPU seconds of `times` calls, and what the last of them gave."""
    calls = []
    for _ in range(times):
        start = time.process_time()
        found = function()
        calls.append((time.process_time() - start, found))
    return min(spent for spent, _ in calls), calls[-1][1]


def large(folder: Path, *, sources: bool, examples: int = 10_000, units: int = 120) -> Path:
    """A verdict directory of that many examples and units on three targets, made of the tests' chain."""
    forged = write_base(folder)
    _params(forged)
    _examples(forged, examples, sources)
    _engines(forged)
    rng = random.Random(4)
    payload = forged.ancestors["benchmarks.0"]["payload"]
    memory = forged.files[MEMORY]
    for name in (UNITS, RATES, MEMORY):
        del forged.files[name]
        payload.pop(name.removeprefix("samples/0/"))
    for target in TARGETS:
        taken = json.dumps([_unit(i, rng) for i in range(units)]).encode()
        files = {f"latency/{target}.json": taken, f"throughput/{target}-4.json": taken}
        for name, raw in {**files, f"memory/{target}.json": memory}.items():
            forged.files[f"samples/0/{name}"] = raw
            payload[name] = ""
    forged.ancestors["benchmarks.0"]["targets"] = [
        {
            "target": t,
            "batch_size": 1,
            "units": units,
            "file": f"latency/{t}.json",
            "throughput": [{"batch_size": 4, "units": units, "file": f"throughput/{t}-4.json"}],
            "memory": f"memory/{t}.json",
        }
        for t in TARGETS
    ]
    outcome = rebuilt(forged, folder / "large")
    found = json.loads((folder / "large" / store.MANIFEST).read_bytes())["judgement"]
    assert outcome in ("pass", "inconclusive"), found["headline"]
    return folder / "large"


def _params(forged: Forged) -> None:
    forged.edit(
        "params.json",
        lambda params: {**params, "targets": dict.fromkeys(TARGETS, params["targets"]["ort-cpu"])},
    )
    forged.edit("lock.json", lambda lock: {**lock, "targets": list(TARGETS)})
    margin = {"max_drop": 0.05, "max_error_ratio": None}
    rules = {
        **dict.fromkeys(("vs_parent", "vs_champion", "vs_anchor"), margin),
        "floor": 0.5,
        "slices": {"max_drop": 0.2},
    }
    forged.edit(
        "policy.json",
        lambda policy: {
            **policy,
            "targets": dict.fromkeys(TARGETS, "required"),
            "quality": {"accuracy": rules, "dice": rules},
            "latency": {
                **policy["latency"],
                "tail": {"percentile": 95, "units": TAIL_UNITS, "vs_parent": {"max_ratio": 0.95}},
                "objective": {"percentile": 95, "units": TAIL_UNITS, "max_ms": 2.0},
            },
            "throughput": {"vs_parent": {"min_ratio": 0.9}},
        },
    )


def _examples(forged: Forged, count: int, sources: bool) -> None:
    kinds = [f"kind-{place % 20:02d}" for place in range(count)]
    named = [f"s{place % 2000}" for place in range(count)] if sources else None
    examples = {
        "ids": [f"example-{place:06d}" for place in range(count)],
        "slices": {"kind": kinds},
        "sources": named,
    }
    forged.edit(EXAMPLES, lambda _: examples)
    split = forged.ancestors["data"]["splits"]["eval"]
    split |= {
        "examples": count,
        "sources": None if named is None else len(set(named)),
        "slices": {"kind": {kind: kinds.count(kind) for kind in sorted(set(kinds))}},
    }
    rng = np.random.default_rng(6)
    whole = rng.integers(300, 900, count)
    records = {}
    for arm, wrong in (("dense", 200), ("candidate", 230), ("champion", 230), ("anchor", 230)):
        right = np.ones(count, np.int64)
        right[rng.choice(count, wrong, replace=False)] = 0
        part = np.floor(whole * (0.9 - 0.05 * rng.random(count))).astype(np.int64)
        columns = {"correct": right, "numerator": part, "denominator": whole}
        keys = [f"{arm}@{target}" for target in TARGETS] + (["dense"] if arm == "dense" else [])
        records |= {f"{key}/{name}": column for key in keys for name, column in columns.items()}
    forged.edit(RECORDS, lambda _: records)
    recorded = forged.ancestors["benchmarks.0"]["recorded"]
    recorded |= {"examples": count, "columns": ["correct", "denominator", "numerator"]}


def _engines(forged: Forged) -> None:
    engines = forged.ancestors["engines.0"]
    payload = engines["payload"]
    facts = []
    for target in TARGETS:
        for fact in engines["engines"]:
            file = f"{target}/{fact['arm']}.onnx"
            payload[file] = payload[fact["file"]]
            facts.append({**fact, "target": target, "file": file})
    engines["engines"] = facts
    forged.ancestors["benchmarks.0"]["engines"] = facts


def _unit(index: int, rng: random.Random) -> dict[str, Any]:
    arms = {**BASE_NS, "control": BASE_NS["dense"]}
    noise = math.exp(rng.gauss(0, 0.05))
    times = {}
    for order, (arm, typical) in enumerate(arms.items()):
        blocks = [
            [round(typical * noise * math.exp(rng.gauss(0, 0.02))) for _ in range(30)]
            for _ in range(2)
        ]
        conditions = [
            {"wall_ns": sum(block), "waited_ns": 0, "stolen": 0.0, "pulse_ns": 50_000}
            for block in blocks
        ]
        times[arm] = {
            "order": order,
            "blocks_ns": blocks,
            "warmup_calls": 10,
            "conditions": conditions,
        }
    return {
        "index": index,
        "process": index // 5,
        "seed": index,
        "started_s": 1_000_000.0 + index,
        "load": 0.5,
        "arms": times,
    }


if __name__ == "__main__":
    sys.exit(main())
