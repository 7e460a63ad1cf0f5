"""What was kept of each cut layer, as data, and the one slicing that both surgery and rebuilding use.

A pruned model is its task's factory plus an Architecture: no pickle, and rebuilding is the same code
path as the surgery that made it, so their shapes cannot drift apart.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from reprune.compress.structure.bypass import Bypass, replace_submodule
from reprune.compress.structure.layouts import (
    Axis,
    Layout,
    grouped_layout,
    indices,
    recurrent_layout,
)
from reprune.compress.structure.separate import separate_one
from reprune.core.documents import Document, canonical, decode_json, strict_json
from reprune.core.errors import CheckpointError, CompressionError, DocumentError, SchemaTooNew
from reprune.core.store import write_bytes

__all__ = [
    "Architecture",
    "AttributeChange",
    "Axis",
    "Layout",
    "ModuleCut",
    "Removal",
    "apply",
    "is_depthwise",
    "layout",
    "read_architecture",
    "write_architecture",
]

Index: TypeAlias = Annotated[int, Meta(ge=0)]
SCHEMA = 2
ARCHITECTURE_FILE = "architecture.json"


class ModuleCut(Document, kw_only=True):
    """The layer `module` had `size` positions on `axis`; those at `keep` (ascending) are left, in order."""

    module: str
    axis: Axis
    size: Annotated[int, Meta(ge=1)]
    keep: Annotated[tuple[Index, ...], Meta(min_length=1)]


class Removal(Document, kw_only=True):
    """The block `module` is gone: its first input goes on in its place.

    `returns` is 0 for a block that gave a bare tensor, n for one that gave a tuple of n items.
    """

    module: str
    returns: Annotated[int, Meta(ge=0, le=64)] = 0


class AttributeChange(Document, kw_only=True):
    """A number that forward() reads, such as `num_heads`: it was `before`, and must be `after`."""

    module: str
    attribute: Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*$")]
    before: int
    after: int


class Architecture(Document, kw_only=True):
    """How a model differs from its factory's; at most one cut a layer and axis.

    `separated` names attention modules with packed projections that were written with one layer a
    projection (see structure.separate). Schema 1 has only `cuts`; the schema follows from the content.
    """

    schema: Literal[1, 2] = 1
    cuts: tuple[ModuleCut, ...] = ()
    removed: tuple[Removal, ...] = ()
    attributes: tuple[AttributeChange, ...] = ()
    separated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        newer = bool(self.removed or self.attributes or self.separated)
        msgspec.structs.force_setattr(self, "schema", 2 if newer else 1)

    @property
    def changes(self) -> bool:
        """Whether the model is any other than its factory's."""
        return bool(self.cuts or self.removed or self.attributes or self.separated)


def layout(module: nn.Module, axis: Axis) -> Layout | None:
    """The layout of `axis`, or None for a layer or axis that cannot be sliced.

    Layers that work channel by channel (depthwise convolutions, norms) have only the axis "out".
    See `grouped_layout` and `recurrent_layout` for what the axes of those layers are.
    """
    if isinstance(module, _ConvNd):
        return _conv_layout(module, axis)
    if isinstance(module, nn.RNNBase):
        return recurrent_layout(module, axis)
    if isinstance(module, nn.Linear):
        if axis == "out":
            return Layout(
                tensors={"weight": 0, "bias": 0},
                attributes=("out_features",),
                size=module.out_features,
            )
        return Layout(tensors={"weight": 1}, attributes=("in_features",), size=module.in_features)
    return _per_channel_layout(module) if axis == "out" else None


