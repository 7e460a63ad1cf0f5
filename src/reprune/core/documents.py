"""YAML and JSON into typed structs, with errors that name the file, the path inside it and the line."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn, TypeVar, dataclass_transform

import msgspec
import yaml

from reprune.core import document_types, yaml_values
from reprune.core.errors import DocumentError, nearest
from reprune.core.yaml_values import MAX_DEPTH

T = TypeVar("T")

MAX_DOCUMENT_BYTES = 1_000_000
MAX_JSON_BYTES = 64_000_000
# Of one file of samples, of the records and of the evidence made of them, as of any payload of a verdict. Who
# writes them bounds nothing: what cannot be read again after a look at sealed data would waste the look.
MAX_SAMPLES_BYTES = 2**30

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")
# Possessive, and to the end where a string has none: linear in whatever it is given.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_INNERMOST = re.compile(rb"\[\]|\{\}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_AT = re.compile(r" - at (?P<key>`key` in )?`(?P<path>\$[^`]*)`$")
_NO_WORD_OF_LIST = re.compile(r"Invalid enum value '(?P<word>.*)'", re.DOTALL)


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a file that a person writes: unknown keys are refused, values are checked."""


def canonical(value: object) -> bytes:
    """The one byte form of a typed value: sorted keys, no spaces. Equal values have equal bytes."""
    return msgspec.json.encode(value, order="sorted")


def digest_of(value: object) -> str:
    """`sha256:<hex>` over the canonical bytes of the typed, decoded value."""
    return f"sha256:{hashlib.sha256(canonical(value)).hexdigest()}"


def read_yaml(path: Path, kind: type[T]) -> T:
    """The file decoded as `kind`. Raises DocumentError with the file, the path inside it and the line."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DocumentError(
            "there is no such file",
            where=str(path),
            fix="run `reprune init`, or start the command in the folder that holds it",
        ) from None
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return decode_yaml(raw, kind, name=str(path))


def decode_yaml(raw: bytes | str, kind: type[T], *, name: str) -> T:
    """Decodes YAML text; duplicate keys, aliases, unknown fields and wrong values are refused."""
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"is larger than {MAX_DOCUMENT_BYTES} bytes", where=name)
    node, value = yaml_values.read(raw, kind, name=name)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        _explain(str(error), kind, node, name)


def decode_json(raw: bytes, kind: type[T], *, name: str, max_bytes: int = MAX_JSON_BYTES) -> T:
    """Decodes strict JSON: NaN, infinities, duplicate keys and unknown fields are refused."""
    strict_json(raw, name=name, max_bytes=max_bytes)
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        _explain(str(error), kind, None, name)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # Half a surrogate pair, a number without bounds: JSON's grammar allows what no type holds.
        raise DocumentError(f"is not valid JSON: {error}", where=name) from error


def read_bounded(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a regular file, not through a link, and never more of them than `max_bytes`.

    Raises FileNotFoundError or NotADirectoryError where there is none, DocumentError for anything else.
    """
    name = str(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise DocumentError(f"cannot be read: {error}", where=name) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DocumentError("is not a file", where=name)
    with os.fdopen(descriptor, "rb") as stream:
        raw = stream.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise DocumentError(f"is larger than {max_bytes} bytes", where=name)
    return raw


def strict_json(raw: bytes, *, name: str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The generic value of strict JSON text. Raises DocumentError for anything doubtful."""
    if len(raw) > max_bytes:
        raise DocumentError(f"is larger than {max_bytes} bytes", where=name)
    if _deeper(raw, MAX_DEPTH):
        raise DocumentError(f"is nested more than {MAX_DEPTH} deep", where=name)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) < len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DocumentError(f"the key '{twice}' stands there twice", where=name)
        return result

    def constant(text: str) -> NoReturn:
        raise DocumentError(f"{text} is not a number that JSON knows", where=name)

    def number(text: str) -> float:
        found = float(text)
        if not math.isfinite(found):
            raise DocumentError(f"{text[:40]} is beyond all numbers", where=name)
        return found

    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_constant=constant,
            parse_float=number,
        )
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"is not valid JSON: {error}", where=name) from error


def _deeper(raw: bytes, depth: int) -> bool:
    """Whether JSON text is nested more than `depth` deep. What is no JSON may be taken for either."""
    if raw.count(b"[") + raw.count(b"{") <= depth:
        return False
    left = _STRING.sub(b"", raw).translate(None, delete=_NO_BRACKETS)
    for _ in range(depth):
        left, found = _INNERMOST.subn(b"", left)
        if not found:
            # Nothing at all, or brackets that do not match.
            return len(left) > depth
    return bool(_INNERMOST.search(left))


def _explain(message: str, kind: Any, node: yaml.Node | None, name: str) -> NoReturn:
    at = _AT.search(message)
    path = at["path"] if at else "$"
    what = message[: at.start()] if at else message
    steps = [step for step in re.split(r"[.\[\]]+", path[1:].replace("[...]", ".*")) if step]
    fix = ""
    of_key = bool(at and at["key"])
    unknown = _NO_WORD_OF_LIST.search(what) if of_key else _UNKNOWN_FIELD.search(what)
    if unknown:
        field = unknown[1]
        known = document_types.fields_at(kind, steps)
        what = f"unknown key '{field}'" + (f"; {nearest(field, known)}" if known else "")
        fix = f"known keys here: {', '.join(sorted(known))}" if known else ""
        steps = [*steps, field]
    elif of_key:
        what = f"a key there is wrong: {what}"
    elif node is not None:
        fix = document_types.allowed_at(kind, steps)
    line = _line_of(node, steps)
    where = f"{name}:{line}" if line else name
    inside = ".".join(steps)
    raise DocumentError(what, where=f"{where} ({inside})" if inside else where, fix=fix)


def _line_of(node: yaml.Node | None, steps: list[str]) -> int | None:
    return None if node is None else _followed(node, steps)[1]


def _followed(node: yaml.Node, steps: list[str]) -> tuple[int, int]:
    """How many of the steps lead on below the node, and the line to which the last of them leads.

    `*` stands for any key (msgspec does not say which): for the one that leads furthest; and if several
    do, the line is that of the node.
    """
    here = node.start_mark.line + 1
    found = [(0, here)]
    for line, child in _below(node, steps):
        taken, deeper = _followed(child, steps[1:])
        found.append((taken + 1, deeper if taken else line))
    most = max(taken for taken, _ in found)
    lines = [line for taken, line in found if taken == most]
    return most, lines[0] if len(lines) == 1 else here


def _below(node: yaml.Node, steps: list[str]) -> list[tuple[int, yaml.Node]]:
    """Where the first step can lead, each with the line of its key."""
    if steps and isinstance(node, yaml.MappingNode):
        return [
            (key.start_mark.line + 1, value)
            for key, value in node.value
            if steps[0] in ("*", key.value)
        ]
    if steps and isinstance(node, yaml.SequenceNode) and steps[0].isdigit():
        return [(item.start_mark.line + 1, item) for item in node.value[int(steps[0]) :][:1]]
    return []
