"""The dense model as the compressing steps look at it: opened, with its groups of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.core.artifacts import ModelBundle
from reprune.core.errors import CompressionError
from reprune.core.store import Artifact

if TYPE_CHECKING:
    from torch import nn

    from reprune.compress.groups import Group
    from reprune.task.seal import Sealed


@dataclass(frozen=True, kw_only=True)
class Dense:
    """`module` in eval mode; `groups` in the order of its layers, at least one."""

    task: Sealed
    module: nn.Module
    groups: tuple[Group, ...]


def open_dense(dense: Artifact[ModelBundle], *, seed: int, threads: int) -> Dense:
    """The bundle's model and groups, with torch set to `threads` and seeded.

    Raises CompressionError for a model that was cut already or in which nothing can be cut, and
    whatever loading it raises.
    """
    # torch is imported here: the command line loads the steps' modules for help.
    import torch

    from reprune.compress.bundle import load_bundle
    from reprune.compress.groups import survey

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    loaded = load_bundle(dense)
    if loaded.architecture is not None:
        raise CompressionError(
            "the dense model is itself a pruned one", where=str(dense.path), fix="cut its original"
        )
    keep = getattr(loaded.task, "keep", ())
    found = survey(loaded.module, loaded.task.example_inputs(2), keep)
    if not found.groups:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in found.skipped.items())
        raise CompressionError(
            f"nothing in this model can be cut ({reasons or 'it has no layers to cut'})",
            where=str(dense.path),
            fix="shorten the task's `keep`, or change the layers that are named here",
        )
    return Dense(task=loaded.task, module=loaded.module, groups=found.groups)


def groups_again(task: Sealed, module: nn.Module) -> tuple[Group, ...]:
    """The groups of a model of the task that was cut already, by the names that they always had."""
    from reprune.compress.groups import survey

    return survey(module, task.example_inputs(2), getattr(task, "keep", ())).groups
