"""A plan follows what the targets' runtimes can do, and says where it does not suit them."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import msgspec
import pytest

from reprune.core.artifacts import TargetProfile
from reprune.core.errors import InputError, UnknownName
from reprune.core.params import PlanParams, Target
from reprune.core.policy import LatencyRules, MaxRatio, Policy
from reprune.runtimes import base
from reprune.runtimes.base import Capabilities, get_runtime
from reprune.steps.looking import required_here
from reprune.steps.target_demands import (
    aligned,
    alignment,
    demands,
    gains,
    refuse_unoffered,
    refuse_untimed,
)


class Sparse:
    """A runtime that wants multiples of 12 and skips 2:4 zeros."""

    capabilities = Capabilities(
        precisions=("fp32",), extra="none", modules=(), alignment={"fp32": 12}, sparsity=("2:4",)
    )


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Target]:
    runtimes = {**base.RUNTIMES, "sparse": f"{__name__}:Sparse"}
    monkeypatch.setattr(base, "RUNTIMES", runtimes)
    return {"cpu": Target(), "other": Target(runtime="sparse")}


def test_zero_means_what_suits_every_target(targets: dict[str, Target]) -> None:
    assert alignment(targets["cpu"]) == 8
    assert aligned(PlanParams(round_to=0), targets).round_to == 24
    assert aligned(PlanParams(round_to=0), {"cpu": Target()}).round_to == 8
    assert aligned(PlanParams(round_to=5), targets).round_to == 5


@pytest.mark.parametrize(
    ("target", "multiple"),
    [
        (Target(), 8),
        (Target(precision="int8"), 16),
        (Target(runtime="tensorrt", precision="int8"), 32),
        (Target(runtime="qnn", precision="int8"), 32),
        (Target(runtime="coreml"), 8),
        (Target(runtime="executorch"), 8),
        (Target(runtime="edgetpu", precision="int8"), 8),
    ],
)
def test_by_default_widths_suit_the_precision_and_are_never_odd(
    target: Target, multiple: int
) -> None:
    """In fp32 as before there was a wish to follow: multiples of 8."""
    assert aligned(PlanParams(), {"one": target}).round_to == multiple
    assert not list(demands(aligned(PlanParams(), {"one": target}), {"one": target}))


def test_a_target_that_wants_other_multiples_is_named(targets: dict[str, Target]) -> None:
    (wish,) = demands(PlanParams(round_to=8), targets)
    assert wish.startswith("other: sparse in fp32 is fastest")
    assert "multiples of 12" in wish
    assert not list(demands(aligned(PlanParams(round_to=0), targets), targets))


def test_zeros_promise_speed_only_where_they_are_skipped(targets: dict[str, Target]) -> None:
    plain, skips = demands(PlanParams(method="n:m", pattern="2:4"), targets)
    assert "computes 2:4 zeros like any number" in plain
    assert "neither the file nor a call" in plain
    assert "can skip zeros in the pattern 2:4" in skips
    everywhere = list(demands(PlanParams(method="weights"), targets))
    assert all("computes unstructured zeros like any number" in words for words in everywhere)


def test_speed_is_not_demanded_of_an_emulation(targets: dict[str, Target]) -> None:
    """Required, here, with a rule about time: refused. Advisory, elsewhere, or without one: not."""
    speed = LatencyRules(vs_parent=MaxRatio(max_ratio=0.9))
    policy = Policy(targets={"cpu": "required", "mcu": "required"}, latency=speed)
    micro = Target(runtime="microcontroller")
    here = {**targets, "mcu": micro}
    with pytest.raises(InputError, match="demands speed of 'mcu'") as caught:
        refuse_untimed(required_here(here, policy), policy)
    assert "advisory" in caught.value.fix
    carried = {**targets, "mcu": msgspec.structs.replace(micro, kit=True)}
    refuse_untimed(required_here(carried, policy), policy)
    advisory = msgspec.structs.replace(policy, targets={"cpu": "required", "mcu": "advisory"})
    refuse_untimed(required_here(here, advisory), advisory)
    size_only = msgspec.structs.replace(policy, latency=None)
    refuse_untimed(required_here(here, size_only), size_only)


def test_what_another_machine_would_time_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a lock is written nobody knows where its targets are timed: Core ML may be on a Mac, an emulation
    nowhere, and what only the other machine has is judged there.
    """
    speed = LatencyRules(vs_parent=MaxRatio(max_ratio=0.9))
    policy = Policy(targets={"it": "required"}, latency=speed)
    here = Capabilities(precisions=("fp32",), extra="", modules=(), latency=False)
    there = msgspec.structs.replace(here, latency_elsewhere=True)
    for can, refused in ((here, True), (there, False)):
        monkeypatch.setattr(Sparse, "capabilities", can)
        monkeypatch.setattr(base, "RUNTIMES", {**base.RUNTIMES, "sparse": f"{__name__}:Sparse"})
        asked = [("it", Target(runtime="sparse"))]
        with pytest.raises(InputError, match="demands speed of 'it'"):
            refuse_untimed(asked, policy)
        with pytest.raises(InputError, match="of 'it'") if refused else nullcontext():
            refuse_untimed(asked, policy, anywhere=True)
    absent = [("it", Target(runtime="absent"))]
    refuse_untimed(absent, policy, anywhere=True)
    with pytest.raises(UnknownName):
        refuse_untimed(absent, policy)
    assert get_runtime("microcontroller").capabilities.latency_elsewhere is False


