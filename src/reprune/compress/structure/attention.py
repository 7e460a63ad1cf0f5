"""Where a model attends, seen from its gradients: which channels of which projections make one head.

Nothing is read from names or classes. The input of a layer that reads an attention's result is
differentiated, position by position, with respect to the outputs of the projections before it: a value
channel reaches the same position of its heads, a query or key channel every position of its heads.
Whatever forward() does with views, fused projections or repeated keys, the pattern shows its heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reprune.compress.structure.copies import FORWARD_ERRORS, leaves, run
from reprune.core.errors import CompressionError

PATTERN_SEED = 0
# What autograd calls the products inside attention; a linear layer's own ends the walk before.
PRODUCTS = ("Bmm", "Baddbmm", "ScaledDotProduct", "Mm")


@dataclass(frozen=True, kw_only=True)
class Head:
    """One key-value head with all query heads that read it: its places by (layer, axis), ascending.

    `queries` are the same places for each of its query heads alone, in order; `keys`, `values` hold
    for each dimension of the head the (layer, index) places of its key and value channels, and
    `reads` the positions at which the result's reader finds that value dimension.
    """

    places: Mapping[tuple[str, str], tuple[int, ...]]
    queries: tuple[Mapping[tuple[str, str], tuple[int, ...]], ...]
    keys: tuple[tuple[str, int], ...]
    values: tuple[tuple[str, int], ...]
    reads: tuple[tuple[tuple[str, int], ...], ...]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Projections (`sources`) and the layers that read the result (`sinks`), in the model's order.

    Where the heads cannot be told, `heads` is empty and `fault` says why. It need not be `certain` that
    it is one: embeddings that meet in products look alike.
    """

    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    heads: tuple[Head, ...] = ()
    fault: str = ""
    certain: bool = True

    @property
    def query_heads(self) -> int:
        return sum(len(head.queries) for head in self.heads)

    @property
    def size(self) -> int:
        """The dimensions of a head, of its keys."""
        return len(self.heads[0].keys)


def find_attention(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Attention, ...]:
    """Every attention of linear projections in `module`, in the model's order; uncertain ones come last.

    `module` is run once with gradients, on the first example (on all where the first dimension is not
    the example), and must be a copy that may be hooked and whose weights are generic: a zero hides a
    path.
    """
    try:
        seen = _record(module, tuple(tensor[:1] for tensor in inputs))
    except (CompressionError, IndexError):
        seen = _record(module, inputs)
    found: list[tuple[set[str], set[str]]] = []
    mixed: list[tuple[set[str], str]] = []
    for sink in seen.given:
        met = seen.sources_of(sink)
        if not met <= set(seen.made):
            mixed.append((met, sink))
        if not met or not met <= set(seen.made):
            continue
        joined = (met, {sink})
        for other in [pair for pair in found if pair[0] & joined[0]]:
            found.remove(other)
            joined = (joined[0] | other[0], joined[1] | other[1])
        found.append(joined)
    order = {name: number for number, (name, _) in enumerate(module.named_modules())}
    result = []
    for source_names, sink_names in sorted(found, key=lambda pair: min(order[n] for n in pair[0])):
        sources = tuple(sorted(source_names, key=order.__getitem__))
        sinks = tuple(sorted(sink_names, key=order.__getitem__))
        try:
            heads = _heads(_reached(seen, sources, sinks), sources, sinks, seen)
            result.append(Attention(sources=sources, sinks=sinks, heads=heads))
        except _Unclear as error:
            result.append(Attention(sources=sources, sinks=sinks, fault=str(error)))
    known = {name for one in result for name in one.sources}
    for met, sink in mixed:
        if known.isdisjoint(met):
            others = ", ".join(sorted(met - set(seen.made), key=order.__getitem__))
            fault = f"in its products is what comes of {others}, so that no heads can be told"
            sources = tuple(sorted(met & set(seen.made), key=order.__getitem__))
            result.append(Attention(sources=sources, sinks=(sink,), fault=fault, certain=False))
    return tuple(result)


