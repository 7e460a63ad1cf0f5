"""Prints the part of a lock that some requirements take, for `pip install --require-hashes --no-deps`.

`python3 supply/closure.py constraints.lock supply/packages.json [--without NAME ...] < requirements`. The
standard library alone, and no module beside it: it runs in an image before anything is installed there.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def asked(lines: Iterable[str]) -> list[str]:
    """`name` and `name[extra]` of requirement lines; versions and markers are the lock's matter."""
    found = []
    for line in lines:
        match = re.match(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?", line.partition("#")[0])
        if match:
            name = canonical(match[1])
            found.append(name)
            found += [f"{name}[{canonical(e.strip())}]" for e in (match[2] or "").split(",") if e]
    return found


def closure(
    wanted: Iterable[str], packages: dict[str, Any], without: Iterable[str] = ()
) -> set[str]:
    """The names of all packages that these take. Raises LookupError for one that is not locked.

    `wanted` are `name`s and `name[extra]`s; what `without` names is left out, with what it alone needs.
    """
    left_out = {canonical(name) for name in without}
    seen: set[str] = set()
    open_ends = list(wanted)
    while open_ends:
        node = open_ends.pop()
        name, _, extra = node.rstrip("]").partition("[")
        if node in seen or name in left_out:
            continue
        if name not in packages:
            raise LookupError(f"{name} is not locked")
        seen.add(node)
        open_ends += packages[name]["needs"].get(extra, ())
    return {node for node in seen if "[" not in node}


def part(lock: str, names: set[str]) -> str:
    """The lock's entries of these names. Raises LookupError where one has none."""
    found = {}
    for entry in re.findall(r"^[^#\s].*(?:\n\s+.*)*", lock, re.MULTILINE):
        found[canonical(entry.partition("==")[0])] = entry
    if missing := sorted(names - set(found)):
        raise LookupError(f"not in the lock: {', '.join(missing)}")
    return "".join(f"{found[name]}\n" for name in sorted(names))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path)
    parser.add_argument("packages", type=Path)
    parser.add_argument("--without", nargs="*", default=[])
    given = parser.parse_args()
    try:
        names = closure(
            asked(sys.stdin), json.loads(given.packages.read_text(encoding="utf-8")), given.without
        )
        print(part(given.lock.read_text(encoding="utf-8"), names), end="")
    except LookupError as error:
        sys.exit(f"closure: {error}")
