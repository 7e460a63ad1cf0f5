"""A plan that is killed while it times goes on where it was: nothing is built and timed twice."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from reprune.compress.planning import latency
from reprune.compress.planning.costs import cost_model
from reprune.compress.planning.kept_times import KEPT_FILE, kept
from reprune.core.artifacts import Plan
from reprune.measure.profile import count_cost
from tests.compress import test_plan_by_hand as by_hand
from tests.compress.test_plan_by_hand import ground, planned, profile_with_tables, with_plan

__all__ = ["ground"]
_alone = by_hand._alone


class Killed(Exception):
    pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(latency, "timing", found.timing)
    return found


class Clock:
    """No engine is built; what a cut takes is more than the MACs say, so that several plans are timed. Dies
    when it is to time the cut number `death`.
    """

    def __init__(self) -> None:
        self.timed: list[dict[str, int]] = []
        self.sure: list[bool] = []
        self.death: int | None = None

    @contextmanager
    def timing(self, bench):
        counted = count_cost(bench.module, bench.task.example_inputs(1))
        cost = cost_model(bench.module, bench.groups, counted)

        def ratio(widths, *, sure=False):
            if len(self.timed) == self.death:
                raise Killed
            self.timed.append(dict(widths))
            self.sure.append(sure)
            return 0.2 + 0.8 * cost(widths).macs / counted.cost.macs

        yield ratio


def made(ground: Path, out: Path, params: str, profiles: list[Path]) -> Plan:
    return planned(ground, out, params, profiles)[0]


@pytest.mark.slow
@pytest.mark.parametrize("allocator", ["sensitivity", "latency"])
def test_a_killed_plan_times_nothing_twice(ground, tmp_path, clock, monkeypatch, allocator):
    """At whichever timing it dies, the plan is that of a run that did not, trials counted alike."""
    profile = [profile_with_tables(ground, tmp_path / "profile", "")]
    knobs = f"allocator: {allocator}, budget: latency, latency_target: cpu"
    params = with_plan(knobs, fraction="0.6")
    whole = made(ground, tmp_path / "whole", params, profile)
    timed = list(clock.timed)
    assert len(timed) > 1
    assert whole.predicted.latencies["cpu"].trials == len(timed)
    for death in range(len(timed)):
        monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / f"work{death}"))
        clock.timed, clock.death = [], death
        with pytest.raises(Killed):
            made(ground, tmp_path / f"killed{death}", params, profile)
        clock.death = None
        assert made(ground, tmp_path / f"again{death}", params, profile) == whole
        assert clock.timed == timed


@pytest.mark.slow
def test_single_cuts_are_looked_at_once_and_plans_until_it_is_sure(ground, tmp_path, clock):
    """What single cuts save is only a guide; a budget is met by looks of its own, of the same widths too."""
    knobs = "allocator: latency, latency_model: in-model, budget: latency, latency_target: cpu"
    plan = made(ground, tmp_path / "plan", with_plan(knobs, fraction="0.6"), [ground / "profile"])
    trials = plan.predicted.latencies["cpu"].trials
    assert trials >= 1
    assert clock.sure == [False] * (len(clock.sure) - trials) + [True] * trials
    assert len(clock.sure) > trials


def test_what_is_kept_is_of_one_target_and_of_whole_answers(tmp_path):
    """Another target is timed for itself, equal widths in any order are one question, and a file that
    cannot be read costs only time.
    """
    asked: list[str] = []

    def timing(name, answer):
        def ratio(widths):
            asked.append(name)
            return answer

        return kept(ratio, name, tmp_path)

    one, other = timing("one", 0.5), timing("other", 0.7)
    assert (one({"a": 4, "b": 8}), other({"a": 4, "b": 8})) == (0.5, 0.7)
    assert (one({"b": 8, "a": 4}), other({"a": 4, "b": 8})) == (0.5, 0.7)
    assert asked == ["one", "other"]
    (tmp_path / KEPT_FILE).write_text("half of a f")
    assert one({"a": 4, "b": 8}) == 0.5
    assert asked == ["one", "other", "one"]
