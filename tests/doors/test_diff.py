"""`reprune diff`: what it says of two verdicts, plans and generations, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core import store
from reprune.core.artifacts import Plan, RuleResult
from reprune.core.documents import decode_json
from reprune.core.errors import InputError
from reprune.doors.cli import main
from reprune.doors.output import DiffOutput
from reprune.report.columns import width
from reprune.report.diff import compare_verdicts
from reprune.report.diff_text import render_diff
from reprune.report.differences import Amount, Difference, RuleDiff
from reprune.report.words import EN_DASH, MINUS, NBSP, TIMES
from reprune.steps.diff import diff
from tests.report.scenes import (
    BLOCKED,
    BROKEN,
    FIRST,
    HOSTILE,
    NASTY,
    PASSED,
    PRICED,
    SCENES,
    TARGETS,
    latency,
)
from tests.report.verdicts import Scene, bare, digest, facts, write_verdict


def two(tmp_path: Path, before: Scene, after: Scene) -> Difference:
    write_verdict(before, tmp_path / "a")
    write_verdict(after, tmp_path / "b")
    return diff(tmp_path, "a/verdict", "b/verdict")


def by_rule(told: Difference) -> dict[tuple[str, str], RuleDiff]:
    assert told.verdicts is not None
    return {(one.rule, one.baseline): one for one in told.verdicts.rules}


def test_a_change_beyond_both_intervals_is_worse_and_one_within_is_noise(tmp_path: Path) -> None:
    """The gap is that of the two changes; what did not move is named as that."""
    told = two(tmp_path, PASSED, BLOCKED)
    rules = by_rule(told)
    moved = rules["accuracy.vs_parent", "dense"]
    assert moved.moved == "worse"
    assert moved.between is not None
    assert moved.before is not None
    assert moved.after is not None
    assert moved.between.value == pytest.approx(
        (moved.after.change or 0) - (moved.before.change or 0)
    )
    assert moved.between.high is not None
    assert moved.between.high < 0
    assert rules["size.vs_parent", "dense"].moved == "same"


def ratio(change: float, half: float) -> RuleResult:
    return msgspec.structs.replace(
        latency("dense", "pass", 0.05, change), change=change, low=change - half, high=change + half
    )


@pytest.mark.parametrize(
    ("before", "after", "half", "moved"),
    [
        (0.60, 0.70, 0.01, "worse"),
        (0.70, 0.60, 0.01, "better"),
        (0.60, 0.61, 0.02, "noise"),
        (0.60, 0.60, 0.02, "same"),
    ],
)
def test_a_ratio_is_compared_as_a_factor(
    before: float, after: float, half: float, moved: str
) -> None:
    """Less time is better."""
    sides = [bare(replace(PASSED, rules=(ratio(each, half),))) for each in (before, after)]
    (one,) = compare_verdicts(*sides).rules
    assert one.moved == moved
    assert one.between is not None
    assert one.between.scale == "factor"
    assert one.between.value == pytest.approx(after / before)


def test_without_an_interval_nobody_can_say() -> None:
    """An end that is missing on the side of "no change" leaves it open; the other end does not matter."""
    known, open_end = ratio(0.6, 0.01), msgspec.structs.replace(ratio(0.7, 0.01), low=None)
    other_end = msgspec.structs.replace(ratio(0.7, 0.01), high=None)
    for after, moved in ((open_end, "unknown"), (other_end, "worse")):
        sides = [bare(replace(PASSED, rules=(one,))) for one in (known, after)]
        assert [one.moved for one in compare_verdicts(*sides).rules] == [moved]


@settings(deadline=None, max_examples=60)
@given(st.floats(0.1, 2), st.floats(0.1, 2), st.floats(0.001, 0.09))
def test_swapping_the_two_turns_worse_into_better(one: float, other: float, half: float) -> None:
    mirrored = {"worse": "better", "better": "worse"}
    sides = [bare(replace(PASSED, rules=(ratio(each, half),))) for each in (one, other)]
    (there,) = compare_verdicts(*sides).rules
    (back,) = compare_verdicts(*sides[::-1]).rules
    assert back.moved == mirrored.get(there.moved, there.moved)


@pytest.mark.parametrize("name", sorted(SCENES))
def test_a_verdict_against_itself_differs_in_nothing(name: str, tmp_path: Path) -> None:
    write_verdict(SCENES[name], tmp_path)
    told = diff(tmp_path, "verdict", "verdict")
    assert told.verdicts is not None
    assert {one.moved for one in told.verdicts.rules} <= {"same", "unknown"}
    assert all(one.before == one.after for one in told.verdicts.figures)
    assert (told.verdicts.slices, told.verdicts.settings) == ((), ())
    assert told.plan is None or told.plan.changed == ()
    assert told.verdicts.notes == ("Both are the same verdict.",)


def test_slices_that_moved_are_told_and_the_others_counted(tmp_path: Path) -> None:
    told = two(tmp_path, PASSED, BLOCKED).verdicts
    assert told is not None
    assert [(one.slice, one.moved) for one in told.slices] == [("digit=8", "worse")]
    assert told.slices_same == 10


def test_a_slice_that_became_undecided_got_worse() -> None:
    """And better again where it is ok; from harm to undecided too."""
    for states, moved in (
        (("ok", "undecided"), "worse"),
        (("undecided", "ok"), "better"),
        (("harm", "undecided"), "better"),
        (("undecided", "harm"), "worse"),
    ):
        slices = [(msgspec.structs.replace(PASSED.slices[0], outcome=one),) for one in states]
        sides = [bare(replace(PASSED, slices=each)) for each in slices]
        assert [one.moved for one in compare_verdicts(*sides).slices] == [moved]


def test_the_same_examples_through_both_candidates(tmp_path: Path) -> None:
    """440 and 414 of 450 are right, so that the net of the flips is 26, which is no luck."""
    told = two(tmp_path, PASSED, BLOCKED).verdicts
    assert told is not None
    (one,) = told.flips
    assert (one.examples, one.only_before - one.only_after) == (450, 26)
    assert one.p < 1e-4


def test_plans_are_compared_by_share_and_what_is_alike_is_counted(tmp_path: Path) -> None:
    """A wider dense model whose share is kept is not cut otherwise."""
    groups = (("conv1", 32, 16), ("conv2", 32, 8), ("conv3", 64, 24), ("extra", 8, 4))
    told = two(tmp_path, PASSED, replace(PASSED, groups=groups)).plan
    assert told is not None
    assert [(one.part, one.how, one.before, one.after) for one in told.changed] == [
        ("conv2", "cut more", "16 of 32", "8 of 32"),
        ("extra", "new", EN_DASH, "4 of 8"),
        ("fc1", "gone", "32 of 64", EN_DASH),
    ]
    assert told.same == 2


def test_settings_are_told_key_by_key(tmp_path: Path) -> None:
    """The lock, params.yaml and the machine; a part that one of the two lacks is one line."""
    told = two(tmp_path, replace(PASSED, dense_version="4"), TARGETS).verdicts
    assert told is not None
    keys = {(one.place, one.key): (one.before, one.after) for one in told.settings}
    assert keys["lock", "dense.version"] == ("4", "3")
    assert keys["params.yaml", "targets.jetson"][0] == "not set"
    assert keys["params.yaml", "targets.jetson"][1].startswith("{runtime: onnxruntime")
    assert keys["policy.yaml", "targets.phone"] == ("not set", "required")
    assert ("lock", "params") not in keys
    assert "A change against dense is each" not in " ".join(told.notes)
    assert any("dense v4 and v3" in note for note in told.notes)


def test_digests_of_what_is_compared_key_by_key_are_left_out(tmp_path: Path) -> None:
    """That params.yaml and policy.yaml have another digest says nothing; that the task has does."""
    one = facts(PASSED, tmp_path)
    assert one.lock is not None
    lock = msgspec.structs.replace(
        one.lock, params=digest("x"), policy=digest("y"), task=digest("z"), reprune="9.9"
    )
    found = compare_verdicts(one, replace(one, lock=lock)).settings
    assert [(each.place, each.key) for each in found] == [("lock", "reprune"), ("lock", "task")]


def test_what_one_side_does_not_hold_is_not_known(tmp_path: Path) -> None:
    """A verdict without its lock and its parameters is not one made under none."""
    one = facts(PASSED, tmp_path)
    found = compare_verdicts(one, replace(one, lock=None, params=None)).settings
    assert [(each.place, each.before, each.after) for each in found] == [
        ("lock", "known", "not known"),
        ("params.yaml", "known", "not known"),
    ]


def test_a_weaker_policy_is_told_of(tmp_path: Path) -> None:
    """Both ways round, by what it demands less of; equal ones are no news."""
    lax = replace(PASSED, targets=("ort-cpu", "jetson"))
    told = two(tmp_path, lax, PASSED).verdicts
    assert told is not None
    (note,) = [each for each in told.notes if "demands less" in each]
    assert note.startswith("The policy of B demands less than that of A: ")
    assert "jetson" in note
    same = two(tmp_path / "same", PASSED, BLOCKED).verdicts
    assert same is not None
    assert not any("demands less" in each for each in same.notes)


def test_where_nothing_could_be_judged_it_says_so(tmp_path: Path) -> None:
    text = render_diff(two(tmp_path, BROKEN, replace(BROKEN, headline="Error: x.")))
    assert "No demand of the policy could be judged in either." in text


def test_a_cost_is_compared_only_in_its_currency(tmp_path: Path) -> None:
    assert PRICED.cost is not msgspec.UNSET
    assert PRICED.cost is not None
    other = replace(PRICED, cost=msgspec.structs.replace(PRICED.cost, currency="JPY"))
    told = two(tmp_path, PRICED, other).verdicts
    assert told is not None
    costs = [one for one in told.figures if one.what == "cost, million"]
    assert len(costs) == 2
    assert all((one.before is None) is not (one.after is None) for one in costs)


@pytest.mark.parametrize("columns", [40, 62, 80, 100])
@pytest.mark.parametrize("names", [("pass", "block"), ("priced", "many"), ("error", "targets")])
def test_it_fits_the_screen(names: tuple[str, str], columns: int, tmp_path: Path) -> None:
    """No line is wider; each demand that moved shows both values, both intervals and the limit."""
    text = render_diff(two(tmp_path, *(SCENES[name] for name in names)), columns=columns)
    for line in text.splitlines():
        assert width(line) <= columns, line
    if names == ("pass", "block"):
        joined = " ".join(text.split())
        for part in ("-0.22 pt ok", "(-1.47 to +1.03)", "-6.00 pt blocked", "≥ -3.00 pt", "worse"):
            assert part in joined.replace(MINUS, "-")


def test_names_from_somebody_who_means_no_good(tmp_path: Path) -> None:
    text = render_diff(two(tmp_path, NASTY, replace(NASTY, slices=(), headline="x")))
    assert not any((char < " " and char != "\n") or char in "\x7f\u202e\u2028" for char in text)
    with pytest.raises(InputError) as caught:
        two(tmp_path / "other", PASSED, NASTY)
    assert "\x1b" not in str(caught.value)
    assert HOSTILE not in str(caught.value)


def plan_of(groups: tuple[tuple[str, int, int], ...], folder: Path) -> Plan:
    """The plan in a verdict, written as an artefact with its text."""
    verdict = write_verdict(replace(PASSED, past_groups=groups), folder / "of")
    plan = decode_json(verdict.file("past/plan.json").read_bytes(), Plan, name="plan")
    with store.drafting(folder / "plan") as draft:
        (draft / "plan.yaml").write_text("text: for people\n")
        return store.write(draft, plan, step="plan", parents={}, out=folder / "plan").manifest


TEXT = """\
allocator: sensitivity
budget: macs
fraction: 0.4
groups:
  conv1: {before: 16, after: 8, predicted_loss: 0.1}
  conv2: {before: 32, after: 8, predicted_loss: 0.1}
