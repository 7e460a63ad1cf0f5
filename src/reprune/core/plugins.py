"""Names to objects: built-ins in a dict that anyone can read, then entry points, loaded when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from reprune.core.errors import MissingExtra, UnknownName, nearest


def lookup(group: str, name: str, builtins: Mapping[str, str]) -> Any:
    """The object that `name` stands for in `group`.

    `builtins` maps names to "module:attribute"; third parties add to it with entry points in the
    group `reprune.<group>`. Nothing is imported but the one that was asked for.

    Raises UnknownName for a name that nobody registered, or that two packages did.
    """
    found = dict(builtins)
    for point in entry_points(group=f"reprune.{group}"):
        if point.name in found and found[point.name] != point.value:
            raise UnknownName(
                f"two packages register the {group} '{point.name}': "
                f"{found[point.name]} and {point.value}",
                fix="uninstall one of them",
            )
        found[point.name] = point.value
    if name not in found:
        raise UnknownName(
            f"there is no {group} called '{name}'; {nearest(name, found)}",
            fix=f"use one of: {', '.join(sorted(found))}",
        )
    module, _, attribute = found[name].partition(":")
    return getattr(import_module(module), attribute)


def require(module: str, extra: str) -> Any:
    """The imported `module`; if it is not installed, MissingExtra names the line that installs it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingExtra(
            f"this needs the package '{error.name}', which is not installed",
            fix=f"pip install 'reprune[{extra}]'",
        ) from error
