"""What members of a set give up: the parts add up; a shared budget is no worse than an equal split; and the
curves of it are over the latency that was measured, where it was.
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, structs

from reprune.compress.planning.allocate import Problem, allocate
from reprune.compress.planning.by_hand import ByHand
from reprune.compress.planning.curves import Curve
from reprune.compress.planning.members import (
    SHARES,
    belongs,
    equal_split,
    member_shares,
    own_costs,
    rise_of,
    timed,
)
from reprune.compress.planning.options import Options
from reprune.compress.planning.terms import Term, Terms
from reprune.compress.tables.layer_terms import time_below
from reprune.compress.tables.sites import AxisParts, Part, Site
from reprune.compress.tables.table import (
    TABLES_FILE,
    OperatorTable,
    Point,
    QuestionTimes,
    TableKey,
    write_tables,
)
from reprune.core import store
from reprune.core.artifacts import (
    Cost,
    LayerProfile,
    ModelBundle,
    Profile,
    TableFact,
    TaskFact,
)
from reprune.core.errors import CompressionError
from reprune.core.lock import MemberRef
from reprune.core.machine import this_machine
from reprune.core.params import PlanParams
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.steps.plan_members import members_for_people

MEMBERS = ("eye", "nose")
DIGEST = "sha256:" + "0" * 64


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, dict[str, float]]:
    """Two members of one or two groups, whose costs add up; and what each member costs."""
    rungs, rises, prices = {}, {}, {}
    for member in MEMBERS:
        for number in range(draw(st.integers(1, 2))):
            name = f"{member}.{number}"
            rungs[name] = tuple(range(1, draw(st.integers(2, 4)) + 1))
            steps = draw(
                st.lists(
                    st.floats(0, 10), min_size=len(rungs[name]) - 1, max_size=len(rungs[name]) - 1
                )
            )
            rises[name] = (*(math.fsum(steps[at:]) for at in range(len(steps))), 0.0)
            prices[name] = draw(st.integers(1, 9))

    def cost(widths: object) -> float:
        assert isinstance(widths, dict)
        return float(sum(prices[name] * widths.get(name, rungs[name][-1]) for name in rungs))

    share = draw(st.sampled_from(SHARES))
    own = {
        member: float(sum(prices[n] * rungs[n][-1] for n in rungs if belongs(n, member)))
        for member in MEMBERS
    }
    return Problem(rungs=rungs, rises=rises, cost=cost, limit=share * cost({}) + 1e-9), own


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(problems())
def test_the_parts_of_the_members_are_the_whole(made: tuple[Problem, dict[str, float]]) -> None:
    """Of cost and of predicted rise; and each member's curve falls as more of it is left."""
    problem, own = made
    try:
        chosen = allocate("sensitivity", problem)
    except CompressionError:
        assume(False)
    shares = member_shares(problem, chosen, own)
    left = sum(own[member] * share.left for member, share in shares.items())
    assert math.isclose(left, problem.cost(chosen), abs_tol=1e-6)
    whole = sum(problem.rises[n][problem.rungs[n].index(w)] for n, w in chosen.items())
    assert math.isclose(sum(share.rise for share in shares.values()), whole, abs_tol=1e-9)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(problems())
def test_a_shared_budget_is_no_worse_than_an_equal_split(
    made: tuple[Problem, dict[str, float]],
) -> None:
    """Every equal split is one of the ways to share, and keeps to the budget of all."""
    problem, own = made
    share = (problem.limit - 1e-9) / problem.cost({})
    equal = equal_split(problem, own, share)
    assume(equal is not None)
    assert equal is not None
    assert problem.fits(equal)
    split = rise_of(problem, equal)
    ways = (
        dict(zip(problem.rungs, widths, strict=True)) for widths in product(*problem.rungs.values())
    )
    best = min(
        math.fsum(problem.rises[name][problem.rungs[name].index(w)] for name, w in way.items())
        for way in ways
        if problem.fits(way)
    )
    assert best <= split + 1e-9


def test_a_member_that_is_one_layer_owns_it() -> None:
    assert belongs("eye", "eye")
    assert not belongs("eyelid", "eye")
    layers = [
        LayerProfile(layer=name, type="Linear", macs=macs, params=1, output_shape=(1,))
        for name, macs in (("eye", 3), ("nose.0", 5))
    ]
    assert own_costs(layers, ("eye", "nose")) == {"eye": 3, "nose": 5}


