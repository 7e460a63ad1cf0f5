"""Starting the processes that train together on this machine, and what becomes of them."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from reprune.core import errors
from reprune.core.documents import canonical
from reprune.core.errors import InputError, RepruneError
from reprune.core.params import DistillParams
from reprune.core.store import write_bytes

EXIT_SAID_WHY = 3
MODULE = "reprune.compress.training.worker"
ORDER = "order.json"
# Set to 1 by who gives a process a GPU: without CUDA it then ends, instead of training on the CPU unseen.
NEEDS_GPU = "REPRUNE_NEEDS_GPU"
# Longer than any process keeps the others waiting: a look at one batch, or a checkpoint being written.
HANG_SECONDS = 1800.0
# How long the others may take to say why, or to fall over, once one has ended badly.
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.05


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each process is told. `student` and `teacher` are ModelBundles, `work` is where checkpoints
    lie: all processes see these paths. `meeting` is a file that must not be there yet, by which processes
    of one machine find each other (empty: as torchrun says); `watched`: the process ends when its
    stdin does. A process that hears nothing of the others for `hang_seconds` gives up. `second` is the
    ModelBundle of a second teacher, empty for none.
    """

    student: str
    teacher: str
    params: DistillParams
    seed: int
    threads: int
    work: str
    meeting: str = ""
    watched: bool = False
    hang_seconds: float = HANG_SECONDS
    second: str = ""
    second_weight: float = 0.0


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """An error as a process leaves it behind."""

    kind: str
    what: str
    where: str
    fix: str


def why_file(work: Path, rank: int) -> Path:
    return work / f"worker-{rank}.error.json"


def write_order(order: Order) -> Path:
    """The order's file in its work folder; what earlier processes said there is gone."""
    work = Path(order.work)
    work.mkdir(parents=True, exist_ok=True)
    for left in work.glob("worker-*"):
        left.unlink()
    write_bytes(work / ORDER, canonical(order))
    return work / ORDER


def said_why(work: Path) -> RepruneError | None:
    """The error that one of the processes left in `work`, in its own class."""
    for path in sorted(work.glob("worker-*.error.json")):
        why = msgspec.json.decode(path.read_bytes(), type=Why)
        kind = getattr(errors, why.kind, RepruneError)
        if kind is errors.PromotionRefused:
            kind = InputError
        error: RepruneError = kind(why.what, where=why.where, fix=why.fix)
        return error
    return None


def train_here(order: Order, say: Callable[[str], None]) -> None:
    """Runs all processes of the order on this machine; afterwards the training in `work` has ended.

    Raises what the first process that failed said, RepruneError where one crashed or was killed. When it
    returns or raises, none of them runs any more; if this process dies, they end too.
    """
    work = Path(order.work)
    meeting = work / f"worker-meeting-{os.getpid()}-{time.monotonic_ns()}"
    path = write_order(msgspec.structs.replace(order, meeting=str(meeting), watched=True))
    count = order.params.processes
    # -P: a file in the user's folder must not stand in for a module of ours.
    command = [sys.executable, "-P", "-m", MODULE, str(path)]
    workers: list[_Worker] = []
    try:
        for rank in range(count):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
            workers.append(_started(command, names, order, rank))
        listener = threading.Thread(target=_listen, args=(workers[0].process.stdout, say))
        listener.start()
        _wait(workers, work)
        listener.join()
    finally:
        for worker in workers:
            worker.end()
        meeting.unlink(missing_ok=True)


def train_by(command: str, order: Order, say: Callable[[str], None]) -> None:
    """Runs the order's processes by `command`, with {args} in it (as of `python`) and {processes}.

    Raises InputError for a command that cannot be started, what a process said, or RepruneError.
    """
    path = write_order(order)
    arguments = shlex.join(["-m", MODULE, str(path)])
    try:
        words = shlex.split(command.format(args=arguments, processes=order.params.processes))
        log = Path(order.work) / "worker-launcher.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                words,
                env=os.environ | {"OMP_NUM_THREADS": str(order.threads)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
            )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"cannot be started: {error}",
            where="params.yaml (distill.launcher)",
            fix="give a command such as: torchrun --nproc-per-node {processes} {args}",
        ) from error
    worker = _Worker(process=process, log=log, rank=0)
    try:
        _listen(process.stdout, say)
        _wait([worker], Path(order.work))
    finally:
        worker.end()


def train_elsewhere(order: Order, run: Callable[[Sequence[str], int], None]) -> None:
    """Has `run` start the order's processes on other machines, which see its paths.

    Raises what a process said, else what `run` raises.
    """
    path = write_order(order)
    try:
        run(["-m", MODULE, str(path)], order.params.processes)
    except RepruneError as error:
        why = said_why(Path(order.work))
        if why is not None:
            raise why from error
        raise


@dataclass(frozen=True, kw_only=True)
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path
    rank: int

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def words(self) -> str:
        code = self.process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"process {self.rank} {how}" + (f": {said[-1]}" if said else "")


def _started(command: Sequence[str], names: Mapping[str, int], order: Order, rank: int) -> _Worker:
    log = Path(order.work) / f"worker-{rank}.log"
    environment = os.environ | {name: str(value) for name, value in names.items()}
    environment["OMP_NUM_THREADS"] = str(order.threads)
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if loopback:  # the machine's own name need not resolve where there is no network
        environment.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if rank else subprocess.PIPE,
            stderr=stream,
        )
    return _Worker(process=process, log=log, rank=rank)


def _listen(stream: IO[bytes] | None, say: Callable[[str], None]) -> None:
    for line in stream or ():
        say(line.decode("utf-8", errors="replace").rstrip())


def _wait(workers: Sequence[_Worker], work: Path) -> None:
    """Returns once all have ended well; raises as soon as it is known why one has not."""
    while all(worker.process.poll() in (None, 0) for worker in workers):
        if all(worker.process.poll() == 0 for worker in workers):
            return
        time.sleep(POLL_SECONDS)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(w.process.poll() is None for w in workers):
        if said_why(work) is not None:
            break
        time.sleep(POLL_SECONDS)
    why = said_why(work)
    if why is not None:
        raise why
    failed = [worker for worker in workers if worker.process.poll() not in (None, 0)]
    # One that was killed takes the others' connections with it: it explains them, not they it.
    failed.sort(key=lambda worker: worker.process.returncode >= 0)
    raise RepruneError(
        f"the processes that train together ended: {failed[0].words()}",
        where="distill.processes",
        fix="run the step again, it goes on from its checkpoint; if it happens again, look for memory "
        "or driver errors",
    )
