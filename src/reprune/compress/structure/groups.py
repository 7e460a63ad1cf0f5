"""The groups of channels of a model that can be cut, each one proven by a trial cut; and why others cannot.

Whatever holds a weight of two or more dimensions and is in no group is in `skipped` with a reason, so
that nothing is left out silently.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from reprune.compress.structure.architecture import layout
from reprune.compress.structure.attention import find_attention
from reprune.compress.structure.coupling import Group, Member, couple, trace
from reprune.compress.structure.heads import Offers, offers
from reprune.compress.structure.probe import Probe
from reprune.compress.structure.recurrent import traced_layer
from reprune.compress.structure.refusals import (
    is_one_output_a_group,
    misplaced,
    narrow,
    not_cuttable,
    places,
    refusal,
    refusals,
    refused_member,
)
from reprune.core.errors import CompressionError

__all__ = ["Group", "Member", "Survey", "find_groups", "survey"]

# The layers that make channels of their own by computing them; an embedding looks them up.
MAKERS = (_ConvNd, nn.Linear, nn.RNNBase, nn.RNNCellBase)
ROOTS = (*MAKERS, nn.Embedding)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """`groups` in the order of the model's layers; `skipped` maps what is not cut to a reason: layers and
    other modules with weights, and by their own names the weights of the model itself.

    `frozen` names the layers of the groups that hold parameters which do not train: they are cut like
    any others, because slicing needs no gradient, but training will not mend them.
    """

    groups: tuple[Group, ...]
    skipped: Mapping[str, str]
    frozen: tuple[str, ...] = ()


def find_groups(
    module: nn.Module, example_inputs: tuple[Tensor, ...], keep: Collection[str]
) -> tuple[Group, ...]:
    """The groups of `survey`, without the reasons for what was left out."""
    return survey(module, example_inputs, keep).groups


def survey(
    module: nn.Module,
    example_inputs: tuple[Tensor, ...],
    keep: Collection[str],
    *,
    heads: Mapping[str, int] | None = None,
    dimensions: bool = False,
) -> Survey:
    """Every group whose cut was tried on a copy and left the function that masking leaves.

    `keep` names layers (or containers of layers) whose outputs are never cut. `module` is not
    changed. A layer is left out, with a reason, where its channels reach the model's output, or
    where they meet something whose result would change: LayerNorm, parameters of no layer, shared
    layers, parametrised weights, or code in forward() that knows the width (padded shortcuts, fixed
    splits, views into heads, initial states of a fixed size).

    Attention gives groups of whole heads (unit "head"), and with `dimensions` of the same dimension
    of all heads; never single channels of its projections. `heads` is the task's declaration
    (heads.offers says what it does). nn.MultiheadAttention must be written with one layer a
    projection first (separate.separate): as it is, it is left out.

    Raises CompressionError for a model that cannot be traced, TaskError for an unknown name in `keep`.
    """
    inputs = tuple(example_inputs)
    graph = trace(module, inputs)
    refused = refusals(module, inputs, keep)
    probe = Probe(module, inputs)
    attended = offers(
        module,
        find_attention(copy.deepcopy(probe.module), probe.inputs),
        lambda group: refused_member(group, refused) or probe.fault(group),
        declared=heads or {},
        dimensions=dimensions,
    )
    return _add_traced(module, graph, refused, probe, attended)


def _add_traced(
    module: nn.Module,
    graph: Any,
    refused: Mapping[tuple[str, str], str],
    probe: Probe,
    attended: Offers,
) -> Survey:
    """The survey of `attended` and of every other layer's channels, as the graph couples them."""
    groups = list(attended.groups)
    skipped = dict(attended.skipped)
    claimed = {place for group in groups for place in places(group)}
    grouped = {maker for group in groups for maker in _makers(group, module)}
    for name, layer in _roots(module):
        if name in grouped or name in skipped:
            continue
        if layout(layer, "out") is None or is_one_output_a_group(layer):
            skipped[name] = not_cuttable(name, layer)
            continue
        if traced_layer(graph.model, name) not in graph.module2node:
            skipped[name] = "forward() does not reach it, or calls it inside a layer of its own"
            continue
        try:
            found = couple(graph, name)
        except CompressionError as error:
            skipped[name] = error.what
            continue
        whole = refusal(found, refused) or misplaced(found, module, claimed)
        for part in _parts(found.group):
            reason = whole or narrow(part) or probe.fault(part)
            makers = _makers(part, module)
            if reason:
                skipped |= {maker: reason for maker in makers if maker not in grouped}
                continue
            claimed |= places(part)
            grouped.update(makers)
            groups.append(part)
    for name in grouped:
        skipped.pop(name, None)  # another part of its channels could not be cut
    skipped |= {name: hint for name, hint in attended.hints.items() if name in skipped}
    skipped |= _others(module, groups)
    order = {name: number for number, (name, _) in enumerate(module.named_modules())}
    groups.sort(key=lambda group: order.get(group.name, order[group.members[0].module]))
    return Survey(groups=tuple(groups), skipped=skipped, frozen=frozen_layers(module, groups))


