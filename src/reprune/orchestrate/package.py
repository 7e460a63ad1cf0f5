"""A compiled pipeline, as `kfp` writes it: one YAML document, or a second one with the platform's part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reprune.core.documents import read_bounded
from reprune.core.errors import DocumentError, InputError

MAX_PACKAGE_BYTES = 8_000_000


@dataclass(frozen=True, kw_only=True)
class Package:
    """`spec` is a PipelineSpec, `platform` a PlatformSpec or empty."""

    spec: dict[str, Any]
    platform: dict[str, Any]


def read_package(path: Path) -> Package:
    """The package at `path`. Raises InputError where there is none, DocumentError for anything else."""
    where = str(path)
    try:
        raw = read_bounded(path.resolve(), max_bytes=MAX_PACKAGE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            "there is no such package",
            where=where,
            fix="run `reprune compile`, or name the file that it wrote with --pipeline",
        ) from None
    try:
        _refuse_aliases(raw, where)
        documents = list(yaml.load_all(raw, Loader=_LOADER))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError(f"is not valid YAML: {error}", where=where) from error
    if not 1 <= len(documents) <= 2 or not all(isinstance(each, dict) for each in documents):
        raise DocumentError("is no pipeline package: it has one or two documents", where=where)
    spec, platform = documents[0], documents[1] if len(documents) == 2 else {}
    missing = [key for key in ("pipelineInfo", "root", "deploymentSpec") if key not in spec]
    if missing:
        raise DocumentError(
            f"is no pipeline package: it has no '{missing[0]}'",
            where=where,
            fix="`reprune compile` writes one; a component is none",
        )
    if platform and "platforms" not in platform:
        raise DocumentError("its second document has no 'platforms'", where=where)
    return Package(spec=spec, platform=platform)


# The one in C reads a package in a tenth of the time; both are safe loaders.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _refuse_aliases(raw: bytes, where: str) -> None:
    for event in yaml.parse(raw, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise DocumentError("uses a YAML alias", where=f"{where}:{line}")
