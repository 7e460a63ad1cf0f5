"""What masked weights come to in bytes: beside the engines, whose files are as large as they are."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from reprune.core.artifacts import StorageFact
from reprune.report import words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table

# By the names of runtimes.sparse, in its order.
FORMS = {
    "dense": "Dense",
    "zeros": "Run lengths",
    "bitmask": "Bitmask",
    "delta": "Delta-index",
    "n:m": "Packed",
}
CAPTION = (
    "What the zeros come to in bytes, were the weights stored so; engines are as large as told above, and "
    "nothing here says that zeros are faster"
)


def storage_tables(facts: ReportFacts) -> list[Safe]:
    """One table of all masked arms; none where no arm is masked, or nobody counted."""
    rows: list[list[Safe]] = []
    seen: set[str] = set()
    patterns: set[str] = set()
    for engines in facts.engines:
        for arm, lines in () if engines.storage is UNSET else sorted(engines.storage.items()):
            if arm in seen:
                continue
            seen.add(arm)
            patterns |= {line.pattern for line in lines}
            rows += _rows(words.baseline_name(arm, facts), lines)
    if not rows:
        return []
    packed = f"{FORMS['n:m']} {words.listing(sorted(patterns))}"
    head = [*list(FORMS.values())[:-1], packed]
    return [
        html_table(CAPTION, ["Model", "Numbers", *head, "Smallest, as a file"], rows, numbers=2)
    ]


def _rows(name: str, lines: Sequence[StorageFact]) -> list[list[Safe]]:
    """A form that holds no tensor of the model is left empty: its bytes are those of dense."""
    return [
        [
            tag("bdi", esc(name)),
            esc(line.dtype),
            *(esc(_bytes(line, form)) for form in FORMS),
            esc(f"{words.size(line.file)} ({_share(line)} of dense)"),
        ]
        for line in lines
    ]


def _bytes(line: StorageFact, form: str) -> str:
    taken = line.forms.get(form)
    if taken is None or (form == "n:m" and taken == line.forms.get("dense")):
        return ""
    return words.size(taken)


def _share(line: StorageFact) -> str:
    dense = line.forms.get("dense", 0)
    return words.percent(line.file / dense, 1) if dense else ""