cost: {macs: {before: 10, after: 4, left: 0.4}, params: {before: 10, after: 5, left: 0.5}}
predicted: {loss_increase: 0.2, latency_ratio: null}
not_cut: {norm: because}
"""


def test_plans_as_folders_and_as_text(tmp_path: Path) -> None:
    """A plan.yaml beside its manifest is that plan; one alone is read for what it says."""
    plan_of((("conv1", 16, 8), ("conv2", 32, 16)), tmp_path)
    (tmp_path / "mine.yaml").write_text(TEXT)
    for given_plan in ("plan", "plan/plan.yaml", "plan/manifest.json"):
        told = diff(tmp_path, given_plan, "mine.yaml")
        assert told.verdicts is None
        assert told.plan is not None
        assert [(one.part, one.how) for one in told.plan.changed] == [("conv2", "cut more")]
        assert told.plan.same == 1
        assert [(one.key, one.before, one.after) for one in told.plan.knobs] == [
            ("fraction", "0.5", "0.4")
        ]
    text = render_diff(told)
    assert "1 part cut otherwise, 1 as before" in text
    assert "16 of 32  8 of 32" in text


def bounded(
    fast: float, slow: float, floor: float, folder: Path, name: str, **by_hand: object
) -> None:
    """A plan.yaml whose groups are those of `TEXT`, under other bounds."""
    text = yaml.safe_load(TEXT)
    text |= {"limits": {"params": slow}, "floors": {"depth": floor}, **by_hand}
    timed = {"by_table": fast, "measured": "not here", "saving_corrected_by": 1.0}
    text["predicted"] |= {"latency": {"ort-cpu": timed}, "optimality_gap": fast / 10}
    (folder / name).write_text(yaml.safe_dump(text))


def test_plans_that_cut_alike_under_other_bounds_differ_in_those(tmp_path: Path) -> None:
    """Limits, floors, what a person set, and what is expected of each target."""
    by_hand = {"by_hand": ["conv1", "stage.1"], "removed_blocks": ["stage.1"]}
    bounded(0.59, 0.6, 0.1, tmp_path, "a.yaml")
    bounded(0.39, 0.4, 0.5, tmp_path, "b.yaml", **by_hand)
    told = diff(tmp_path, "a.yaml", "b.yaml")
    assert told.plan is not None
    assert [(one.key, one.before, one.after) for one in told.plan.knobs] == [
        ("limits.params", "0.6", "0.4"),
        ("floors.depth", "0.1", "0.5"),
        ("by_hand.conv1", "not set", "8 of 16"),
        ("by_hand.stage.1", "not set", "removed"),
    ]
    moved = {
        (one.what, one.target): (one.before, one.after)
        for one in told.plan.figures
        if one.before != one.after
    }
    assert moved == {
        ("latency forecast, of dense", "ort-cpu"): (Amount(value=0.59), Amount(value=0.39)),
        ("optimality gap", ""): (Amount(value=0.059), Amount(value=0.039)),
    }
    text = render_diff(told)
    for part in (
        "limits.params: 0.6 → 0.4",
        "by_hand.conv1: not set → 8 of 16",
        f"{TIMES}0.390",
        "3.90 %",
    ):
        assert part in text
    assert all(width(line) <= 40 for line in render_diff(told, columns=40).splitlines())


def test_plans_that_only_expect_otherwise_say_so(tmp_path: Path) -> None:
    """Nothing is cut otherwise, and nothing else was asked for."""
    bounded(0.59, 0.6, 0.1, tmp_path, "a.yaml")
    bounded(0.49, 0.6, 0.1, tmp_path, "b.yaml")
    text = render_diff(diff(tmp_path, "a.yaml", "b.yaml"))
    assert "all cut alike" in text
    assert "latency forecast, of dense, ort-cpu" in text


MASKS = """\
method: masks
pattern: unstructured
scope: global
weights: 200
zeros: 100
tensors:
  conv1.weight: {weights: 100, zeros: 40, sparsity: 0.4}
  conv2.weight: {weights: 100, zeros: 60, sparsity: 0.6}
