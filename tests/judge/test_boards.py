"""A board's setting must be one, from the build to the last unit; without it nothing is judged."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from reprune.core.artifacts import BuildFact, Judgement
from reprune.core.documents import canonical
from reprune.judge.boards import board_problems
from reprune.judge.evidence import BatchUnits, Evidence, Unit, decode_units
from reprune.judge.verdict import judge
from reprune.judge.words import ARM_NAMES
from tests.building import make_evidence, make_policy

MODE, CLOCKS = "jetson power_mode", "jetson clocks"
SET = {MODE: "MAXN (0)", CLOCKS: "locked"}
HEAT = {"jetson celsius": "cpu 48.5"}


def on_board(units: tuple[Unit, ...], board: dict[str, str]) -> tuple[Unit, ...]:
    return tuple(replace(unit, board=board) for unit in units)


def evidence(built: dict[str, str], timed: dict[str, str]) -> Evidence:
    """Engines built with the board set one way, and timed with it set another way."""
    plain = make_evidence()
    return replace(
        plain,
        engines=tuple(
            replace(one, built=BuildFact(details={**built, **HEAT})) for one in plain.engines
        ),
        targets=tuple(replace(one, units=on_board(one.units, timed)) for one in plain.targets),
    )


def judged(found: Evidence) -> Judgement:
    return judge(found, make_policy())


def test_one_setting_all_the_way_is_judged_as_without() -> None:
    """Heat and load, which never stay, are no setting."""
    assert judged(evidence(SET, SET)).outcome == judged(make_evidence()).outcome == "pass"


@pytest.mark.parametrize(
    ("timed", "words"),
    [
        (
            {**SET, MODE: "15W (2)"},
            "power mode was MAXN (0) when engines were built (of the candidate, ",
        ),
        ({**SET, CLOCKS: "free"}, "), and free at the benchmark"),
        ({MODE: "MAXN (0)"}, "), and not told at the benchmark"),
        ({}, "), and not told at the benchmark"),
    ],
)
def test_another_setting_than_the_builds_is_an_error(timed: dict[str, str], words: str) -> None:
    """Never a pass, whatever the times; the words say what to do."""
    found = judged(evidence(SET, timed))
    assert found.outcome == "error"
    assert words in " ".join(found.reasons)
    assert "engine cache" in " ".join(found.reasons)


def test_one_arm_built_in_another_mode_is_named() -> None:
    whole = evidence(SET, SET)
    first, *others = whole.engines
    odd = replace(first, built=BuildFact(details={**SET, MODE: "30W (3)"}))
    found = judged(replace(whole, engines=(odd, *others)))
    assert found.outcome == "error"
    (words,) = found.reasons
    assert f"power mode was 30W (3) when engines were built (of {ARM_NAMES[first.arm]})" in words


@pytest.mark.parametrize("built", [SET, {}])
def test_a_mode_that_changes_meanwhile_is_an_error(built: dict[str, str]) -> None:
    """For engines that no board built as well; one unit is enough."""
    whole = evidence(built, SET)
    (target,) = whole.targets
    last = replace(target.units[-1], board={**SET, MODE: "15W (2)"})
    changed = replace(whole, targets=(replace(target, units=(*target.units[:-1], last)),))
    found = judged(changed)
    assert found.outcome == "error"
    assert "power mode changed while it was timed (15W (2), MAXN (0))" in " ".join(found.reasons)


def test_units_of_other_batch_sizes_are_looked_at_too() -> None:
    whole = evidence(SET, SET)
    (target,) = whole.targets
    other = BatchUnits(batch_size=8, units=on_board(target.units, {**SET, CLOCKS: "free"}))
    found = judged(replace(whole, targets=(replace(target, throughput=(other,)),)))
    assert "clocks changed while it was timed" in " ".join(found.reasons)


def test_a_machine_without_a_setting_writes_what_it_wrote_before() -> None:
    """No empty field is added to units; one that is there survives the file."""
    (target,) = make_evidence().targets
    assert b"board" not in canonical(target.units)
    told = on_board(target.units, SET)
    assert decode_units(canonical(told)) == told


def problems(found: Evidence) -> list[str]:
    (target,) = found.targets
    return list(board_problems(target, found))


def test_engines_of_another_target_say_nothing_of_this_board() -> None:
    whole = evidence(SET, SET)
    (first, *_) = whole.engines
    details = {**SET, MODE: "30W (3)"}
    elsewhere = replace(first, target="another", built=BuildFact(details=details))
    assert problems(replace(whole, engines=(*whole.engines, elsewhere))) == []


def test_without_a_unit_there_is_nothing_to_compare() -> None:
    whole = evidence(SET, SET)
    (target,) = whole.targets
    assert problems(replace(whole, targets=(replace(target, units=()),))) == []


def test_words_do_not_depend_on_the_order_of_engines() -> None:
    """Arms and settings are told in the order of their names."""
    whole = evidence({}, SET)
    (first, *_) = whole.engines
    modes = {f"arm-{place}": f"{15 + 5 * (place // 2)}W" for place in range(8)}
    engines = [
        replace(first, arm=arm, built=BuildFact(details={MODE: mode}))
        for arm, mode in modes.items()
    ]
    told = problems(replace(whole, engines=tuple(engines)))
    assert told == problems(replace(whole, engines=tuple(engines[::-1])))
    assert [words.partition(")")[0].rpartition("power mode was ")[2] for words in told] == [
        f"{15 + 5 * pair}W when engines were built (of arm-{2 * pair}, arm-{2 * pair + 1}"
        for pair in range(4)
    ]
