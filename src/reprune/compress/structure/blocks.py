"""Whole blocks of a model that can be removed: residual blocks and layers, each proven by a trial.

A block is a module whose output looks like its first input, so that the input can go on in its place.
It is found where the input reaches the output through a residual addition: without it, the rest of the
model still reads what it learnt to read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reprune.compress.structure.architecture import Architecture, Removal, apply
from reprune.compress.structure.bypass import first_tensor, inside
from reprune.compress.structure.copies import leaves, plain_copy, run
from reprune.compress.structure.probe import InTraining
from reprune.core.errors import CompressionError, TaskError, nearest
from reprune.measure.outputs import evaluating

__all__ = ["Block", "BlockSurvey", "find_blocks"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A module that can be removed. `returns` is 0 where it gives a tensor, n for a tuple of n."""

    name: str
    returns: int


@dataclass(frozen=True, kw_only=True)
class BlockSurvey:
    """`blocks` in the order of the model's modules, none inside another; `skipped` says why not."""

    blocks: tuple[Block, ...]
    skipped: Mapping[str, str]


def find_blocks(
    module: nn.Module,
    example_inputs: tuple[Tensor, ...],
    keep: Collection[str],
    named: Sequence[str] | None = None,
    *,
    sought: Collection[str] = (),
    members: Collection[str] = (),
) -> BlockSurvey:
    """Every block whose removal was tried on a copy and left a model that runs. `module` is not changed.

    A block is called once, gives a tensor (or a tuple that begins with one) of the shape and type of
    its first tensor input, and holds a residual addition: the input reaches the output without passing
    a convolution, linear layer or the like, and what passes one is added to it. Of blocks inside
    blocks the outer one is offered, unless it only holds blocks one after another. Nothing that
    contains a module of `keep` is offered, nor one of `members`: a model of its own. With `named` exactly
    those modules are tried, residual or not, and inside those of `sought` what is found.

    Raises TaskError for an unknown name, CompressionError for a model that does not run.
    """
    names = [name for name, _ in module.named_modules()]
    for wanted in (*keep, *(named or ())):
        if wanted not in names:
            raise TaskError(
                f"`keep` or `blocks` names '{wanted}', which the model does not have; "
                f"{nearest(wanted, names)}",
                fix="use a name of model.named_modules()",
            )
    inputs = tuple(example_inputs)
    watched = _watch(module, inputs)
    skipped: dict[str, str] = {}
    found = [name for name, seen in watched.items() if seen.residual and name not in members]
    if named is not None:
        found = [name for name in found if inside(name, sought)]
    wanted_too = {*_useful(module, found), *(named or ())}
    candidates = [name for name in names if name in wanted_too]
    trial = _Trial(module, inputs)
    blocks: list[Block] = []
    for name in candidates:
        seen = watched.get(name)
        reason = _misfit(name, seen, keep, members) or (
            f"lies inside {blocks[-1].name}"
            if inside(name, [block.name for block in blocks])
            else trial.fault(name, seen.returns if seen else 0)
        )
        if reason or seen is None:
            skipped[name] = reason or "forward() does not call it"
        else:
            blocks.append(Block(name=name, returns=seen.returns))
    return BlockSurvey(blocks=tuple(blocks), skipped=skipped)


def groups_inside(groups: Sequence[Any], blocks: Collection[str]) -> tuple[str, ...]:
    """The names of the groups all of whose members lie in `blocks`: they are gone with them."""
    return tuple(
        group.name
        for group in groups
        if all(inside(member.module, blocks) for member in group.members)
    )


@dataclass(kw_only=True)
class _Seen:
    """One module's calls: how many, and of the first what came in, what went out and how they relate."""

    calls: int = 0
    shape: tuple[torch.Size, torch.dtype] | None = None
    given: Any = None
    same: bool = False
    returns: int = 0
    residual: bool = False


