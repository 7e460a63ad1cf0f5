"""Masked weights in both reports: counted, in their pattern, and never sold as speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from reprune.core.artifacts import TensorSparsity
from reprune.report import words
from reprune.report.facts import ReportFacts
from reprune.report.html import render_html
from reprune.report.markdown import render_markdown
from reprune.report.masked import NO_PROMISE, masked_words


def tensors(count: int = 2) -> tuple[TensorSparsity, ...]:
    return tuple(
        TensorSparsity(
            tensor=f"layer{n}.weight",
            size=1000,
            requested=900 - n,
            zeros=900 - n,
            pattern="unstructured",
        )
        for n in range(count)
    )


@pytest.fixture
def masked(told: Callable[[str], ReportFacts]) -> Callable[..., ReportFacts]:
    def make(count: int = 2, method: str = "weights", scene: str = "pass") -> ReportFacts:
        facts = told(scene)
        assert facts.candidate is not None
        assert facts.candidate.surgery is not None
        assert facts.plan is not None
        assert facts.params is not None
        surgery = msgspec.structs.replace(
            facts.candidate.surgery, groups=(), sparsity=tensors(count)
        )
        whole = tuple(
            msgspec.structs.replace(group, keep=group.width) for group in facts.plan.groups
        )
        plan = msgspec.structs.replace(facts.params.plan, method=method)
        return replace(
            facts,
            candidate=msgspec.structs.replace(facts.candidate, surgery=surgery),
            plan=msgspec.structs.replace(
                facts.plan, allocator="global", budget="weights", fraction=0.1, groups=whole
            ),
            params=msgspec.structs.replace(facts.params, plan=plan),
        )

    return make


def test_the_line_adds_up() -> None:
    counts = f"{words.count(1799)} of {words.count(2000)} weights masked"
    share = words.percent(0.8995, 1)
    assert masked_words(tensors()) == f"{counts} ({share}, unstructured) in 2 tensors"


def test_the_page_shows_each_tensor_and_no_widths(masked: Callable[..., ReportFacts]) -> None:
    page = render_html(masked())
    assert "Masked weights of each tensor" in page
    assert "layer1.weight" in page
    assert NO_PROMISE in page
    assert "weights that may be masked" in page
    assert "Channels before and after" not in page


def test_the_summary_counts_and_cuts_short(masked: Callable[..., ReportFacts]) -> None:
    text = render_markdown(masked(14))
    assert f"What was cut: {words.count(12_509)} of {words.count(14_000)} weights masked" in text
    assert "layer9.weight" in text
    assert "layer10.weight" not in text
    assert "4 more tensors were masked less than these." in text
    assert NO_PROMISE in text


@pytest.mark.parametrize(
    ("method", "advice"), [("weights", "plan.sparsity"), ("n:m", "plan.pattern")]
)
def test_advice_names_the_knob_of_masks(
    masked: Callable[..., ReportFacts], method: str, advice: str
) -> None:
    text = render_markdown(masked(method=method, scene="block"))
    assert advice in text
    assert "plan.fraction" not in text
