"""The same evidence gives the same bytes on a processor without vector extensions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from reprune.judge.verdict import judge
from tests.building import edit, make_evidence, make_policy, make_quality, with_conditions
from tests.judge.test_statistic_rules import ALL, LESS
from tests.judge.test_statistic_rules import evidence as statistics_evidence

ROOT = Path(__file__).resolve().parents[2]


def vector_features() -> list[str]:
    """What numpy dispatches on this processor and lets us switch off."""
    from numpy._core._multiarray_umath import (
        __cpu_baseline__,
        __cpu_dispatch__,
        __cpu_features__,
    )

    return [
        name
        for name in __cpu_dispatch__
        if __cpu_features__.get(name) and name not in __cpu_baseline__
    ]


def judgement_bytes() -> bytes:
    """A judgement that uses every statistic: looks, tails, guards, Tango, floors, sources, bootstrap."""
    evidence = make_evidence(targets={"cpu": 0.8, "npu": 0.79}, units=60, lost=14, gained=6)
    rng = np.random.default_rng(3)
    whole = rng.integers(500, 900, 1000)
    arms = {}
    for place, (key, records) in enumerate(evidence.quality.arms.items()):
        part = np.floor(whole * (0.9 - 0.004 * place - 0.05 * rng.random(1000)))
        arms[key] = {
            **records.columns,
            "numerator": tuple(int(v) for v in part),
            "denominator": tuple(int(v) for v in whole),
        }
    rules = {"vs_parent": {}, "vs_champion": {"max_error_ratio": None}, "floor": 0.8, "slices": {}}
    ratio = {"max_ratio": 1.1}
    policy = make_policy(
        targets={"cpu": "required", "npu": "advisory"},
        quality={"accuracy": rules, "dice": rules},
        latency={
            "vs_parent": ratio,
            "tail": {"percentile": 95, "units": 60, "vs_parent": ratio, "vs_champion": ratio},
            "objective": {"max_ms": 0.42, "percentile": 90},
        },
        throughput={"vs_parent": {"min_ratio": 1.2}},
    )
    units = with_conditions(
        evidence.targets[0].units,
        lambda u, _a, b: {"waited_ns": 1000 * u.index, "stolen": 0.01 * b, "pulse_ns": 99_000 + b},
    )
    evidence = edit(evidence, "targets.0.units", units)
    whole_bytes = b""
    for sources in (None, tuple(f"s{place % 77}" for place in range(1000))):
        quality = make_quality(arms, slices=evidence.quality.slices, sources=sources)
        whole_bytes += msgspec.json.encode(judge(edit(evidence, "quality", quality), policy))
    return whole_bytes


def statistics_bytes() -> bytes:
    """Judgements of every metric that is no sum over a sum, of 1,000 examples and of 80 sources."""
    rules = {
        name: {"vs_parent": {}, "slices": {}} | ({"floor": 0.3} if name not in LESS else {})
        for name in ALL
    }
    policy = make_policy(quality=rules, latency=None, size=None)
    found = [judge(statistics_evidence(1.0, sources), policy) for sources in (None, 80)]
    return b"".join(map(msgspec.json.encode, found))


def without_vectors(function: str) -> bytes:
    """What a function of this module returns in a process without vector instructions."""
    code = (
        f"import sys; from tests.judge.test_same_bits import {function}, vector_features;"
        "assert not vector_features(), vector_features();"
        f"sys.stdout.buffer.write({function}())"
    )
    environment = {
        **os.environ,
        "NPY_DISABLE_CPU_FEATURES": " ".join(vector_features()),
        "OPENBLAS_CORETYPE": "Nehalem",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout


NO_VECTORS = pytest.mark.skipif(
    not vector_features(), reason="numpy dispatches nothing on this processor"
)


@pytest.mark.slow
@NO_VECTORS
def test_judgement_without_vector_instructions_has_the_same_bytes() -> None:
    """numpy's AVX-512 and AVX2 paths change the last bits of its logarithms and sums, not a verdict."""
    assert without_vectors("judgement_bytes") == judgement_bytes()


@NO_VECTORS
@pytest.mark.slow
def test_statistics_without_vector_instructions_have_the_same_bytes() -> None:
    """Ranks, areas, correlations and errors are sums of whole numbers, then single operations."""
    found = statistics_bytes()
    assert found.count(b'"rule":"auc.vs_parent"') == 2
    assert without_vectors("statistics_bytes") == found
