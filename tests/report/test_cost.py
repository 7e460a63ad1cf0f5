"""Cost: the measured throughput times the price, before and after, with what it assumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.documents import canonical, decode_yaml
from reprune.core.errors import DocumentError
from reprune.core.params import CostParams, Params, read_params
from reprune.judge.evidence import ArmTimes, BatchUnits, Unit
from reprune.report.cost import (
    Saving,
    Span,
    assumptions,
    cost_lines,
    saved,
    saving_words,
    target_costs,
)
from reprune.report.facts import ReportFacts
from reprune.report.html import render_html
from reprune.report.markdown import render_markdown
from reprune.report.metrics import render_metrics
from reprune.report.phrases import as_text
from tests.report.scenes import PASSED
from tests.report.verdicts import facts

Told = Callable[[str], ReportFacts]
# 0.34 an hour, busy 60 % of it: what one example of 1 ms costs, times a million.
A_MILLISECOND = 0.34 / 3600 / 1000 / 0.6 * 1e6


def units(count: int, **calls_ns: int) -> tuple[Unit, ...]:
    """Units in which every call of an arm takes as long as given."""
    return tuple(
        Unit(
            index=index,
            process=index,
            seed=index,
            started_s=0.0,
            load=0.0,
            arms={
                arm: ArmTimes(order=0, blocks_ns=((ns + index, ns - index),) * 2, warmup_calls=5)
                for arm, ns in calls_ns.items()
            },
        )
        for index in range(count)
    )


def timed(known: ReportFacts, own: tuple[Unit, ...], **batches: tuple[Unit, ...]) -> ReportFacts:
    """The facts with other times; `b8=` is another batch size."""
    evidence = known.evidence
    assert evidence is not None
    other = tuple(BatchUnits(batch_size=int(name[1:]), units=u) for name, u in batches.items())
    target = msgspec.structs.replace(evidence.targets[0], units=own, throughput=other)
    return replace(known, evidence=msgspec.structs.replace(evidence, targets=(target,)))


def test_a_million_inferences_cost_their_time(told: Told) -> None:
    """1 ms before and half of it now: the price of that time, by hand."""
    known = timed(told("priced"), units(15, dense=1_000_000, candidate=500_000))
    (found,) = target_costs(known)
    (saving,) = found.savings
    assert saving.baseline == "dense"
    assert saving.before == pytest.approx(A_MILLISECOND)
    assert saving.mine == pytest.approx(A_MILLISECOND / 2)
    # 2 G requests are 2000 millions, and half of each is saved.
    assert saved(saving, 2000).value == pytest.approx(A_MILLISECOND * 1000)


def test_the_batch_is_the_one_at_which_the_dense_model_is_cheapest(told: Told) -> None:
    """Of the measured batch sizes, that which is kindest to the model as it was."""
    eight = units(9, dense=4_000_000, candidate=3_000_000)
    known = timed(told("priced"), units(9, dense=1_000_000, candidate=100_000), b8=eight)
    (found,) = target_costs(known)
    assert found.batch_size == 8
    assert found.rate == pytest.approx(8 / 0.003)
    assert found.savings[0].ratio.value == pytest.approx(0.75)


def test_too_few_units_give_no_interval(told: Told) -> None:
    """Five units cannot bound a median at 95 %: no interval is made up."""
    known = timed(told("priced"), units(5, dense=1_000_000, candidate=500_000))
    (found,) = target_costs(known)
    assert found.savings[0].ratio.low is None
    assert "too few units for an interval" in as_text(cost_lines(known)[0])


@settings(max_examples=50, deadline=None)
@given(
    value=st.floats(0.01, 3.0),
    below=st.floats(0.0, 0.5),
    above=st.floats(0.0, 0.5),
    whole=st.floats(1e-6, 1e6),
)
def test_a_saving_lies_inside_its_interval(
    value: float, below: float, above: float, whole: float
) -> None:
    """Whatever the ratio, a saving and its words have their ends in order, and a loss is called one."""
    ratio = Span(value=value, low=value - below * value, high=value + above)
    year = saved(Saving(baseline="dense", mine=whole, ratio=ratio), 1.0)
    assert year.low is not None
    assert year.high is not None
    assert year.low <= year.value <= year.high
    assert saving_words(year, "USD").startswith("saves" if value <= 1 else "costs more by")


def test_the_same_cost_everywhere(told: Told) -> None:
    """Markdown, page and metrics show the same numbers, and the page and Markdown what they assume."""
    known = told("priced")
    (found,) = target_costs(known)
    against_dense = found.savings[0]
    shown = f"{against_dense.mine:.3g}"
    page, text = render_html(known), render_markdown(known)
    for made in (page, text):
        assert shown in made
        assert "EUR" in made
        assert "60\u00a0%" in made
    assert 'id="cost"' in page
    assert text.count("per million inferences") == 2
    values = json.loads(render_metrics(known))
    assert values["cost_per_million.ort-cpu"] == pytest.approx(against_dense.mine, rel=1e-8)
    assert values["cost_per_year_dense.ort-cpu"] == pytest.approx(2000 * against_dense.before)
    assert all(as_text(line) for line in assumptions(known))


def test_without_a_price_nothing_is_said(told: Told, tmp_path: Path) -> None:
    """No price, no cost: not in Markdown, not on the page, not in the metrics."""
    known = told("pass")
    assert cost_lines(known) == assumptions(known) == []
    assert "cost_per" not in render_metrics(known)
    assert 'id="cost"' not in render_html(known)
    elsewhere = CostParams(price_per_hour={"jetson": 1.0})
    assert cost_lines(facts(replace(PASSED, cost=elsewhere), tmp_path)) == []


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ("{price_per_hour: {jetson: 1.0}}", "no target of this file"),
        ("{price_per_hour: {}}", "length"),
        ("{price_per_hour: {ort-cpu: -1}}", "> 0"),
        ("{price_per_hour: {ort-cpu: 1}, utilisation: 0}", "> 0"),
        ("{price_per_hour: {ort-cpu: 1}, currency: '<b>'}", "regex"),
    ],
)
def test_a_wrong_price_is_refused(section: str, what: str, tmp_path: Path) -> None:
    """Each mistake is named with its place in params.yaml."""
    path = tmp_path / "params.yaml"
    path.write_text(f"name: digits\ntask: task.digits:DigitsTask\ncost: {section}\n")
    with pytest.raises(DocumentError) as caught:
        read_params(path)
    assert what in caught.value.what
    assert "cost" in caught.value.where


def test_params_without_a_price_keep_their_digest() -> None:
    """What nobody priced has the bytes it always had, so locks written before still fit."""
    text = "name: digits\ntask: task.digits:DigitsTask\n"
    assert b"cost" not in canonical(decode_yaml(text, Params, name="params.yaml"))
