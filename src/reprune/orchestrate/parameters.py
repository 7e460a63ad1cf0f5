"""What a run is to be started with, checked against what its package declares. Pure.

Kubeflow Pipelines checks little of it before the run, and a wrong value fails hours into it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from reprune.core.documents import strict_json
from reprune.core.errors import DocumentError, InputError, nearest

# A task's parameters travel as one argument of a process, and Linux takes 128 KiB for one.
MAX_TEXT_BYTES = 120_000
# Numbers travel as doubles: a larger integer would arrive as another one.
MAX_INTEGER = 2**53
_TYPES = {
    "STRING": "text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a list",
    "STRUCT": "an object",
}


def check_parameters(spec: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values as they are to be sent; what is not given keeps the package's default.

    `spec` is a PipelineSpec. Raises InputError naming the parameter: one that the package does not
    have, one that it needs, a value of another type, one that JSON or a process cannot carry.
    """
    declared = declared_parameters(spec)
    for name in given:
        if name not in declared:
            raise InputError(
                f"the pipeline has no parameter '{name}'; {nearest(name, declared)}",
                fix=f"it has: {', '.join(sorted(declared)) or 'none'}",
            )
    for name, about in declared.items():
        if (
            name not in given
            and "defaultValue" not in about
            and about.get("isOptional") is not True
        ):
            raise InputError(
                f"the pipeline needs the parameter '{name}'",
                fix=f"give it: {_TYPES[about['parameterType']]}",
            )
    sent = {name: _checked(name, declared[name], value) for name, value in given.items()}
    size = len(json.dumps(sent).encode())
    if size > MAX_TEXT_BYTES:
        largest = max(sent, key=lambda name: len(json.dumps(sent[name])))
        raise InputError(
            f"the parameters have {size} bytes, and a task takes {MAX_TEXT_BYTES}",
            where=f"parameter '{largest}', the largest",
            fix="shorten it; data travels as an artifact",
        )
    return sent


def read_parameter(spec: Mapping[str, Any], name: str, text: str) -> Any:
    """What `text` means as a value of the parameter: itself, or JSON where it is not of type STRING.

    Raises InputError. `check_parameters` is still to be called.
    """
    declared = declared_parameters(spec)
    if name not in declared or declared[name]["parameterType"] == "STRING":
        return text
    try:
        return strict_json(text.encode(), name=f"parameter '{name}'")
    except (DocumentError, UnicodeEncodeError) as error:
        raise InputError(
            f"the parameter '{name}' is {_TYPES[declared[name]['parameterType']]}, "
            f"and '{text[:60]}' is none",
            fix="write it as JSON does",
        ) from error


def declared_parameters(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name to declaration, of what a run of this package may be given. Raises DocumentError for a
    package that declares something else.
    """
    inputs = _part(_part(spec, "root"), "inputDefinitions")
    artifacts = _part(inputs, "artifacts")
    needed = [name for name, about in artifacts.items() if not about.get("isOptional")]
    if needed:
        raise DocumentError(
            f"needs the artifact '{needed[0]}', which a submission cannot give",
            where="the package",
        )
    declared = _part(inputs, "parameters")
    for name, about in declared.items():
        kind = about.get("parameterType") if isinstance(about, dict) else None
        if kind not in _TYPES:
            raise DocumentError(
                f"its parameter '{name}' has the type {kind}, which a submission cannot give",
                where="the package",
            )
    return declared


def _part(whole: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = whole.get(key, {})
    if not isinstance(part, dict):
        raise DocumentError(f"its '{key}' is no object", where="the package")
    return part


def _checked(name: str, about: Mapping[str, Any], value: Any) -> Any:
    kind = about["parameterType"]
    if not _fits(kind, value):
        raise InputError(
            f"the parameter '{name}' is {_TYPES[kind]}, not {_named(value)}",
            fix=f"the pipeline declares it as {kind}",
        )
    problem = _unsendable(value)
    if problem:
        raise InputError(f"the parameter '{name}' holds {problem}, which cannot be sent")
    return value


def _fits(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "BOOLEAN"
    return {
        "STRING": isinstance(value, str),
        "NUMBER_INTEGER": isinstance(value, int),
        "NUMBER_DOUBLE": isinstance(value, int | float),
        "LIST": isinstance(value, list),
        "STRUCT": isinstance(value, dict),
    }.get(kind, False)


def _unsendable(value: Any) -> str:  # noqa: PLR0911 - one line for each kind of value
    """What in a value would not arrive as it is; empty if all would."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int):
        return "" if abs(value) <= MAX_INTEGER else f"the integer {value}"
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"the number {value}"
    if isinstance(value, str):
        bad = "\0" in value or any("\ud800" <= each <= "\udfff" for each in value)
        return "a character that is none" if bad else ""
    if isinstance(value, list):
        return next(filter(None, map(_unsendable, value)), "")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return "a key that is no text"
        return next(filter(None, map(_unsendable, [*value, *value.values()])), "")
    return f"a {type(value).__name__}"


def _named(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:40] + '...'}"
