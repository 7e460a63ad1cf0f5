"""Mutants that no test can tell from the original, each with the reason why. The files of `tests/mutation/
equivalent/` hold them, one a package; a mutant is named by its function and its text, so it survives edits.
An entry with `more = true` is of those that are made with `--more` alone.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent / "equivalent"


def read(folder: Path = FOLDER, *, more: bool = False) -> dict[str, dict[str, str]]:
    """Module to (name of the mutant to reason). Raises ValueError for an entry without a reason."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text()).get("equivalent", []):
            if not entry.get("reason"):
                raise ValueError(f"{path.name}: {entry} has no reason")
            if entry.get("more", False) and not more:
                continue
            of_module = found.setdefault(entry["module"], {})
            for change in entry["mutants"]:
                of_module[f"{entry['function']}: {change}"] = entry["reason"]
    return found
