"""docs/policy.md names every key of policy.yaml, and its examples are policies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from reprune.core.documents import decode_yaml
from reprune.core.policy import Policy, check_policy

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


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n")[1])
def test_the_examples_are_policies(text: str) -> None:
    """What a reader copies is accepted."""
    check_policy(decode_yaml(text, Policy, name="docs/policy.md"), where="docs/policy.md")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2
