"""What masked weights come to in bytes: beside the engines, whose files are as large as they are."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from reprune.core.artifacts import StorageFact
from reprune.report import words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.phrases import Phrase, sentence

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
    counted = _by_arm(facts)
    if not counted:
        return []
    rows: list[list[Safe]] = []
    for arm, lines in counted.items():
        rows += _rows(words.baseline_name(arm, facts), lines)
    patterns = {line.pattern for lines in counted.values() for line in lines}
    packed = f"{FORMS['n:m']} {words.listing(sorted(patterns))}"
    head = [*list(FORMS.values())[:-1], packed]
    return [
        html_table(CAPTION, ["Model", "Numbers", *head, "Smallest, as a file"], rows, numbers=2)
    ]


def storage_phrases(facts: ReportFacts) -> list[Phrase]:
    """A sentence for each masked model, for the Markdown: its smallest file, by type of number."""
    found = []
    for arm, lines in _by_arm(facts).items():
        files = [f"{words.size(one.file)} in {one.dtype} ({_share(one)} of dense)" for one in lines]
        found.append(
            sentence(
                f"Were its zeros stored compactly, {words.baseline_name(arm, facts)} would come to "
                f"{words.listing(files)}; nothing says that zeros are faster."
            )
        )
    return found


def _by_arm(facts: ReportFacts) -> dict[str, tuple[StorageFact, ...]]:
    """What was counted of each masked arm, once: every machine counts the same."""
    found: dict[str, tuple[StorageFact, ...]] = {}
    for engines in facts.engines:
        for arm, lines in () if engines.storage is UNSET else sorted(engines.storage.items()):
            found.setdefault(arm, lines)
    return found


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
