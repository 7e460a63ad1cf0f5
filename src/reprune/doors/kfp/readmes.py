"""README.md of each component and pipeline, made of its signature, its docstring and its metadata.

What a person wrote below `<!-- custom-content -->` stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from reprune.doors.kfp.catalogue import catalogue_folder, load_component, load_pipeline, names
from reprune.doors.kfp.metadata import Metadata, read_metadata

README = "README.md"
CUSTOM = "<!-- custom-content -->"
STABILITY = {
    "experimental": "Experimental: it may change or go at any time.",
    "alpha": "Alpha: names of inputs and outputs may still change between versions.",
    "beta": "Beta: what changes is announced one version ahead.",
}
# What kfp calls a kind of parameter, as people write it in Python.
TYPES = {"String": "str", "Integer": "int", "Float": "float", "Boolean": "bool"}
Kind: TypeAlias = Literal["components", "pipelines"]
KINDS: tuple[Kind, ...] = ("components", "pipelines")


def readme(kind: Kind, name: str) -> str:
    """The README of one entry, with the hand-written end of the one that is there.

    Raises UnknownName, MissingExtra, and RepruneError for metadata that breaks a rule.
    """
    folder = catalogue_folder() / kind / name
    loaded = load_component(name) if kind == "components" else load_pipeline(name)
    function = loaded.python_func if kind == "components" else loaded.pipeline_func
    lines = [*_page(kind, name, loaded.component_spec, function.__doc__, read_metadata(folder))]
    return "\n".join(lines) + f"\n{CUSTOM}\n{_custom(folder / README)}"


def _page(
    kind: Kind, name: str, spec: Any, docstring: str | None, metadata: Metadata
) -> Iterator[str]:
    from docstring_parser import parse

    parsed = parse(docstring or "")
    described = {each.arg_name: _line(each.description) for each in parsed.params}
    yield f"# {_title(name)}"
    yield ""
    if metadata.stability in STABILITY:
        yield f"> {STABILITY[metadata.stability]}"
        yield ""
    yield "## Overview"
    yield ""
    yield parsed.short_description or ""
    if parsed.long_description:
        yield ""
        yield parsed.long_description
    yield ""
    yield "## Inputs"
    yield ""
    yield "| Name | Type | Default | What it is |"
    yield "|---|---|---|---|"
    for key, given in (spec.inputs or {}).items():
        default = f"`{_value(given.default)}`" if given.optional else "required"
        yield f"| `{key}` | `{_type(given)}` | {default} | {described.get(key, '')} |"
    yield ""
    if spec.outputs:
        yield "## Outputs"
        yield ""
        yield "| Name | Type | What it is |"
        yield "|---|---|---|"
        for key, made in spec.outputs.items():
            yield f"| `{key}` | `{_type(made)}` | {described.get(key, '')} |"
        yield ""
        if parsed.returns:
            yield _line(parsed.returns.description)
            yield ""
    yield from _usage(kind, name, spec.inputs or {})
    yield from _about(metadata)


def _usage(kind: Kind, name: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    yield "## Usage"
    yield ""
    if kind == "pipelines":
        yield f"`reprune compile {name}` writes the package, `reprune submit` runs it."
        yield ""
        return
    needed = [key for key, given in inputs.items() if not given.optional]
    yield "```python"
    yield f"from components.{name} import {name}"
    yield ""
    yield f"task = {name}("
    yield from (f"    {key}={key}," for key in needed)
    yield ")"
    yield "task.set_caching_options(False)"
    yield "```"
    yield ""


def _about(metadata: Metadata) -> Iterator[str]:
    yield "## Metadata"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| Name | {metadata.name} |"
    yield f"| Stability | {metadata.stability} |"
    yield f"| Kubeflow | {_versions(metadata.dependencies)} |"
    if metadata.services:
        yield f"| Services | {_versions(metadata.services)} |"
    if metadata.tags:
        yield f"| Tags | {', '.join(metadata.tags)} |"
    yield f"| Last verified | {metadata.last_verified.date().isoformat()} |"
    yield ""


def _versions(pairs: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name} {version}" for name, version in pairs)


def _custom(path: Path) -> str:
    if not path.is_file():
        return ""
    return path.read_text(encoding="utf-8").partition(f"{CUSTOM}\n")[2]


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _type(given: Any) -> str:
    plain = given.type.removeprefix("system.").partition("@")[0]
    plain = TYPES.get(plain, plain)
    return f"List[{plain}]" if given.is_artifact_list else plain


def _value(default: Any) -> str:
    return json.dumps(default)


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def every_readme() -> dict[Path, str]:
    """Path (from the catalogue's folder) to text, for all entries."""
    return {
        Path(kind) / name / README: readme(kind, name) for kind in KINDS for name in names(kind)
    }
