"""docs/policy.md names every key of policy.yaml, and its examples are policies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from reprune.core.documents import decode_yaml
from reprune.core.policy import PARITY_BY_PRECISION, Policy, check_policy

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def structs(info: msgspec.inspect.Type) -> Iterator[tuple[str, msgspec.inspect.Type]]:
    """The keys below a type, each with the type of its value."""
    if isinstance(info, msgspec.inspect.UnionType):
        for inner in info.types:
            yield from structs(inner)
    elif isinstance(info, msgspec.inspect.DictType):
        yield from structs(info.value_type)
    elif isinstance(info, msgspec.inspect.StructType):
        for field in info.fields:
            yield field.encode_name, field.type


def leaves(info: msgspec.inspect.Type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    below = list(structs(info))
    if not below:
        yield path
    for name, inner in below:
        yield from leaves(inner, (*path, name))


@pytest.mark.parametrize("path", list(leaves(msgspec.inspect.type_info(Policy))), ids=".".join)
def test_every_key_is_in_the_table(path: tuple[str, ...]) -> None:
    """A row names the section and the key; a key that is added to the policy and not explained fails."""
    if path == ("schema",):
        return
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert any(all(re.search(rf"\b{part}\b", row) for part in path) for row in rows), path


def defaults(info: msgspec.inspect.Type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every key, dotted, with what it is where its section is written and it is not; None for nothing."""
    if isinstance(info, msgspec.inspect.UnionType):
        for inner in info.types:
            yield from defaults(inner, path)
    elif isinstance(info, msgspec.inspect.DictType):
        yield from defaults(info.value_type, (*path, "*"))
    elif isinstance(info, msgspec.inspect.StructType):
        for field in info.fields:
            below = list(defaults(field.type, (*path, field.encode_name)))
            yield from below or [(".".join((*path, field.encode_name)), default_of(field))]


def default_of(field: msgspec.inspect.Field) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    default = None if field.default in (msgspec.NODEFAULT, msgspec.UNSET) else field.default
    return list(default) if isinstance(default, tuple) else default


def keys_of(cell: str) -> list[list[str]]:
    """`a.b`, `.c`: `k`, `l` are a.b.k and a.c.k, then a.b.l and a.c.l; `a.b`, `.c` are a.b, then a.c."""
    where, _, last = re.sub(r"<\w+>", "*", cell).partition(":")
    first, *others = CODE.findall(where)
    sections = [first, *(first.rpartition(".")[0] + name for name in others)]
    names = CODE.findall(last)
    return [[f"{each}.{name}" for each in sections] for name in names] or [[s] for s in sections]


CODE = re.compile(r"`([^`]*)`")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
KNOWN = dict(defaults(msgspec.inspect.type_info(Policy)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_defaults_in_the_table_are_those_of_the_structs(row: list[str]) -> None:
    """In the order of the row's keys; one that must be written, or demands nothing, has none."""
    found = []
    for names in keys_of(row[0].replace(".<name>", "")):
        there = [KNOWN[name] for name in names if KNOWN[name] is not None]
        assert there == there[:1] * len(there)
        found += there[:1]
    assert [yaml.safe_load(text) for text in CODE.findall(row[3])] == found


def test_the_important_default_is_told_in_words() -> None:
    """At an accuracy of 98 % it is what counts, and not the drop that was written."""
    ratio = KNOWN["quality.*.vs_parent.max_error_ratio"]
    assert round((ratio - 1) * 0.02, 9) == 0.005
    assert "98 %, 25 % more errors are half a\npoint" in PAGE
    assert "`max_error_ratio: null`" in PAGE


@pytest.mark.parametrize("precision", PARITY_BY_PRECISION)
def test_the_usual_bounds_of_a_precision_are_in_the_second_table(precision: str) -> None:
    rows = {line.split("|")[1]: line.split("|")[2:-1] for line in PAGE.splitlines() if "|" in line}
    (cells,) = (cells for head, cells in rows.items() if precision in head.strip().split(", "))
    bounds = [None if cell.strip() == "any" else float(cell) for cell in cells]
    assert tuple(bounds) == msgspec.structs.astuple(PARITY_BY_PRECISION[precision])


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n")[1])
def test_the_examples_are_policies(text: str) -> None:
    """What a reader copies is accepted."""
    check_policy(decode_yaml(text, Policy, name="docs/policy.md"), where="docs/policy.md")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2
