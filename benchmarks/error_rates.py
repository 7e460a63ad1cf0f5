"""How often the judge errs, and how often it is right, beside the rules that gates use today.

    python -m benchmarks.error_rates [--quick] [--verify] [--json benchmarks/results/error_rates.json]

Latency. A real A/A trace is recorded on this machine (units of one small ONNX model under four names,
fresh sessions in fresh processes, as the benchmark step takes them), and a model of its noise is fitted:
`trace` in the result. Units are simulated with session effects of 0, 0.6 and 1.2 % (standard deviation, of
every session), 2, 3 and 4 arms, and 2 % that an arm leaves to the block after it (the candidate, the
baseline, or the others). The policy demands at most 1.05 of every baseline and the default quality rules;
attempt 1. At the margin a rule passes by chance exactly as often as a walk of fair coins crosses the
looks, whatever the noise, because a unit's order is drawn anew: that row is exact. "first" is one rule;
"all" and "any" are all latency rules of the cell. The cells "beside" show what is not covered: the order
of units as it was (the first block after any arm), and arms that leave 2, 1 and 0 %, which two blocks of
each of three arms cannot cancel where sessions have no effect. The real trace is judged in independent
windows, with other ratios as factors.

Quality. Independent examples by enumeration; sources (whose examples agree by a correlation) by
replications. The truth lies at the margin, or nothing is lost; margins of 1 to 10 points, and the one at
which theory passes an equal candidate 9 times in 10. Where the margin is above the flips, all flips are
losses. Theory is the asymptotic power of the score test at the same level; a ratio to it is taken where it
is at least 0.5 and 20 independent flips are expected. No test of that size can exceed `envelope`.

Every figure is of the worst cell but for those "beside", and where it is simulated at the unfavourable end of
its 95 % limits (Clopper and Pearson's). `year_of_drift_loss_points` is the mean with champion and anchor
rules. The naive figures are the worst cells of each of the usual rules on raw calls, and of "drop <= margin".
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import common
from benchmarks.rates import history, latency, model, naive, quality, sources, trace, whole
from reprune.judge.evidence import Unit, decode_units

NAME = "error_rates"
SEED = 20261126


# Units of the real trace, then replications: of latency cells, of usual rules, of sources, of years, and
# whole verdicts for each number of arms and ratio.
FULL = {
    "units": 360,
    "latency": 20_000,
    "naive": 2_000,
    "sources": 200_000,
    "years": 20_000,
    "whole": 12,
}
QUICK = {
    "units": 90,
    "latency": 4_000,
    "naive": 500,
    "sources": 200_000,
    "years": 2_000,
    "whole": 3,
}

SIDE = [
    latency.Cell(arms=arms, session=session, leaves=leaves, own_first=own)
    for arms in (2, 3, 4)
    for session in latency.SESSIONS[:2]
    for leaves, own in (("candidate", False), ("baseline", False), ("graded", True))
    if arms > 2 or own is False
]


def main() -> None:
    """Runs everything and prints the tables; `--verify` simulates one committed row again."""
    given = common.options(__doc__, _arguments)
    if given.verify:
        raise SystemExit(_verify())
    size = QUICK if given.quick else FULL
    units = _trace(given.trace, size["units"])
    result = measured(units, size)
    print(_tables(result))
    print(json.dumps(result["figures"], indent=1))
    if given.quick:
        print(f"a quick run: fewer replications ({size}) and an eighth of the cells with sources")
    if given.json:
        common.write(given.json, result)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trace", type=Path, help="a recorded trace; recorded there if it is missing"
    )


def _trace(path: Path | None, total: int) -> tuple[Unit, ...]:
    if path is not None and path.exists():
        return decode_units(path.read_bytes())
    units = trace.record(total, say=lambda _: None)
    if path is not None:
        path.write_bytes(msgspec.json.encode(units))
    return units


def measured(units: tuple[Unit, ...], size: Mapping[str, int]) -> dict[str, Any]:
    """The whole result, out of a recorded trace."""
    noise = model.fit(units)
    calls = trace.call_ratios(units)
    cells = _timed(
        "latency cells",
        lambda: latency.simulate(noise, latency.cells(), seed=SEED, replications=size["latency"]),
    )
    side = latency.simulate(noise, SIDE, seed=SEED, replications=min(2000, size["latency"]))
    usual = _timed(
        "usual rules", lambda: naive.rows(noise, calls, seed=SEED, replications=size["naive"])
    )
    exact = _timed("quality, exact", lambda: list(quality.exact_rows()))
    grouped = _timed(
        "quality, sources",
        lambda: list(
            sources.source_rows(
                sources.cells(few=size is QUICK), seed=SEED, replications=size["sources"]
            )
        ),
    )
    years = _timed("drift", lambda: history.rows(seed=SEED, years=size["years"]))
    agreed = _timed("whole verdicts", lambda: whole.compared(noise, seed=SEED, each=size["whole"]))
    retries = latency.retries_row(quality.ATTEMPTS)
    figures = {
        **latency.figures(cells),
        **quality.figures([*exact, *grouped]),
        "year_of_drift_loss_points": years[-1]["loss_mean"],
        **naive.figures(usual),
    }
    both = (figures["false_pass_over_10_attempts"], retries["false_pass_over_10_attempts"])
    figures["false_pass_over_10_attempts"] = max(both)
    rows = [
        *cells,
        latency.exact_row(),
        retries,
        *[{**row, "part": "latency, beside"} for row in side],
        *latency.real_rows(units),
        *usual,
        *naive.real_rows(units),
        *exact,
        *grouped,
        *years,
    ]
    return common.result(
        figures,
        rows,
        trace=model.described(noise, units, _looks_like(noise)),
        judge_agrees=asdict(agreed),
        replications=dict(size),
        seed=SEED,
    )


def _timed(what: str, run: Callable[[], Any]) -> Any:
    begin = time.monotonic()
    found = run()
    print(f"{what}: {time.monotonic() - begin:.0f} s", flush=True)
    return found


def _looks_like(noise: model.Noise) -> model.Floats:
    """log-ratios of two arms of four, without what cells add."""
    _, order, quick = latency.drawn(noise, len(trace.ARMS), SEED, 0, 200)
    means = model.arm_means(quick, order)
    return np.asarray(means[:, :, 0] - means[:, :, 1])


_CELL = "arms session_sd leaves first_block_after rule how ratio replications"
_SAID = "first_passed all_passed first_blocked any_blocked median_units"
_SIZE = "examples flips source_size alike margin false_pass power theory power_ratio envelope"
LATENCY = f"{_CELL} {_SAID} false_pass_over_10_attempts".split()
QUALITY = f"{_SIZE} false_pass_over_10_attempts point_rule_false_pass".split()
DRIFT = ["rule", "replications", "loss_mean", "loss_99_percent", "loss_max", "promoted_mean"]


def _tables(result: Mapping[str, Any]) -> str:
    rows = result["rows"]
    parts = []
    for begin, columns in (("latency", LATENCY), ("quality", QUALITY), ("a year", DRIFT)):
        names = dict.fromkeys(row["part"] for row in rows if row["part"].startswith(begin))
        for name in names:
            of_part = [row for row in rows if row["part"] == name]
            used = [column for column in columns if any(column in row for row in of_part)]
            parts.append(f"{name}\n{common.table(of_part, used)}")
    parts.append(f"trace: {json.dumps(result['trace'])}")
    parts.append(f"whole verdicts: {json.dumps(result['judge_agrees'])}")
    return "\n\n".join(parts)


def _verify() -> int:
    """Simulates one committed latency cell and enumerates one quality cell again; 1 if they differ."""
    old = common.committed(NAME)
    noise = msgspec.convert(
        {name: old["trace"][name] for name in model.Noise.__dataclass_fields__}, model.Noise
    )
    wanted = next(row for row in old["rows"] if row["ratio"] == latency.MARGIN)
    cell = latency.Cell(arms=wanted["arms"], session=wanted["session_sd"], leaves=wanted["leaves"])
    again = latency.simulate(noise, [cell], seed=SEED + 1, replications=2000)
    row = next(one for one in again if one["ratio"] == latency.MARGIN)
    low, high = row["first_passed_limits"]
    exact = next(row for row in old["rows"] if row["part"] == "quality, exact")
    found = next(quality.exact_rows())
    print(
        f"passed at the margin: {row['first_passed']:.4f}, committed {wanted['first_passed']:.4f}"
    )
    print(f"{found['part']}: power {found['power']:.6g}, committed {exact['power']:.6g}")
    apart = wanted["first_passed_limits"][0] > high or wanted["first_passed_limits"][1] < low
    return int(apart or abs(found["power"] - exact["power"]) > 1e-9)


if __name__ == "__main__":
    main()