@dataclass
class _Watch:
    seen: dict[str, _Seen] = field(default_factory=dict)
    ends: dict[Any, set[str]] = field(default_factory=dict)

    def enter(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Notes the call; its first tensor is handed on under an alias that the graph shows."""
        seen = self.seen.setdefault(name, _Seen())
        seen.calls += 1
        try:
            given = first_tensor(args, kwargs)
        except TypeError:
            return None
        if not given.is_floating_point() or not given.requires_grad or seen.calls > 1:
            return None
        alias = given.view_as(given)
        seen.shape, seen.given = (given.shape, given.dtype), alias.grad_fn
        return (
            tuple(alias if value is given else value for value in args),
            {key: alias if value is given else value for key, value in kwargs.items()},
        )

    def leave(self, name: str, output: Any) -> None:
        seen = self.seen[name]
        first = output[0] if isinstance(output, tuple | list) and output else output
        if seen.calls > 1 or seen.given is None or not isinstance(first, Tensor):
            return
        seen.same = (first.shape, first.dtype) == seen.shape
        seen.returns = len(output) if isinstance(output, tuple | list) else 0
        if seen.same and first.grad_fn is not None:
            # A block with a parameter of its own ends where a path through it begins.
            stops = {
                node: layers - {name} for node, layers in self.ends.items() if layers != {name}
            }
            ends = {n for n, layers in stops.items() if any(inside(one, [name]) for one in layers)}
            seen.residual = _is_residual(first.grad_fn, seen.given, ends, set(stops))


def _watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, _Seen]:
    """What every module with others inside it was seen to do in one forward pass of a copy."""
    copied = plain_copy(module).eval()
    for parameter in copied.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    watch = _Watch()
    for name, layer in copied.named_modules():
        if any(parameter.dim() > 1 for parameter in layer.parameters(recurse=False)):
            layer.register_forward_hook(_ending(watch, name))
        if name and next(layer.children(), None) is not None:
            layer.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: watch.enter(name, args, kwargs),
                with_kwargs=True,
            )
            layer.register_forward_hook(lambda _, __, output, name=name: watch.leave(name, output))
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        run(copied, tuple(_differentiable(tensor) for tensor in inputs))
    return watch.seen


def _ending(watch: _Watch, name: str) -> Callable[[nn.Module, Any, Any], None]:
    def end(_: nn.Module, __: Any, output: Any) -> None:
        for tensor in leaves(output):
            if tensor.grad_fn is not None:
                watch.ends.setdefault(tensor.grad_fn, set()).add(name)

    return end


def _differentiable(tensor: Tensor) -> Tensor:
    """A copy that is no leaf, so that a model may write into it."""
    fresh = tensor.detach().clone()
    return fresh.requires_grad_(True).clone() if fresh.is_floating_point() else fresh


def _is_residual(output: Any, given: Any, ends: Collection[Any], stops: Collection[Any]) -> bool:
    """Whether some addition between joins a path from `given` that passes no layer with one that does.

    `ends` are the outputs of the block's own layers with weights of two and more dimensions; `stops`
    those of all layers: a path is not followed beyond either, nor beyond `given`.
    """
    passes: dict[Any, tuple[bool, bool]] = {}  # (reaches `given`, reaches one of `ends`)
    stack: list[tuple[Any, bool]] = [(output, False)]
    found = False
    while stack:
        node, ready = stack.pop()
        if not ready and node in passes:
            continue
        if node is given:
            passes[node] = (True, False)
        elif node in stops:
            passes[node] = (False, node in ends)
        elif not ready:
            passes[node] = (False, False)
            stack.append((node, True))
            stack += [(child, False) for child, _ in node.next_functions if child is not None]
        else:
            children = [passes[child] for child, _ in node.next_functions if child is not None]
            if node.name().startswith("AddBackward") and len(children) == 2:
                one, other = children
                found |= (one[0] and other[1]) or (other[0] and one[1])
            passes[node] = (any(c[0] for c in children), any(c[1] for c in children))
    return found and passes[output][0]


def _useful(module: nn.Module, residual: Sequence[str]) -> list[str]:
    """Of nested blocks those that are worth a decision, in the model's order."""
    names = [name for name, _ in module.named_modules() if name in set(residual)]
    chosen: list[str] = []
    for name in names:  # outer ones come first
        if not inside(name, chosen) and not _only_holds(module, name, names):
            chosen.append(name)
    return chosen


def _only_holds(module: nn.Module, name: str, names: Sequence[str]) -> bool:
    """Whether the block `name` is a row of other blocks: each of them can go alone."""
    below = [other for other in names if other != name and inside(other, [name])]
    top = [other for other in below if not inside(other, [o for o in below if o != other])]
    rows = (nn.Sequential, nn.ModuleList)
    if any(isinstance(module.get_submodule(other.rpartition(".")[0]), rows) for other in top):
        return True
    block = module.get_submodule(name)
    layers = [
        f"{name}.{inner}"
        for inner, layer in block.named_modules()
        if any(parameter.dim() > 1 for parameter in layer.parameters(recurse=False))
    ]
    return len(top) > 1 and all(inside(layer, top) for layer in layers)


def _misfit(
    name: str, seen: _Seen | None, keep: Collection[str], members: Collection[str]
) -> str | None:
    if name in members:
        return "it is a whole member of the set"
    if any(not wanted or inside(wanted, [name]) or inside(name, [wanted]) for wanted in keep):
        return "it is named in `keep`, or holds what is"
    if seen is None:
        return "forward() does not call it, or it has no modules inside"
    if seen.calls > 1:
        return f"it is called {seen.calls} times in one forward pass"
    return None if seen.same else "its output does not look like its first input"


class _Trial:
    """Removes one block on a copy and runs the model."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.module, self.inputs = module, inputs
        with evaluating(module):
            self.shapes = [tuple(output.shape) for output in run(module, inputs)]
        self.training = InTraining([(module, inputs)])

    def fault(self, name: str, returns: int) -> str | None:
        """Why the model does not run without the block, or None."""
        removal = Architecture(removed=(Removal(module=name, returns=returns),))
        try:
            without = apply(self.module, removal)
            with evaluating(without):
                outputs = run(without, self.inputs)
        except CompressionError as error:
            return f"without it {error.what}"
        if [tuple(output.shape) for output in outputs] != self.shapes:
            return "without it the outputs have other shapes"
        if not all(bool(torch.isfinite(output).all()) for output in outputs):
            return "without it the outputs are not finite"
        return self.training.fault(removal)