class _Unclear(Exception):
    """The heads cannot be told; the text is the reason."""


@dataclass
class _Seen:
    """What linear layers were given and made in one pass; `ends` maps graph nodes to layers' names."""

    given: dict[str, Tensor] = field(default_factory=dict)
    made: dict[str, Tensor] = field(default_factory=dict)
    ends: dict[Any, str] = field(default_factory=dict)

    def sources_of(self, sink: str) -> set[str]:
        """The layers whose outputs reach the input of `sink` by way of a product of linear outputs."""
        sources, products = self._before(self.given[sink].grad_fn)
        linear = set(self.made)
        met = any(
            sum(not linear.isdisjoint(self._before(operand)[0]) for operand, _ in one) > 1
            for one in (product.next_functions for product in products)
        )
        return sources if met else set()

    def _before(self, last: Any) -> tuple[set[str], list[Any]]:
        """The layers that are the first to be met before the graph node, and the products on the way."""
        stack, visited = [last], {None}
        sources: set[str] = set()
        products: list[Any] = []
        while stack:
            node = stack.pop()
            if node in visited:
                continue
            visited.add(node)
            if node in self.ends:
                sources.add(self.ends[node])
                continue
            if node.name().startswith(PRODUCTS):
                products.append(node)
            stack += [child for child, _ in node.next_functions]
        return sources, products


