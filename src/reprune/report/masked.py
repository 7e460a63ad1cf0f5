"""What the report says of masked weights. Never a word of speed: that is measured, and told elsewhere."""

from __future__ import annotations

from msgspec import UNSET

from reprune.core.artifacts import TensorSparsity
from reprune.report import plain, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table

MOST_TENSORS = 40
NO_PROMISE = (
    "Masked weights are zeros that are stored and computed like other numbers: the file is as large "
    "and the model as fast as measured above, whatever their share."
)


def masked_tensors(facts: ReportFacts) -> tuple[TensorSparsity, ...]:
    """What was masked, tensor by tensor; empty where channels were cut."""
    surgery = facts.surgery
    return () if surgery is None or surgery.sparsity is UNSET else surgery.sparsity


def masked_words(tensors: tuple[TensorSparsity, ...]) -> str:
    """One line: how many weights of how many, in what pattern."""
    zeros, size = sum(one.zeros for one in tensors), sum(one.size for one in tensors)
    patterns = words.listing(sorted({one.pattern for one in tensors}))
    return (
        f"{words.count(zeros)} of {words.count(size)} weights masked "
        f"({words.percent(zeros / size, 1)}, {patterns}) in {words.plural(len(tensors), 'tensor')}"
    )


def masked_table(facts: ReportFacts) -> Safe | None:
    """Each tensor's weights, those masked, and what was asked. None where nothing was masked."""
    tensors = masked_tensors(facts)
    if not tensors:
        return None
    rows = [
        [
            tag("bdi", esc(one.tensor, 120)),
            esc(one.pattern),
            esc(words.count(one.size)),
            esc(words.count(one.requested)),
            esc(words.count(one.zeros)),
            esc(words.percent(one.zeros / one.size, 1)),
        ]
        for one in _most(tensors)
    ]
    head = ["Tensor", "Pattern", "Weights", "Planned", "Masked", "Share"]
    return html_table("Masked weights of each tensor", head, rows, numbers=2)


def masked_lines(tensors: tuple[TensorSparsity, ...], most: int, name: int) -> list[str]:
    """The Markdown table of the tensors that were masked most, names of at most `name` letters."""
    ordered = sorted(tensors, key=lambda one: -one.zeros / one.size)
    rows = [
        [
            plain.code(one.tensor, name),
            words.count(one.size),
            words.count(one.zeros),
            words.percent(one.zeros / one.size, 1),
        ]
        for one in ordered[:most]
    ]
    lines = plain.table(["Tensor", "weights", "masked", "share"], rows, numbers=1)
    if len(ordered) > most:
        lines += ["", f"{len(ordered) - most} more tensors were masked less than these."]
    return [*lines, "", NO_PROMISE]


def _most(tensors: tuple[TensorSparsity, ...]) -> list[TensorSparsity]:
    """Those masked most, in the model's order."""
    chosen = sorted(tensors, key=lambda one: -one.zeros / one.size)[:MOST_TENSORS]
    return [one for one in tensors if one in chosen]
