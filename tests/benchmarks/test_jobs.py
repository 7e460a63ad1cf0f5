"""Many jobs over worker processes: needs, failures, and what a second run does."""

import json
import os
from pathlib import Path

import pytest

from benchmarks.jobs import Job, Pack, adopt, read_job, read_jobs, run_jobs, unpack

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
    (tmp_path / "early.json").write_text('{"value": 41, "given": {"fails": true}}')
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


def never(given, folder):
    raise AssertionError("no job may begin")


def ran(jobs, folder):
    return run_jobs(jobs, never, folder, workers=1, say=lambda _: None)


def test_a_job_that_was_given_something_else_is_no_job_that_is_done(tmp_path):
    """Of another configuration, device, split or number of examples: told, and nothing is touched."""
    there = {"config": {"recipe": {"epochs": 2}, "seeds": 5}, "device": "cuda", "judge": "eval"}
    text = json.dumps({"value": 1, "given": there})
    (tmp_path / "a-0.json").write_text(text)
    asked = {**there, "config": {"recipe": {"epochs": 1}, "seeds": 5}, "device": "cpu"}
    jobs = [Job(name="a-0", given=asked), Job(name="b-0", given=asked)]
    with pytest.raises(SystemExit) as refused:
        ran(jobs, tmp_path)
    words = str(refused.value)
    assert str(tmp_path / "a-0.json") in words
    assert "config.recipe.epochs is 2 there, 1 is asked" in words
    assert 'device is "cuda" there, "cpu" is asked' in words
    assert "judge" not in words
    assert "another folder" in words
    assert (tmp_path / "a-0.json").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a-0.json"]


def test_a_file_of_before_is_refused_until_somebody_vouches_for_it(tmp_path):
    (tmp_path / "a.json").write_text('{"value": 1}')
    jobs = [Job(name="a", given={"seed": 0, "shape": (1, 2)}), Job(name="b", given={})]
    with pytest.raises(SystemExit, match="does not say what it was made with"):
        ran(jobs, tmp_path)
    assert adopt(jobs, tmp_path) == 1
    assert adopt(jobs, tmp_path) == 0
    assert ran(jobs[:1], tmp_path).done == ["a"]
    assert json.loads((tmp_path / "a.json").read_text())["given"] == {"seed": 0, "shape": [1, 2]}


def test_rows_are_read_without_what_they_were_made_with_and_may_be_of_another_device(tmp_path):
    (tmp_path / "a.json").write_text('{"value": 1, "given": {"device": "cuda", "seed": 0}}')
    job = Job(name="a", given={"device": "cpu", "seed": 0})
    assert read_job(tmp_path, "a") == {"value": 1}
    assert read_jobs([job], tmp_path, but=("device",)) == [{"value": 1}]
    with pytest.raises(SystemExit, match="device"):
        read_jobs([job], tmp_path)
    with pytest.raises(SystemExit, match="seed is 0 there, 1 is asked"):
        read_jobs([Job(name="a", given={"seed": 1})], tmp_path, but=("device",))


@slow
def test_a_job_keeps_what_it_was_given(tmp_path):
    job = Job(name="one", given={"pair": (1, 2)})
    run_jobs([job], work, tmp_path, workers=1, say=lambda _: None)
    kept = json.loads((tmp_path / "one.json").read_text())
    assert kept == {"value": 1, "given": {"pair": [1, 2]}}
    assert ran([job], tmp_path).done == ["one"]
