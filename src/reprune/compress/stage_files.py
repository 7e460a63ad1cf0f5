"""A finished stage of a schedule on disk, so that a killed run does not train it again; no pickle."""

from __future__ import annotations

from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from reprune.compress.structure.architecture import Architecture, apply
from reprune.compress.training.lesson import on_cpu
from reprune.core import store
from reprune.core.artifacts import Fact, PruneStage, Surgery
from reprune.core.documents import decode_json
from reprune.core.errors import CompressionError, DocumentError

FACTS = "stage"


class StageFacts(Fact, kw_only=True):
    """`identity` names the run; `architecture` is relative to the model that the run began with.
    `surgery` is this stage's own cut (None: it was too small to cut a channel).
    """

    identity: str
    architecture: Architecture
    surgery: Surgery | None
    stage: PruneStage
    examples: int


def write_stage(path: Path, module: nn.Module, facts: StageFacts) -> None:
    """Afterwards the file holds the whole stage, or what it held before."""
    header = {FACTS: msgspec.json.encode(facts).decode()}
    tensors = {name: tensor.contiguous() for name, tensor in on_cpu(module).items()}
    store.write_bytes(path, save(tensors, metadata=header))


def read_stage(
    path: Path, origin: nn.Module, *, identity: str
) -> tuple[nn.Module, StageFacts] | None:
    """The stage at `path` of the run `identity` that began with `origin`; None if there is none that
    can be read: that costs only time.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(FACTS, "")
            facts = decode_json(header.encode(), StageFacts, name=str(path))
            if facts.identity != identity:
                return None
            module = apply(origin, facts.architecture)
            module.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  no mapping
    except (SafetensorError, DocumentError, CompressionError, OSError, RuntimeError):
        return None
    return module.eval(), facts
