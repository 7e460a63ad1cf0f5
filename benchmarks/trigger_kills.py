"""The real service killed again and again, with a real MLflow server: what is left undone afterwards.

    python -m benchmarks.trigger_kills [--quick] [--verify] [--json FILE] [--kills N]
        [--minutes M] [--seed N]

`reprune serve` is a process that gets SIGKILL at a random moment, from before it listens to some sweeps
later, and is started again (forked from one that has its imports done), while versions are registered in
MLflow, whose webhooks may find nobody, and runs proceed, some of which end without a verdict. What a run
leaves is registered by the real `promote`, signed, from artefacts with made-up measurements; the API of
Kubeflow Pipelines is the tests' own (tests/service_kills.py). As neither is ever stale, the reconciler
waits 3 s for what it asked for; it polls every 30 s.

`violations` counts versions without exactly one end, locks with two verdicts, runs beside one another,
a newest version that is superseded, and a champion that is not the last one promoted. `settle_polls` is
the number of polls from the last start until every version had its end.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common
from reprune.core.step import WORK_VARIABLE
from tests.service_kills import Found, Order, drill

NAME = "trigger_kills"
KILLS, QUICK_KILLS = 200, 60
QUICK_S = 420.0
POLL_S = 30.0


def main() -> None:
    """Runs the drill; exits 1 for a violation."""
    given = common.options(__doc__, _arguments)
    if given.verify:
        raise SystemExit(_verify())
    kills = given.kills or (QUICK_KILLS if given.quick else KILLS)
    longest_s = given.minutes * 60.0 if given.minutes else QUICK_S if given.quick else 1e9
    found = run(kills, given.seed, longest_s=longest_s)
    result = _result(found, given.seed)
    print(json.dumps(result["figures"], indent=1))
    for line in found.violations:
        print(line)
    if given.json:
        common.write(given.json, result)
    raise SystemExit(int(bool(found.violations)))


def run(kills: int, seed: int, *, longest_s: float = 1e9) -> Found:
    """One drill in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="reprune-kills-") as folder:
        os.environ[WORK_VARIABLE] = str(Path(folder) / "work")
        order = Order(kills=kills, seed=seed, mlflow=True, poll_s=POLL_S, longest_s=longest_s)
        return drill(Path(folder), order)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, help="how many")
    parser.add_argument("--minutes", type=float, help="no more kills after this time")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the moments and of what runs come to"
    )


def _result(found: Found, seed: int) -> dict[str, Any]:
    figures = {
        "kills": found.kills,
        "versions": found.versions,
        "runs": found.runs,
        "violations": len(found.violations),
        "settle_polls": found.settle_polls,
    }
    rows = [{"part": "ends", "state": name, "versions": n} for name, n in found.states.items()]
    return common.result(figures, rows, seed=seed, violated=found.violations[:100])


def _verify() -> int:
    """Ten kills more: as many violations as are committed; 1 if not."""
    wanted = common.committed(NAME)["figures"]["violations"]
    found = run(10, 1)
    print(f"violations: {len(found.violations)}, committed {wanted}")
    return int(len(found.violations) != wanted)


if __name__ == "__main__":
    main()
