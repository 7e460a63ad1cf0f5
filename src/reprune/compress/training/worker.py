"""One of the processes that train together: `python -m reprune.compress.training.worker ORDER.json`.

Who starts it says who it is as torchrun does, in RANK, WORLD_SIZE and LOCAL_RANK, and how processes
find each other in MASTER_ADDR and MASTER_PORT, unless the order names a file for that.
"""

from __future__ import annotations

import datetime
import os
import sys
import threading
import traceback
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]  # it is documented

from reprune.compress.bundle import load_bundle
from reprune.compress.masks.shaper import MaskShaper
from reprune.compress.training.crew import Crew, LostTouch
from reprune.compress.training.lesson import Second
from reprune.compress.training.recover import Lesson, recover
from reprune.compress.training.workers import EXIT_SAID_WHY, NEEDS_GPU, Order, Why, why_file
from reprune.core import store
from reprune.core.artifacts import ModelBundle
from reprune.core.documents import canonical
from reprune.core.errors import EXIT_BROKEN, InputError, RepruneError
from reprune.core.memory import keep_freed

# torchrun's names; Accelerate would start a process group of its own on seeing them.
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def main(arguments: list[str]) -> int:
    """Trains as the order says; the state of the finished training then lies in its `work`. The exit code."""
    order = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Order)
    rank = int(os.environ.get("RANK", "0"))
    if order.watched:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _train(order)
    except LostTouch as error:  # another process knows why
        print(error, file=sys.stderr, flush=True)
        return EXIT_BROKEN
    except RepruneError as error:
        why = Why(kind=type(error).__name__, what=error.what, where=error.where, fix=error.fix)
        store.write_bytes(why_file(Path(order.work), rank), canonical(why))
        print(error, file=sys.stderr, flush=True)
        return EXIT_SAID_WHY
    except Exception as error:  # noqa: BLE001  whatever the user's task raises is passed on
        traceback.print_exc()
        words = f"process {rank} ended: {type(error).__name__}: {error}"
        why = Why(kind="RepruneError", what=words, where="distill", fix="")
        store.write_bytes(why_file(Path(order.work), rank), canonical(why))
        return EXIT_BROKEN
    return 0


def _train(order: Order) -> None:
    student = store.read(Path(order.student), ModelBundle)
    teacher = store.read(Path(order.teacher), ModelBundle)
    keep_freed()
    torch.set_num_threads(order.threads)
    torch.manual_seed(order.seed)
    crew = _join(order)
    try:
        pupil, dense = load_bundle(student), load_bundle(teacher)
        lesson = Lesson(
            task=pupil.task,
            student=pupil.module,
            teacher=dense.module,
            teacher_digest=teacher.digest,
            crew=crew,
            second=second_teacher(order),
        )
        held = [MaskShaper(masks=dict(pupil.masks))] if pupil.masks else []
        recover(
            lesson,
            order.params,
            seed=order.seed,
            work=Path(order.work),
            say=_say if crew.first else _quiet,
            shapers=held,
        )
        # Nobody leaves before all are done: the first to go would look like a crash to the others.
        crew.sums([0.0])
    finally:
        dist.destroy_process_group()


def second_teacher(order: Order) -> Second | None:
    """The order's second teacher, rebuilt; None where it names none."""
    if not order.second:
        return None
    bundle = store.read(Path(order.second), ModelBundle)
    return Second(
        module=load_bundle(bundle).module, digest=bundle.digest, weight=order.second_weight
    )


def _join(order: Order) -> Crew:
    """Waits for the other processes. Raises InputError where these are not those that were ordered."""
    rank, world, local = (int(os.environ.pop(name, "-1")) for name in NAMES[:3])
    os.environ.pop(NAMES[3], None)
    if world != order.params.processes or not 0 <= rank < world:
        raise InputError(
            f"is {order.params.processes}, but {max(world, 1)} processes were started",
            where="params.yaml (distill.processes)",
            fix="start as many processes, over all nodes, as it says",
        )
    device = _device(max(local, 0))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=FileStore(order.meeting, world) if order.meeting else None,
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=order.hang_seconds),
    )
    return Crew(rank=rank, world=world, device=device)


def _device(local: int) -> torch.device:
    """The GPU of this process's own, or the CPU where there is none or ACCELERATE_USE_CPU is set.

    Raises InputError where there are fewer GPUs than processes, or none though one was asked for.
    """
    told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "t", "on")
    if told:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if os.environ.get(NEEDS_GPU) == "1":
            raise InputError(
                f"process {local} was given a GPU, and its torch {torch.__version__} finds no CUDA",
                where="parameter 'trainer' (image)",
                fix="name an image whose torch is for CUDA: as the trainer's `image`, or as compress_image",
            )
        return torch.device("cpu")
    if local >= torch.cuda.device_count():
        raise InputError(
            f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}",
            where="params.yaml (distill.processes)",
            fix="use at most one process a GPU, or set ACCELERATE_USE_CPU=true",
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _end_with_parent() -> None:
    """The parent holds the other end of stdin: when it is gone, nobody waits for this process."""
    # Not through sys.stdin: its lock, held by this thread, would abort the interpreter's end.
    while os.read(0, 1):
        pass
    os._exit(EXIT_BROKEN)


def _say(text: str) -> None:
    print(text, flush=True)


def _quiet(_: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
