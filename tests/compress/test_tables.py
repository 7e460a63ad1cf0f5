"""Latency tables: what is asked of a model, what one build tells, and a whole model's latency from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.groups import find_groups, survey
from reprune.compress.structure.separate import separate
from reprune.compress.tables.design import next_widths, observed_of
from reprune.compress.tables.fitting import fitted
from reprune.compress.tables.grid import grid_of
from reprune.compress.tables.layer_terms import terms_of
from reprune.compress.tables.looking import (
    Seen,
    Subject,
    by_the_clock,
    cut_to,
    measure_operators,
)
from reprune.compress.tables.sites import AxisParts, Part, Site, rungs_of, sites_of, timed_layers
from reprune.compress.tables.table import (
    OperatorTable,
    Point,
    QuestionTimes,
    TableKey,
    read_tables,
    write_tables,
)
from reprune.compress.tables.timers import Place, timer_for
from reprune.core.artifacts import block_key
from reprune.core.errors import CompressionError
from reprune.core.params import TableParams, Target
from reprune.measure.timing_place import here
from reprune.runtimes.base import Source
from tests import models

SEED = 20260
WIDTHS = (8, 16, 24)


class Chain(nn.Module):
    """Three convolutions of one shape each way, the middle ones equal, and a classifier."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(inputs, width, 3, padding=1, bias=False) for inputs in (3, width, width)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.c(self.b(self.a(image).relu()).relu()).relu()
        return self.head(x.mean((2, 3)))


def key(questions: str = "q", **other: object) -> TableKey:
    told: dict[str, object] = {
        "machine_kind": "sha256:0011",
        "runtime": "onnxruntime",
        "version": "1",
        "precision": "fp32",
        "device": "",
        "batch_size": 1,
        "threads": 1,
        "inputs": ((1, 3, 12, 12),),
        "questions": questions,
    }
    return TableKey(**(told | other))  # type: ignore[arg-type]  # fields by name


class Invented:
    """A timer whose layers take what a function of their lengths says; it counts what it was asked."""

    def __init__(self, subject: Subject, us: object) -> None:
        self.subject, self.us = subject, us
        self.widths: list[dict[str, int]] = []

    def look(self, module: nn.Module) -> Seen:
        layers = dict(module.named_modules())
        times = {}
        for name in timed_layers(module):
            layer = layers[name]
            out = getattr(layer, "out_channels", getattr(layer, "out_features", 0))
            inputs = getattr(layer, "in_channels", getattr(layer, "in_features", 0))
            times[name] = self.us(inputs, out)  # type: ignore[operator]  # a function of two lengths
        self.widths.append({name: layers[name].out_channels for name in "abc" if name in layers})
        if not hasattr(self, "dense"):
            self.dense = sum(times.values())
        return Seen(
            shares={name: took / self.dense for name, took in times.items()},
            whole=(10.0 + sum(times.values())) / (10.0 + self.dense),
            dense_us=self.dense,
            kinds=dict.fromkeys(times, ("Conv",)),
        )


@pytest.fixture
def subject() -> Subject:
    return chain(width=32, step=8)


def chain(width: int, step: int) -> Subject:
    torch.manual_seed(SEED)
    module = Chain(width).eval()
    image = torch.randn(2, 3, 12, 12)
    groups = find_groups(module, (image,), ())
    return Subject(
        name="cpu",
        target=Target(),
        module=module,
        example_inputs=(image,),
        groups=groups,
        steps={group.name: step for group in groups},
    )