left_whole: {}
predicted: {loss_increase: null, macs: 10, params: 10}
"""


def test_plans_of_masks_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MASKS)
    (tmp_path / "b.yaml").write_text(MASKS.replace("zeros: 60", "zeros: 80"))
    told = diff(tmp_path, "a.yaml", "b.yaml").plan
    assert told is not None
    assert [(one.part, one.before, one.after) for one in told.changed] == [
        ("conv2.weight", f"60.0{NBSP}% zeros", f"80.0{NBSP}% zeros")
    ]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("verdict", "plan", "is a verdict and 'plan' is a plan"),
        ("plan", "strange.yaml", "no part in common"),
        ("nothing/here", "plan", "there is no such file or folder"),
        ("empty", "plan", "has no manifest.json"),
        ("plan", "broken.yaml", "broken.yaml"),
        ("plan", "41", "params.yaml"),
    ],
)
def test_what_cannot_be_compared_is_said(one: str, other: str, said: str, tmp_path: Path) -> None:
    """Each with exit code 2, and what to do."""
    plan_of((("conv1", 16, 8),), tmp_path)
    write_verdict(PASSED, tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange.yaml").write_text(TEXT.replace("conv1", "x").replace("conv2", "y"))
    (tmp_path / "broken.yaml").write_text("allocator: [")
    with pytest.raises(InputError) as caught:
        diff(tmp_path, one, other)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_two_models_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'a/verdict' is about digits, 'b/verdict' is about birds"):
        two(tmp_path, PASSED, replace(PASSED, name="birds"))


def test_another_artefact_is_neither(tmp_path: Path) -> None:
    verdict = write_verdict(FIRST, tmp_path)
    bundle = next(
        path
        for path in (verdict.path / "ancestors").iterdir()
        if json.loads(path.read_bytes())["kind"] == "ModelBundle"
    )
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_bytes(bundle.read_bytes())
    with pytest.raises(InputError, match="is a ModelBundle, neither a verdict nor a plan"):
        diff(tmp_path, "verdict", "bundle")


def test_an_edited_verdict_is_refused(tmp_path: Path) -> None:
    verdict = write_verdict(PASSED, tmp_path)
    path = verdict.path / "manifest.json"
    path.write_text(path.read_text().replace('"outcome": "pass"', '"outcome": "block"', 1))
    with pytest.raises(InputError, match="was changed after it was written"):
        diff(tmp_path, "verdict", "verdict")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 0 whatever differs; one JSON object by its schema; a narrow terminal gets narrow lines."""
    write_verdict(PASSED, tmp_path / "a")
    write_verdict(BLOCKED, tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    assert main(["diff", "-C", str(tmp_path), "a/verdict", "b/verdict", "--json"]) == 0
    out = capsys.readouterr().out
    told = decode_json(out.encode(), DiffOutput, name="output").difference
    assert told.verdicts is not None
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["diff", "a/verdict", "b/verdict"]) == 0
    text = capsys.readouterr().out
    assert max(map(width, text.splitlines())) <= 50
    assert "\x1b" not in text
    assert main(["diff", "a/verdict", "missing/verdict", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "artifact_missing"
    assert main(["diff", "a/verdict"]) == 2
    assert "reprune diff" in capsys.readouterr().err
