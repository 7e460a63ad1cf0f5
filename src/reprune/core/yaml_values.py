"""YAML text into plain values; what YAML lets pass and no document means is refused, where it stands."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import yaml

from reprune.core import document_types as types
from reprune.core.errors import DocumentError

MAX_DEPTH = 64
MAX_SCALAR_LENGTH = 400

_STR, _FLOAT = "tag:yaml.org,2002:str", "tag:yaml.org,2002:float"
# What plain text can be taken for without anybody saying so, in words.
_TAKEN_FOR = {
    _FLOAT: "a number",
    "tag:yaml.org,2002:int": "a whole number",
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:bool": "true or false",
}
# YAML 1.2 (core schema). PyYAML knows that of 1.1, where 1e-3 and -.5 are text.
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def read(raw: bytes | str, kind: Any, *, name: str) -> tuple[yaml.Node, Any]:
    """The text's nodes, which know their lines, and its value, in which every number is finite.

    Where `kind` holds a number and no text, `1e-3` is one; anything else is read as by PyYAML. Raises
    DocumentError for duplicate keys, keys that are no words, aliases, great depth and whatever is no YAML.
    """
    try:
        node = yaml.compose(raw, Loader=yaml.SafeLoader)
        if node is None:
            raise DocumentError("is empty", where=name)
        _look(node, types.at_top(kind), (), name, set())
        return node, yaml.constructor.SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        problem = getattr(error, "problem", None) or str(error)
        raise DocumentError(f"is not valid YAML: {problem}", where=where) from error


def _look(
    node: yaml.Node,
    kinds: Sequence[msgspec.inspect.Type],
    path: tuple[str, ...],
    name: str,
    seen: set[int],
) -> None:
    """Refuses surprises at the node and below it; `kinds` are what its value may be."""
    if len(path) > MAX_DEPTH:
        raise DocumentError("is nested too deeply", where=name)
    if id(node) in seen:
        raise DocumentError("uses a YAML alias", where=_line(node, name), fix="write the value out")
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            _look_at_key(key, keys, path, name)
            _look(key, (), (*path, key.value), name, seen)
            _look(value, types.below(kinds, key.value), (*path, key.value), name, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _look(value, types.below(kinds, str(index)), (*path, str(index)), name, seen)
    elif isinstance(node, yaml.ScalarNode):
        _look_at_scalar(node, kinds, path, name)


def _look_at_key(key: yaml.Node, keys: set[str], path: tuple[str, ...], name: str) -> None:
    if not isinstance(key, yaml.ScalarNode):
        raise DocumentError(
            "a list or a mapping stands where a key is expected",
            where=_line(key, name, path),
            fix="fill in a template's {{ ... }} before it is read, or put text in quotes",
        )
    if key.value in keys:
        raise DocumentError(
            f"the key '{key.value}' stands there twice",
            where=_line(key, name),
            fix="delete one of them",
        )
    keys.add(key.value)


def _look_at_scalar(
    node: yaml.ScalarNode,
    kinds: Sequence[msgspec.inspect.Type],
    path: tuple[str, ...],
    name: str,
) -> None:
    """Afterwards the node can be made a value, which is a finite number if it is one."""
    plain = node.tag == _STR and node.style is None
    if plain and types.numbers_only(kinds) and _NUMBER.fullmatch(node.value):
        node.tag = _FLOAT
    if node.tag not in _TAKEN_FOR:
        return
    shown = node.value if len(node.value) <= 40 else f"{node.value[:40]}..."
    try:
        value = _made(node)
    except (ValueError, LookupError, AttributeError, OverflowError) as error:
        raise DocumentError(
            f"'{shown}' looks like {_TAKEN_FOR[node.tag]} and is none",
            where=_line(node, name, path),
            fix="correct it, or put it in quotes if it is text",
        ) from error
    if isinstance(value, float) and not math.isfinite(value):
        raise DocumentError(
            f"'{shown}' is no finite number", where=_line(node, name, path), fix=_instead(kinds)
        )


def _made(node: yaml.ScalarNode) -> Any:
    """The value that PyYAML makes of the node. Raises whatever that raises of text that it cannot read."""
    # 1:20:30 is a number to the base 60, and what that takes grows with the square of its length.
    if len(node.value) > MAX_SCALAR_LENGTH:
        raise ValueError(f"is longer than {MAX_SCALAR_LENGTH} characters")
    return yaml.constructor.SafeConstructor().construct_object(node)


def _instead(kinds: Sequence[msgspec.inspect.Type]) -> str:
    """What may stand where a number without end was."""
    known = [
        text
        for kind, text in (
            (msgspec.inspect.StrType, "put it in quotes if it is text"),
            (msgspec.inspect.NoneType, "write null"),
        )
        if any(isinstance(one, kind) for one in kinds)
    ]
    return ", ".join(["write a number", *known]) + ", or leave the key out"


def _line(node: yaml.Node, name: str, path: tuple[str, ...] = ()) -> str:
    where = f"{name}:{node.start_mark.line + 1}"
    return f"{where} ({'.'.join(path)})" if path else where
