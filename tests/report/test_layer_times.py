"""Where the time goes, before and after: operators as runtimes call them, told by layer; or why not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from reprune.core.artifacts import LayerProfile, OperatorShares, OperatorTime
from reprune.report.facts import ReportFacts
from reprune.report.html import render_html
from reprune.report.layer_times import ELSEWHERE, layer_times, shares_of, untold
from tests.report.verdicts import operator_shares

Told = Callable[[str], ReportFacts]


def timed(**microseconds: float) -> tuple[OperatorTime, ...]:
    """Operators by name; `__` is a dot, a leading `fused_` a blank after it."""
    return tuple(
        OperatorTime(
            operator=name.replace("__", ".").replace("fused_", "fused "),
            type="Conv",
            median_us=took,
            share=0.1,
        )
        for name, took in microseconds.items()
    )


def with_layers(known: ReportFacts, *names: str) -> ReportFacts:
    layers = tuple(
        LayerProfile(layer=name, type="Conv2d", params=1, macs=1, output_shape=()) for name in names
    )
    profiles = tuple(msgspec.structs.replace(one, layers=layers) for one in known.profiles)
    return replace(known, profiles=profiles)


def told_of(known: ReportFacts, *layers: str, **arms: tuple[OperatorTime, ...]) -> ReportFacts:
    shares = OperatorShares(arms=arms)  # type: ignore[arg-type]
    return replace(with_layers(known, *layers), operators={"ort-cpu": shares})


def test_fused_operators_count_for_their_layer(told: Told) -> None:
    """Several operators of one layer add up, in the model's order, and the shares of each model are whole."""
    known = told_of(
        told("block"),
        "a.conv",
        "a.conv.inner",
        dense=timed(fused_a__conv=6.0, a__conv__inner=2.0, Reorder=2.0),
        candidate=timed(**{"a.conv/Conv": 1.0, "a.conv/Relu": 1.0, "a.conv.inner+relu": 2.0}),
    )
    found = layer_times(known, "ort-cpu")
    assert [one.layer for one in found] == ["a.conv", "a.conv.inner", ELSEWHERE]
    assert [(one.before_us, one.after_us) for one in found] == [(6, 2), (2, 2), (2, None)]
    assert sum(one.before or 0 for one in found) == pytest.approx(1)
    assert sum(one.after or 0 for one in found) == pytest.approx(1)


def test_the_share_stands_beside_the_widths(told: Told) -> None:
    """Of each group's layer, before and after, in the figure and in its table."""
    page = render_html(told("pictured")).replace("\u00a0", " ")
    plan = page.partition('id="plan"')[2].partition("</section>")[0]
    assert ">39 % → 33 %</text>" in plan
    assert "share of its model&#x27;s time on ort-cpu, before → after" in plan
    row = re.search(r"<bdi>conv2</bdi></th>(.*?)</tr>", plan)
    assert row is not None
    assert re.findall(r">([^<]*)</td>", row[1])[4:6] == ["39.0 %", "33.3 %"]


def test_the_figure_has_its_table_and_takes_the_place_of_the_operators(told: Told) -> None:
    page = render_html(told("pictured"))
    assert "Where the time goes, before and after, ort-cpu" in page
    assert "Time by layer on ort-cpu" in page
    assert "Where the dense model" not in page
    assert "Where the dense model" in render_html(told("block"))


def test_a_runtime_that_tells_nothing_is_named(told: Told) -> None:
    """Its reason stands in the section on latency; the plan's figure goes on with what is known."""
    why = OperatorShares(why="it is <shy>")
    known = replace(told("block"), operators={"ort-cpu": why})
    assert list(untold(known)) == ["ort-cpu: no time by layer, because it is <shy>."]
    assert "because it is &lt;shy&gt;." in render_html(known)
    assert shares_of(known) == {}
    bare = replace(known, profiles=())
    assert "No runtime here tells how long a layer takes" in render_html(bare)


@pytest.mark.parametrize(
    "arms",
    [{}, {"dense": timed(x=1.0)}, {"dense": timed(x=1.0), "candidate": timed(y=1.0)}],
)
def test_names_that_are_no_layers_are_said_and_not_drawn(
    told: Told, arms: dict[str, tuple[OperatorTime, ...]]
) -> None:
    known = told_of(told("block"), "a.conv", **arms)
    assert layer_times(known, "ort-cpu") == ()
    assert list(untold(known)) == [
        "ort-cpu: the runtime's operators cannot be told apart by layer."
    ]


def test_a_layer_that_was_cut_away_says_so(told: Told) -> None:
    shares = operator_shares()
    left = tuple(one for one in shares.arms["candidate"] if not one.operator.startswith("conv1"))
    gone = OperatorShares(arms={"dense": shares.arms["dense"], "candidate": left})
    page = render_html(replace(told("pictured"), operators={"ort-cpu": gone}))
    assert ">not there</text>" in page
