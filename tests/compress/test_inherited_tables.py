"""Latency tables of an earlier generation: when they are used again, and what is timed to find that out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from reprune.compress.tables.inherited import (
    MOST,
    Earlier,
    cuts_to_check,
    knobs_digest,
    taken_over,
)
from reprune.compress.tables.layer_terms import terms_of
from reprune.compress.tables.looking import Subject, begun, completed
from reprune.compress.tables.sites import rungs_of
from reprune.compress.tables.table import (
    OperatorTable,
    TableKey,
    TimedCut,
    read_tables,
    write_tables,
)
from reprune.core.artifacts import TimesReuse
from reprune.core.params import TableParams, Target
from tests.compress.test_tables import Invented, every_cut, key, stairs, subject

__all__ = ["subject"]

BUILDS = 24
KNOBS = knobs_digest(Target(), TableParams())
Us = Callable[[int, int], float]


def first(subject: Subject, work: Path, us: Us = stairs) -> OperatorTable:
    """The table that an earlier generation measured."""
    found = begun(subject, Invented(subject, us), key, work, print)
    return replace(completed(found, BUILDS, 700.0), knobs=KNOBS)


def again(
    subject: Subject,
    work: Path,
    table: OperatorTable | str,
    us: Us = stairs,
    *,
    told: Callable[[str], TableKey] = key,
    knobs: str = KNOBS,
    tolerance: float = 0.1,
) -> tuple[OperatorTable, TimesReuse, Invented]:
    """What a later generation makes of it, on a machine where layers take `us`; the call is slower there."""
    timer = Invented(subject, us)
    earlier = table
    if isinstance(table, OperatorTable):
        earlier = Earlier(table=table, source="sha256:ab", age=2, tolerance=tolerance, seed=7)
    found = begun(subject, timer, told, work, print)
    return *taken_over(found, earlier, knobs, BUILDS, 910.0), timer


def test_a_table_that_holds_is_used_again_after_few_builds(
    subject: Subject, tmp_path: Path
) -> None:
    """It predicts what it did, as a share of the dense model's latency as it is today."""
    old = first(subject, tmp_path / "old")
    write_tables(tmp_path / "t.json", [old])
    (stored,) = read_tables(tmp_path / "t.json")
    found, reuse, timer = again(subject, tmp_path / "new", stored)
    assert (reuse.how, reuse.age, reuse.source) == ("reused", 2, "sha256:ab")
    assert reuse.full_builds == old.builds >= 4
    assert reuse.built == len(reuse.checked) == len(timer.widths) - 1 < old.builds / 2
    assert reuse.checked[0].widths == min(old.cuts, key=lambda cut: cut.whole).widths
    assert max(check.off for check in reuse.checked) < 1e-4
    rungs = rungs_of(subject.groups, subject.steps)
    then, now = terms_of(old, rungs), terms_of(found, rungs)
    assert now({}) == pytest.approx(910.0, rel=1e-4)
    for widths in every_cut(rungs):
        assert now(widths) / now({}) == pytest.approx(then(widths) / then({}), rel=1e-4)


def other(**fields: object) -> Callable[[str], TableKey]:
    return lambda questions: key(questions, **fields)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (other(machine_kind="sha256:0012"), "another kind of machine"),
        (other(version="2"), "of onnxruntime 1, here runs onnxruntime 2"),
        (other(runtime="openvino"), "here runs openvino"),
        (other(precision="int8"), "another target (precision)"),
        (other(batch_size=8), "another target (batch size)"),
        (other(threads=2), "another target (threads)"),
        (other(device="gpu"), "another target (device)"),
        (other(inputs=((1, 3, 24, 24),)), "another target (inputs)"),
        (lambda questions: key(questions[:-1] + "!"), "the architecture is another"),
    ],
    ids=["machine", "version", "runtime", "precision", "batch", "threads", "device", "shape", "architecture"],
)  # fmt: skip
def test_a_table_of_another_question_is_not_even_checked(
    subject: Subject, tmp_path: Path, told: Callable[[str], TableKey], why: str
) -> None:
    old = first(subject, tmp_path / "old")
    found, reuse, _ = again(subject, tmp_path / "new", old, told=told)
    assert (reuse.how, reuse.checked, reuse.age, reuse.source) == ("measured", (), 0, "")
    assert why in reuse.why
    assert reuse.built == found.builds == old.builds


@pytest.mark.parametrize(
    ("target", "params"),
    [
        (Target(), TableParams(rounds=1)),
        (Target(), TableParams(step=16)),
        (Target(ranges="entropy"), TableParams()),
        (Target(options={"arena": False}), TableParams()),
    ],
    ids=["rounds", "step", "ranges", "options"],
)
def test_a_table_of_other_knobs_is_not_used(
    subject: Subject, tmp_path: Path, target: Target, params: TableParams
) -> None:
    old = first(subject, tmp_path / "old")
    knobs = knobs_digest(target, params)
    _, reuse, _ = again(subject, tmp_path / "new", old, knobs=knobs)
    assert (reuse.how, reuse.checked) == ("measured", ())
    assert "the knobs" in reuse.why


def test_where_a_target_runs_is_no_knob_of_its_table() -> None:
    """A target that moved to another node of one kind keeps its table."""
    assert knobs_digest(Target(machine="b", throughput_batch_sizes=(8,)), TableParams()) == KNOBS