def test_a_block_belongs_to_the_member_that_it_lies_in() -> None:
    assert belongs("eye.0", "eye")
    assert belongs("block eye.layer", "eye")
    assert not belongs("eyebrow.0", "eye")
    assert not belongs("block nose.layer", "eye")


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    times=st.fixed_dictionaries(
        {name: st.lists(st.floats(1, 50), min_size=4, max_size=4) for name in ("eye.0", "eye.1")}
    ),
    rises=st.lists(st.floats(0, 5), min_size=6, max_size=6),
)
def test_a_curve_over_time_is_the_best_there_is_whatever_stairs_time_has(
    times: dict[str, list[float]], rises: list[float]
) -> None:
    """Narrower may be slower: each point of it is the least rise of all widths that are fast enough."""
    rungs = {"eye.0": (1, 2, 3, 4), "eye.1": (1, 2, 3, 4), "nose.0": (1, 2)}
    falling = {
        name: (*(math.fsum(steps[at:]) for at in range(3)), 0.0)
        for name, steps in (("eye.0", rises[:3]), ("eye.1", rises[3:]))
    }
    terms = Terms(
        constant=3.0,
        terms=tuple(
            Term(options=(name,), values={(r,): t for r, t in zip(rungs[name], found, strict=True)})
            for name, found in (*times.items(), ("nose.0", [20.0, 30.0]))
        ),
        full={name: found[-1] for name, found in rungs.items()},
    )
    macs = Problem(rungs=rungs, rises=falling | {"nose.0": (1.0, 0.0)}, cost=sum_of, limit=99.0)
    problem = timed(macs, terms)
    own = {"eye": times["eye.0"][-1] + times["eye.1"][-1], "nose": 30.0}
    shares = member_shares(problem, {"eye.0": 2, "nose.0": 1}, own)
    assert shares["nose"].left == pytest.approx(20 / 30)
    assert shares["nose"].curve == {0.8: 1.0, 0.6: None, 0.5: None, 0.4: None, 0.3: None}
    for share, told in shares["eye"].curve.items():
        fitting = [
            falling["eye.0"][a] + falling["eye.1"][b]
            for a, b in product(range(4), range(4))
            if times["eye.0"][a] + times["eye.1"][b] <= share * own["eye"] * (1 + 1e-9)
        ]
        # Ties are broken by less than this.
        least = min(fitting) if fitting else None
        assert (told is None) == (least is None)
        assert told is None or least is None or told <= least + 0.01 * (1.0 + least)


def sum_of(widths: object) -> float:
    assert isinstance(widths, dict)
    return float(sum(widths.values()))


def site(member: str, number: int, inputs: Part | None, outputs: Part | None) -> Site:
    """A layer of 8 channels each way."""
    return Site(
        layer=f"{member}.{number}",
        question=f"{member}.{number}",
        inputs=AxisParts(size=8, parts=(inputs,) if inputs else ()),
        outputs=AxisParts(size=8, parts=(outputs,) if outputs else ()),
    )


def table() -> OperatorTable:
    """Two layers a member with their group between them. The nose has few MACs and most of the time."""
    sites, times = [], []
    for member, us in (("eye", 10.0), ("nose", 40.0)):
        part = Part(group=f"{member}.0", width=8, counts=(1,))
        sites += [site(member, 0, None, part), site(member, 1, part, None)]
        for number in (0, 1):
            points = [
                Point(
                    inputs=8 if number == 0 else width,
                    outputs=width if number == 0 else 8,
                    us=us * width / 8,
                )
                for width in (4, 8)
            ]
            times.append(QuestionTimes(question=f"{member}.{number}", points=tuple(points)))
    key = TableKey(
        machine_kind="sha256:00", runtime="onnxruntime", version="1", precision="fp32", device="",
        batch_size=1, threads=1, inputs=((1, 8),), questions="q",
    )  # fmt: skip
    return OperatorTable(
        target="cpu", key=key, dense_us=210.0, constant_us=10.0, factor=2.0, builds=1, error=0.0,
        steps={"eye.0": 4, "nose.0": 4}, sites=tuple(sites), times=tuple(times),
    )  # fmt: skip


def test_a_member_that_is_one_layer_has_the_time_of_it() -> None:
    """It has no layer below it, and showed no time of its own."""
    found = table()
    assert time_below(found, "eye.0") == 20.0
    assert time_below(found, "eye") == 40.0
    assert time_below(found, "ey") == 0.0


def put(folder: Path, manifest: Any, tables: list[OperatorTable] | None = None) -> Artifact[Any]:
    with store.drafting(folder) as draft:
        if tables:
            write_tables(draft / TABLES_FILE, tables)
        return store.write(draft, manifest, step="test", parents={}, out=folder)


