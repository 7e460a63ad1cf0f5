"""Many jobs over worker processes: needs, failures, and what a second run does."""

import os
from pathlib import Path

import pytest

from benchmarks.jobs import Job, read_job, run_jobs

pytestmark = pytest.mark.slow  # each worker is a fresh process that loads torch


def work(given, folder: Path):
    if given.get("dies"):
        os._exit(7)
    if given.get("fails"):
        raise ValueError("this one cannot be done")
    before = read_job(folder, given["after"])["value"] if "after" in given else 0
    return {"value": before + 1}


def test_what_is_needed_is_done_before_and_one_failure_stops_only_its_own(tmp_path):
    jobs = [
        Job(name="late", given={"after": "early"}, needs=("early",)),
        Job(name="early", given={}),
        Job(name="bad", given={"fails": True}),
        Job(name="dead", given={"dies": True}),
        Job(name="never", given={}, needs=("bad",)),
    ]
    said = []
    outcome = run_jobs(jobs, work, tmp_path, workers=2, say=said.append)
    assert sorted(outcome.done) == ["early", "late"]
    assert sorted(outcome.failed) == ["bad", "dead"]
    assert outcome.left == ["never"]
    assert read_job(tmp_path, "late") == {"value": 2}
    assert "this one cannot be done" in (tmp_path / "bad.error.txt").read_text()
    assert "exit code 7" in (tmp_path / "dead.error.txt").read_text()


def test_what_is_done_is_not_done_again(tmp_path):
    (tmp_path / "early.json").write_text('{"value": 41}')
    jobs = [Job(name="early", given={"fails": True}), Job(name="late", given={"after": "early"})]
    outcome = run_jobs(jobs, work, tmp_path, workers=1, say=lambda _: None)
    assert sorted(outcome.done) == ["early", "late"]
    assert read_job(tmp_path, "late") == {"value": 42}


def test_after_the_time_is_up_nothing_begins(tmp_path):
    outcome = run_jobs(
        [Job(name="one", given={})], work, tmp_path, workers=1, stop_after=-1.0, say=lambda _: None
    )
    assert outcome.left == ["one"]
