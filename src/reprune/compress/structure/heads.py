"""Groups of attention heads and of head dimensions: what one of them is made of, and what must follow.

A head is a channel of a group whose positions are rows of the query, key and value projections and
columns of the layers that read the result. Which numbers of the module must follow a cut (num_heads,
all_head_size, ...) is guessed from their names and values, and every guess is proven by the trial cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from reprune.compress.structure.attention import Attention, Head
from reprune.compress.structure.coupling import Follower, Group, Member
from reprune.core.errors import TaskError, nearest

__all__ = ["offers"]

SIZES = re.compile(r"dim|size|width|features|channels|hidden")
RATIOS = re.compile(r"group|rep|per")
WRITTEN = "forward() writes the attention's width, where a view can find it (-1, or flatten(2))"
KEYS = re.compile(r"kv|key|value|group|rep|per")

Places = Mapping[tuple[str, str], Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Offers:
    """Groups that were proven, and for each projection of an attention that is not cut the reason.

    `hints` are reasons of what may be no attention: for layers that cannot be cut otherwise either.
    """

    groups: tuple[Group, ...]
    skipped: Mapping[str, str]
    hints: Mapping[str, str]


def offers(
    module: nn.Module,
    attentions: Sequence[Attention],
    fault: Callable[[Group], str | None],
    *,
    declared: Mapping[str, int],
    dimensions: bool,
) -> Offers:
    """The groups of heads (and, if wanted, of head dimensions) for which `fault` finds nothing wrong.

    `declared` maps the module that attends (or one of its projections) to its number of query heads:
    0 leaves it whole, another number than is seen is refused. Projections of an attention are in a
    group of heads or in `skipped`: their channels are never offered one by one. Where dimensions are
    wanted and only heads can be had, `skipped` says why under "<module>:dimensions".

    Raises TaskError for a declared module in which nothing attends.
    """
    hints = {name: one.fault for one in attentions if not one.certain for name in one.sources}
    attentions = [one for one in attentions if one.certain]
    for name in declared:
        if not any(name in (owner(found), *found.sources) for found in attentions):
            raise TaskError(
                f"`heads` names '{name}', in which no attention was found; "
                f"{nearest(name, [owner(found) for found in attentions])}",
                fix="name the module that holds the query, key and value projections",
            )
    groups: list[Group] = []
    skipped: dict[str, str] = {}
    for attention in attentions:
        wanted = {declared[n] for n in (owner(attention), *attention.sources) if n in declared}
        reason: str | None = attention.fault
        if not reason and wanted - {attention.query_heads}:
            asked = min(wanted - {attention.query_heads})
            reason = "the task's `heads` leaves it whole"
            if asked:
                reason = f"`heads` says {asked} heads, {attention.query_heads} were seen"
        found: list[Group] = []
        if not reason:
            one, reason = _first([(group,) for group in head_choices(module, attention)], fault)
            found += one
            if dimensions:
                more, other = _first(dimension_choices(module, attention), fault)
                found += more
                if not more:
                    skipped[owner(attention, "dimensions")] = (
                        other or "a head has one dimension, or keys and values of different sizes"
                    )
                reason = None if found else reason or other
        groups += found
        made = {member.module for group in found for member in group.members}
        why = reason or (
            "the query heads that share it are cut, not the one key-value head"
            if found
            else "it has one head, which is not cut"
        )
        skipped |= {name: why for name in attention.sources if name not in made}
    return Offers(groups=tuple(groups), skipped=skipped, hints=hints)


def _first(
    choices: Iterable[tuple[Group, ...]], fault: Callable[[Group], str | None]
) -> tuple[tuple[Group, ...], str | None]:
    """The first choice all of whose groups are right, else none and what is wrong with the first."""
    wrong: list[str] = []
    for choice in choices:
        reason = next((reason for reason in map(fault, choice) if reason), None)
        if reason is None:
            return choice, None
        wrong.append(reason)
    if wrong and all("does not run" in reason for reason in wrong):
        return (), f"{WRITTEN}: {wrong[0]}"
    return (), next(iter(wrong), None)


def head_choices(module: nn.Module, attention: Attention) -> Iterator[Group]:
    """The groups of whole heads that may be right, the best first; each must be proven.

    With several key-value heads a channel is one of them with all its query heads; else (or if that
    is refused) it is the i-th query head of each key-value head, so that they stay equally shared.
    """
    heads = attention.heads
    shared = len(heads[0].queries)
    total, size = attention.query_heads, attention.size
    name = owner(attention, "heads")
    if len(heads) > 1:
        whole = {total, len(heads)}
        channels: list[Places] = [head.places for head in heads]
        for followers in _guesses(
            module,
            attention,
            lambda word, value: "head" in word and not RATIOS.search(word) and value in whole,
            {total * size, len(heads) * size},
        ):
            yield _group(attention, name, channels, followers, unit="head")
    if shared > 1:
        channels = [_joined(head.queries[index] for head in heads) for index in range(shared)]
        for followers in _guesses(
            module,
            attention,
            lambda word, value: (
                (RATIOS.search(word) is not None and value == shared)
                or ("head" in word and not KEYS.search(word) and value == total)
            ),
            {total * size},
        ):
            yield _group(attention, name, channels, followers, unit="head")


def dimension_choices(module: nn.Module, attention: Attention) -> Iterator[tuple[Group, ...]]:
    """Sets of groups of head dimensions, each for all heads together; one set is to be proven.

    Either query-key and value dimensions each for themselves, or (where the module has one number for
    both) the i-th of either together.
    """
    heads, size = attention.heads, attention.size
    if size < 2 or len(heads[0].values) != size:
        return
    across = owner(attention, "heads")
    scores = [_joined(_score_places(head, index) for head in heads) for index in range(size)]
    values = [_joined(_value_places(head, index) for head in heads) for index in range(size)]
    alone = (
        _group(attention, owner(attention, "query-dimensions"), scores, (), across=across),
        _group(attention, owner(attention, "value-dimensions"), values, (), across=across),
    )
    yield alone
    both = [_joined([one, other]) for one, other in zip(scores, values, strict=True)]
    total = attention.query_heads * size
    for followers in _guesses(
        module, attention, lambda *_: False, {size, total, len(heads) * size}
    ):
        yield (_group(attention, owner(attention, "dimensions"), both, followers, across=across),)


def owner(attention: Attention, what: str = "") -> str:
    """The innermost module that holds all projections, as a name; `what` of it after a colon."""
    name = _common(attention.sources)
    return ":".join(part for part in (name, what) if part)


def _common(names: Iterable[str]) -> str:
    parents = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _guesses(
    module: nn.Module,
    attention: Attention,
    counts: Callable[[str, int], bool],
    sizes: set[int],
) -> Iterator[tuple[Follower, ...]]:
    """Which integer attributes follow: those named after heads; others of a fitting size as well; none.

    `counts` says of a name and value whether it counts what is cut, `sizes` are widths that shrink.
    """
    own, around = owner(attention), _common((*attention.sources, *attention.sinks))
    named: list[Follower] = []
    others: list[Follower] = []
    for name in dict.fromkeys((own, around)):
        for attribute, value in vars(module.get_submodule(name)).items():
            if type(value) is not int or attribute.startswith("_"):
                continue
            follower = Follower(module=name, attribute=attribute, value=value)
            is_size = SIZES.search(attribute) is not None
            if not is_size and counts(attribute, value):
                named.append(follower)
            elif is_size and value in sizes:
                (named if "head" in attribute else others).append(follower)
    yield from dict.fromkeys((tuple(named), (*named, *others), tuple(others), ()))


def _group(
    attention: Attention,
    name: str,
    channels: Sequence[Places],
    followers: tuple[Follower, ...],
    *,
    unit: str = "dimension",
    across: str | None = None,
) -> Group:
    places = [(source, "out") for source in attention.sources]
    places += [(sink, "in") for sink in attention.sinks]
    return Group(
        name=name,
        width=len(channels),
        members=tuple(
            Member(
                module=layer,
                axis="out" if axis == "out" else "in",
                positions=tuple(tuple(sorted(found.get((layer, axis), ()))) for found in channels),
            )
            for layer, axis in places
            if any(found.get((layer, axis)) for found in channels)
        ),
        unit="head" if unit == "head" else "dimension",
        followers=followers,
        across=across,
    )


def _score_places(head: Head, dimension: int) -> Places:
    """One query-key dimension: a row of each of its query heads, and a row of its keys."""
    found: dict[tuple[str, str], list[int]] = {}
    rows = [
        [(name, i) for (name, axis), indices in query.items() if axis == "out" for i in indices]
        for query in head.queries
    ]
    for name, index in (*(row[dimension] for row in rows), head.keys[dimension]):
        found.setdefault((name, "out"), []).append(index)
    return found


def _value_places(head: Head, dimension: int) -> Places:
    """One value dimension: a row of its values, and where the readers of the result find it."""
    name, index = head.values[dimension]
    found: dict[tuple[str, str], list[int]] = {(name, "out"): [index]}
    for sink, position in head.reads[dimension]:
        found.setdefault((sink, "in"), []).append(position)
    return found


def _joined(parts: Iterable[Places]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for part in parts:
        for place, indices in part.items():
            found.setdefault(place, []).extend(indices)
    return found