def is_depthwise(module: nn.Module) -> bool:
    """True for a convolution with one filter a channel and as many outputs as inputs."""
    return (
        isinstance(module, _ConvNd)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def apply(module: nn.Module, architecture: Architecture) -> nn.Module:
    """A deep copy of `module` with everything applied; `module` itself is not changed.

    What is kept has the very bits it had. Raises CompressionError if something does not fit the model.
    """
    result = copy.deepcopy(module)
    for name in architecture.separated:
        separate_one(result, name)
    for change in architecture.attributes:
        _change(result, change)
    for removal in architecture.removed:
        _remove(result, removal)
    layers = dict(result.named_modules())
    seen: set[tuple[str, str]] = set()
    for cut in architecture.cuts:
        where = f"{cut.module} ({cut.axis})"
        if (cut.module, cut.axis) in seen:
            raise CompressionError("is cut twice", where=where)
        seen.add((cut.module, cut.axis))
        if cut.module not in layers:
            raise CompressionError("the model has no such layer", where=where)
        _check(layers[cut.module], cut, where)
        _slice(layers[cut.module], cut)
    return result


def _change(module: nn.Module, change: AttributeChange) -> None:
    where = f"{change.module}.{change.attribute}"
    try:
        owner = module.get_submodule(change.module)
    except AttributeError as error:
        raise CompressionError("the model has no such module", where=where) from error
    found = getattr(owner, change.attribute, None)
    if type(found) is not int or found != change.before:
        raise CompressionError(f"is {found!r}, the cut is for {change.before}", where=where)
    setattr(owner, change.attribute, change.after)


def _remove(module: nn.Module, removal: Removal) -> None:
    try:
        block = module.get_submodule(removal.module)
    except AttributeError as error:
        raise CompressionError("the model has no such block", where=removal.module) from error
    if not removal.module or isinstance(block, Bypass):
        raise CompressionError("cannot be removed", where=removal.module or "the whole model")
    replace_submodule(module, removal.module, Bypass(removal.returns, block))


def write_architecture(path: Path, architecture: Architecture) -> None:
    """Writes the architecture as JSON that a person can read; equal architectures have equal bytes."""
    value = msgspec.to_builtins(architecture)
    for newer in ("removed", "attributes", "separated"):
        if not value[newer]:
            del value[newer]  # so that what was written before stays byte for byte
    write_bytes(path, msgspec.json.format(canonical(value), indent=1) + b"\n")


def read_architecture(path: Path) -> Architecture:
    """The architecture at `path`. Raises CheckpointError, or SchemaTooNew for a later format."""
    name = str(path)
    try:
        raw = path.read_bytes()
        value = strict_json(raw, name=name)
        schema = value.get("schema") if isinstance(value, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise SchemaTooNew(
                f"has schema {schema}, this Reprune reads up to {SCHEMA}",
                where=name,
                fix="upgrade Reprune (pip install -U reprune)",
            )
        found = decode_json(raw, Architecture, name=name)
        if found.schema != schema and schema == 1:
            raise CheckpointError("says schema 1 and holds what only schema 2 has", where=name)
        return found
    except DocumentError as error:
        raise CheckpointError(error.what, where=error.where, fix=error.fix) from error
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=name) from error


def _conv_layout(module: _ConvNd, axis: Axis) -> Layout | None:
    if is_depthwise(module):
        if axis == "in":
            return None
        return Layout(
            tensors={"weight": 0, "bias": 0},
            attributes=("in_channels", "out_channels", "groups"),
            size=module.out_channels,
        )
    if module.groups != 1:
        return grouped_layout(module, axis)
    # A transposed convolution stores its weight as (in, out, ...).
    out_dim = 1 if module.transposed else 0
    if axis == "out":
        return Layout(
            tensors={"weight": out_dim, "bias": 0},
            attributes=("out_channels",),
            size=module.out_channels,
        )
    return Layout(
        tensors={"weight": 1 - out_dim}, attributes=("in_channels",), size=module.in_channels
    )


def _per_channel_layout(module: nn.Module) -> Layout | None:
    norm = {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}
    if isinstance(module, _BatchNorm | _InstanceNorm):
        return Layout(tensors=norm, attributes=("num_features",), size=module.num_features)
    if isinstance(module, nn.GroupNorm):
        return Layout(
            tensors={"weight": 0, "bias": 0},
            attributes=("num_channels",),
            size=module.num_channels,
        )
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return Layout(
            tensors={"weight": 0}, attributes=("num_parameters",), size=module.num_parameters
        )
    if isinstance(module, nn.Embedding):
        return Layout(
            tensors={"weight": 1}, attributes=("embedding_dim",), size=module.embedding_dim
        )
    return None


def _check(module: nn.Module, cut: ModuleCut, where: str) -> None:
    found = layout(module, cut.axis)
    if found is None:
        raise CompressionError(f"a {type(module).__name__} cannot be cut there", where=where)
    if found.size != cut.size:
        raise CompressionError(
            f"has {found.size} positions, the cut is for {cut.size}", where=where
        )
    if list(cut.keep) != sorted(set(cut.keep)) or cut.keep[-1] >= cut.size:
        raise CompressionError(
            f"the kept positions are not ascending numbers below {cut.size}", where=where
        )
    if isinstance(module, nn.GroupNorm) and not _keeps_whole_groups(module, cut.keep):
        raise CompressionError(
            "only whole groups of a GroupNorm can be removed: the others' statistics would change",
            where=where,
        )
    if isinstance(module, _ConvNd) and cut.axis == "out" and not _keeps_evenly(module, cut.keep):
        raise CompressionError(
            f"each of the convolution's {module.groups} groups must keep the same number of outputs",
            where=where,
        )


def _keeps_whole_groups(module: nn.GroupNorm, keep: tuple[int, ...]) -> bool:
    size = module.num_channels // module.num_groups
    groups = {index // size for index in keep}
    return len(keep) == len(groups) * size


def _keeps_evenly(module: _ConvNd, keep: tuple[int, ...]) -> bool:
    if module.groups == 1 or is_depthwise(module):
        return True
    size = module.out_channels // module.groups
    left = [sum(index // size == group for index in keep) for group in range(module.groups)]
    return left[0] > 0 and len(set(left)) == 1


def _slice(module: nn.Module, cut: ModuleCut) -> None:
    found = layout(module, cut.axis)
    if found is None:  # _check refused it
        return
    for span in found.spans:
        tensor: Tensor | None = getattr(module, span.tensor, None)
        if tensor is None:
            continue
        places = indices(span, found.size, cut.keep).to(tensor.device)
        kept = torch.index_select(tensor.detach(), span.dim, places)
        if isinstance(tensor, nn.Parameter):
            setattr(module, span.tensor, nn.Parameter(kept, requires_grad=tensor.requires_grad))
        else:
            setattr(module, span.tensor, kept)
    if isinstance(module, nn.GroupNorm):
        module.num_groups = len(cut.keep) // (module.num_channels // module.num_groups)
    for attribute in found.attributes:
        setattr(module, attribute, len(cut.keep) * found.per_position)
