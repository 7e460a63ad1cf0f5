"""A target that is rebuilt on its device: as many builds of every arm, all of them real and timed."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprune.core.errors import InputError, RepruneError
from reprune.core.params import Target
from reprune.steps.looking import check_reach
from tests.chain import Story, write_chain
from tests.faults import UNITS, Forged, opened, rebuilt


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Forged:
    """A run that passes, whose one target was built three times."""
    folder = tmp_path_factory.mktemp("builds")
    chain = write_chain(folder, Story(builds=3))
    chain.judged()
    return opened(chain.path("verdict"))


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))


def outcome_of(forged: Forged, folder: Path) -> str:
    try:
        return rebuilt(forged, folder)
    except RepruneError:
        return "refused"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_three_builds_of_every_arm_pass(base: Forged, tmp_path: Path) -> None:
    """The run that the tests below break."""
    assert outcome_of(base.copy(), tmp_path / "v") == "pass"
    assert {arm["build"] for unit in base.value(UNITS) for arm in unit["arms"].values()} == {
        0,
        1,
        2,
    }


@pytest.mark.parametrize("value", ["left out", None, -1, 0, 2, 10**30, "1", 1.5, [1]])
def test_no_faulty_build_number_passes(base: Forged, tmp_path: Path, value: Any) -> None:
    """Left out, of another type, of another build: in any arm of a unit, or in all of them."""
    arms = tuple(base.value(UNITS)[4]["arms"])
    assert {"candidate", "dense", "control"} <= set(arms)
    for changed in (*[(arm,) for arm in arms], arms):

        def forge(units: Any, changed: tuple[str, ...] = changed) -> Any:
            for arm in changed:
                units[4]["arms"][arm].pop("build")
                if value != "left out":
                    units[4]["arms"][arm]["build"] = value
            return units

        forged = base.copy()
        forged.edit(UNITS, forge)
        assert outcome_of(forged, tmp_path / "v") != "pass", changed


def in_both(forged: Forged, change: Callable[[list[Any]], None]) -> Forged:
    """The facts of the engines changed where they were built and where they were measured."""
    forged = forged.copy()
    for part in ("engines.0", "benchmarks.0"):
        changed = copy.deepcopy(forged.ancestors[part])
        change(changed["engines"])
        forged.ancestors[part] = changed
    return forged


def _fewer_of_one(facts: list[Any]) -> None:
    facts[0]["copies"] = facts[0]["copies"][:1]


def _fewer_of_all(facts: list[Any]) -> None:
    for fact in facts:
        fact["copies"] = fact["copies"][:1]


def _none(facts: list[Any]) -> None:
    for fact in facts:
        del fact["copies"]


def _the_same_twice(facts: list[Any]) -> None:
    facts[0]["copies"] = [facts[0]["copies"][0]] * 2


def _the_first_again(facts: list[Any]) -> None:
    facts[0]["copies"] = [facts[0]["file"], facts[0]["copies"][0]]


def _not_there(facts: list[Any]) -> None:
    facts[0]["copies"] = [facts[0]["copies"][0], "ort-cpu/nobody.onnx"]


def _more(facts: list[Any]) -> None:
    for fact in facts:
        fact["copies"] = [*fact["copies"], fact["file"] + "-more"]


@pytest.mark.parametrize(
    "change",
    [_fewer_of_one, _fewer_of_all, _none, _the_same_twice, _the_first_again, _not_there, _more],
)
def test_no_other_set_of_builds_passes(
    base: Forged, tmp_path: Path, change: Callable[[list[Any]], None]
) -> None:
    """Even where every digest was corrected, and engines and benchmark tell the same."""
    assert outcome_of(in_both(base, change), tmp_path / "v") == "error"


@pytest.mark.parametrize("builds", [4, 20])
def test_fewer_builds_than_params_ask_for_are_an_error(
    base: Forged, tmp_path: Path, builds: int
) -> None:
    """Stopping to build when the draw is good would be a choice."""
    forged = base.copy()
    forged.edit("params.json", lambda p: {**p, "build": {**p["build"], "builds": builds}})
    assert outcome_of(forged, tmp_path / "v") == "error"


def test_builds_of_a_target_that_is_not_rebuilt_are_an_error(base: Forged, tmp_path: Path) -> None:
    """What is served then is one file: the one that was judged."""

    def once(params: Any) -> Any:
        targets = {name: {**t, "rebuilt": False} for name, t in params["targets"].items()}
        return {**params, "targets": targets}

    forged = base.copy()
    forged.edit("params.json", once)
    assert outcome_of(forged, tmp_path / "v") == "error"


def test_one_build_of_a_target_that_is_rebuilt_is_an_error(tmp_path: Path) -> None:
    """The device would draw another one."""
    chain = write_chain(tmp_path / "chain", Story())
    chain.judged()
    forged = opened(chain.path("verdict"))
    assert outcome_of(forged.copy(), tmp_path / "v") == "pass"
    forged.edit(
        "params.json",
        lambda p: {**p, "targets": {n: {**t, "rebuilt": True} for n, t in p["targets"].items()}},
    )
    assert outcome_of(forged, tmp_path / "w") == "error"


@pytest.mark.parametrize("reach", [{"run": "ssh jetson reprune {args}"}, {"kit": True}])
def test_builds_are_timed_in_turn_on_this_machine_only(reach: dict[str, Any]) -> None:
    """A device behind a command would be sent one engine of each arm."""
    check_reach({"here": Target(rebuilt=True), "there": Target(**reach)})
    with pytest.raises(InputError, match="'there' is `rebuilt`"):
        check_reach({"there": Target(rebuilt=True, **reach)})
