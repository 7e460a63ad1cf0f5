"""Many small jobs over a few worker processes: each job leaves one JSON file, and is skipped if it has.

A run that is cut off loses only the jobs that were in progress; started again, it goes on. A job that
fails is written down with its error (`<name>.error.txt`) and the others go on. Each file keeps what the job
was given; a folder that holds a job of the same name which was given something else is refused.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
import traceback
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmarks.kept import GIVEN, other, plain, without_given
from reprune.core.memory import keep_freed
from reprune.core.store import write_bytes


@dataclass(frozen=True, kw_only=True)
class Job:
    """`name` is its file's name without `.json`; `needs` names jobs that must be done before; `given` is
    what `work` gets, plain values only: all that its result depends on, and nothing that it does not read,
    or else a config with one point more would refuse all that was done before.
    """

    name: str
    given: Mapping[str, Any]
    needs: tuple[str, ...] = ()


# What a worker runs for each job: given and the folder in, the JSON's content out. A function of a
# module, so that a fresh process can import it.
Work = Callable[[Mapping[str, Any], Path], dict[str, Any]]


@dataclass(kw_only=True)
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None
    began: float = 0.0


@dataclass(kw_only=True)
class Outcome:
    """Names of jobs: done (now or before), failed, and not begun because of time or of a failed need."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Pack:
    """One file that holds what fits `patterns` of the jobs' folder, for where only few files can be brought
    home; written again as each job ends.
    """

    path: Path
    patterns: tuple[str, ...] = ("*.json", "*.error.txt")

    def write(self, folder: Path) -> None:
        names = sorted({path for pattern in self.patterns for path in folder.glob(pattern)})
        aside = self.path.with_suffix(".part")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in names:
                archive.write(path, path.name)
        aside.replace(self.path)


def unpack(path: Path, folder: Path) -> None:
    """Lays what a pack holds into the jobs' folder, without replacing what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            there = folder / Path(name).name
            if not there.exists():
                write_bytes(there, archive.read(name))


def run_jobs(  # noqa: PLR0913  what, how, where, and who watches
    jobs: Sequence[Job],
    work: Work,
    folder: Path,
    *,
    workers: int,
    stop_after: float | None = None,
    pack: Pack | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Runs what is not done yet, in the given order as far as needs allow, `workers` at a time.

    After `stop_after` seconds no further job begins; those in progress end. Each worker is a fresh
    process with one thread, and is replaced if it dies. Exits before any work where `refuse_others` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_others(jobs, folder)
    outcome = Outcome(done=[job.name for job in jobs if is_done(folder, job.name)])
    waiting = [job for job in jobs if job.name not in outcome.done]
    say(f"{len(outcome.done)} of {len(jobs)} jobs are done already, {workers} workers")
    began = time.monotonic()
    crew = [_hire(work, folder) for _ in range(min(workers, len(waiting)))]
    try:
        while True:
            late = stop_after is not None and time.monotonic() - began > stop_after
            if not late:
                _hand_out(crew, waiting, folder)
            busy = [worker for worker in crew if worker.job is not None]
            if not busy:
                break
            ready = wait([worker.pipe for worker in busy], timeout=5.0)
            for worker in [w for w in busy if w.pipe in ready]:
                _take_in(worker, folder, outcome, began, say)
            if ready and pack is not None:
                pack.write(folder)
            crew = [
                w if w.process.is_alive() or w.job is not None else _hire(work, folder)
                for w in crew
            ]
    finally:
        _dismiss(crew)
    outcome.left = [job.name for job in waiting]
    say(
        f"{len(outcome.done)} done, {len(outcome.failed)} failed, {len(outcome.left)} left, "
        f"{time.monotonic() - began:.0f} s"
    )
    return outcome


def is_done(folder: Path, name: str) -> bool:
    return _file(folder, name).is_file()


def refuse_others(jobs: Sequence[Job], folder: Path, *, but: tuple[str, ...] = ()) -> None:
    """Exits, with the reason, if a job's file is of another `given`, keys in `but` aside, or does not say."""
    held = ((job, _content(folder, job.name)) for job in jobs)
    told = [other(_file(folder, job.name), one, job.given, but) for job, one in held if one]
    if wrong := [words for words in told if words]:
        more = f" (so it is with {len(wrong)} of {len(told)} jobs there)" if wrong[1:] else ""
        raise SystemExit(f"{wrong[0]}{more}")


