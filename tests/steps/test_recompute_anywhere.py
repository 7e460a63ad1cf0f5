"""A verdict judged again on another machine: other instructions, threads, language, zone and hashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults import RECORDS, Forged, rebuilt, write_base
from tests.judge.test_same_bits import vector_features

ROOT = Path(__file__).resolve().parents[2]
RULES = {"vs_parent": {"max_drop": 0.05, "max_error_ratio": None}, "floor": 0.5, "slices": {}}


def with_dice(base: Forged) -> Forged:
    """The run with a ratio metric more, so that the judgement rests on the bootstrap too."""
    forged = base.copy()

    def more(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(5)
        whole = rng.integers(300, 900, 450)
        found = dict(tensors)
        for name in sorted(tensors):
            part = np.floor(whole * (0.9 - 0.05 * rng.random(450))).astype(np.int64)
            found[name.replace("correct", "numerator")] = part
            found[name.replace("correct", "denominator")] = whole
        return found

    forged.edit(RECORDS, more)
    recorded = forged.ancestors["benchmarks.0"]["recorded"]
    recorded["columns"] = ["correct", "denominator", "numerator"]
    forged.edit(
        "policy.json",
        lambda policy: {**policy, "quality": {**policy["quality"], "dice": RULES}},
    )
    return forged


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("anywhere")
    assert rebuilt(with_dice(write_base(folder)), folder / "verdict") == "pass"
    return folder / "verdict"


def judged_again(verdict: Path, **environment: str) -> dict[str, Any]:
    """What `reprune check --recompute --json` prints in a process of that environment."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "reprune.doors.cli", "check", str(verdict), "--recompute", "--json"],
        env={**kept, "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["recomputed"] is True
    return {"raw": done.stdout, "rules": [rule["rule"] for rule in found["judgement"]["rules"]]}


ELSEWHERE = {
    "threads": {"OMP_NUM_THREADS": "7", "OPENBLAS_NUM_THREADS": "7", "MKL_NUM_THREADS": "7"},
    "language": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "0"},
    "zone": {"TZ": "Pacific/Kiritimati"},
    "hashes": {"PYTHONHASHSEED": "77"},
    "optimised": {"PYTHONOPTIMIZE": "2"},
    "old processor": {
        "OPENBLAS_CORETYPE": "Nehalem",
        "OMP_NUM_THREADS": "1",
        "NPY_DISABLE_CPU_FEATURES": " ".join(vector_features()),
    },
}


@pytest.mark.slow
def test_judged_again_elsewhere_it_has_the_same_bytes(verdict: Path) -> None:
    """One thing another machine may have otherwise at a time, then all at once."""
    here = judged_again(verdict)
    assert "dice.slices.vs_parent" in here["rules"]
    together = {name: value for each in ELSEWHERE.values() for name, value in each.items()}
    for environment in (ELSEWHERE["old processor"], ELSEWHERE["hashes"], together):
        assert judged_again(verdict, **environment)["raw"] == here["raw"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ELSEWHERE)
def test_judged_again_with_one_thing_otherwise(verdict: Path, what: str) -> None:
    """Each setting alone."""
    assert judged_again(verdict, **ELSEWHERE[what])["raw"] == judged_again(verdict)["raw"]
