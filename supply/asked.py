"""Who asks for a locked package: Reprune itself, which of its extras, or development alone."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from images.needs import needs
from supply.closure import asked, closure
from supply.locks import ROOT, Packages, read_packages

DEVELOPMENT = "dev"
# Of these extras NVIDIA's own index alone has something: no lock of ours can hold it.
NOT_LOCKED = {"tensorrt": ("tensorrt-cu13",)}


@cache
def project(root: Path = ROOT) -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["project"])


def roots(extra: str, table: dict[str, Any]) -> list[str]:
    """What an extra of Reprune asks for ("" is Reprune alone), as `name`s and `name[extra]`s."""
    return asked(needs(table, [extra] if extra else []))


def askers(packages: Packages, table: dict[str, Any]) -> dict[str, list[str]]:
    """For each package that anything takes, the extras that do; "" is Reprune alone."""
    found: dict[str, list[str]] = {}
    for extra in ["", *sorted(table["optional-dependencies"])]:
        left_out = NOT_LOCKED.get(extra, ())
        for name in closure(roots(extra, table), packages, left_out):
            found.setdefault(name, []).append(extra)
    return found


def at_run_time(packages: Packages, table: dict[str, Any]) -> dict[str, list[str]]:
    """As `askers`, without what development alone takes."""
    return {
        name: rest
        for name, extras in askers(packages, table).items()
        if (rest := [extra for extra in extras if extra != DEVELOPMENT])
    }


def everything() -> tuple[Packages, dict[str, Any]]:
    """The locked packages and the project, of this repository."""
    return read_packages(), project()
