"""The demo as a benchmark: how long three generations take, and what their verdicts measured.

`python -m benchmarks.demo [--quick] [--verify] [--json FILE]`. The demo is one size, so `--quick` changes
nothing; `--verify` runs it again and compares the outcomes with the committed result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from reprune.core.machine import this_machine

RESULT = Path(__file__).parent / "results" / "demo.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure()
    for row in result["rows"]:
        print(
            f"{row['version']}  {row['outcome']:12}  latency x{row['latency_ratio']:.3f} of dense  "
            f"accuracy lost {100 * row['quality_drop']:5.1f} points  champion {row['champion_after']}"
        )
    print(f"{result['figures']['seconds']:.0f} s on {result['machine']['cpu']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.verify:
        committed = json.loads(RESULT.read_text())["rows"]
        same = [r["outcome"] for r in committed] == [r["outcome"] for r in result["rows"]]
        print("same outcomes as the committed result" if same else "OTHER outcomes than committed")
        return 0 if same else 1
    return 0


def measure() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "reprune.doors.demo"], cwd=folder, check=True)
        seconds = time.monotonic() - began
        rows = json.loads((Path(folder) / ".reprune/demo.json").read_text())["generations"]
    shown = ("version", "outcome", "champion_after", "latency_ratio", "quality_drop")
    figures: dict[str, float] = {"seconds": round(seconds, 1)}
    for number, row in enumerate(rows, start=1):
        figures[f"latency_ratio_{number}"] = row["latency_ratio"]
        figures[f"quality_drop_{number}"] = row["quality_drop"]
    return {
        "figures": figures,
        "rows": [{name: row[name] for name in shown} for row in rows],
        "machine": msgspec.to_builtins(this_machine(1)),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
