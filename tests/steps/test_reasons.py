"""Every refusal has its reason, and docs/trust.md says what each one means."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from reprune.core import errors
from reprune.core.errors import RepruneError

ROOT = Path(__file__).parents[2]
MODULES = (
    "acceptance", "adopt", "adoptable", "anchor", "fencing", "moving", "promote", "promoter", "rollback",
    "signers", "waiving",
)  # fmt: skip
WORD = re.compile(r"[a-z]+(_[a-z]+)+|pickled")
# What these functions are handed first is a reason.
REFUSERS = {"_refuse", "_refuse_anchor"}


def reasons(module: str) -> Iterator[str]:
    """The reasons that a module of steps can give, from its source."""
    source = (ROOT / f"src/reprune/steps/{module}.py").read_text()
    for node in ast.walk(ast.parse(source)):
        found: list[ast.expr] = []
        if isinstance(node, ast.Call):
            found += [each.value for each in node.keywords if each.arg == "reason"]
            if isinstance(node.func, ast.Name) and node.func.id in REFUSERS:
                found += node.args[:1]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason":
            found.append(node.value)
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            found += node.value.elts[:1]
        texts = [
            inner.value
            for each in found
            for inner in ast.walk(each)
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
        ]
        yield from filter(WORD.fullmatch, texts)


def documented() -> set[str]:
    """The words in the first column of the table of reasons."""
    text = (ROOT / "docs/trust.md").read_text().partition("\n## Reasons\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    return {word for row in rows for word in re.findall(r"`([a-z_]+)`", row)}


def test_every_reason_is_in_the_table() -> None:
    """A refusal that nobody can look up fails here."""
    found = {reason for module in MODULES for reason in reasons(module)}
    found |= {
        f"{each}_not_judged" for each in ("candidate", "plan", "table", "engines", "profiles")
    }
    assert len(found) > 40
    assert found - documented() == set()


def test_the_table_names_no_reason_that_there_is_not() -> None:
    """Each is given by a step, or is the code of an error."""
    found = {reason for module in MODULES for reason in reasons(module)}
    found |= {
        f"{each}_not_judged" for each in ("candidate", "plan", "table", "engines", "profiles")
    }
    found |= {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, RepruneError)
    }
    assert documented() - found == set()
