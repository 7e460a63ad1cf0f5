"""`make demo` as a user meets it: DVC, MLflow on SQLite, three generations, interruptions included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]
# Tests in the background of a shell are started with Ctrl-C ignored, and children inherit that.
HEARS_CTRL_C = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("reprune.doors.demo", run_name="__main__")
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """The demo in a process group of its own, as a shell would start it."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", HEARS_CTRL_C],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def stop_at(folder: Path, generation: str, marker: str, how: signal.Signals) -> str:
    """Runs the demo until `marker` appears within `generation`, then signals the whole group."""
    demo = start(folder)
    assert demo.stdout is not None
    seen, reached = [], False
    for line in demo.stdout:
        seen.append(line)
        reached = reached or generation in line
        if reached and marker in line:
            os.killpg(demo.pid, how)
            break
    else:
        pytest.fail("the demo ended first:\n" + "".join(seen[-40:]))
    seen.append(demo.stdout.read())
    demo.wait()
    demo.stdout.close()
    assert demo.returncode != 0
    return "".join(seen)


@pytest.mark.timeout(1500)
def test_the_demo_survives_interruption_and_blocks_the_third_generation(tmp_path: Path) -> None:
    """Ctrl-C in one generation, SIGKILL in the next; run again, it completes with the three verdicts."""
    stopped = stop_at(tmp_path, "generation 1 of 3", "sensitivity: 2 of", signal.SIGINT)
    assert "goes on from here" in stopped
    stop_at(tmp_path, "generation 2 of 3", "opening the sealed split", signal.SIGKILL)
    finished = subprocess.run(
        [sys.executable, "-m", "reprune.doors.demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = finished.stdout + finished.stderr
    assert finished.returncode == 0, said[-3000:]
    assert "reusing generation 1" in said
    generations = json.loads((tmp_path / ".reprune/demo.json").read_text())["generations"]
    assert [row["outcome"] for row in generations] == ["pass", "pass", "block"]
    assert [row["champion_after"] for row in generations] == ["1", "2", "2"]
    assert [row["version"] for row in generations] == ["1", "2", "3"]
    assert any("accuracy fell" in reason for reason in generations[2]["reasons"])
    assert generations[2]["quality_drop"] > 0.03
    for row in generations:
        assert row["latency_ratio"] < 0.9
        assert (tmp_path / row["report_html"]).stat().st_size > 10_000
        assert (tmp_path / row["report_markdown"]).read_text().startswith("<!-- reprune-report/1")
    demo = tmp_path / ".reprune/demo"
    assert not list(demo.rglob("*.draft"))
    check_codes(demo)
    again = subprocess.run(
        [sys.executable, "-m", "reprune.doors.demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stderr.count("reusing generation") == 3


def check_codes(demo: Path) -> None:
    """`reprune check` carries each verdict's outcome, also judged again from its samples."""
    for generation, code in (("1", 0), ("2", 0), ("3", 3)):
        verdict = f"generations/{generation}/verdict"
        checked = subprocess.run(
            [sys.executable, "-m", "reprune.doors.cli", "check", verdict, "--recompute"],
            cwd=demo,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == code, checked.stdout + checked.stderr
    looks = (demo / "reprune.attempts.jsonl").read_text().splitlines()
    # The killed benchmark counts as a look at the sealed data.
    assert len(looks) == 4