def adopt(jobs: Sequence[Job], folder: Path) -> int:
    """Writes into each job's file that does not say it what the job is given now, and returns how many these
    were. Only for who knows that they were made so: nothing is checked.
    """
    count = 0
    for job in jobs:
        found = _content(folder, job.name)
        if found is not None and GIVEN not in found:
            _write(folder, job.name, found, job.given)
            count += 1
    return count


def work_folder(folder: Path, name: str) -> Path:
    """Where a job keeps what it needs to go on after a kill; gone when it is done."""
    return folder / "work" / name


def read_job(folder: Path, name: str) -> dict[str, Any] | None:
    """What the job left, without what it was given, or None."""
    found = _content(folder, name)
    return None if found is None else without_given(found)


def read_jobs(
    jobs: Sequence[Job], folder: Path, *, but: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """What those of the jobs that are done have left. Exits where `refuse_others` does."""
    refuse_others(jobs, folder, but=but)
    found = (read_job(folder, job.name) for job in jobs)
    return [row for row in found if row is not None]


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _content(folder: Path, name: str) -> dict[str, Any] | None:
    path = _file(folder, name)
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _write(folder: Path, name: str, content: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    text = json.dumps({**content, GIVEN: plain(given)}, indent=1)
    write_bytes(_file(folder, name), f"{text}\n".encode())


def _hand_out(crew: Sequence[_Worker], waiting: list[Job], folder: Path) -> None:
    for worker in crew:
        if worker.job is not None:
            continue
        # A need that is not among the jobs of this run may have been done by an earlier one.
        job = next(
            (job for job in waiting if all(is_done(folder, need) for need in job.needs)), None
        )
        if job is None:
            return
        waiting.remove(job)
        worker.job, worker.began = job, time.monotonic()
        worker.pipe.send((job.name, dict(job.given)))


def _take_in(
    worker: _Worker, folder: Path, outcome: Outcome, began: float, say: Callable[[str], None]
) -> None:
    job = worker.job
    assert job is not None
    worker.job = None
    try:
        error, note = worker.pipe.recv()
    except EOFError:
        worker.process.join(5)
        error, note = f"the worker died with exit code {worker.process.exitcode}", ""
    now = time.monotonic()
    if error:
        outcome.failed.append(job.name)
        write_bytes(folder / f"{job.name}.error.txt", error.encode())
        say(f"[{now - began:5.0f} s] FAILED {job.name}: {error.strip().splitlines()[-1]}")
    else:
        outcome.done.append(job.name)
        say(f"[{now - began:5.0f} s] {job.name} in {now - worker.began:.1f} s  {note}")


def _hire(work: Work, folder: Path) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work, folder), daemon=True)
    process.start()
    there.close()
    return _Worker(process=process, pipe=here)


def _dismiss(crew: Sequence[_Worker]) -> None:
    for worker in crew:
        if worker.job is not None:
            worker.process.terminate()
        worker.pipe.close()
    for worker in crew:
        worker.process.join(10)


def _serve(pipe: Connection, work: Work, folder: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    keep_freed()  # as the steps that train
    while True:
        try:
            name, given = pipe.recv()
        except EOFError:
            return
        try:
            found = work(given, folder)
            shutil.rmtree(work_folder(folder, name), ignore_errors=True)
            _write(folder, name, found, given)
            pipe.send(("", str(found.get("note", ""))))
        except Exception:  # noqa: BLE001  whatever a job died of, its error is kept and the others go on
            pipe.send((traceback.format_exc(), ""))
