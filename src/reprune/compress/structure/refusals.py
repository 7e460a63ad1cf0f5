"""Why channels cannot be cut: layers that do not slice, shared weights, what the task keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from reprune.compress.structure.architecture import layout
from reprune.compress.structure.copies import plain_copy, run
from reprune.compress.structure.coupling import Coupling, Group
from reprune.core.errors import TaskError, nearest
from reprune.measure.outputs import evaluating


def refusals(
    module: nn.Module, inputs: tuple[Tensor, ...], keep: Collection[str]
) -> dict[tuple[str, str], str]:
    """(layer, axis) to the reason why a group with it is left out."""
    found: dict[tuple[str, str], str] = {}
    for name, reason in _shared(module, inputs).items():
        found |= {(name, axis): f"{name} {reason}" for axis in ("out", "in")}
    for name, layer in module.named_modules():
        for axis in ("out", "in"):
            if parametrize.is_parametrized(layer):
                found[name, axis] = f"the weight of {name} is parametrised"
            elif (
                layout(layer, axis) is None
                or is_one_output_a_group(layer)
                or (
                    isinstance(layer, nn.Embedding) and (layer.sparse or layer.max_norm is not None)
                )
            ):
                found[name, axis] = not_cuttable(name, layer)
    for name in _kept_layers(module, keep):
        found[name, "out"] = f"{name} is named in `keep`"
    return found


def is_one_output_a_group(layer: nn.Module) -> bool:
    """A convolution that torch-pruning takes for depthwise, though its groups have several inputs."""
    return (
        isinstance(layer, _ConvNd)
        and layer.groups == layer.out_channels > 1
        and layer.in_channels != layer.groups
    )


def not_cuttable(name: str, layer: nn.Module) -> str:
    """Why a layer of this kind cannot be cut, in words."""
    kind = type(layer).__name__
    embeds = isinstance(layer, nn.Embedding)
    attends = isinstance(layer, nn.MultiheadAttention)
    known = nn.RNNBase | nn.RNNCellBase | nn.EmbeddingBag
    reasons = (
        (
            isinstance(layer, nn.LayerNorm | nn.RMSNorm),
            "normalises over these channels, so the others would change",
        ),
        (
            isinstance(layer, _ConvNd) and layer.transposed,
            "is a grouped transposed convolution, which is not cut",
        ),
        (isinstance(layer, _ConvNd), "has one output for several inputs in each of its groups"),
        (
            embeds and layer.max_norm is not None,
            "bounds the norm over these channels (max_norm), so the others would change",
        ),
        (embeds and layer.sparse, "has sparse gradients, which no criterion can read"),
        (
            isinstance(layer, nn.LSTM) and layer.proj_size > 0,
            f"is of the kind {kind} with projections (proj_size), which is not cut",
        ),
        (attends, f"is of the kind {kind}, which is not cut as it is (see separate)"),
        (isinstance(layer, known), f"is of the kind {kind}, which is not cut"),
    )
    found = (reason for fits, reason in reasons if fits)
    return f"{name} {next(found, f'is of the kind {kind}, which cannot be cut there')}"


def _kept_layers(module: nn.Module, keep: Collection[str]) -> list[str]:
    names = [name for name, _ in module.named_modules()]
    for wanted in keep:
        if wanted not in names:
            raise TaskError(
                f"`keep` names '{wanted}', which the model does not have; {nearest(wanted, names)}",
                fix="use a name of model.named_modules()",
            )
    return [
        name
        for name in names
        if any(name == wanted or name.startswith(f"{wanted}.") or not wanted for wanted in keep)
    ]


def _shared(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, str]:
    """Layers whose weights are used in more than one place: called twice, named twice, or tied."""
    names: dict[int, list[str]] = {}
    for path, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(path.rpartition(".")[0])
    found = {
        layer: f"shares a weight with {' and '.join(sorted(set(layers) - {layer})) or 'itself'}"
        for layers in names.values()
        if len(layers) > 1
        for layer in layers
    }
    copied = plain_copy(module)
    calls: Counter[str] = Counter()
    hooks = []
    for name, layer in copied.named_modules():
        if next(layer.parameters(recurse=False), None) is not None:
            hooks.append(
                layer.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
            )
    with evaluating(copied):
        run(copied, inputs)
    return found | {
        name: f"is called {count} times in one forward pass"
        for name, count in calls.items()
        if count > 1
    }


def refusal(found: Coupling, refused: Mapping[tuple[str, str], str]) -> str | None:
    """Why the traced group is left out as a whole, or None; `refused` is of `refusals`."""
    if found.output:
        return "its channels reach the model's output"
    if found.foreign:
        return f"coupled to a parameter that belongs to no layer: {', '.join(found.foreign)}"
    reason = refused_member(found.group, refused)
    if reason:
        return reason
    if not any(member.axis == "in" for member in found.group.members):
        return "no layer reads its channels, so they reach the model's output"
    if found.crossing:
        return "a group of a GroupNorm spans channels that are not coupled"
    return None


def narrow(group: Group) -> str | None:
    """Why so narrow a group is left out, or None."""
    return "it has one channel" if group.width < 2 else None


def refused_member(group: Group, refused: Mapping[tuple[str, str], str]) -> str | None:
    """The reason of the first of the group's layers and axes that is `refused`, or None."""
    axes = ((member.module, member.axis) for member in group.members)
    return next((refused[axis] for axis in axes if axis in refused), None)


def places(group: Group) -> set[tuple[str, str, int]]:
    """Every (layer, axis, index) that belongs to the group."""
    return {
        (member.module, member.axis, index)
        for member in group.members
        for indices in member.positions
        for index in indices
    }


def misplaced(
    found: Coupling, module: nn.Module, claimed: Collection[tuple[str, str, int]]
) -> str | None:
    """Positions that do not exist, or that another group has: the index maps went wrong on the way."""
    for member in found.group.members:
        axis = layout(module.get_submodule(member.module), member.axis)
        size = axis.size if axis else 0
        if any(index >= size for indices in member.positions for index in indices):
            return f"forward() rearranges its channels before {member.module}"
    shared = sorted(places(found.group).intersection(claimed))
    return f"overlaps with another group in {shared[0][0]}" if shared else None
