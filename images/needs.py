"""Prints what pip must install for some extras of Reprune, one requirement a line.

`python3 images/needs.py pyproject.toml torch,onnx,kfp`. An image's layer of dependencies is made from this
list, so that it stays as it is when Reprune's source or the rest of pyproject.toml changes.
"""

import re
import sys
import tomllib
from pathlib import Path


def needs(project: dict, extras: list[str]) -> list[str]:
    """The project's own requirements and those of the extras; extras of itself are followed."""
    found = list(project["dependencies"])
    for extra in extras:
        if extra not in project["optional-dependencies"]:
            known = ", ".join(sorted(project["optional-dependencies"]))
            sys.exit(f"needs: there is no extra '{extra}'; there are {known}")
        for line in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", line)
            found += needs(project, own[1].split(",")) if own else [line]
    return sorted(set(found))


if __name__ == "__main__":
    listed = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    wanted = [extra for extra in " ".join(sys.argv[2:]).replace(",", " ").split() if extra]
    print("\n".join(needs(listed["project"], wanted)))
