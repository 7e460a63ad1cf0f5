"""The plan's difference from the champion's: shares, not widths, and nothing where there is no other plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core import store
from reprune.core.artifacts import (
    PAST_PLAN,
    Cost,
    GroupPlan,
    LatencyPrediction,
    Plan,
    Prediction,
    SparsityPlan,
    TensorPlan,
    Verdict,
)
from reprune.core.errors import ArtifactError
from reprune.report.facts import ReportFacts, read_facts
from reprune.report.html import render_html
from reprune.report.markdown import render_markdown
from reprune.report.plan_change import change_lines, change_words, moved_parts
from reprune.report.terminal import render_explanation
from tests.report.scenes import PASSED, REPLANNED
from tests.report.verdicts import bare, write_verdict

Told = Callable[[str], ReportFacts]


def plan(**groups: tuple[int, int]) -> Plan:
    return Plan(
        allocator="sensitivity",
        budget="macs",
        fraction=0.5,
        before=Cost(params=1, macs=1, bytes=1),
        groups=tuple(GroupPlan(group=g, width=w, keep=k) for g, (w, k) in groups.items()),
        predicted=Prediction(params=1, macs=1, loss_increase=None, latency_ratio=None),
    )


def between(known: ReportFacts, was: Plan, now: Plan) -> ReportFacts:
    return replace(known, plan=now, past_plan=was)


def test_shares_are_compared_not_widths(told: Told) -> None:
    """A wider dense model that keeps the same share is cut as before."""
    known = between(
        told("pass"),
        plan(same=(16, 8), more=(16, 8), less=(16, 8), gone=(8, 4)),
        plan(same=(32, 16), more=(16, 4), less=(16, 12), new=(8, 4)),
    )
    assert {one.part: one.how for one in moved_parts(known)} == {
        "same": "as before",
        "more": "cut more",
        "less": "cut less",
        "new": "new",
        "gone": "gone",
    }
    assert change_words(known).endswith("1 cut more, 1 cut less, 1 new, 1 gone and 1 as before")


def test_masks_and_knobs_are_compared_too(told: Told) -> None:
    """Where weights are masked, the share of zeros moves; a changed budget is named."""

    def masked(zeros: int, fraction: float) -> Plan:
        tensors = (TensorPlan(tensor="fc.weight", size=100, zeros=zeros),)
        sparsity = SparsityPlan(
            pattern="unstructured", scope="global", zeros=zeros, tensors=tensors
        )
        return msgspec.structs.replace(plan(), sparsity=sparsity, fraction=fraction)

    known = between(told("pass"), masked(50, 0.5), masked(90, 0.1))
    (found,) = moved_parts(known)
    assert (found.part, found.how, found.now) == ("fc.weight", "cut more", "90.0\u00a0% zeros")
    assert "asked to leave 10\u00a0%, before 50\u00a0%" in change_words(known)
    by_hand = msgspec.structs.replace(masked(90, 0.1), by_hand=("fc.weight",))
    known = between(told("pass"), masked(90, 0.1), by_hand)
    assert "by_hand.fc.weight 90 of 100 masked, before not set" in change_words(known)


def test_bounds_and_expectations_are_compared_too(told: Told) -> None:
    """Plans that cut alike may have been asked for other things, and expect others."""

    def bounded(limit: float, floor: float, ratio: float, **by_hand: tuple[str, ...]) -> Plan:
        times = LatencyPrediction(forecast=ratio, measured=None, correction=1.0)
        expected = msgspec.structs.replace(
            plan().predicted, latencies={"ort-cpu": times}, optimality_gap=limit / 10
        )
        return msgspec.structs.replace(
            plan(conv=(16, 8)),
            limits={"latency@ort-cpu": limit},
            floors={"depth": floor},
            predicted=expected,
            **by_hand,
        )

    was, now = bounded(0.6, 0.1, 0.59), bounded(0.4, 0.5, 0.39, by_hand=("conv", "stage.1"))
    known = change_words(between(told("pass"), was, now)).replace("\u00a0", " ")
    assert known.partition("; ")[2].split("; ") == [
        "limits.latency@ort-cpu 0.4, before 0.6",
        "floors.depth 0.5, before 0.1",
        "by_hand.conv 8 of 16, before not set",
        "by_hand.stage.1 removed, before not set",
        "latency forecast, of dense on ort-cpu \u00d70.390, before \u00d70.590",
        "optimality gap 4.00 %, before 6.00 %",
    ]
    assert change_words(between(told("pass"), was, was)).endswith("1 as before")


WIDTHS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.integers(1, 9).flatmap(lambda w: st.tuples(st.just(w), st.integers(0, w))),
)


@pytest.mark.slow
@given(was=WIDTHS, now=WIDTHS)
def test_swapping_the_plans_swaps_the_words(
    was: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]
) -> None:
    """Every part is told once, and seen from the other side more is less and new is gone."""
    known = bare(PASSED)
    forth = {o.part: o.how for o in moved_parts(between(known, plan(**was), plan(**now)))}
    back = {o.part: o.how for o in moved_parts(between(known, plan(**now), plan(**was)))}
    mirror = {"cut more": "cut less", "cut less": "cut more", "new": "gone", "gone": "new"}
    assert set(forth) == {*was, *now}
    assert forth == {part: mirror.get(how, how) for part, how in back.items()}


def test_every_rendering_tells_the_same(told: Told, tmp_path: Path) -> None:
    """Markdown, page and terminal say the same sentence, and the Markdown table names no part as before."""
    known = told("replanned")
    words = change_words(known)
    assert words.startswith("Plan against champion v2's: 1 cut more, 1 cut less")
    explained = render_explanation(write_verdict(REPLANNED, tmp_path))
    for made in (render_markdown(known), render_html(known).replace("&#x27;", "'"), explained):
        assert words in made
    folded = "\n".join(change_lines(known, full=True, name=80))
    assert "| `conv1` | 12 of 16 | 8 of 16 | cut more |" in folded
    assert "conv3" not in folded
    assert "\n".join(change_lines(known, full=False, name=80)) == f"{words}.\n"


def test_without_the_champions_plan_nothing_is_said(told: Told) -> None:
    """The first generation, and a champion whose plan is not on record, have no such section."""
    for name in ("first", "pass"):
        assert moved_parts(told(name)) == ()
        assert "Plan against" not in render_markdown(told(name))


def test_a_copy_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    """Another kind of manifest in its place is an error that names the file."""
    verdict = write_verdict(REPLANNED, tmp_path)
    with store.drafting(tmp_path / "bad") as draft:
        for name in verdict.manifest.payload:
            (draft / name).parent.mkdir(exist_ok=True, parents=True)
            (draft / name).write_bytes(verdict.file(name).read_bytes())
        (draft / PAST_PLAN).write_bytes((verdict.path / store.MANIFEST).read_bytes())
        parents = verdict.manifest.parents
        store.write(draft, verdict.manifest, step="gate", parents=parents, out=tmp_path / "bad")
    with pytest.raises(ArtifactError, match=r"no Plan") as caught:
        read_facts(store.read(tmp_path / "bad", Verdict))
    assert PAST_PLAN in caught.value.where


def test_a_group_is_gone_with_its_block_and_not_widened(told: Told) -> None:
    """The plan records it whole, for it was not cut; it read as twice as wide as before."""
    was = msgspec.structs.replace(
        plan(**{"l3.1.conv1": (64, 32), "l3.0.conv2": (64, 32)}), blocks=()
    )
    now = msgspec.structs.replace(
        plan(**{"l3.1.conv1": (64, 64), "l3.0.conv2": (64, 32)}), blocks=("l3.1",)
    )
    found = {one.part: (one.how, one.now) for one in moved_parts(between(told("pass"), was, now))}
    assert found == {
        "l3.1.conv1": ("cut more", "gone with its block"),
        "block l3.1": ("new", "removed"),
        "l3.0.conv2": ("as before", "32 of 64"),
    }
    back = {one.part: one.how for one in moved_parts(between(told("pass"), now, was))}
    assert back == {"l3.1.conv1": "cut less", "block l3.1": "gone", "l3.0.conv2": "as before"}
