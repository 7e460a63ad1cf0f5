"""What every benchmark shares: its command line, its result file, its data, and when a claim may be made."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec
from scipy import stats

from reprune.core.machine import this_machine

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("REPRUNE_DATA", "../shared/data"))
MIN_SEEDS = 5


@dataclass(frozen=True, kw_only=True)
class Options:
    """`quick` ends within 10 minutes on two cores; `verify` re-runs one row of the committed result."""

    quick: bool
    verify: bool
    json: Path | None


def options(
    doc: str | None, extend: Callable[[argparse.ArgumentParser], None] | None = None
) -> Any:
    """The parsed command line: `Options` fields, and whatever `extend` added."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smaller run, within 10 minutes")
    parser.add_argument("--verify", action="store_true", help="run one committed row again")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    if extend is not None:
        extend(parser)
    return parser.parse_args()


@contextmanager
def kept_in(out: Path | None, *, quick: bool) -> Iterator[Path]:
    """The folder of a run: `out`, and for a quick run `quick` in it, as what that leaves is no whole run's.
    Without `out` a scratch folder, which is gone afterwards.
    """
    if out is not None:
        yield out / "quick" if quick else out
        return
    with tempfile.TemporaryDirectory(prefix="reprune-") as scratch:
        yield Path(scratch)


def data(name: str) -> Path:
    """The data file `name`. Exits with what to do where it is missing."""
    path = DATA / name
    if not path.exists():
        raise SystemExit(f"{path} is missing: set REPRUNE_DATA to the folder that holds {name}")
    return path


def result(
    figures: Mapping[str, float], rows: Sequence[Mapping[str, Any]], **more: Any
) -> dict[str, Any]:
    """The JSON form of a result, with the machine, the commit and the date."""
    return {
        "figures": dict(figures),
        "rows": [dict(row) for row in rows],
        "machine": msgspec.to_builtins(this_machine(1)),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **more,
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """JSON has no infinity (the lower limit of one seed): null stands for it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def committed(name: str) -> dict[str, Any]:
    """The committed result of the benchmark `name`."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def commit() -> str:
    """The commit that is checked out; empty where there is no git or no repository."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return found.stdout.strip()


def lower_limit(differences: Sequence[float], *, alpha: float = 0.05) -> float:
    """The one-sided lower limit (1 - alpha) of the mean of paired per-seed differences (Student's t).

    -inf for fewer than two seeds.
    """
    count = len(differences)
    if count < 2:
        return -math.inf
    spread = stdev(differences) / math.sqrt(count)
    return fmean(differences) - float(stats.t.ppf(1.0 - alpha, count - 1)) * spread


def p_value(differences: Sequence[float], margin: float = 0.0) -> float:
    """One-sided Student test that the mean difference is above `margin`; 1 for fewer than two seeds."""
    if len(differences) < 2:
        return 1.0
    spread = stdev(differences) / math.sqrt(len(differences))
    gap = fmean(differences) - margin
    if spread == 0.0:
        return 0.0 if gap > 0.0 else 1.0
    return float(stats.t.sf(gap / spread, len(differences) - 1))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Ours minus the peer's, seed by seed, in points; `margin` is what must be exceeded."""

    words: str
    differences: Sequence[float]
    margin: float = 0.0


def judged(claims: Sequence[Claim], *, alpha: float = 0.05) -> list[dict[str, Any]]:
    """Each claim with its mean, lower limit and whether it holds: Holm over the claims of the table.

    With fewer than 5 seeds it says "not enough seeds" instead.
    """
    order = sorted(
        range(len(claims)), key=lambda i: p_value(claims[i].differences, claims[i].margin)
    )
    open_, holds = True, {}
    for rank, index in enumerate(order):
        claim = claims[index]
        p = p_value(claim.differences, claim.margin)
        open_ = open_ and p <= alpha / (len(claims) - rank)
        holds[index] = open_
    rows = []
    for index, claim in enumerate(claims):
        enough = len(claim.differences) >= MIN_SEEDS
        rows.append(
            {
                "claim": claim.words,
                "seeds": len(claim.differences),
                "mean": fmean(claim.differences) if claim.differences else None,
                "low": lower_limit(claim.differences),
                "margin": claim.margin,
                "verdict": ("holds" if holds[index] else "not shown")
                if enough
                else "not enough seeds",
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A plain text table of some columns of the rows."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [
        max(len(column), *(len(line[index]) for line in cells)) if cells else len(column)
        for index, column in enumerate(columns)
    ]
    lines = ["  ".join(column.rjust(width) for column, width in zip(columns, widths, strict=True))]
    lines += [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