def test_every_built_in_runtime_tells_what_it_can() -> None:
    """Its modules are named, its alignments are for precisions that it has."""
    for name in base.RUNTIMES:
        can = get_runtime(name).capabilities
        assert can.precisions
        assert set(can.alignment) <= set(can.precisions), name
        assert can.extra


@pytest.mark.parametrize(
    ("target", "words", "offered"),
    [
        (Target(precision="fp16"), "onnxruntime has no precision fp16", "fp32, int8"),
        (Target(device="gpu:0"), "onnxruntime has no device gpu", "cpu"),
        (Target(runtime="edgetpu", precision="fp32"), "edgetpu has no precision fp32", "int8"),
    ],
)
def test_what_a_runtime_does_not_offer_is_refused_before_work_is_spent(
    target: Target, words: str, offered: str
) -> None:
    """With the key in params.yaml and what there is instead."""
    with pytest.raises(InputError, match=words) as caught:
        refuse_unoffered({"good": Target(), "bad": target})
    assert caught.value.where.startswith("params.yaml (targets.bad.")
    assert caught.value.fix == f"use one of: {offered}"
    refuse_unoffered({"a": Target(), "b": Target(runtime="tensorrt", device="dla:1")})


@pytest.mark.parametrize("runtime", sorted(base.RUNTIMES))
def test_options_that_no_runtime_reads_are_refused(runtime: str) -> None:
    """In one place, and before work: some runtimes have none, and never looked at what was given."""
    known = get_runtime(runtime).capabilities.options
    precision = get_runtime(runtime).capabilities.precisions[0]
    target = Target(runtime=runtime, precision=precision, options=dict.fromkeys(known, 1))
    refuse_unoffered({"good": target})
    strange = msgspec.structs.replace(target, options={**target.options, "graph_optimisation": 3})
    with pytest.raises(InputError, match=f"{runtime} has no option graph_optimisation") as caught:
        refuse_unoffered({"good": target, "bad": strange})
    assert caught.value.where == "params.yaml (targets.bad.options)"
    assert all(name in caught.value.fix for name in known)


@pytest.mark.parametrize(("over", "gain"), [(0.7, True), (0.98, False), (1.3, False)])
def test_int8_in_fp16_is_compared_with_fp16(over: float, gain: bool) -> None:
    """Not with fp32, against which fp16 alone would have gained most of it."""
    plain = TargetProfile(target="a", runtime="x", batch_size=1, latency_us=1.0, operators=())
    half = msgspec.structs.replace(plain, target="jetson", over_fp16=over)
    profile = SimpleNamespace(targets=(plain, half))
    (words,) = gains([profile])  # type: ignore[list-item]
    assert words.startswith(f"jetson: int8-fp16 takes {over:.2f} of the time of fp16")
    assert ("ask for fp16" in words) is not gain
