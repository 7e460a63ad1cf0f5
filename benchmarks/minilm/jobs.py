"""The training half: one job per (arm, seed), several at a time, and one file with a row for each.

A job that is done is not done again: its row is in `<out>/minilm_train.json`, and the dense weights that
others begin with are in `work`. Rows are taken up only where model, data, plan and recipe are the same.
A job that fails leaves a row with its error, and the others go on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import common

RESULT = "minilm_train.json"
DENSE, CONTROL, SELF, STOCK = "dense", "control", "control_recovery", "stock"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a training runs and what it reads. `share` is how much of train is used.

    With `held_out` the test set stays closed: for choosing plans.
    """

    prepared: Path
    plans: Path
    out: Path
    work: Path
    device: str
    share: float = 1.0
    held_out: bool = False


def run_jobs(
    setting: Setting, arms: Sequence[str], seeds: Sequence[int], *, workers: int
) -> dict[str, Any]:
    """Every (arm, seed) that has no row yet; afterwards the result holds one row for each.

    Dense models come first, because all others begin with them.
    """
    setting.out.mkdir(parents=True, exist_ok=True)
    setting.work.mkdir(parents=True, exist_ok=True)
    wanted = [(arm, seed) for arm in arms for seed in seeds]
    done = {
        (row["arm"], row["seed"]): row
        for row in stored_rows(setting.out / RESULT)
        if "error" not in row and row["key"] == job_key(setting, row["arm"])
    }
    for first in (True, False):
        jobs = [job for job in wanted if job not in done and (job[0] == DENSE) is first]
        for row in _rows(setting, jobs, workers):
            done[row["arm"], row["seed"]] = row
            _write(setting, done)
            said = row.get("error") or ", ".join(
                f"{name} {row[name]:.2f}" for name in sorted(row) if name.startswith("accuracy")
            )
            print(f"{row['arm']} seed {row['seed']}: {said} ({row['seconds']:.0f} s)", flush=True)
    return _write(setting, done)


def job_key(setting: Setting, arm: str) -> str:
    """Names all that a row of `arm` depends on besides its seed and this code's version."""
    from benchmarks.minilm.arms import recipe

    names = [arm, recipe(setting.plans, arm), setting.share, setting.held_out]
    source = json.loads((setting.prepared / "source.json").read_text())
    return hashlib.sha256(json.dumps([names, source], sort_keys=True).encode()).hexdigest()[:16]


def _rows(
    setting: Setting, jobs: Sequence[tuple[str, int]], workers: int
) -> Iterable[dict[str, Any]]:
    given = [(setting, arm, seed) for arm, seed in jobs]
    if workers <= 1 or len(jobs) <= 1:
        yield from map(_job, given)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Spawned, not forked: CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(jobs)), initializer=_begin) as pool:
        yield from pool.imap_unordered(_job, given)


def _begin() -> None:
    import torch

    torch.set_num_threads(1)


def _job(given: tuple[Setting, str, int]) -> dict[str, Any]:
    setting, arm, seed = given
    began = time.monotonic()
    row: dict[str, Any] = {"arm": arm, "seed": seed, "key": job_key(setting, arm)}
    row["device"] = device_name(setting.device)
    try:
        from benchmarks.minilm.arms import run_arm

        row |= run_arm(setting, arm, seed)
    except (Exception, SystemExit) as error:  # noqa: BLE001  one failed job must not end the others
        traceback.print_exc(file=sys.stderr)
        row["error"] = f"{type(error).__name__}: {error}"
    return row | {"seconds": round(time.monotonic() - began, 1)}


def stored_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the result `path`, each with the device that it was trained on; none without a file."""
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    # Rows from before they named their device were trained on the file's.
    return [{"device": content.get("device")} | row for row in content["rows"]]


def _write(setting: Setting, done: Mapping[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    rows = [done[job] for job in sorted(done)]
    content = common.result({}, rows, device=device_name(setting.device), versions=versions())
    replace_text(setting.out / RESULT, json.dumps(content, indent=1) + "\n")
    return content


def replace_text(path: Path, text: str) -> None:
    """The file holds all of `text`, or what it held before."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".part") as stream:
        stream.write(text)
    Path(stream.name).replace(path)


def device_name(device: str) -> str:
    if device == "cpu":
        return "cpu"
    import torch

    return str(torch.cuda.get_device_name(device))


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "torch-pruning", "onnxruntime", "onnx")
    return {name: version(name) for name in names}


def failed(rows: Iterable[Mapping[str, Any]], say: Callable[[str], None]) -> bool:
    """Whether any row holds an error; each is said."""
    errors = [row for row in rows if "error" in row]
    for row in errors:
        say(f"{row['arm']} seed {row['seed']}: {row['error']}")
    return bool(errors)
