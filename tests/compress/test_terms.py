"""A cost in small tables is the cost model itself, at every combination of rungs."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.compress.planning.cost_terms import cost_terms
from reprune.compress.planning.costs import CostModel, cost_model
from reprune.compress.planning.terms import Term, Terms, merged
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.groups import survey
from reprune.compress.structure.separate import separate
from reprune.core.artifacts import block_key
from reprune.measure.profile import count_cost
from tests import models
from tests.compress.test_sensitivity import Branches
from tests.compress.test_sensitivity import surveyed as with_groups

UNITS = ("macs", "params", "bytes")


@functools.cache
def transformer(name: str) -> tuple[CostModel, dict[str, tuple[int, ...]]]:
    """Heads and dimensions that cross, feed-forward channels, and blocks that may go."""
    inputs = models.inputs(name, 3)
    module = separate(models.build(name))
    found = survey(module, inputs, (), dimensions=True)
    blocks = find_blocks(module, inputs, ()).blocks
    rungs = {group.name: tuple(range(1, group.width + 1)) for group in found.groups}
    rungs |= {block_key(block.name): (0, 1) for block in blocks}
    return cost_model(module, found.groups, count_cost(module, inputs), blocks), rungs


@functools.cache
def branches() -> tuple[CostModel, dict[str, tuple[int, ...]]]:
    """A residual stream, a concatenation, a depth-wise and a transposed convolution."""
    _, _, groups, _, cost = with_groups(Branches)
    return cost, {group.name: tuple(range(1, group.width + 1)) for group in groups}


def subjects(name: str) -> tuple[CostModel, dict[str, tuple[int, ...]]]:
    return branches() if name == "branches" else transformer(name)


@settings(max_examples=20, deadline=None)
@given(data=st.data(), name=st.sampled_from(["branches", "attention", "vit"]))
def test_the_tables_are_the_cost_model(data: st.DataObject, name: str) -> None:
    """Equal, not close: at drawn widths, with options left out, over drawn rungs."""
    cost, every = subjects(name)
    rungs = {
        option: tuple(
            sorted(data.draw(st.sets(st.sampled_from(widths), max_size=3)) | {widths[-1]})
        )
        for option, widths in every.items()
        if data.draw(st.booleans())
    }
    widths = {option: data.draw(st.sampled_from(allowed)) for option, allowed in rungs.items()}
    shown = {option: width for option, width in widths.items() if data.draw(st.booleans())}
    for unit in UNITS:
        terms = cost_terms(cost, rungs, unit)
        assert terms(shown) == getattr(cost(shown), unit)
        assert terms({}) == getattr(cost({}), unit)
        assert all(len(term.options) <= 4 for term in terms.terms)


@pytest.mark.parametrize("name", ["branches", "vit"])
def test_few_options_share_a_table(name: str) -> None:
    """An option with one rung is in no table, and no two tables have the same options."""
    cost, rungs = subjects(name)
    first = next(iter(rungs))
    terms = cost_terms(cost, rungs | {first: rungs[first][-1:]}, "macs")
    options = [term.options for term in terms.terms]
    assert len(options) == len({frozenset(names) for names in options})
    assert all(first not in names for names in options)


def test_an_option_without_a_width_is_whole_and_a_width_that_is_no_rung_is_refused() -> None:
    """Nothing is guessed between the rungs."""
    terms = merged(
        1.0,
        [
            Term(options=("a", "b"), values={(2, 3): 5.0, (4, 3): 7.0}),
            Term(options=("b", "a"), values={(3, 2): 0.5, (3, 4): 0.25}),
        ],
        {"a": (2, 4), "b": (3,)},
    )
    assert terms == Terms(
        constant=1.0,
        terms=(Term(options=("a",), values={(2,): 5.5, (4,): 7.25}),),
        full={"a": 4, "b": 3},
    )
    assert (terms({}), terms({"a": 2}), terms({"a": 2, "b": 3})) == (8.25, 6.5, 6.5)
    assert terms.scaled(2.0)({"a": 2}) == 13.0
    with pytest.raises(KeyError):
        terms({"a": 3})
