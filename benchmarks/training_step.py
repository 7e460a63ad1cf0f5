"""What a training step costs on a CPU: with freed memory kept, and with weights in channels-last.

    python -m benchmarks.training_step [--quick] [--verify] [--json FILE]

Processes of each model take steps in turn: teacher's logits, forward, backward, SGD, on one thread and the
same random batch, so that whatever else the machine does comes to all of them. `freed` gives memory back to
the system, `kept` keeps it (`core.memory.keep_freed`), `last` keeps it and has the weights of convolutions in
channels-last (`distill.memory_format`). A ratio is the median over the turns; `freed` and `kept` must end
with the same weights, bit for bit. Page faults are those of a turn; memory is the largest that a process
ever had.
`--quick` takes 5 turns of the first two models. `--verify` takes those again: no step may be slower by more
than 10 % with memory kept.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cifar_models import MobileNetV2, ResNet20
from benchmarks.common import options, result, table, write
from reprune.compress.training.layout import to_channels_last
from reprune.core.memory import keep_freed

TURNS, QUICK_TURNS, WARMUP = 25, 5, 3
SLOWER_AT_MOST = 1.1
FIGURES = ("time_ratio_kept", "memory_ratio_kept", "time_ratio_last")
WAYS = ("freed", "kept", "last")


@dataclass(frozen=True)
class Model:
    """How it is made, what it is given, its classes, the steps of a turn, and whether it has convolutions."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    classes: int = 10
    steps: int = 1
    convolves: bool = False


class Turn(msgspec.Struct, frozen=True):
    """What a process says of a turn, and of itself up to then; `weights` is their digest."""

    milliseconds: float
    page_faults: int
    peak_bytes: int
    weights: str


def main() -> int:
    given = options(__doc__, lambda parser: parser.add_argument("--step", help=argparse.SUPPRESS))
    if given.step:
        return serve(*given.step.split("-"))
    short = given.quick or given.verify
    names = list(MODELS)[:2] if short else list(MODELS)
    rows = [measured(name, QUICK_TURNS if short else TURNS) for name in names]
    print(table(rows, ("model", *FIGURES, "faults_kept", "faults_freed")))
    figures = {
        f"{figure}_{row['model']}": row[figure]
        for row in rows
        for figure in FIGURES
        if row[figure] is not None
    }
    if given.json:
        write(given.json, result(figures, rows, warmup=WARMUP))
    differ = [row["model"] for row in rows if not row["same_weights"]]
    if differ:
        print(f"not the same weights: {', '.join(differ)}")
    slowest = max(row["time_ratio_kept"] for row in rows)
    return 0 if not differ and slowest <= SLOWER_AT_MOST else 1


def measured(name: str, count: int) -> dict[str, Any]:
    """The row of a model: medians over `count` turns, after WARMUP that count for nothing."""
    ways = WAYS if MODELS[name].convolves else WAYS[:2]
    taken: dict[str, list[Turn]] = {way: [] for way in ways}
    with ExitStack() as stack:
        started = {way: stack.enter_context(_process(name, way)) for way in ways}
        for number in range(WARMUP + count):
            for way in ways if number % 2 else reversed(ways):
                taken[way].append(_turn(started[way]))
        for process in started.values():
            process.communicate()
    end = {way: turns[-1] for way, turns in taken.items()}
    turns = {way: every[WARMUP:] for way, every in taken.items()}
    return {
        "model": name,
        "turns": count,
        "time_ratio_kept": _ratio(turns["kept"], turns["freed"]),
        "time_ratio_last": _ratio(turns["last"], turns["kept"]) if "last" in turns else None,
        "step_ms_freed": statistics.median(turn.milliseconds for turn in turns["freed"])
        / MODELS[name].steps,
        "faults_kept": statistics.median(turn.page_faults for turn in turns["kept"]),
        "faults_freed": statistics.median(turn.page_faults for turn in turns["freed"]),
        "memory_ratio_kept": end["kept"].peak_bytes / end["freed"].peak_bytes,
        "peak_bytes_freed": end["freed"].peak_bytes,
        "same_weights": end["kept"].weights == end["freed"].weights,
    }


def _ratio(ours: list[Turn], others: list[Turn]) -> float:
    pairs = zip(ours, others, strict=True)
    return statistics.median(one.milliseconds / other.milliseconds for one, other in pairs)


def _process(name: str, way: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "benchmarks.training_step", "--step", f"{name}-{way}"]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _turn(process: subprocess.Popen[str]) -> Turn:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return msgspec.json.decode(process.stdout.readline(), type=Turn)


def serve(name: str, way: str) -> int:
    """A turn for each line that comes in, and a line about it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if way != "freed":
        keep_freed()
    model = MODELS[name]
    student, teacher = model.make(), model.make().eval()
    if way == "last":
        to_channels_last(student)
        to_channels_last(teacher)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    batch = model.inputs()
    labels = torch.randint(0, model.classes, (len(batch),))
    for _ in sys.stdin:
        faults, began = _faults(), time.perf_counter()
        for _ in range(model.steps):
            _train(student, teacher, batch, labels, optimizer)
        turn = Turn(
            milliseconds=1e3 * (time.perf_counter() - began),
            page_faults=_faults() - faults,
            peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            weights=_digest(student),
        )
        print(msgspec.json.encode(turn).decode(), flush=True)
    return 0


def _train(
    student: nn.Module,
    teacher: nn.Module,
    batch: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
) -> None:
    with torch.no_grad():
        taught = F.softmax(_logits(teacher, batch), dim=1)
    optimizer.zero_grad()
    said = _logits(student, batch)
    loss = F.cross_entropy(said, labels) + F.cross_entropy(said, taught)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _logits(module: nn.Module, batch: Tensor) -> Tensor:
    said = module(batch)
    return said if isinstance(said, Tensor) else said.logits


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _digest(module: nn.Module) -> str:
    found = hashlib.sha256()
    for value in module.state_dict().values():
        found.update(value.numpy().tobytes())
    return found.hexdigest()


def _lenet() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def _minilm() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
        )
    )


MODELS = {
    "lenet300100": Model(_lenet, lambda: torch.randn(128, 784), steps=100),
    "resnet20": Model(ResNet20, lambda: torch.randn(128, 3, 32, 32), convolves=True),
    "mobilenetv2": Model(MobileNetV2, lambda: torch.randn(128, 3, 32, 32), convolves=True),
    "minilm": Model(_minilm, lambda: torch.randint(0, 30000, (32, 32)), classes=2),
}


if __name__ == "__main__":
    sys.exit(main())
