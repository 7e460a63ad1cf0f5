"""How the cut was made and repaired, in words that are true of it: at once, in stages, or as masks grew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reprune.report import words
from reprune.report.markup import Safe, esc
from reprune.report.markup import table as html_table

if TYPE_CHECKING:
    from reprune.core.artifacts import Surgery


def losses_table(surgery: Surgery) -> Safe:
    """The losses on calibration: of the dense model, after the cut, after each repair."""
    title, cut = "Repair before any training", "After the cut"
    if surgery.stages and surgery.sparsity:
        title, cut = "Before and after masks grew in training", "Masked and trained"
    elif surgery.stages:
        title, cut = "Repair of the last cut, after training between the cuts", "After the last cut"
    elif surgery.sparse_learning:
        title, cut = "Repair of the cut, after sparse learning", "Trained sparsely, and cut"
    steps = [
        ("Dense", surgery.loss_dense, "before"),
        (cut, surgery.loss_cut, "cut"),
        ("With compensation", surgery.loss_compensated, "compensated"),
        ("With fresh batch statistics", surgery.loss_recalibrated, "recalibrated"),
    ]
    rows = [
        [esc(name), esc(words.number(loss)), esc("kept" if kind == surgery.kept else "")]
        for name, loss, kind in steps
        if loss is not None
    ]
    return html_table(title, ["Model", "Loss on calibration", ""], rows, numbers=1)


def done_words(surgery: Surgery | None) -> str:
    """A sentence on what came before recovery."""
    pushed = surgery is not None and surgery.sparse_learning
    first = "First the model is trained to be sparse, then" if pushed else "First"
    if surgery is None or not surgery.stages:
        return f"{first} the cut is repaired in closed form, then the model learns again."
    if surgery.sparsity:
        return "First masks grow while the model trains, then it learns again."
    cuts = words.plural(len(surgery.stages), "cut")
    return (
        f"{first} it is made in {cuts}, each of them repaired in closed form and followed by training; then "
        "the model learns again."
    )
