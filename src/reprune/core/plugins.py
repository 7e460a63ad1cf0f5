"""Names to objects: built-ins in a dict that anyone can read, then entry points, loaded when asked for."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reprune.core.errors import MissingExtra, UnknownName, nearest

# So alike are two words of which one may be the other misspelt.
ALIKE = 0.8


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


def registered(group: str) -> set[str]:
    """The names that installed packages add to `group`. Nothing of them is imported."""
    return {point.name for point in entry_points(group=f"reprune.{group}")}


def misspelt(group: str, name: str, builtins: Collection[str]) -> str:
    """The built-in that `name` seems to mean, where nothing here is called that in `group`; "" else.

    Any other unknown name may be of a package that only the image which uses it has: there it is looked up.
    """
    if name in builtins or any(name in one or one in name for one in builtins):
        return ""
    close = difflib.get_close_matches(name, builtins, n=1, cutoff=ALIKE)
    return close[0] if close and name not in registered(group) else ""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Whose code a third-party name stands for. `digest` is the sha256 of the module's file."""

    distribution: str
    version: str
    module: str
    digest: str


def origin(group: str, name: str) -> Origin | None:
    """Where a name of `group` comes from; None if no installed package registers it.

    The digest is 'unknown' for a module that is no single file.
    """
    for point in entry_points(group=f"reprune.{group}"):
        if point.name == name:
            module = point.value.partition(":")[0]
            spec = find_spec(module)
            file = Path(spec.origin) if spec is not None and spec.origin else None
            known = file is not None and file.is_file()
            return Origin(
                distribution=point.dist.name if point.dist else "unknown",
                version=point.dist.version if point.dist else "unknown",
                module=module,
                digest=_digest(file) if file is not None and known else "unknown",
            )
    return None


def _digest(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


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