def of_a_face(folder: Path, *, tables: bool) -> tuple[Artifact[ModelBundle], Artifact[Profile]]:
    """A set of an eye of 900 MACs and a nose of 100, and its profile."""
    ref = MemberRef(name="m", version="1", weights=DIGEST)
    dense = ModelBundle(
        name="face",
        dense_version="eye=1+nose=1",
        task=TaskFact(entry="t:T", digest=DIGEST, data_version="1"),
        members=dict.fromkeys(MEMBERS, ref),
    )
    made = table()
    fact = TableFact(target="cpu", key=made.key.digest, builds=1, error=0.0)
    layers = tuple(
        LayerProfile(layer=f"{member}.0", type="Linear", params=1, macs=macs, output_shape=(8,))
        for member, macs in (("eye", 900), ("nose", 100))
    )
    profile = Profile(
        cost=Cost(params=2, macs=1000, bytes=8),
        layers=layers,
        uncounted=(),
        machine=this_machine(1),
        targets=(),
        tables=(fact,) if tables else UNSET,
    )
    made_profile = put(folder / "profile", profile, [made] if tables else None)
    return put(folder / "dense", dense), made_profile


def choices() -> Options:
    """The eye's group costs all of its MACs, the nose's of its."""

    def cost(widths: dict[str, int]) -> Cost:
        macs = 900 * widths.get("eye.0", 8) // 8 + 100 * widths.get("nose.0", 8) // 8
        return Cost(params=2, macs=macs, bytes=8)

    curve = Curve(keeps=(4, 8), increases=(1.0, 0.0), errors=(0.0, 0.0))
    rungs = {"eye.0": (4, 8), "nose.0": (4, 8)}
    return Options(rungs=rungs, curves=dict.fromkeys(rungs, curve), cost=cost)  # type: ignore[arg-type]


def told_of(
    folder: Path, options: Options, widths: dict[str, int], *, tables: bool, **knobs: Any
) -> tuple[dict[str, Any], list[str]]:
    dense, profile = of_a_face(folder, tables=tables)
    said: list[str] = []
    ctx = Context(out=folder, work=folder, root=folder, say=said.append)
    return members_for_people(dense, [profile], PlanParams(**knobs), options, widths, ctx), said


def test_shares_of_members_are_of_the_latency_that_was_measured(tmp_path: Path) -> None:
    """The nose's cut halves 160 of 200 us and 10 % of the MACs; the constant is nobody's."""
    told, said = told_of(tmp_path, choices(), {"eye.0": 8, "nose.0": 4}, tables=True)
    assert told["shares_of"] == "latency@cpu"
    nose, eye = told["members"]["nose"], told["members"]["eye"]
    assert (nose["macs_left"], nose["latency_left"]) == (0.5, 0.5)
    assert nose["latency_ms"] == {"before": 0.16, "after": 0.08}
    assert eye["latency_ms"] == {"before": 0.04, "after": 0.04}
    assert eye["predicted_loss_alone"] == {0.8: 1.0, 0.6: 1.0, 0.5: 1.0, 0.4: None, 0.3: None}
    # 80 of 200 us are saved: 0.6 of each, for which both have to be halved.
    assert told["equal_shares"] == {"latency_left": 0.6, "predicted_loss": 2.0}
    assert any("to 0.60 of its own latency on cpu each, they would lose 2.0000" in s for s in said)


def test_without_tables_shares_of_members_are_of_macs_and_that_is_said(tmp_path: Path) -> None:
    told, said = told_of(tmp_path, choices(), {"eye.0": 8, "nose.0": 4}, tables=False)
    assert told["shares_of"] == "macs"
    assert "latency_ms" not in told["members"]["nose"]
    assert told["equal_shares"] == {"macs_left": 0.95, "predicted_loss": 2.0}
    assert any("shares of MACs: no profile has latency tables" in line for line in said)


def test_widths_that_the_tables_were_not_timed_at_leave_the_shares_to_macs(tmp_path: Path) -> None:
    """A width by hand off their steps; one on them is told by latency, of the whole member."""
    off = choices().by_hand(ByHand(widths={"eye.0": 5}, removed=None, reasons={}), depth=False)
    told, said = told_of(tmp_path / "off", off, {"eye.0": 5, "nose.0": 8}, tables=True)
    assert told["shares_of"] == "macs"
    assert any("eye.0 was timed at multiples of 4 channels, not at 5" in line for line in said)
    on = choices().by_hand(ByHand(widths={"eye.0": 4}, removed=None, reasons={}), depth=False)
    told, _ = told_of(tmp_path / "on", on, {"eye.0": 4, "nose.0": 8}, tables=True)
    assert told["members"]["eye"]["latency_left"] == 0.5
    assert told["members"]["nose"]["latency_left"] == 1.0


def test_a_model_that_is_no_set_has_no_members_to_tell_of(tmp_path: Path) -> None:
    dense, profile = of_a_face(tmp_path, tables=True)
    single = put(tmp_path / "single", structs.replace(dense.manifest, members=UNSET))
    ctx = Context(out=tmp_path, work=tmp_path, root=tmp_path, say=print)
    assert members_for_people(single, [profile], PlanParams(), choices(), {}, ctx) == {}