def frozen_layers(module: nn.Module, groups: Collection[Group]) -> tuple[str, ...]:
    """The layers of the groups with a parameter that does not require a gradient, in order."""
    names = dict.fromkeys(member.module for group in groups for member in group.members)
    return tuple(
        name
        for name in names
        if any(not p.requires_grad for p in module.get_submodule(name).parameters(recurse=False))
    )


def _roots(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that a group can start from: embeddings last, for a group is named after a layer that
    computes where it has one.
    """
    found = [pair for pair in module.named_modules() if isinstance(pair[1], ROOTS)]
    return sorted(found, key=lambda pair: isinstance(pair[1], nn.Embedding))


def _others(module: nn.Module, groups: Collection[Group]) -> dict[str, str]:
    """What holds weights of two or more dimensions, starts no group and is in none, to a reason."""
    cut = {member.module for group in groups for member in group.members}
    found: dict[str, str] = {}
    for name, layer in module.named_modules():
        weights = [key for key, p in layer.named_parameters(recurse=False) if p.dim() > 1]
        # What computes a parametrised weight belongs to its layer.
        if isinstance(layer, (*ROOTS, ParametrizationList)) or name in cut or not weights:
            continue
        if type(layer).__module__.startswith("torch.nn."):
            found[name] = not_cuttable(name, layer)
        else:
            reason = f"what a {type(layer).__name__} does with its own {{}} is not known"
            found |= (
                {name: reason.format(", ".join(weights))}
                if name
                else {weight: reason.format(weight) for weight in weights}
            )
    return found


def _parts(group: Group) -> tuple[Group, ...]:
    """The group as groups whose channels all lie on the same axes, so that no layer is cut to nothing
    as long as one channel of each is kept. They differ where layers of different widths meet: a sum
    with a concatenation. A part is named after its first layer that names no other.
    """
    parts: dict[tuple[int, ...], list[int]] = {}
    for channel in range(group.width):
        on = tuple(n for n, member in enumerate(group.members) if member.positions[channel])
        parts.setdefault(on, []).append(channel)
    if len(parts) == 1:
        return (group,)
    found: list[Group] = []
    for on, channels in parts.items():
        members = tuple(
            replace(member, positions=tuple(member.positions[channel] for channel in channels))
            for number, member in enumerate(group.members)
            if number in on
        )
        used = [part.name for part in found]
        names = [member.module for member in members if member.axis == "out"]
        free = [name for name in names if name not in used]
        name = free[0] if free else f"{group.name} ({len(found) + 1})"
        found.append(Group(name=name, width=len(channels), members=members))
    return tuple(found)


def _makers(group: Group, module: nn.Module) -> tuple[str, ...]:
    """The layers that produce the group's channels: those that compute or look them up."""
    return tuple(
        member.module
        for member in group.members
        if member.axis == "out" and isinstance(module.get_submodule(member.module), ROOTS)
    )
