"""The table of docs/targets.md is that of the committed result, and figures are of pruned models."""

from __future__ import annotations

from typing import Any

from benchmarks.common import RESULTS, committed
from benchmarks.targets import BEGIN, END, PAGE, figures, markdown, page_with


def row(form: str, precision: str, **changes: Any) -> dict[str, Any]:
    return {
        "model": "residual",
        "runtime": "openvino",
        "form": form,
        "precision": precision,
        "bytes": 123_456,
        "size_percent": 50.0,
        "cosine": 0.9987,
        "to_dense": 0.5,
        "to_reference": 0.75,
        **changes,
    }


def test_the_page_shows_the_committed_result() -> None:
    page = PAGE.read_text()
    assert BEGIN in page
    assert END in page
    if (RESULTS / "targets.json").exists():
        assert page == page_with(page, committed("targets")["rows"])


def test_figures_are_named_by_runtime_model_and_precision() -> None:
    found = figures([row("dense", "fp32"), row("pruned", "int8")])
    assert found == {
        "openvino_residual_int8_cosine": 0.9987,
        "openvino_residual_int8_ratio": 0.5,
        "openvino_residual_int8_size_percent": 50.0,
    }


def test_the_table_leaves_empty_what_was_not_built() -> None:
    text = markdown([row("dense", "fp32"), row("pruned", "int8", bytes=9_000)])
    assert "| residual | openvino | x0.75, 123 kB |  |  | x0.75, 9 kB | 0.9987 |" in text
    page = page_with(f"before {BEGIN}\nold\n{END} after", [row("dense", "fp32")])
    assert page.startswith("before ")
    assert page.endswith(" after")
    assert "old" not in page
