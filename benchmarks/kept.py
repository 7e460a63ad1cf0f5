"""What a benchmark keeps on disk lies beside what it was made with, and is taken up for the same alone.

A kept file is JSON with one key more, `given`: the plain values that its content depends on. Where somebody
asks with others, or where there is no `given` (an older version wrote the file), the benchmark ends with the
reason. It deletes and overwrites nothing: whose hours of work those are, it cannot know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import common

GIVEN = "given"
_NONE = object()


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON gives them back: lists for tuples, text for keys."""
    found: dict[str, Any] = json.loads(json.dumps(given))
    return found


def read_kept(path: Path, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `path` holds, without what it was made with; None where it is not there. Exits where it was made
    with something else.
    """
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    if words := other(path, found, given):
        raise SystemExit(words)
    return without_given(found)


def write_kept(path: Path, given: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    common.write(path, {**content, GIVEN: plain(given)})


def without_given(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content alone: of a report's rows, what they were made with would be most."""
    return {key: value for key, value in content.items() if key != GIVEN}


def other(
    path: Path, content: Mapping[str, Any], given: Mapping[str, Any], but: tuple[str, ...] = ()
) -> str:
    """Why what `path` holds cannot be taken up, in words; empty where it can. Keys in `but` may differ."""
    if GIVEN not in content:
        return (
            f"{path} does not say what it was made with (an older version wrote it): give another folder, "
            f"delete it, or add `{GIVEN}` to it if you know (benchmarks.jobs.adopt does so for jobs)"
        )
    asked = {key: value for key, value in plain(given).items() if key not in but}
    there = {key: value for key, value in content[GIVEN].items() if key not in but}
    found = list(_differences(there, asked))
    if not found:
        return ""
    told = "; ".join(found[:3]) + (f" and {len(found) - 3} more" if found[3:] else "")
    return f"{path} was made with other knobs: {told}. Give another folder, or delete it"


def _differences(there: Any, asked: Any, name: str = "") -> Iterator[str]:
    """A few words for each value that differs, by its name with dots."""
    if isinstance(there, Mapping) and isinstance(asked, Mapping):
        for key in sorted({*there, *asked}):
            yield from _differences(
                there.get(key, _NONE), asked.get(key, _NONE), f"{name}.{key}" if name else key
            )
    elif there != asked:
        yield f"{name} is {_said(there)} there, {_said(asked)} is asked"


def _said(value: Any) -> str:
    return "nothing" if value is _NONE else json.dumps(value)