def _record(module: nn.Module, inputs: tuple[Tensor, ...]) -> _Seen:
    seen = _Seen()
    hooks = []

    def note(name: str, layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        for tensor in leaves(output):
            if tensor.grad_fn is not None:
                seen.ends[tensor.grad_fn] = name
        if isinstance(layer, nn.Linear) and given and isinstance(given[0], Tensor):
            seen.given.setdefault(name, given[0])
            seen.made.setdefault(name, output)

    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    for name, layer in module.named_modules():
        if any(parameter.dim() > 1 for parameter in layer.parameters(recurse=False)):
            hooks.append(
                layer.register_forward_hook(
                    lambda layer, given, output, name=name: note(name, layer, given, output)
                )
            )
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            run(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _reached(
    seen: _Seen, sources: Sequence[str], sinks: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """For each sink and source a Boolean matrix (positions, channels): which channel moves which position."""
    generator = torch.Generator().manual_seed(PATTERN_SEED)
    made = [seen.made[name] for name in sources]
    found: dict[str, dict[str, Tensor]] = {}
    for sink in sinks:
        given = seen.given[sink]
        weight = torch.rand(given.shape[:-1], generator=generator).to(given) + 0.5
        rows: dict[str, list[Tensor]] = {name: [] for name in sources}
        for position in range(given.shape[-1]):
            try:
                gradients = torch.autograd.grad(
                    (given[..., position] * weight).sum(),
                    made,
                    retain_graph=True,
                    allow_unused=True,
                )
            except FORWARD_ERRORS as error:
                raise _Unclear(f"its gradient cannot be taken: {error}") from error
            for name, output, gradient in zip(sources, made, gradients, strict=True):
                known: Tensor | None = gradient
                moved = torch.zeros_like(output) if known is None else known
                if not bool(moved.isfinite().all()):
                    raise _Unclear("its gradients on the example inputs are not finite")
                rows[name].append((moved != 0).flatten(0, -2).any(dim=0))
        found[sink] = {name: torch.stack(row) for name, row in rows.items()}
    return found


def _heads(
    reached: Mapping[str, Mapping[str, Tensor]],
    sources: Sequence[str],
    sinks: Sequence[str],
    seen: _Seen,
) -> tuple[Head, ...]:
    """The connected parts of the pattern, each one a key-value head with its query heads."""
    marks: dict[tuple[str, int], frozenset[tuple[str, int]]] = {}
    for source in sources:
        for channel in range(seen.made[source].shape[-1]):
            marks[source, channel] = frozenset(
                (sink, position)
                for sink in sinks
                for position in reached[sink][source][:, channel].nonzero().flatten().tolist()
            )
    if not all(marks.values()):
        raise _Unclear(
            "the example inputs do not show which channels make a head (at least two tokens must "
            "see each other)"
        )
    parts = _parts(marks)
    positions = {(sink, index) for sink in sinks for index in range(seen.given[sink].shape[-1])}
    if positions != {place for part in parts for channel in part for place in marks[channel]}:
        raise _Unclear("something else than its heads reaches the layer that reads them")
    heads = tuple(_head(part, marks, sources) for part in parts)
    if len({_form(head) for head in heads}) != 1:
        raise _Unclear("its heads differ in size")
    return tuple(sorted(heads, key=lambda head: head.reads[0]))


def _parts(
    marks: Mapping[tuple[str, int], frozenset[tuple[str, int]]],
) -> list[list[tuple[str, int]]]:
    """Channels that share a position, directly or through others, together."""
    parts: list[tuple[set[tuple[str, int]], list[tuple[str, int]]]] = []
    classes: dict[frozenset[tuple[str, int]], list[tuple[str, int]]] = {}
    for channel, mark in marks.items():
        classes.setdefault(mark, []).append(channel)
    for mark, channels in classes.items():
        joined, members = set(mark), list(channels)
        for other in [part for part in parts if not part[0].isdisjoint(joined)]:
            parts.remove(other)
            joined, members = joined | other[0], members + other[1]
        parts.append((joined, members))
    return [sorted(members) for _, members in parts]


def _head(
    channels: Sequence[tuple[str, int]],
    marks: Mapping[tuple[str, int], frozenset[tuple[str, int]]],
    sources: Sequence[str],
) -> Head:
    """Sorts one part into queries, keys and values by how many positions each channel moves.

    Of a head of d dimensions that g query heads read: a value channel moves g positions and no other
    moves the same; a key channel moves all g x d; d query channels move the same d.
    """
    order = {name: number for number, name in enumerate(sources)}
    classes: dict[frozenset[tuple[str, int]], list[tuple[str, int]]] = {}
    for channel in sorted(channels, key=lambda place: (order[place[0]], place[1])):
        classes.setdefault(marks[channel], []).append(channel)
    values = {mark: found[0] for mark, found in classes.items() if len(found) == 1}
    blocks = {mark: found for mark, found in classes.items() if len(found) > 1}
    every = frozenset().union(*classes)
    keys = blocks.get(every, [])
    queries = {mark: found for mark, found in blocks.items() if mark != every}
    if (
        not queries
    ):  # one query head: its queries and keys move the same positions, queries come first
        half = len(keys) // 2
        queries, keys = {every: keys[:half]}, keys[half:]
    size = len(keys)
    if (
        not keys
        or any(len(found) != size for found in queries.values())
        or frozenset().union(*values or [frozenset()]) != every
        or sum(map(len, values)) != len(every)
        or sum(map(len, queries)) != len(every)
    ):
        raise _Unclear("its channels do not fall into queries, keys and values of equal heads")
    ordered = sorted(queries.items(), key=lambda item: min(item[0]))
    values_in_order = sorted(values.items(), key=lambda item: min(item[0]))
    return Head(
        places=_places([*channels], every),
        queries=tuple(_places(found, mark) for mark, found in ordered),
        keys=tuple(keys),
        values=tuple(channel for _, channel in values_in_order),
        reads=tuple(tuple(sorted(mark)) for mark, _ in values_in_order),
    )


def _places(
    channels: Iterable[tuple[str, int]], positions: Iterable[tuple[str, int]]
) -> dict[tuple[str, str], tuple[int, ...]]:
    found: dict[tuple[str, str], list[int]] = {}
    for axis, places in (("out", channels), ("in", positions)):
        for name, index in places:
            found.setdefault((name, axis), []).append(index)
    return {place: tuple(sorted(indices)) for place, indices in found.items()}


def _form(head: Head) -> tuple[object, ...]:
    """What must be the same for all heads of an attention."""
    return (
        len(head.queries),
        len(head.keys),
        len(head.values),
        tuple(sorted((place, len(indices)) for place, indices in head.places.items())),
    )
