"""Where our components and pipelines lie, and how to load one of them by name.

They are packages of their own, as Kubeflow's catalogue has them: `components/<name>/component.py`,
`pipelines/<name>/pipeline.py`. In a checkout they lie at its root, in an installed wheel inside it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import reprune
from reprune.core.errors import RepruneError, UnknownName, nearest
from reprune.doors.kfp.options import DEFAULT, Options
from reprune.doors.kfp.schema import missing_kfp

PACKAGES = ("components", "pipelines")
FILES = {"components": "component", "pipelines": "pipeline"}


def catalogue_folder() -> Path:
    """The folder that holds `components` and `pipelines`. Raises RepruneError if there is none."""
    package = Path(reprune.__file__).parent
    for folder in (package / "catalogue", package.parents[1]):
        if all((folder / name / "__init__.py").is_file() for name in PACKAGES):
            return folder
    raise RepruneError(
        "the pipelines are missing from this installation of Reprune",
        where=str(package),
        fix="install it again: pip install --force-reinstall 'reprune[kfp]'",
    )


def names(kind: Literal["components", "pipelines"] = "pipelines") -> tuple[str, ...]:
    """What there is of one kind, in order. Imports nothing."""
    found = catalogue_folder().glob(f"{kind}/*/{FILES[kind]}.py")
    return tuple(sorted(path.parent.name for path in found))


def load_pipeline(name: str, options: Options = DEFAULT) -> Any:
    """The pipeline `name` as kfp compiles it, made with `options`. Raises UnknownName, MissingExtra."""
    return load_module("pipelines", name).make(options)


def load_component(name: str) -> Any:
    """The component `name`, as pipelines call it. Raises UnknownName, MissingExtra."""
    return getattr(load_module("components", name), name)


def load_module(kind: Literal["components", "pipelines"], name: str) -> ModuleType:
    """The module that defines one entry of the catalogue. Raises UnknownName, MissingExtra."""
    known = names(kind)
    if name not in known:
        raise UnknownName(
            f"there is no {FILES[kind]} called '{name}'; {nearest(name, known)}",
            where=str(catalogue_folder() / kind),
        )
    with _importable(catalogue_folder()):
        try:
            return import_module(f"{kind}.{name}.{FILES[kind]}")
        except ImportError as error:
            if (error.name or "").partition(".")[0] == "kfp":
                raise missing_kfp(error) from error
            raise


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Inside, `components` and `pipelines` are ours; a project's own of these names come back after it."""
    foreign = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in PACKAGES and not _lies_in(module, folder)
    }
    for name in foreign:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if foreign:
            for name in [each for each in sys.modules if each.partition(".")[0] in PACKAGES]:
                del sys.modules[name]
            sys.modules.update(foreign)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(folder.resolve())
