"""Many jobs over worker processes: needs, failures, and what a second run does."""

import os
from pathlib import Path

import pytest

from benchmarks.jobs import Job, Pack, read_job, run_jobs, unpack

# Each worker is a fresh process that loads torch.
slow = pytest.mark.slow


def work(given, folder: Path):
    if given.get("dies"):
        os._exit(7)
    if given.get("fails"):
        raise ValueError("this one cannot be done")
    before = read_job(folder, given["after"])["value"] if "after" in given else 0
    return {"value": before + 1}


@slow
def test_what_is_needed_is_done_before_and_one_failure_stops_only_its_own(tmp_path):
    jobs = [
        Job(name="late", given={"after": "early"}, needs=("early",)),
        Job(name="early", given={}),
        Job(name="bad", given={"fails": True}),
        Job(name="dead", given={"dies": True}),
        Job(name="never", given={}, needs=("bad",)),
    ]
    said = []
    pack = Pack(path=tmp_path / "home" / "all.zip")
    outcome = run_jobs(jobs, work, tmp_path, workers=2, say=said.append, pack=pack)
    unpack(pack.path, tmp_path / "elsewhere")
    assert read_job(tmp_path / "elsewhere", "late") == {"value": 2}
    assert sorted(outcome.done) == ["early", "late"]
    assert sorted(outcome.failed) == ["bad", "dead"]
    assert outcome.left == ["never"]
    assert read_job(tmp_path, "late") == {"value": 2}
    assert "this one cannot be done" in (tmp_path / "bad.error.txt").read_text()
    assert "exit code 7" in (tmp_path / "dead.error.txt").read_text()


@slow
def test_what_is_done_is_not_done_again(tmp_path):
    (tmp_path / "early.json").write_text('{"value": 41}')
    jobs = [Job(name="early", given={"fails": True}), Job(name="late", given={"after": "early"})]
    outcome = run_jobs(jobs, work, tmp_path, workers=1, say=lambda _: None)
    assert sorted(outcome.done) == ["early", "late"]
    assert read_job(tmp_path, "late") == {"value": 42}


@slow
def test_after_the_time_is_up_nothing_begins(tmp_path):
    outcome = run_jobs(
        [Job(name="one", given={})], work, tmp_path, workers=1, stop_after=-1.0, say=lambda _: None
    )
    assert outcome.left == ["one"]


def test_a_pack_brings_home_what_it_names_and_replaces_nothing(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    (there / "a.json").write_text("1")
    (there / "b.json").write_text("2")
    (there / "weights.safetensors").write_text("many")
    (here / "b.json").write_text("3")
    pack = Pack(path=tmp_path / "pack.zip")
    pack.write(there)
    unpack(pack.path, here)
    assert {path.name: path.read_text() for path in here.iterdir()} == {
        "a.json": "1",
        "b.json": "3",
    }


@slow
def test_a_need_of_an_earlier_run_counts(tmp_path):
    (tmp_path / "early.json").write_text('{"value": 41}')
    outcome = run_jobs(
        [Job(name="late", given={"after": "early"}, needs=("early",))],
        work,
        tmp_path,
        workers=1,
        say=lambda _: None,
    )
    assert outcome.done == ["late"]
