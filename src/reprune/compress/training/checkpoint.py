"""The state of a training between two of its steps, in one safetensors file; no pickle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from reprune.core import store
from reprune.core.artifacts import Fact, RecoveryEpoch
from reprune.core.documents import decode_json
from reprune.core.errors import DocumentError, TaskError

PROGRESS = "progress"

Scalar = bool | int | float | str | None


class Running(Fact, kw_only=True):
    """What is done of the epoch that runs: `loss` is the sum over its `examples`, `rate` the last rate."""

    batches: int = 0
    examples: int = 0
    loss: float = 0.0
    rate: float = 0.0


class Progress(Fact, kw_only=True):
    """Everything but tensors. `identity` names the training; `steps` are batches an epoch, `taken`
    optimiser steps; `best_loss` is on `tune` (None: no state that may be kept yet), `best_epoch` 0 is
    the model that training began with; `start_loss` (None: it was not settled, or an older file does not
    say), `unsettled` and `bar` are what says when to stop; `scaler` is the loss scaler's state (fp16 only).
    """

    identity: str
    steps: int
    taken: int
    best_epoch: int
    best_loss: float | None
    examples: int
    bar: float | None = None
    start_loss: float | None = None
    unsettled: int = 0
    epochs: tuple[RecoveryEpoch, ...] = ()
    running: Running = Running()
    scaler: dict[str, int | float] | None = None
    scalars: dict[str, Scalar] = {}


class State(msgspec.Struct, frozen=True, kw_only=True):
    """`model` and `best` are state dicts; `optimizer` is its tensors, named by `split_optimizer`;
    `more` is what else trains or shapes, named `<whose>/<name>`.
    """

    progress: Progress
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    more: dict[str, Tensor]


PARTS = ("model", "best", "optimizer", "more")


def write_state(path: Path, state: State) -> None:
    """Afterwards the file holds the whole state, or what it held before."""
    tensors = {
        f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
        for part in PARTS
        for name, tensor in getattr(state, part).items()
    }
    header = {PROGRESS: msgspec.json.encode(state.progress).decode()}
    store.write_bytes(path, save(tensors, metadata=header))


def read_state(path: Path) -> State | None:
    """The state at `path`; None if there is none that can be read: that costs only time."""
    if not path.is_file():
        return None
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(PROGRESS, "")
            progress = decode_json(header.encode(), Progress, name=str(path))
            for key in file.keys():  # noqa: SIM118  # it is no mapping
                part, _, name = key.partition("/")
                parts[part][name] = file.get_tensor(key)
    except (SafetensorError, DocumentError, OSError, KeyError):
        return None
    return State(progress=progress, **parts)


def split_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Scalar]]:
    """The optimiser's state as tensors and plain values, both named `<parameter>/<key>`.

    The groups' settings are not in it: they are rebuilt with the optimiser. Raises TaskError for an
    optimiser whose state holds anything else.
    """
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Scalar] = {}
    for parameter, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            name = f"{parameter}/{key}"
            if isinstance(value, Tensor):
                tensors[name] = value
            elif value is None or isinstance(value, bool | int | float | str):
                scalars[name] = value
            else:
                raise TaskError(
                    f"the optimiser {type(optimizer).__name__} keeps '{key}' as a "
                    f"{type(value).__name__}, which a checkpoint cannot hold",
                    where="optimizer()",
                    fix="use an optimiser whose state is tensors and numbers (SGD, AdamW)",
                )
    return tensors, scalars


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Scalar]
) -> None:
    """Gives a freshly built optimiser the state that `split_optimizer` took from its like."""
    state: dict[int, dict[str, Any]] = {}
    items: Iterable[tuple[str, Any]] = (*tensors.items(), *scalars.items())
    for name, value in items:
        parameter, _, key = name.partition("/")
        state.setdefault(int(parameter), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def restore_scaler(scaler: torch.amp.GradScaler, saved: Mapping[str, int | float]) -> None:
    """Gives a fresh loss scaler the state that its like had. What it counts are integers again, which
    torch insists on; earlier files hold them as floats.
    """
    own = scaler.state_dict()
    scaler.load_state_dict({key: type(own[key])(value) for key, value in saved.items()})
