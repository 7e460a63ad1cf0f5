"""Schedules of faults for the reconciler, in virtual time, and bugs planted in it that have to be found.

    python -m benchmarks.trigger_faults [--quick] [--verify] [--json FILE] [--seeds N] [--first N]

One seed is one schedule (tests/orchestrate/simulation.py): one or two models, one or two replicas, versions
that are registered, runs that crash, rollbacks, clock jumps, a new project image, webhooks that are lost,
doubled, late or replayed, and calls of which up to 40 % fail, time out, are done with the answer lost, or
are the last that a replica makes. `violations` counts the schedules in which an invariant did not hold.
`planted_bugs_found` counts the bugs that some of the first 1,000 seeds notices. Without --quick it goes on
for nine minutes, or until --seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks import common
from tests.orchestrate.simulation import draw_plan, simulate
from tests.orchestrate.simulation_plants import PLANTS

NAME = "trigger_faults"
PLANT_SEEDS = 1_000
LONG_S, QUICK_SEEDS = 540.0, 10_000


@dataclass
class Tally:
    """What a range of seeds came to; `failed` are the one-line replays of those with a violation."""

    seeds: int = 0
    calls: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)
    rules: Counter[str] = field(default_factory=Counter)


def main() -> None:
    """Runs the schedules and the planted bugs; exits 1 for a violation or a bug that was not found."""
    given = common.options(__doc__, _arguments)
    if given.verify:
        raise SystemExit(_verify())
    tally = schedules(
        first=given.first,
        most=given.seeds or (QUICK_SEEDS if given.quick else None),
        longest_s=LONG_S,
    )
    rows = [planted_row(name) for name in PLANTS]
    result = _result(tally, rows)
    print(common.table(rows, ["bug", "found_at_seed", "rule"]))
    print(json.dumps(result["figures"], indent=1))
    for line in tally.failed[:20]:
        print(f"to replay: {line}")
    if given.json:
        common.write(given.json, result)
    raise SystemExit(int(bool(tally.failed) or any(row["found_at_seed"] is None for row in rows)))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, help="how many schedules, whatever the time")
    parser.add_argument("--first", type=int, default=0, help="the first seed")


def schedules(*, first: int, most: int | None, longest_s: float) -> Tally:
    """Seeds from `first` on: `most` of them, or without that as many as begin within `longest_s`."""
    tally, begin = Tally(), time.monotonic()
    seed = first
    while seed - first < most if most is not None else time.monotonic() - begin < longest_s:
        found = simulate(seed)
        tally.seeds += 1
        tally.calls += found.calls
        if found.violations:
            tally.failed.append(found.replay)
            tally.rules[found.violations[0].partition(":")[0]] += 1
        seed += 1
    tally.seconds = time.monotonic() - begin
    return tally


def planted_row(name: str) -> dict[str, Any]:
    """The first seed that notices the bug, and the invariant by which it does; None if none does."""
    for seed in range(PLANT_SEEDS):
        found = simulate(seed, [name])
        if found.violations:
            rule = found.violations[0].partition(":")[0]
            return {"part": "planted", "bug": name, "found_at_seed": seed, "rule": rule}
    return {"part": "planted", "bug": name, "found_at_seed": None, "rule": ""}


def _result(tally: Tally, rows: list[dict[str, Any]]) -> dict[str, Any]:
    figures = {
        "seeds": tally.seeds,
        "violations": len(tally.failed),
        "seeds_per_second": tally.seeds / tally.seconds,
        "planted_bugs": len(rows),
        "planted_bugs_found": sum(row["found_at_seed"] is not None for row in rows),
    }
    return common.result(
        figures,
        rows,
        calls_per_schedule=tally.calls / tally.seeds,
        replays=tally.failed[:100],
        violated_rules=dict(tally.rules),
        schedules=_kinds(),
    )


def _kinds(sample: int = 1_000) -> dict[str, Any]:
    """How the first schedules are made up."""
    plans = [draw_plan(random.Random(seed)) for seed in range(sample)]
    shares = {name: sum(bool(getattr(each, name)) for each in plans) / sample for name in _FLAGS}
    rates = Counter(str(each.rate) for each in plans)
    return {"of": sample, "rates": dict(sorted(rates.items())), "shares": shares}


_FLAGS = ("strict", "stale", "late", "events", "jumps", "forgets")


def _verify() -> int:
    """Finds one planted bug again at its committed seed; 1 if it shows elsewhere or by another rule."""
    wanted = common.committed(NAME)["rows"][0]
    found = planted_row(wanted["bug"])
    print(f"{wanted['bug']}: seed {found['found_at_seed']}, committed {wanted['found_at_seed']}")
    return int(found != wanted)


if __name__ == "__main__":
    main()
