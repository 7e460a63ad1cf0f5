"""Writes the locks again: `python -m supply.lock [--installed SITE_PACKAGES ...]`.

Run after a change of constraints*.txt, in an environment that holds the new versions; `--installed` names
folders where packages of other environments lie (LiteRT's). Digests come from whatever places pip is
configured to look at, all of a version's files for a supported Python; needs and licences from what is
installed. Writes nothing unless every pin is installed, offered, licensed and needs only what is pinned.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from typing import Any

from supply.closure import closure
from supply.locks import (
    LOCKS,
    PACKAGES,
    ROOT,
    TOOLS,
    TORCH_CPU,
    Packages,
    lock_text,
    packages_text,
    pins,
    torch_cpu_text,
)
from supply.metadata import facts, installed
from supply.offered import offered

# A wheel for one of these alone is for no Python that Reprune runs on.
_TOO_OLD = re.compile(
    r"-(cp(2\d?|3[0-9]|310)m?(\.cp\d+)*-(?!abi3)|pp\d|cp\d+-cp\d+t-|graalpy|py2-)"
)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="supply.lock", description=__doc__)
    parser.add_argument("--installed", nargs="*", default=[], help="more folders of packages")
    given = parser.parse_args(words)
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in LOCKS}
    main_pins = {n: v for name in texts if name not in TOOLS for n, v in pins(texts[name]).items()}
    reviewed = tomllib.loads((ROOT / "supply/reviewed.toml").read_text(encoding="utf-8"))
    packages = _described(main_pins, [*sys.path, *given.installed], reviewed)
    files = _files({each for text in texts.values() for each in pins(text).items()})
    for name, version in main_pins.items():
        packages[name]["files"] = files[f"{name}=={version}"]
    for name, target in LOCKS.items():
        known = packages if name not in TOOLS else _bare(pins(texts[name]), files)
        (ROOT / target).write_text(lock_text(texts[name], known), encoding="utf-8")
    (ROOT / TORCH_CPU).write_text(torch_cpu_text(packages), encoding="utf-8")
    (ROOT / PACKAGES).write_text(packages_text(packages), encoding="utf-8")
    return 0


def _described(
    wanted: dict[str, str], places: list[str], reviewed: dict[str, dict[str, Any]]
) -> Packages:
    """Version, licence and needs of each. Exits with all that is wrong."""
    there = installed(places)
    found: Packages = {}
    wrong: list[str] = []
    for name, version in wanted.items():
        if name not in there:
            wrong.append(f"{name} is not installed")
            continue
        one = facts(there[name])
        licence = reviewed["licence"].get(name, {}).get("is") or one.licence
        needs = {} if name in reviewed["without"] else one.needs
        found[name] = {"version": version, "licence": licence, "needs": needs}
        if one.version != version:
            wrong.append(f"{name} is installed as {one.version}, pinned as {version}")
        if not licence:
            wrong.append(f"{name} names no licence: look it up and add it to supply/reviewed.toml")
        wrong += [
            f"{name} needs {each}, which nothing pins"
            for each in needs.get("", ())
            if each.partition("[")[0] not in wanted
        ]
    if wrong:
        sys.exit("\n".join(sorted(wrong)))
    _prune(found)
    return found


def _prune(packages: Packages) -> None:
    """Leaves out extras that name what is not pinned: nobody here asks for them."""
    for each in packages.values():
        each["needs"] = {
            extra: asked
            for extra, asked in each["needs"].items()
            if all(one.partition("[")[0] in packages for one in asked)
        }
    for name in packages:
        closure([name], packages)


def _files(wanted: set[tuple[str, str]]) -> dict[str, dict[str, str]]:
    found = offered(sorted(f"{name}=={version}" for name, version in wanted))
    told: dict[str, dict[str, str]] = {}
    for pin, files in found.items():
        fit = {name: digests for name, digests in files.items() if not _TOO_OLD.search(name)}
        if twice := [name for name, digests in fit.items() if len(digests) > 1]:
            sys.exit(f"{pin}: files of one name and different content: {', '.join(twice)}")
        told[pin] = {name: next(iter(digests)) for name, digests in sorted(fit.items())}
    return told


def _bare(wanted: dict[str, str], files: dict[str, dict[str, str]]) -> Packages:
    return {name: {"files": files[f"{name}=={version}"]} for name, version in wanted.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
