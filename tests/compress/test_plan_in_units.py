"""Limits in milliseconds and bytes, through the plan step: kept as measured, or refused in their own unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from reprune.core import store
from reprune.core.artifacts import Profile, TargetProfile
from reprune.core.errors import CompressionError, DocumentError
from reprune.core.limits import bounded
from reprune.core.params import PlanParams, read_params
from reprune.steps.plan_limits import asked_alike, dense_milliseconds, in_shares
from tests.compress import test_plan_by_hand as by_hand
from tests.compress import test_steps_plan as plain
from tests.compress.test_plan_by_hand import (
    ground,
    keeps,
    planned,
    profile_with_tables,
    timed_as_the_table_says,
    with_plan,
)

__all__ = ["ground", "timed_as_the_table_says"]
_alone = by_hand._alone

DENSE_MS = 20.0
LIMIT = 'allocator: latency, limits: {"latency_ms@cpu": %s}'


def timed_profile(ground: Path, out: Path, *, tables: bool = True) -> Path:
    """As profile_with_tables, or the ground's own; the dense model took 20 ms."""
    made = (
        profile_with_tables(ground, out.with_name("tables"), "") if tables else ground / "profile"
    )
    found = store.read(made, Profile)
    one = TargetProfile(
        target="cpu", runtime="onnxruntime", batch_size=256, latency_us=DENSE_MS * 1e3, operators=()
    )
    with store.drafting(out) as draft:
        for name in found.manifest.payload:
            store.write_bytes(draft / name, found.file(name).read_bytes())
        manifest = structs.replace(found.manifest, targets=(one,))
        parents = found.manifest.parents
        return store.write(draft, manifest, step="test", parents=parents, out=out).path


@pytest.mark.slow
@pytest.mark.parametrize("allocator", ["sensitivity", "latency"])
def test_a_limit_in_milliseconds_holds_as_measured(
    ground, tmp_path, timed_as_the_table_says, allocator
):
    """The same plan as its share of the dense model's time; recorded as it was written, told as both."""
    profile = timed_profile(ground, tmp_path / "profile")
    knobs = LIMIT.replace("latency,", f"{allocator},", 1) % 12.0
    plan, shown, said = planned(ground, tmp_path, with_plan(knobs, fraction="1.0"), [profile])
    one = plan.predicted.latencies["cpu"]
    assert one.measured * DENSE_MS <= 12.0
    assert plan.limits == shown["limits"] == {"latency_ms@cpu": 12.0}
    assert shown["limits_as_shares"] == {"latency@cpu": 0.6}
    told = shown["predicted"]["latency"]["cpu"]["latency_ms"]
    assert told["before"] == DENSE_MS
    assert told["after"] == pytest.approx(one.measured * DENSE_MS, rel=1e-3)
    assert any("latency_ms@cpu: 12, of 20 that the dense model takes: 0.6" in s for s in said)
    assert any("ms)" in s and "0.6 asked (12 ms)" in s for s in said)
    share = with_plan(knobs.replace("_ms", "").replace("12.0", "0.6"), fraction="1.0")
    same, _, _ = planned(ground, tmp_path / "share", share, [profile])
    assert keeps(same) == keeps(plan)


def test_milliseconds_below_all_that_was_timed_are_refused_in_milliseconds(
    ground, tmp_path, timed_as_the_table_says
):
    """The narrowest widths take more than a tenth of 20 ms."""
    profile = timed_profile(ground, tmp_path / "profile")
    with pytest.raises(CompressionError, match=r"'cpu' \(1 ms are asked, \d[.\d]* ms the least"):
        planned(ground, tmp_path, with_plan(LIMIT % 1.0, fraction="1.0"), [profile])
    assert timed_as_the_table_says


@pytest.mark.parametrize("limit", ['"latency_ms@cpu": 0.1', "size_bytes: 200"])
def test_what_cannot_be_reached_is_refused_with_what_can(ground, tmp_path, limit):
    """By the tables alone, where the target is not timed here, and by count. What it names is enough."""
    profile = timed_profile(ground, tmp_path / "profile")
    params = with_plan(f"allocator: latency, limits: {{{limit}}}", fraction="1.0")
    params = params.replace("cpu: {", "cpu: {kit: true, ")
    assert "kit: true" in params
    with pytest.raises(CompressionError, match="the least that can be reached is") as refused:
        planned(ground, tmp_path, params, [profile])
    name, _, most = limit.replace('"', "").partition(": ")
    assert refused.value.where == f"params.yaml (plan.limits.{name})"
    enough = refused.value.fix.split("at least ")[1].split(",")[0]
    assert float(enough) > float(most)
    plan, _, _ = planned(ground, tmp_path / "y", params.replace(most, enough), [profile])
    assert plan.limits == {name: float(enough)}


def test_a_size_in_bytes_holds_whatever_the_allocator(ground, tmp_path):
    """With no tables, and nothing timed; `budget: bytes` is the same as a share."""
    profile = timed_profile(ground, tmp_path / "profile", tables=False)
    before = store.read(profile, Profile).manifest.cost.bytes
    sizes = {}
    for allocator in ("uniform", "sensitivity", "latency"):
        knobs = f"allocator: {allocator}, limits: {{size_bytes: {before // 2}}}"
        _, shown, _ = planned(
            ground, tmp_path / allocator, with_plan(knobs, fraction="1.0"), [profile]
        )
        sizes[allocator] = shown["cost"]["bytes"]["after"]
        budget = with_plan(f"allocator: {allocator}, budget: bytes", fraction="0.5")
        plan, shown, _ = planned(ground, tmp_path / f"b-{allocator}", budget, [profile])
        assert plan.budget == "bytes"
        assert shown["cost"]["bytes"]["after"] <= before / 2
    assert all(0 < size <= before / 2 for size in sizes.values())


