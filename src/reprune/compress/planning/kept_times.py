"""Latency ratios that a plan measured, kept in the work folder: a run that was killed times nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from reprune.compress.planning.latency import Widths
from reprune.core import store
from reprune.core.artifacts import Fact
from reprune.core.documents import decode_json
from reprune.core.errors import DocumentError

KEPT_FILE = "timed.json"


class Kept(Fact, kw_only=True):
    """What is done: by target, latency ratios by the widths ("<option>=<width>", in the order of names)."""

    ratios: dict[str, dict[str, float]] = {}


def kept(
    time_ratio: Callable[[Widths], float], target: str, work: Path
) -> Callable[[Widths], float]:
    """`time_ratio` of `target`, each answer of which is in `work` before it is given and is given again from
    there: equal widths are timed once, whatever became of the process in between. A file that cannot be
    read costs only time.
    """
    path = work / KEPT_FILE

    def ratio(widths: Mapping[str, int]) -> float:
        key = ",".join(f"{name}={width}" for name, width in sorted(widths.items()))
        known = _read(path).ratios.get(target, {})
        if key in known:
            return known[key]
        found = time_ratio(widths)
        # Read again: another target's answers lie in the same file.
        ratios = dict(_read(path).ratios)
        ratios[target] = {**ratios.get(target, {}), key: found}
        store.write_bytes(path, msgspec.json.encode(Kept(ratios=ratios)))
        return found

    return ratio


def _read(path: Path) -> Kept:
    try:
        return decode_json(path.read_bytes(), Kept, name=str(path))
    except (FileNotFoundError, DocumentError):
        return Kept()
