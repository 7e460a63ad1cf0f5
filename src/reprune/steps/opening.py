"""The dense model as the compressing steps look at it: opened, with its groups of channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reprune.core.artifacts import ModelBundle
from reprune.core.errors import CompressionError
from reprune.core.params import PlanParams
from reprune.core.store import Artifact

if TYPE_CHECKING:
    from torch import nn

    from reprune.compress.bundle import LoadedModel
    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group
    from reprune.task.seal import Sealed


@dataclass(frozen=True, kw_only=True)
class Dense:
    """`module` in eval mode, its attentions with one layer a projection; `groups` in the order of its
    layers and `blocks` that can be removed, at least one of either; `skipped` maps layers that are in
    no group to the reason, `kept_blocks` blocks that cannot be removed.
    """

    task: Sealed
    module: nn.Module
    groups: tuple[Group, ...]
    blocks: tuple[Block, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    kept_blocks: Mapping[str, str] = field(default_factory=dict)


def open_for_masks(
    dense: Artifact[ModelBundle], *, seed: int, threads: int, say: Callable[[str], None]
) -> Dense:
    """As `open_dense`, for a model whose weights are masked: it need not have groups of channels."""
    from reprune.compress.structure.groups import survey

    loaded = _load(dense, seed=seed, threads=threads)
    groups: tuple[Group, ...] = ()
    try:
        found = survey(
            loaded.module, loaded.task.example_inputs(2), getattr(loaded.task, "keep", ())
        )
        groups = found.groups
    except CompressionError as error:
        say(f"its channels cannot be grouped, which masks do not need: {error.what}")
    return Dense(task=loaded.task, module=loaded.module, groups=groups)


def open_dense(
    dense: Artifact[ModelBundle], *, seed: int, threads: int, head_dimensions: bool = False
) -> Dense:
    """The bundle's model, groups and blocks, at least one, with torch set to `threads` and seeded. With
    `head_dimensions` the dimensions of attention heads are groups beside whole heads.

    Raises CompressionError for a model that was cut already or in which nothing can be cut, and
    whatever loading it raises.
    """
    import torch

    from reprune.compress.structure.blocks import find_blocks
    from reprune.compress.structure.groups import survey
    from reprune.compress.structure.separate import separate
    from reprune.steps.surveyed import Found, surveyed

    loaded = _load(dense, seed=seed, threads=threads)
    task = loaded.task
    keep = getattr(task, "keep", ())
    module = separate(loaded.module)

    def find() -> Found:
        inputs, heads = task.example_inputs(2), getattr(task, "heads", None)
        return Found(
            channels=survey(module, inputs, keep, heads=heads, dimensions=head_dimensions),
            blocks=find_blocks(
                module,
                inputs,
                keep,
                getattr(task, "blocks", None),
                sought=getattr(task, "blocks_sought", ()),
                members=tuple(getattr(task, "members", None) or ()),
            ),
        )

    both = surveyed(dense, find, head_dimensions=head_dimensions)
    found, removable = both.channels, both.blocks
    torch.manual_seed(seed)  # whether it was found or read, what comes after draws the same
    if not found.groups and not removable.blocks:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in found.skipped.items())
        raise CompressionError(
            f"nothing in this model can be cut ({reasons or 'it has no layers to cut'})",
            where=str(dense.path),
            fix="shorten the task's `keep`, or change the layers that are named here",
        )
    return Dense(
        task=task,
        module=module,
        groups=found.groups,
        blocks=removable.blocks,
        skipped=found.skipped,
        kept_blocks=removable.skipped,
    )


def refuse_no_choice(opened: Dense, params: PlanParams) -> None:
    """Raises CompressionError where only blocks can go and the params leave them."""
    if not opened.groups and not params.depth:
        raise CompressionError(
            "no layer of this model can be made narrower, only whole blocks can go",
            where="params.yaml (plan.depth)",
            fix="set plan.depth to true",
        )


def groups_again(
    task: Sealed, module: nn.Module, *, head_dimensions: bool = False
) -> tuple[Group, ...]:
    """The groups of a model of the task that was cut already, by the names that they always had."""
    from reprune.compress.structure.groups import survey

    inputs, keep = task.example_inputs(2), getattr(task, "keep", ())
    return survey(module, inputs, keep, dimensions=head_dimensions).groups


def _load(dense: Artifact[ModelBundle], *, seed: int, threads: int) -> LoadedModel:
    # torch is imported here: the command line loads the steps' modules for help.
    import torch

    from reprune.compress.bundle import load_bundle

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    loaded = load_bundle(dense)
    if loaded.architecture is not None or loaded.masks:
        raise CompressionError(
            "the dense model is itself a pruned one", where=str(dense.path), fix="cut its original"
        )
    return loaded