def stairs(inputs: int, outputs: int) -> float:
    """Blocks of 16 outputs; inputs in blocks of 8."""
    return 2.0 + -(-outputs // 16) * -(-inputs // 8) * 5.0


def every_cut(rungs: Mapping[str, tuple[int, ...]]) -> list[dict[str, int]]:
    return [dict(zip(rungs, widths, strict=True)) for widths in product(*rungs.values())]


def test_a_table_predicts_every_cut_of_layers_whose_time_is_a_product(
    subject: Subject, tmp_path: Path
) -> None:
    """From far fewer builds than there are cuts, exact to the share below which no build is asked for."""
    timer = Invented(subject, lambda i, o: (1.0 + i) * (3.0 + -(-o // 16) * 16))
    table = measure_operators(
        subject, timer, key, TableParams(builds=40), dense_us=777.0, work=tmp_path, say=print
    )
    rungs = rungs_of(subject.groups, subject.steps)
    terms = terms_of(table, rungs)
    assert set(rungs) == {"a", "b", "c"}
    assert terms({}) == pytest.approx(777.0, rel=1e-4)
    for widths in every_cut(rungs):
        seen = timer.look(cut_to(subject, widths))
        assert terms(widths) == pytest.approx(777.0 * seen.whole, rel=0.03), widths
    assert table.builds <= 24 < len(every_cut(rungs))


def test_head_dimensions_are_known_to_tables_that_were_asked_for_them(tmp_path: Path) -> None:
    """Heads and dimensions cut the same projections together: each combination has its own latency."""
    inputs = models.inputs("built-in-attention", 2)
    module = separate(models.build("built-in-attention"))
    groups = survey(module, inputs, (), dimensions=True).groups
    attention = Subject(
        name="cpu",
        target=Target(),
        module=module,
        example_inputs=inputs,
        groups=groups,
        steps={group.name: group.width // 2 for group in groups},
    )
    timer = Invented(attention, lambda i, o: (1.0 + i) * (3.0 + o))
    table = measure_operators(
        attention, timer, key, TableParams(builds=60), dense_us=500.0, work=tmp_path, say=print
    )
    rungs = rungs_of(groups, attention.steps)
    assert any(group.across for group in groups)
    terms = terms_of(table, rungs)
    for widths in every_cut(rungs):
        seen = timer.look(cut_to(attention, widths))
        assert terms(widths) == pytest.approx(500.0 * seen.whole, rel=0.03), widths


def test_what_no_timed_layer_depends_on_costs_nothing_and_is_noted(
    subject: Subject, tmp_path: Path
) -> None:
    """A runtime may give a layer's time to its neighbours: its group and block are known all the same."""
    block = find_blocks(
        nn.Sequential(Residual(), Residual(), nn.Linear(4, 2)), (torch.ones(2, 4),), ()
    ).blocks[0]

    class Fused(Invented):
        """The whole model is its classifier's."""

        def look(self, module: nn.Module) -> Seen:
            return Seen(shares={"head": 1.0}, whole=1.0, dense_us=9.0, kinds={"head": ("Gemm",)})

    table = measure_operators(
        replace(subject, blocks=(block,)),
        Fused(subject, stairs),
        key,
        TableParams(),
        dense_us=9.0,
        work=tmp_path,
        say=print,
    )
    rungs = rungs_of(subject.groups, subject.steps) | {block_key(block.name): (0, 1)}
    terms = terms_of(table, rungs)
    least = {name: widths[0] for name, widths in rungs.items() if name != "c"}
    assert terms(least) == terms({}) == pytest.approx(9.0)
    noted = [note.partition(":")[0] for note in table.notes if "to save nothing" in note]
    assert noted == ["a", "b", block.name]
    with pytest.raises(CompressionError, match="says nothing about z"):
        terms_of(table, {"z": (8, 16)})
    with pytest.raises(CompressionError, match="knows a with 32 channels"):
        terms_of(table, {"a": (8, 64)})


class Residual(nn.Module):
    """A block that can go."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x).relu()


def test_equal_shapes_are_measured_once(subject: Subject, tmp_path: Path) -> None:
    """b and c ask one question, and each build tells of both: fewer builds than for two questions."""
    alike = Invented(subject, stairs)
    table = measure_operators(
        subject, alike, key, TableParams(builds=60), dense_us=1e3, work=tmp_path / "a", say=print
    )
    (b, c) = (next(site for site in table.sites if site.layer == name) for name in "bc")
    assert b.question == c.question
    other = nn.Conv2d(32, 32, 3, padding=1, bias=True)  # the bias makes it another question
    subject.module.c = other
    apart = Invented(subject, stairs)
    second = measure_operators(
        subject, apart, key, TableParams(builds=60), dense_us=1e3, work=tmp_path / "b", say=print
    )
    assert len({site.question for site in second.sites}) == len(table.times) + 1
    assert len(alike.widths) < len(apart.widths)
    assert len(alike.widths) == len({tuple(w.items()) for w in alike.widths})


def test_a_killed_run_goes_on_where_it_was(subject: Subject, tmp_path: Path) -> None:
    """What was looked at is not looked at again, and the table is the one of a run that was not killed."""

    class Dies(Invented):
        def look(self, module: nn.Module) -> Seen:
            if len(self.widths) == 3:
                raise KeyboardInterrupt
            return super().look(module)

    first, second, whole = (kind(subject, stairs) for kind in (Dies, Invented, Invented))
    with pytest.raises(KeyboardInterrupt):
        measure_operators(
            subject, first, key, TableParams(), dense_us=1e3, work=tmp_path, say=print
        )
    second.dense = first.dense
    again = measure_operators(
        subject, second, key, TableParams(), dense_us=1e3, work=tmp_path, say=print
    )
    unbroken = measure_operators(
        subject, whole, key, TableParams(), dense_us=1e3, work=tmp_path / "other", say=print
    )
    assert first.widths + second.widths == whole.widths
    assert again == unbroken


def test_looks_of_another_question_are_not_gone_on_with(subject: Subject, tmp_path: Path) -> None:
    """Another batch size is another question: everything is measured again."""
    for batch in (1, 32):
        timer = Invented(subject, stairs)
        measure_operators(
            subject,
            timer,
            lambda q, batch=batch: key(q, batch_size=batch),  # type: ignore[misc]  # bound now
            TableParams(builds=2),
            dense_us=1e3,
            work=tmp_path,
            say=print,
        )
        assert len(timer.widths) == 3


def test_no_more_is_built_than_allowed(subject: Subject, tmp_path: Path) -> None:
    """The dense model, and `builds` others; what is left is interpolated."""
    timer = Invented(subject, stairs)
    table = measure_operators(
        subject, timer, key, TableParams(builds=3), dense_us=1e3, work=tmp_path, say=print
    )
    assert len(timer.widths) == 4
    assert table.builds == 3
    terms = terms_of(table, rungs_of(subject.groups, subject.steps))
    assert all(terms(widths) > 0 for widths in every_cut(rungs_of(subject.groups, subject.steps)))


@settings(max_examples=40, deadline=None)
@given(
    us=st.dictionaries(
        st.tuples(st.sampled_from((*WIDTHS, 32)), st.sampled_from((*WIDTHS, 32))),
        st.floats(0.0, 1e4),
    ),
    corner=st.floats(0.5, 1e4),
)
def test_terms_equal_the_table_at_its_points(
    us: dict[tuple[int, int], float], corner: float
) -> None:
    """Whatever was measured, and wherever: at those lengths the terms give just that."""
    points = us | {(32, 32): corner}
    rungs = {"a": (*WIDTHS, 32), "b": (*WIDTHS, 32)}
    terms = terms_of(made_up(points), rungs)
    for (inputs, outputs), took in points.items():
        assert terms({"a": inputs, "b": outputs}) == pytest.approx(3.0 + 2.0 * took)
    lowest, highest = min(points.values()), max(points.values())
    if len(points) == 1:
        assert lowest == highest
        assert all(terms(w) == pytest.approx(3.0 + 2.0 * corner) for w in every_cut(rungs))


def made_up(
    points: Mapping[tuple[int, int], float], *, block: str = "", steps: int = 8
) -> OperatorTable:
    site = Site(
        layer="conv",
        question="q",
        inputs=AxisParts(size=32, parts=(Part(group="a", width=32, counts=(1,)),)),
        outputs=AxisParts(size=32, parts=(Part(group="b", width=32, counts=(1,)),)),
        block=block,
    )
    return OperatorTable(
        target="cpu",
        key=key(),
        dense_us=1.0,
        constant_us=3.0,
        factor=2.0,
        builds=1,
        error=0.0,
        steps={"a": steps, "b": steps},
        sites=(site,),
        times=(
            QuestionTimes(
                question="q",
                points=tuple(
                    Point(inputs=inputs, outputs=outputs, us=us)
                    for (inputs, outputs), us in points.items()
                ),
            ),
        ),
    )


def test_a_removed_block_takes_no_time() -> None:
    """Whatever its groups' widths say."""
    rungs = {"a": (8, 32), "b": (8, 32), block_key("layer"): (0, 1)}
    terms = terms_of(made_up({(32, 32): 7.0}, block="layer"), rungs)
    assert terms({}) == pytest.approx(17.0)
    assert terms({block_key("layer"): 0}) == pytest.approx(3.0)


def test_a_concatenation_is_read_by_its_whole_length() -> None:
    """Three groups meet in the layer: the two that it reads count together."""
    parts = tuple(Part(group=name, width=16, counts=(1,)) for name in ("a", "c"))
    table = made_up({(32, 32): 9.0, (16, 32): 5.0, (8, 32): 3.0})
    site = table.sites[0]
    wide = Site(
        layer=site.layer,
        question=site.question,
        inputs=AxisParts(size=32, parts=parts),
        outputs=site.outputs,
    )
    told = {field: getattr(table, field) for field in table.__struct_fields__}
    table = OperatorTable(**(told | {"sites": (wide,), "steps": {"a": 4, "b": 4, "c": 4}}))
    terms = terms_of(table, {"a": (4, 8, 16), "b": (32,), "c": (4, 8, 16)})
    assert terms({"a": 8, "c": 8}) == terms({"a": 8, "c": 8, "b": 32}) == pytest.approx(13.0)
    assert terms({"a": 4, "c": 4}) == pytest.approx(9.0)
    assert terms({"a": 4, "c": 8}) == terms({"a": 8, "c": 4}) == pytest.approx(11.0)


@pytest.mark.parametrize(
    ("rungs", "words"),
    [
        ({"a": (8, 31, 32)}, "timed at multiples of 8 channels, not at 31"),
        ({"a": (8, 64)}, "knows a with 32 channels, the model has 64"),
        ({"z": (8, 16)}, "says nothing about z"),
        ({block_key("layer")[:-1]: (0, 1)}, "says nothing about"),
    ],
)
def test_what_a_table_does_not_know_is_refused(
    rungs: dict[str, tuple[int, ...]], words: str
) -> None:
    """A width off the steps may cost half as much again as its neighbour: nothing is guessed there."""
    with pytest.raises(CompressionError, match=words):
        terms_of(made_up({(32, 32): 7.0}, block="layer"), rungs)


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    """And a profile without any has none."""
    table = made_up({(32, 32): 7.0, (8, 32): 2.5}, block="layer")
    write_tables(tmp_path / "tables.json", [table])
    assert read_tables(tmp_path / "tables.json") == (table,)
    assert read_tables(tmp_path / "none.json") == ()


@pytest.mark.parametrize(
    "other",
    [
        {"machine_kind": "x"},
        {"version": "2"},
        {"precision": "int8"},
        {"batch_size": 2},
        {"threads": 2},
    ],
)
def test_each_part_of_the_key_makes_another_question(other: dict[str, object]) -> None:
    """Times of one are no times of the other."""
    assert key().digest == key().digest
    assert key().digest != key(**other).digest


@given(st.floats(0.7, 1.3), st.lists(st.floats(0.3, 0.95), min_size=1, max_size=8))
def test_the_fit_finds_how_much_of_a_call_follows_its_layers(
    follows: float, sums: list[float]
) -> None:
    """Of calls that follow exactly it misses none, and the dense model is always right."""
    looks = [(share, 1.0 - follows * (1.0 - share)) for share in sums]
    fit = fitted(looks, 400.0, 500.0)
    assert fit.constant + fit.factor * 400.0 == pytest.approx(500.0)
    assert fit.error == pytest.approx(0.0, abs=1e-9)
    assert fit.factor == pytest.approx(follows * 500.0 / 400.0)


def test_nothing_is_asked_where_nothing_can_be_gained(subject: Subject) -> None:
    """Layers that take the same at every width are known after their narrowest."""
    sites = sites_of(
        subject.module,
        subject.groups,
        subject.example_inputs,
        dict.fromkeys(timed_layers(subject.module), ("Conv",)),
    )
    rungs = rungs_of(subject.groups, subject.steps)
    looks: list[tuple[dict[str, int], dict[str, float]]] = [
        ({}, {site.layer: 0.25 for site in sites})
    ]
    while (widths := next_widths(sites, rungs, observed_of(sites, looks))) is not None:
        looks.append((widths, {site.layer: 0.25 for site in sites}))
    assert 2 <= len(looks) <= 8


def test_a_grid_is_linear_along_an_edge_and_a_product_inside() -> None:
    grid = grid_of((32, 32), {(32, 32): [8.0], (16, 32): [4.0], (32, 8): [2.0]})
    assert grid((24, 32)) == pytest.approx(6.0)
    assert grid((16, 8)) == pytest.approx(1.0)
    assert grid((8, 8)) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_real_target_is_measured_at_every_rung(runtime: str, tmp_path: Path) -> None:
    """In the model where the runtime tells its layers, else each layer alone: either way every layer has
    times, and every combination of rungs has a latency. The cheapest layers that are timed have a quarter of
    the widest one's work, and all are large enough that noise does not turn their order.
    """
    subject = chain(width=128, step=32)
    image = subject.example_inputs[0]
    target = Target(runtime=runtime)

    def source(module: nn.Module) -> Source:
        return Source(module=module, example_inputs=(image,), input_names=("image",))

    place = Place(
        where=here(target, 1),
        source=source,
        inputs=[np.asarray(image[:1])],
        folder=tmp_path,
        rounds=1,
        dense_us=200.0,
        seed=0,
    )
    engine = place.built("dense", source(subject.module))
    table = measure_operators(
        subject,
        timer_for(place, subject.module, engine),
        key,
        TableParams(builds=1),
        dense_us=200.0,
        work=tmp_path,
        say=print,
    )
    assert {site.layer for site in table.sites} == {"a", "b", "c", "head"}
    grid = table.grids()[next(site.question for site in table.sites if site.layer == "b")]
    assert grid.full == (128, 128)
    assert min(grid.points.values()) < grid(grid.full)
    rungs = rungs_of(subject.groups, subject.steps)
    terms = terms_of(table, rungs)
    assert all(terms(widths) < 4 * terms({}) for widths in every_cut(rungs))
    assert min(terms(widths) for widths in every_cut(rungs)) < terms({})


def test_shares_of_a_profile_are_scaled_to_the_call_by_the_clock() -> None:
    """A profile that came out 8 % high, of a call that takes 0.6 of the dense one's."""
    seen = Seen(shares={"a": 0.54, "b": 0.108}, whole=0.6, dense_us=900.0, kinds={"a": ("Conv",)})
    found = by_the_clock(seen)
    assert found.shares == pytest.approx({"a": 0.5, "b": 0.1})
    assert (found.whole, found.dense_us, found.kinds) == (0.6, 900.0, {"a": ("Conv",)})
    assert by_the_clock(found).shares == pytest.approx(found.shares)
    assert by_the_clock(Seen(shares={}, whole=0.6, dense_us=1.0)).shares == {}