def test_a_limit_that_the_dense_model_keeps_asks_nothing_and_says_so(ground, tmp_path):
    profile = timed_profile(ground, tmp_path / "profile", tables=False)
    params = with_plan(LIMIT % 25.0, fraction="0.8")
    plan, shown, said = planned(ground, tmp_path, params, [profile])
    assert any("it asks nothing" in line for line in said)
    assert plan.limits == {"latency_ms@cpu": 25.0}
    assert shown["limits_as_shares"] == {}


def test_limits_that_the_dense_model_keeps_leave_nothing_to_plan(ground, tmp_path):
    """With a fraction of 1 they are all that was asked: refused here, and not by `prune` with other words."""
    profile = timed_profile(ground, tmp_path / "profile", tables=False)
    with pytest.raises(CompressionError, match="within every limit as it is") as refused:
        planned(ground, tmp_path, with_plan(LIMIT % 25.0, fraction="1.0"), [profile])
    assert refused.value.where == "params.yaml (plan.limits.latency_ms@cpu)"


def test_milliseconds_where_nobody_timed_the_dense_model_are_refused(ground, tmp_path):
    with pytest.raises(CompressionError, match="no profile has timed the dense model on 'cpu'"):
        planned(ground, tmp_path, with_plan(LIMIT % 12.0))


def test_another_dense_time_is_no_other_question(ground, tmp_path):
    """A retrained model takes 21 ms; the champion's widths still answer what was asked, in its own shares."""
    asked = PlanParams(fraction=1.0, limits={"latency_ms@cpu": 12.0, "macs": 0.9})
    cost = plain.plan_of({}).before
    shares = in_shares(asked, cost, {"cpu": 21.0}, plain.quiet)
    assert shares.limits == {"latency@cpu": 12.0 / 21.0, "macs": 0.9}
    champion = structs.replace(plain.plan_of({"a": 8}), limits=asked.limits)
    assert asked_alike(champion, asked, shares).limits == shares.limits
    other = structs.replace(champion, limits={"latency_ms@cpu": 11.0, "macs": 0.9})
    assert asked_alike(other, asked, shares).limits == other.limits
    assert asked_alike(None, asked, shares) is None


def test_the_profile_with_tables_says_what_the_dense_model_takes(ground, tmp_path):
    """Of two that timed it: the shares are of what the tables begin from."""
    first = timed_profile(ground, tmp_path / "first", tables=False)
    second = timed_profile(ground, tmp_path / "second")
    slow = store.read(first, Profile)
    slow = replace(
        slow,
        manifest=structs.replace(
            slow.manifest,
            targets=(structs.replace(slow.manifest.targets[0], latency_us=99_000.0),),
        ),
    )
    found = store.read(second, Profile)
    assert dense_milliseconds([slow, found]) == {"cpu": DENSE_MS}
    assert dense_milliseconds([slow]) == {"cpu": 99.0}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ('"latency_ms@cpus": 5', "did you mean 'latency_ms@cpu'"),
        ("macs: 1.5", "macs is a share of the dense model's, and 1.5 is above 1"),
        ('"latency@cpu": 12', r"12 is above 1[\s\S]*latency_ms@cpu"),
        ("bytes: 1000", r"1000 is above 1[\s\S]*size_bytes"),
        (
            '"latency@cpu": 0.5, "latency_ms@cpu": 5',
            "latency@cpu and latency_ms@cpu bound the same",
        ),
        ("size_bytes: 500, bytes: 0.5", "size_bytes and bytes bound the same"),
        ("size_bytes: 0", "limits"),
    ],
)
def test_limits_that_mean_nothing_are_refused_when_the_file_is_read(tmp_path, limits, message):
    (tmp_path / "params.yaml").write_text(with_plan(f"limits: {{{limits}}}"))
    with pytest.raises(DocumentError, match=message):
        read_params(tmp_path / "params.yaml")


def test_a_budget_and_a_limit_in_units_of_the_same_are_refused(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        with_plan('budget: latency, latency_target: cpu, limits: {"latency_ms@cpu": 5}')
    )
    with pytest.raises(DocumentError, match="latency@cpu is the budget and a limit too"):
        read_params(path)
    path.write_text(with_plan("budget: bytes, limits: {size_bytes: 5000}"))
    with pytest.raises(DocumentError, match="bytes is the budget and a limit too"):
        read_params(path)
    assert bounded("params") == "params"


@pytest.mark.parametrize(
    ("knobs", "idle"),
    [
        ("budget: macs", True),
        ("allocator: sensitivity, budget: latency, latency_target: cpu", True),
        ("allocator: latency, budget: latency, latency_target: cpu", False),
        ('limits: {"latency@cpu": 0.9}', False),
        ('limits: {"latency_ms@cpu": 18}', False),
    ],
)
def test_tables_that_nothing_plans_by_are_named(
    ground, tmp_path, timed_as_the_table_says, knobs, idle
):
    """They cost minutes. On the console, and in plan.yaml."""
    profile = timed_profile(ground, tmp_path / "profile")
    _, shown, said = planned(ground, tmp_path, with_plan(knobs, fraction="0.8"), [profile])
    told = [line for line in said if "cpu: latency tables were measured and this plan" in line]
    assert len(told) == int(idle)
    assert [f"plan: {line}" for line in shown.get("targets", ()) if "tables" in line] == told
