"""The table of values in the chart's README, from the comments in its values.yaml.

python -m tests.charts.values_table writes it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "reprune"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"


def described(text: str) -> dict[str, str]:
    """What the comments of a values.yaml say, by dotted path; an undescribed key is not there."""
    found: dict[str, str] = {}
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        said = re.fullmatch(r" *# (-- )?(.*)", line)
        if said:
            comment = [said[2]] if said[1] else [*comment, said[2]] if comment else []
            continue
        key = re.match(r"( *)([A-Za-z][-A-Za-z0-9]*):", line)
        if key:
            path = [*path[: len(key[1]) // 2], key[2]]
            if comment:
                found[".".join(path)] = " ".join(comment)
        comment = []
    return found


def table(text: str) -> str:
    """Markdown: each described value, its default and what it is for."""
    values = yaml.safe_load(text)
    lines = ["| value | default | what |", "|---|---|---|"]
    for path, what in described(text).items():
        default = values
        for name in path.split("."):
            default = default[name]
        lines.append(f"| `{path}` | `{json.dumps(default)}` | {what} |")
    return "\n".join(lines) + "\n"


def in_page(page: str, content: str) -> str:
    """The page with its table replaced."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + content + END + rest.split(END)[1]


if __name__ == "__main__":
    readme = CHART / "README.md"
    readme.write_text(in_page(readme.read_text(), table((CHART / "values.yaml").read_text())))
