"""Writes docs/licences.md: what Reprune depends on at run time, and under which licence each part comes.

`python -m supply.licences`. A licence that is neither permissive nor weak in its demands needs a reason in
supply/reviewed.toml, and so does one that nobody can tell.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, LicenseExpression, Licensing, get_spdx_licensing

from supply.asked import at_run_time, everything
from supply.locks import ROOT, Packages

PAGE = "docs/licences.md"
# They ask to be named, and no more.
PERMISSIVE = frozenset(
    (
        *(
            "0BSD",
            "Apache-2.0",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "BSL-1.0",
            "CC0-1.0",
            "CNRI-Python",
        ),
        *("ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Python-2.0", "WTFPL", "Zlib", "ZPL-2.1"),
    )
)
# They ask that changes of their own files stay open: we change none.
WEAK = frozenset({"MPL-2.0"})
WITH = frozenset({"Apache-2.0 WITH LLVM-exception"})


@cache
def _spdx() -> Licensing:
    return get_spdx_licensing()


def fine(expression: str) -> bool:
    """Whether one may depend on it without asking: all of an AND, one of an OR. False for what is no SPDX."""
    try:
        parsed = _spdx().parse(expression, validate=True, strict=True)
    except ExpressionError:
        return False
    return parsed is not None and _fine(parsed)


def _fine(parsed: LicenseExpression) -> bool:
    if isinstance(parsed, _spdx().AND):
        return all(_fine(each) for each in parsed.args)
    if isinstance(parsed, _spdx().OR):
        return any(_fine(each) for each in parsed.args)
    return str(parsed) in PERMISSIVE | WEAK | WITH


def refused(packages: Packages, names: list[str], accepted: Mapping[str, str]) -> list[str]:
    """What is wrong with the licences of these packages, and with acceptances nobody needs."""
    bad = [name for name in names if not fine(packages[name]["licence"])]
    needless = [name for name in accepted if name not in bad]
    found = [
        f"{name}: {packages[name]['licence'] or 'no licence known'}, and no reason to accept it"
        for name in bad
        if not accepted.get(name)
    ]
    return found + [f"{name}: accepted, but it needs no reason" for name in needless]


def accepted(root: Path = ROOT) -> dict[str, str]:
    """Package to the reason why its licence is all right."""
    text = (root / "supply/reviewed.toml").read_text(encoding="utf-8")
    return {str(name): str(why) for name, why in tomllib.loads(text)["accepted"].items()}


def page(packages: Packages, table: dict[str, Any], reasons: Mapping[str, str]) -> str:
    """The whole page."""
    takers = at_run_time(packages, table)
    direct = sum("" in extras for extras in takers.values())
    lines = [
        "<!-- Written by `python -m supply.licences`. -->",
        "# Licences of what Reprune depends on",
        "",
        f"Reprune is {table['license']}. Its wheel holds none of the packages below; pip fetches them, into",
        f"its images too. `pip install reprune` takes {direct} of the {len(takers)}; the rest comes with the",
        "extras named. Versions are those of `constraints.txt`. A licence is what the package's own metadata",
        "says, as an SPDX expression; where that is silent, what a person found (`supply/reviewed.toml`).",
        "What only development takes is in the bill of materials (`make sbom`), not here.",
        "",
        "A dependency whose licence is unknown, or asks for more than a notice or the openness of its own",
        "files, is refused by a test unless a reason is given:",
        "",
        "| package | licence | why it is accepted |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {packages[name]['licence']} | {why} |" for name, why in sorted(reasons.items())
    ]
    lines += ["", "| package | version | licence | comes with |", "|---|---|---|---|"]
    for name in sorted(takers):
        one = packages[name]
        lines.append(f"| {name} | {one['version']} | {one['licence']} | {_with(takers[name])} |")
    lines += [
        "",
        "The extra `tensorrt` takes `tensorrt-cu13` besides, from NVIDIA's own index, under NVIDIA's terms.",
        "Torch's CUDA builds bring NVIDIA's libraries, under NVIDIA's terms too.",
    ]
    return "\n".join(lines) + "\n"


def _with(extras: list[str]) -> str:
    """The extras that are no sum of others, or the word for Reprune alone."""
    return (
        "reprune" if "" in extras else ", ".join(e for e in extras if e not in ("all", "targets"))
    )


def main() -> int:
    packages, table = everything()
    text = page(packages, table, accepted())
    (ROOT / PAGE).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
