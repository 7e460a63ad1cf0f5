"""`make demo` as a user meets it: DVC, MLflow on SQLite, three generations, interruptions included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from reprune.core import store
from reprune.core.artifacts import Previous, Verdict
from reprune.steps.gate import confirm

pytestmark = pytest.mark.slow
Quiet = Callable[[], AbstractContextManager[None]]
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


def followed(
    folder: Path, quiet: Quiet, stop: tuple[str, str, signal.Signals] | None = None
) -> tuple[int, str]:
    """Runs the demo, its benchmarks with the machine to themselves; its exit code and what it said.

    With `stop`, a generation, a text and a signal: the whole group gets the signal once the text appears
    within the generation.
    """
    demo = start(folder)
    assert demo.stdout is not None
    seen, reached, stopped = [], False, False
    with ExitStack() as alone:
        for line in demo.stdout:
            seen.append(line)
            if "Running stage 'benchmark'" in line:
                at_rest(demo, lambda: alone.enter_context(quiet()))
            elif "benchmark: artifacts/benchmark" in line:
                at_rest(demo, alone.close)
            reached = reached or (stop is not None and stop[0] in line)
            if stop is not None and reached and not stopped and stop[1] in line:
                os.killpg(demo.pid, stop[2])
                stopped = True
        code = demo.wait()
    demo.stdout.close()
    said = "".join(seen)
    assert stopped == (stop is not None), "the demo ended first:\n" + said[-3000:]
    return code, said


def at_rest(demo: subprocess.Popen[str], act: Callable[[], object]) -> None:
    """Does `act` while the whole group stands still."""
    os.killpg(demo.pid, signal.SIGSTOP)
    try:
        act()
    finally:
        os.killpg(demo.pid, signal.SIGCONT)


@pytest.mark.timeout(1500)
def test_the_demo_survives_interruption_and_blocks_the_third_generation(
    tmp_path: Path, quiet: Quiet
) -> None:
    """Ctrl-C in one generation, SIGKILL in the next; run again, it completes with the three verdicts."""
    code, stopped = followed(
        tmp_path, quiet, ("generation 1 of 3", "sensitivity: 2 of", signal.SIGINT)
    )
    assert code != 0
    assert "goes on from here" in stopped
    code, _ = followed(
        tmp_path, quiet, ("generation 2 of 3", "opening the sealed split", signal.SIGKILL)
    )
    assert code != 0
    code, said = followed(tmp_path, quiet)
    assert code == 0, said[-3000:]
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
    check_the_last(demo)
    again = subprocess.run(
        [sys.executable, "-m", "reprune.doors.demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stderr.count("reusing generation") == 3


def reprune(demo: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reprune.doors.cli", *words],
        cwd=demo,
        capture_output=True,
        text=True,
        check=False,
    )


def check_codes(demo: Path) -> None:
    """`reprune check` carries each verdict's outcome, also judged again from its samples."""
    for generation, code in (("1", 0), ("2", 0), ("3", 3)):
        verdict = f"generations/{generation}/verdict"
        checked = reprune(demo, "check", verdict, "--recompute")
        assert checked.returncode == code, checked.stdout + checked.stderr
    assert "champion" in checked.stdout
    looks = (demo / "reprune.attempts.jsonl").read_text().splitlines()
    # The killed benchmark counts as a look at the sealed data.
    assert len(looks) == 4


def check_the_last(demo: Path) -> None:
    """The blocked generation: judged against the champion, with a history, and promoted by nobody."""
    previous = store.read(demo / "artifacts/previous", Previous).manifest
    assert previous.champion is not None
    assert previous.history
    verdict = store.read(demo / "artifacts/verdict", Verdict)
    assert {rule.rule for rule in verdict.manifest.judgement.rules} >= {
        "latency.vs_parent",
        "latency.vs_champion",
        "accuracy.vs_parent",
        "accuracy.vs_champion",
        "accuracy.floor",
        "size.vs_parent",
    }
    assert confirm(verdict) == verdict.manifest.judgement
    promoted = reprune(demo, "promote", "--json")
    assert promoted.returncode == 3, promoted.stdout + promoted.stderr
    answer = json.loads(promoted.stdout)
    assert not answer["promoted"]
    assert answer["champion_after"] == "2"
    explained = reprune(demo, "explain")
    assert explained.returncode == 0
    assert "accuracy" in explained.stdout
