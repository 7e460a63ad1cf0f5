"""Every field of every part of the evidence, and what can be wrong with the value in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msgspec import inspect

Steps = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A value inside a document. `field` is "Struct.field", with [] and {} for what is inside of it."""

    path: Steps
    field: str

    @property
    def owner(self) -> str:
        return self.field.rstrip("[]{}")


def places(kind: Any, value: Any) -> list[Place]:
    """Where the values of a document of type `kind` lie: the first item of each list and mapping."""
    return list(_walk(inspect.type_info(kind), value, (), ""))


def fields_of(kind: Any) -> set[str]:
    """ "Struct.field" of every struct that a value of type `kind` may hold, however deep."""
    found: set[str] = set()
    seen: set[type] = set()

    def visit(info: inspect.Type) -> None:
        if isinstance(info, inspect.UnionType):
            for each in info.types:
                visit(each)
        elif isinstance(info, inspect.StructType):
            if info.cls in seen:
                return
            seen.add(info.cls)
            for each in info.fields:
                found.add(f"{info.cls.__name__}.{each.encode_name}")
                visit(each.type)
        elif isinstance(info, inspect.DictType):
            visit(info.value_type)
        elif isinstance(info, inspect.VarTupleType):
            visit(info.item_type)

    visit(inspect.type_info(kind))
    return found


def faults(value: Any) -> dict[str, Any]:
    """What to put in a value's place, by the fault's name. Each differs from the value."""
    found: dict[str, Any] = {"null": None, "another type": _another_type(value)}
    if isinstance(value, bool):
        found |= {"turned": not value}
    elif isinstance(value, int):
        found |= {"negative": -1, "huge": 2**62, "giant": 10**40, "fraction": value + 0.5}
        found |= {"NaN": math.nan, "infinity": math.inf}
    elif isinstance(value, float):
        found |= {"negative": -1.0, "huge": 1e300, "giant": 10**400}
        found |= {"NaN": math.nan, "infinity": math.inf}
    elif isinstance(value, str):
        found |= {"empty": "", "another": _another_text(value), "half a surrogate": "\ud800"}
    elif isinstance(value, list):
        found |= {"emptied": [], "doubled": [*value, *value], "shortened": value[:-1]}
        found |= {"reordered": value[::-1]}
    elif isinstance(value, dict):
        found |= {"emptied": {}, "extra": {**value, "surprise": 1}}
        found |= {"renamed": {f"{key}x": item for key, item in value.items()}}
    if value is None:
        del found["null"]
    return {name: new for name, new in found.items() if repr(new) != repr(value)}


def put(document: Any, path: Steps, new: Any) -> Any:
    """A copy of the document with another value at the path."""
    if not path:
        return new
    head, rest = path[0], path[1:]
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[head] = put(document[head], rest, new)  # type: ignore[index]
    return copy


def drop(document: Any, path: Steps) -> Any:
    """A copy of the document without the key or item at the path."""
    head, rest = path[0], path[1:]
    copy = dict(document) if isinstance(document, dict) else list(document)
    if rest:
        copy[head] = drop(document[head], rest)  # type: ignore[index]
    else:
        del copy[head]  # type: ignore[arg-type]
    return copy


def at(document: Any, path: Steps) -> Any:
    for step in path:
        document = document[step]
    return document


def _another_type(value: Any) -> Any:
    if isinstance(value, str):
        return 7
    return {"is": "no value"} if isinstance(value, list) else "text"


def _another_text(value: str) -> str:
    if value.startswith("sha256:"):
        return "sha256:" + ("1" if value[7] != "1" else "2") + value[8:]
    return f"{value}x"


def _walk(info: inspect.Type, value: Any, path: Steps, field: str) -> Iterator[Place]:
    if field:
        yield Place(path=path, field=field)
    for each in info.types if isinstance(info, inspect.UnionType) else (info,):
        if isinstance(each, inspect.StructType) and isinstance(value, dict):
            if each.tag is not None and value.get(str(each.tag_field)) != each.tag:
                continue
            for one in each.fields:
                if one.encode_name in value:
                    name = one.encode_name
                    owner = f"{each.cls.__name__}.{name}"
                    yield from _walk(one.type, value[name], (*path, name), owner)
        elif isinstance(each, inspect.DictType) and isinstance(value, dict) and value:
            key = sorted(value)[0]
            yield from _walk(each.value_type, value[key], (*path, key), field + "{}")
        elif isinstance(each, inspect.VarTupleType) and isinstance(value, list) and value:
            yield from _walk(each.item_type, value[0], (*path, 0), field + "[]")