def test_layers_that_take_another_time_are_noticed_and_all_is_measured(
    subject: Subject, tmp_path: Path
) -> None:
    """A library with blocks of 32 channels in place of 16: the cut that saved most saves another share."""
    old = first(subject, tmp_path / "old")

    def wider(inputs: int, outputs: int) -> float:
        return 2.0 + -(-outputs // 32) * -(-inputs // 8) * 10.0

    found, reuse, timer = again(subject, tmp_path / "new", old, wider)
    assert reuse.how == "measured"
    assert "came out up to" in reuse.why
    assert reuse.checked
    # What the check built is not built once more for the table.
    assert len(timer.widths) - 1 == found.builds == reuse.built
    rungs = rungs_of(subject.groups, subject.steps)
    terms = terms_of(found, rungs)
    for widths in ({"a": 16}, {"a": 8, "b": 8, "c": 8}):
        whole = sum(
            wider(i, o)
            for i, o in (
                (3, widths.get("a", 32)),
                (widths.get("a", 32), widths.get("b", 32)),
                (widths.get("b", 32), widths.get("c", 32)),
                (widths.get("c", 32), 5),
            )
        )
        assert terms(widths) / terms({}) == pytest.approx(
            (10 + whole) / (10 + timer.dense), rel=0.02
        )


def test_layers_that_changed_places_are_noticed_where_the_whole_call_takes_the_same(
    subject: Subject, tmp_path: Path
) -> None:
    """As much more in one layer as less in the others: no look at whole calls would see it."""

    def shifted(inputs: int, outputs: int) -> float:
        return stairs(inputs, outputs) * (2.0 if inputs == 3 else 1.0)

    old = first(subject, tmp_path / "old", shifted)
    calls = {"moved": 0.0}

    def moving(inputs: int, outputs: int) -> float:
        return shifted(inputs, outputs) * (1.0 + calls["moved"] * (1.0 if inputs == 3 else -0.05))

    _, reuse, _ = again(subject, tmp_path / "same", old, moving)
    assert reuse.how == "reused"
    calls["moved"] = 4.0
    _, reuse, _ = again(subject, tmp_path / "new", old, moving)
    assert reuse.how == "measured"
    assert max(check.moved for check in reuse.checked) > 0.1


@pytest.mark.parametrize("tolerance", [0.1, 0.5])
def test_what_is_allowed_is_the_tolerance(
    subject: Subject, tmp_path: Path, tolerance: float
) -> None:
    old = first(subject, tmp_path / "old")

    def steeper(inputs: int, outputs: int) -> float:
        return stairs(inputs, outputs) * (1.0 if outputs in (5, 32) else 1.2)

    _, reuse, _ = again(subject, tmp_path / "new", old, steeper, tolerance=tolerance)
    assert reuse.how == ("measured" if tolerance == 0.1 else "reused")
    assert 0.1 < max(check.off for check in reuse.checked) < 0.5


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"knobs": ""}, "does not say how"),
        ({"cuts": ()}, "does not say how"),
        ({"times": ()}, "contradicts"),
        ({"sites": ()}, "contradicts"),
        ({"dense_us": 0.0}, "contradicts"),
        ({"dense_us": -1.0}, "contradicts"),
        ({"cuts": (TimedCut(widths={"a": 33}, whole=0.5),)}, "contradicts"),
        ({"cuts": (TimedCut(widths={"z": 8}, whole=0.5),)}, "contradicts"),
        ({"cuts": (TimedCut(widths={"a": 0}, whole=0.5),)}, "contradicts"),
        ({"cuts": (TimedCut(widths={"a": 8}, whole=0.0),)}, "contradicts"),
    ],
)
def test_a_stored_table_that_is_not_whole_is_measured_again(
    subject: Subject, tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    """Nothing of it is cut or built: it may come from anywhere."""
    old = replace(first(subject, tmp_path / "old"), **changes)
    found, reuse, _ = again(subject, tmp_path / "new", old)
    assert (reuse.how, reuse.checked) == ("measured", ())
    assert why in reuse.why
    assert found.knobs == KNOBS
    assert found.cuts


def test_where_there_is_no_table_the_reason_is_passed_on(subject: Subject, tmp_path: Path) -> None:
    _, reuse, _ = again(subject, tmp_path, "there is no champion yet")
    assert (reuse.how, reuse.why) == ("measured", "there is no champion yet")


def test_a_run_that_was_killed_in_its_check_builds_nothing_twice(
    subject: Subject, tmp_path: Path
) -> None:
    old = first(subject, tmp_path / "old")
    _, once, _ = again(subject, tmp_path / "new", old)
    _, twice, timer = again(subject, tmp_path / "new", old)
    assert twice == once
    assert timer.widths == []


@given(
    st.lists(st.floats(0.1, 1.0), min_size=1, max_size=60, unique=True), st.integers(0, 2**32 - 1)
)
def test_few_cuts_are_checked_the_one_that_saves_most_among_them(
    wholes: list[float], seed: int
) -> None:
    cuts = [TimedCut(widths={"a": at}, whole=whole) for at, whole in enumerate(wholes)]
    found = cuts_to_check(cuts, seed)
    assert 1 <= len(found) <= min(MOST, max(1, len(cuts) / 4))
    assert found[0].whole == min(wholes)
    assert len({cut.whole for cut in found}) == len(found)
    assert found == cuts_to_check(cuts[::-1], seed)
