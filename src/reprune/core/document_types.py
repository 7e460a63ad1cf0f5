"""What a document's type lets stand at a path inside it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec


def fields_at(kind: Any, steps: list[str]) -> set[str]:
    """The keys that may stand at `steps` inside `kind`: of every struct that the path can mean, and of every
    mapping whose keys are words of a list.
    """
    found: set[str] = set()
    for one in types_at(kind, steps):
        if isinstance(one, msgspec.inspect.StructType):
            found |= {field.encode_name for field in one.fields}
        elif isinstance(one, msgspec.inspect.DictType):
            keys = _members(one.key_type)
            words = [key for key in keys if isinstance(key, msgspec.inspect.LiteralType)]
            found |= {str(value) for each in words for value in each.values}
    return found


def types_at(kind: Any, steps: list[str]) -> list[msgspec.inspect.Type]:
    """Every type that a value at `steps` inside `kind` may have; none where nothing is known."""
    found = at_top(kind)
    for step in steps:
        found = below(found, step)
    return found


@functools.lru_cache(maxsize=64)
def _info(kind: Any) -> msgspec.inspect.Type:
    return msgspec.inspect.type_info(kind)


def at_top(kind: Any) -> list[msgspec.inspect.Type]:
    """Every type that a whole document of `kind` may have."""
    return _members(_info(kind))


def below(types: Sequence[msgspec.inspect.Type], step: str) -> list[msgspec.inspect.Type]:
    """Every type that a value may have one step below values of these types."""
    children = [child for outer in types for child in _children(outer, step)]
    return [inner for child in children for inner in _members(child)]


def numbers_only(types: Sequence[msgspec.inspect.Type]) -> bool:
    """Whether numbers may stand there and text may not, but for words of a list."""
    numbers = (msgspec.inspect.IntType, msgspec.inspect.FloatType)
    others = (msgspec.inspect.LiteralType, msgspec.inspect.NoneType, msgspec.inspect.BoolType)
    return any(isinstance(one, numbers) for one in types) and all(
        isinstance(one, (*numbers, *others)) for one in types
    )


def allowed_at(kind: Any, steps: list[str]) -> str:
    """What a word or a number at `steps` inside `kind` may be; "" where its type alone says all."""
    words: list[str] = []
    numbers: list[str] = []
    for one in types_at(kind, steps):
        if isinstance(one, msgspec.inspect.LiteralType):
            words += map(str, one.values)
        elif isinstance(one, msgspec.inspect.IntType | msgspec.inspect.FloatType):
            what = "a number" if isinstance(one, msgspec.inspect.FloatType) else "a whole number"
            numbers += [what + bounds for bounds in [_bounds(one)] if bounds]
    allowed = [f"use {one}" for one in numbers]
    if words:
        allowed.append(f"use {'one of: ' if len(words) > 1 else ''}{', '.join(sorted(words))}")
    return ", or ".join(allowed)


def _bounds(number: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    bounds = {
        "above": number.gt,
        "of at least": number.ge,
        "below": number.lt,
        "of at most": number.le,
    }
    said = [f"{word} {value:g}" for word, value in bounds.items() if value is not None]
    return f" {' and '.join(said)}" if said else ""


def _members(info: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    return list(info.types) if isinstance(info, msgspec.inspect.UnionType) else [info]


def _children(info: msgspec.inspect.Type, step: str) -> list[msgspec.inspect.Type]:
    if isinstance(info, msgspec.inspect.StructType):
        return [field.type for field in info.fields if field.encode_name == step]
    if isinstance(info, msgspec.inspect.DictType):
        return [info.value_type]
    if isinstance(info, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        return [info.item_type]
    return []
