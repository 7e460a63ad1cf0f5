"""The one file that goes out in a kit: it needs nothing of ours, and does what we would do."""

from __future__ import annotations

import ast
import sys
import time
from pathlib import Path

import pytest

from reprune.core.machine import this_machine
from reprune.judge.evidence import Unit
from reprune.measure import conditions, device_results, kit_runner, starts, unit
from reprune.measure.calls import HOST_CLOCK
from reprune.measure.device_job import job_digest
from reprune.measure.device_results import read_result, read_result_units
from tests.measure.test_devices import ARMS, CONTROL, make_job


def test_it_imports_nothing_but_the_standard_library_and_numpy() -> None:
    """A runtime's package is imported only when it is the one that the job names."""
    tree = ast.parse(Path(kit_runner.__file__).read_text())
    names = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    strangers = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert strangers == {"numpy", "onnxruntime"}


def test_it_measures_by_our_numbers() -> None:
    """What is a constant here and there is the same."""
    assert (kit_runner.STABLE_WITHIN, kit_runner.STABLE_BLOCKS) == (
        unit.STABLE_WITHIN,
        unit.STABLE_BLOCKS,
    )
    assert kit_runner.START_CALLS == starts.CALLS
    assert (kit_runner.PULSE_PIECES, kit_runner.PULSE_ROUNDS) == (
        conditions.PULSE_PIECES,
        conditions.PULSE_ROUNDS,
    )
    assert kit_runner.HOST_CLOCK == HOST_CLOCK
    assert kit_runner.CONTROL == CONTROL
    assert kit_runner.MAX_OUTPUT_BYTES == device_results.MAX_OUTPUT_BYTES
    plan = {"min_calls": 5, "block_ms": 10.0}
    ours = unit.BlockPlan(block_ms=10.0, min_calls=5, discard_calls=1, warmup_seconds=0.0)
    for call_ns in (0.5, 1e3, 3.3e5, 1e9):
        assert kit_runner.calls_a_block(call_ns, plan) == unit.calls_a_block(call_ns, ours)


@pytest.mark.parametrize("threads", [1, 3])
def test_it_names_the_machine_as_we_do(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Else samples of one machine would be taken for those of two."""
    for identity in ("", "a", "bö"):
        monkeypatch.setenv("REPRUNE_MACHINE_ID", identity)
        ours = this_machine(threads)
        found = kit_runner.machine(threads)
        assert found == {name: getattr(ours, name) for name in ours.__struct_fields__}


@pytest.mark.slow
def test_what_it_brings_back_is_a_result_of_the_job(
    small_and_big: tuple[Path, Path], tmp_path: Path
) -> None:
    """Sealed, whole, and accepted by the same checks as a result over a pipe."""
    job = make_job(tmp_path / "job", small_and_big, units=3)
    told, digest = kit_runner.read_job(tmp_path / "job")
    assert digest == job_digest(job)
    assert told["nonce"] == job.nonce
    out = tmp_path / "out"
    out.mkdir()
    kit_runner.run_all(tmp_path / "job", out)
    result = read_result(out, job, now=time.time())
    units: tuple[Unit, ...] = read_result_units(out, result.units[0])
    assert [each.process for each in units] == [0, 0, 1]
    assert all(set(each.arms) == {*ARMS, CONTROL} for each in units)
    # The larger engine is not the faster one, whoever measures it.
    medians = {arm: sorted(units[0].arms[arm].blocks_ns[0])[2] for arm in ARMS}
    assert medians["candidate"] < medians["dense"]


def test_it_refuses_a_kit_that_was_changed_or_is_old(
    small_and_big: tuple[Path, Path], tmp_path: Path
) -> None:
    make_job(tmp_path / "job", small_and_big, units=0, starts=0)
    (tmp_path / "job/engines/dense.onnx").write_bytes(b"x")
    with pytest.raises(kit_runner.Refused, match=r"dense\.onnx is missing or was changed"):
        kit_runner.read_job(tmp_path / "job")
    make_job(tmp_path / "old", small_and_big, units=0, starts=0, valid_s=-1.0)
    with pytest.raises(kit_runner.Refused, match="expired"):
        kit_runner.read_job(tmp_path / "old")
