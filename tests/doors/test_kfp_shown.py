"""What the Kubeflow UI is given: pages as its viewers need them, and metadata in the form that it checks."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from kfp import dsl
from safetensors.numpy import save_file

from reprune.core import store
from reprune.core.artifacts import Report, Verdict
from reprune.core.store import Artifact
from reprune.doors.kfp.shown import MOST_CATEGORIES, show
from reprune.report.html import render_html
from reprune.report.markdown import render_markdown
from tests.report.scenes import BLOCKED, SCENES
from tests.report.verdicts import facts, write_verdict


class Spec(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """One category, as the UI's own check demands it."""

    display_name: str


class Row(msgspec.Struct, forbid_unknown_fields=True):
    row: list[int]


class Matrix(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    annotation_specs: list[Spec]
    rows: list[Row]


def judged(folder: Path, actual: list[int], answer: list[int]) -> Artifact[Verdict]:
    """A verdict whose candidate recorded classes."""
    return recorded(folder, {"actual": actual, "answer": answer})


def recorded(folder: Path, columns: dict[str, list[int]]) -> Artifact[Verdict]:
    """A verdict whose candidate has these records."""
    with store.drafting(folder / "made") as draft:
        plain = write_verdict(BLOCKED, folder / "plain")
        for name in plain.manifest.payload:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(plain.file(name).read_bytes())
        (draft / "samples" / "0").mkdir(parents=True, exist_ok=True)
        save_file(
            {
                f"candidate@ort-cpu/{name}": np.asarray(values, dtype=np.int64)
                for name, values in columns.items()
            },
            draft / "samples" / "0" / "records.safetensors",
        )
        parents = plain.manifest.parents
        return store.write(draft, plain.manifest, step="gate", parents=parents, out=folder / "made")


def logged(verdict: Artifact[Verdict], folder: Path) -> dict[str, object]:
    """The metadata after a passage through JSON, which is how it reaches the UI."""
    shown = dsl.ClassificationMetrics(name="confusion", uri=str(folder / "confusion"), metadata={})
    show(verdict, {"confusion": shown})
    assert shown.schema_title == "system.ClassificationMetrics"
    told: dict[str, object] = json.loads(json.dumps(shown.metadata))
    return told


def test_the_confusion_matrix_is_as_the_ui_demands(tmp_path: Path) -> None:
    """Rows are the true classes, columns the answers; as many names as rows, and rows as long."""
    metadata = logged(judged(tmp_path, [0, 0, 2, 2, 2, 7], [0, 2, 2, 2, 0, 2]), tmp_path)
    matrix = msgspec.convert(metadata["confusionMatrix"], Matrix)
    assert [one.display_name for one in matrix.annotation_specs] == ["0", "2", "7"]
    assert [one.row for one in matrix.rows] == [[1, 1, 0], [1, 2, 0], [0, 1, 0]]


def test_each_member_of_a_set_that_has_classes_is_in_the_matrix(tmp_path: Path) -> None:
    """Under its own name, and never confused with another member's."""
    columns = {
        "signs.actual": [3, 3, 5],
        "signs.answer": [3, 5, 5],
        "lanes.actual": [0, 1, 1],
        "lanes.answer": [1, 1, 1],
        "depth.value": [7, 7, 7],
        "odd.factual": [1, 1, 1],
    }
    metadata = logged(recorded(tmp_path, columns), tmp_path)
    matrix = msgspec.convert(metadata["confusionMatrix"], Matrix)
    names = [one.display_name for one in matrix.annotation_specs]
    assert names == ["lanes.0", "lanes.1", "signs.3", "signs.5"]
    assert [one.row for one in matrix.rows] == [
        [0, 1, 0, 0],
        [0, 2, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 0, 1],
    ]


def test_a_matrix_that_nobody_can_look_at_is_left_out(tmp_path: Path) -> None:
    kinds = list(range(MOST_CATEGORIES + 1))
    assert logged(judged(tmp_path, kinds, kinds), tmp_path) == {}


def test_scalars_are_short_numbers(tmp_path: Path) -> None:
    """The UI prints every digit that it is given; no scalar has more than six, and all are numbers."""
    metrics = dsl.Metrics(name="metrics", uri=str(tmp_path / "metrics"), metadata={})
    show(write_verdict(BLOCKED, tmp_path), {"metrics": metrics})
    assert metrics.metadata["rules_not_passed"] == 3
    for value in metrics.metadata.values():
        assert isinstance(value, (int, float))
        digits = f"{value:.10g}".partition("e")[0].replace(".", "").replace("-", "").lstrip("0")
        assert isinstance(value, int) or len(digits) <= 6


@pytest.mark.parametrize("name", ["block", "hostile"])
def test_the_pages_fit_their_viewers(name: str, tmp_path: Path) -> None:
    """The page's links stay in the frame, under the same policy; the Markdown has no tag."""
    known = facts(SCENES[name], tmp_path)
    texts = {"report.html": render_html(known), "report.md": render_markdown(known)}
    with store.drafting(tmp_path / "report") as draft:
        for file, text in texts.items():
            (draft / file).write_text(text, encoding="utf-8")
        manifest = Report(outcome="block", headline="as it was")
        made = store.write(draft, manifest, step="report", parents={}, out=tmp_path / "report")
    html = dsl.HTML(uri=str(tmp_path / "ui" / "html"))
    markdown = dsl.Markdown(uri=str(tmp_path / "ui" / "markdown"))
    show(made, {"html": html, "markdown": markdown})
    page = Path(html.path).read_text(encoding="utf-8")
    assert page.startswith('<!DOCTYPE html>\n<html lang="en"><head><base href="about:srcdoc"><meta')
    assert page.replace('<base href="about:srcdoc">', "") == texts["report.html"]
    told = Path(markdown.path).read_text(encoding="utf-8")
    assert "<" not in told
    assert texts["report.md"].count("<details>") == told.count("\n#### ")
