"""Where each target was built and measured, and what of it is an error: asked for each target by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from reprune.core.artifacts import Engines, TargetSamples
from reprune.core.machine import Machine
from reprune.core.params import Target
from reprune.steps.assemble import _machine_problems
from tests.building import make_engine

RUN = Target(run="ssh jet reprune {args}")


def box(name: str) -> Machine:
    return Machine(instance=name, kind="k", cpu="cpu", logical_cpus=2, os="Linux")


def problems(
    target: Target, *, built: str = "", measured: str = "", runner: str = "a"
) -> list[str]:
    """What is said of one target; "" is the machine of the step, and the steps ran on `a` and `runner`."""
    fact = msgspec.structs.replace(
        make_engine("candidate", "t", 10), machine=box(built) if built else UNSET
    )
    samples = TargetSamples(
        target="t", batch_size=1, units=1, file="f", machine=box(measured) if measured else UNSET
    )
    manifest = SimpleNamespace(machine=box(runner), parents={"engines": "e"}, targets=[samples])
    grounds: Any = SimpleNamespace(
        digests={"engines.0": "e"},
        engines=[Engines(machine=box("a"), engines=(fact,))],
        benchmarks=[SimpleNamespace(manifest=manifest)],
        params=SimpleNamespace(targets={"t": target}),
    )
    return [problem.words for problem in _machine_problems(grounds)]


@pytest.mark.parametrize(
    ("target", "where"),
    [
        (Target(), {}),
        (RUN, {"built": "jet", "measured": "jet"}),
        (RUN, {"built": "jet", "measured": "jet", "runner": "b"}),
        (Target(kit=True), {"measured": "phone"}),
    ],
)
def test_what_belongs_together_is_no_problem(target: Target, where: dict[str, str]) -> None:
    assert problems(target, **where) == []


@pytest.mark.parametrize(
    ("target", "where", "words"),
    [
        (Target(), {"runner": "b"}, "built on one machine and measured on another"),
        (Target(), {"measured": "jet"}, "measured on a device of its own"),
        (Target(), {"built": "jet", "measured": "jet"}, "measured on a device of its own"),
        (
            RUN,
            {"built": "jet", "measured": "other"},
            "built on one machine and measured on another",
        ),
        (RUN, {"measured": "jet"}, "built on one machine and measured on another"),
        (RUN, {"built": "jet"}, "measured on the machine of the benchmark"),
        (Target(kit=True), {}, "measured on the machine of the benchmark"),
    ],
)
def test_what_does_not_is_an_error(target: Target, where: dict[str, str], words: str) -> None:
    assert any(words in said for said in problems(target, **where))
