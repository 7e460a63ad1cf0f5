"""Stairs that some layers show and others are taken to have: fewer builds for the same error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise, product
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.compress.structure.groups import find_groups
from reprune.compress.tables import grid
from reprune.compress.tables.layer_terms import terms_of
from reprune.compress.tables.looking import Subject, measure_operators
from reprune.compress.tables.sites import rungs_of
from reprune.compress.tables.stairs import along, stairs_of
from reprune.compress.tables.table import OperatorTable
from reprune.core.params import TableParams, Target
from tests.compress.test_tables import Invented, key

Us = Callable[[int, int], float]


class Deep(nn.Module):
    """Four convolutions with 64 channels on other resolutions: none asks another's question."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.b, self.c, self.d = (
            nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False) for _ in range(3)
        )
        self.head = nn.Linear(64, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.b(self.a(image).relu()).relu()
        x = self.d(self.c(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def subject() -> Subject:
    torch.manual_seed(0)
    module = Deep().eval()
    image = torch.randn(2, 3, 16, 16)
    groups = find_groups(module, (image,), ())
    return Subject(
        name="cpu",
        target=Target(),
        module=module,
        example_inputs=(image,),
        groups=groups,
        steps={group.name: 8 for group in groups},
    )


def blocks(of: int) -> Us:
    """Kernels that work on so many outputs and inputs at a time."""
    return lambda i, o: 1.0 + 20.0 * (-(-i // of) * of) / 64 * (-(-o // of) * of) / 64


def errors(subject: Subject, table: OperatorTable, us: Us) -> list[float]:
    """By what share the table misses sixty random cuts."""
    timer = Invented(subject, us)
    rungs = rungs_of(subject.groups, subject.steps)
    terms = terms_of(table, rungs)
    random = Random(3)
    dense = timer.look(subject.module)
    assert dense.whole == 1.0
    missed = []
    for _ in range(60):
        widths = {name: random.choice(found) for name, found in rungs.items()}
        missed.append(abs(terms(widths) / terms({}) / truth(us, widths) - 1.0))
    return sorted(missed)


def truth(us: Us, widths: Mapping[str, int]) -> float:
    """What `Invented` takes a cut to need of a whole call of the dense model."""

    def total(w: Mapping[str, int]) -> float:
        chain = [3, *(w.get(name, 64) for name in "abcd"), 5]
        return 10.0 + sum(us(i, o) for i, o in pairwise(chain))

    return total(widths) / total({})


def measured(subject: Subject, us: Us, builds: int, work: Path) -> OperatorTable:
    return measure_operators(
        subject,
        Invented(subject, us),
        key,
        TableParams(builds=builds),
        dense_us=500.0,
        work=work,
        say=lambda _: None,
    )


@pytest.mark.parametrize(("of", "builds"), [(16, 8), (32, 6)])
def test_known_stairs_leave_a_smaller_error_after_as_many_builds_and_ask_for_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: int, builds: int
) -> None:
    """Less than half of what lines miss early on; in the end the error is theirs, after fewer builds."""
    chain, us = subject(), blocks(of)
    few = errors(chain, measured(chain, us, builds, tmp_path / "few"), us)
    whole = measured(chain, us, 60, tmp_path / "whole")
    worst = errors(chain, whole, us)[-1]
    monkeypatch.setattr(grid, "stairs_of", lambda edges: {})
    plain = errors(chain, measured(chain, us, builds, tmp_path / "plain"), us)
    lines = measured(chain, us, 60, tmp_path / "lines")
    assert sum(few) < 0.5 * sum(plain)
    assert few[-1] < 0.5 * plain[-1]
    assert whole.builds < lines.builds
    assert worst < 0.035


@pytest.mark.parametrize("us", [lambda i, o: 1.0 + i * o / 200, lambda i, o: 2.0 + o / 9])
def test_times_without_stairs_are_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, us: Us
) -> None:
    chain = subject()
    found = measured(chain, us, 12, tmp_path / "found")
    assert {one.steps for one in found.grids().values()} == {(1, 1)}
    monkeypatch.setattr(grid, "stairs_of", lambda edges: {})
    assert measured(chain, us, 12, tmp_path / "plain") == found


def edge(of: int, lengths: list[int], noise: float = 0.0, seed: int = 0) -> list[tuple[int, float]]:
    random = Random(seed)
    return [(at, -(-at // of) * (1.0 + random.uniform(-noise, noise))) for at in sorted(lengths)]


@given(st.sampled_from([16, 32]), st.floats(0.0, 0.02), st.integers(0, 1000))
def test_one_layer_measured_whole_tells_the_stair_of_its_like(
    of: int, noise: float, seed: int
) -> None:
    """With noise as a busy machine has it; other types of layers are told nothing."""
    shown = edge(of, list(range(8, 129, 8)), noise, seed)
    sparse = edge(of, [8, 128])
    flat = [(64, 1.0)]
    found = stairs_of(
        {"Conv2d a": (flat, shown), "Conv2d b": (flat, sparse), "Linear c": (flat, sparse)}
    )
    assert found == {"Conv2d": (1, of)}


@given(st.lists(st.floats(1.0, 2.0), min_size=3, max_size=12), st.integers(0, 1000))
def test_noise_alone_is_no_staircase_as_a_rule(times: list[float], seed: int) -> None:
    """What is found of it never leaves what was measured, whichever the step."""
    found = [(8 * at, us) for at, us in enumerate(times, start=1)]
    for length, step in product(range(1, 8 * len(times) + 9), (1, 16, 32)):
        told = along(found, length, step)
        assert min(times) <= told <= max(times)
        if length % 8 == 0 and length <= 8 * len(times):
            assert told == times[length // 8 - 1]


def test_a_line_with_noise_is_not_taken_for_stairs() -> None:
    taken = 0
    for seed in range(50):
        random = Random(seed)
        line = [(at, at * (1.0 + random.uniform(-0.04, 0.04))) for at in range(8, 129, 8)]
        taken += bool(stairs_of({"Conv2d a": (line, line)}))
    assert taken <= 2


def test_between_two_points_the_time_rises_where_the_stair_is() -> None:
    points = [(8, 1.0), (64, 4.0)]
    assert [along(points, at, 16) for at in (8, 16, 17, 32, 33, 48, 49, 64)] == [
        1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0,
    ]  # fmt: skip
    assert along(points, 36, 1) == pytest.approx(2.5)
    assert along([(33, 1.0), (48, 2.0)], 40, 16) == pytest.approx(1.0 + 7 / 15)
