"""What an older model was made with does not judge it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.errors import PayloadCorrupt
from reprune.task.seal import Census
from reprune.task.trained_on import BYTES, is_marked, marks, together


def census(names: list[int], *, prefix: str = "e", augmented: bool = False) -> Census:
    return Census(
        ids=tuple(f"{prefix}{name}" for name in names),
        contents=tuple(f"{name:064x}"[::-1] for name in names),
        labels=None,
        slices={},
        sources=None,
        times=None,
        augmented=augmented,
    )


NAMES = st.lists(st.integers(0, 10**6), unique=True, max_size=40)


@given(mine=NAMES, theirs=NAMES)
def test_exactly_what_was_used_is_known_by_its_content(mine: list[int], theirs: list[int]) -> None:
    """Whatever it is called now: a champion's ids need not be today's."""
    raw = marks([census(mine, prefix="old-")])
    assert len(raw) == BYTES * len(mine)
    assert is_marked(census(theirs), raw) == [name in mine for name in theirs]


def test_of_an_augmented_split_the_ids_are_known() -> None:
    """Its contents differ from epoch to epoch, so they say nothing."""
    raw = marks([census([1, 2], augmented=True), census([5])])
    assert is_marked(census([1, 5, 7]), raw) == [True, True, False]
    assert is_marked(census([1, 5, 7], prefix="other"), raw) == [False, True, False]


def test_the_order_of_splits_and_examples_changes_no_byte() -> None:
    assert marks([census([1, 2]), census([3])]) == marks([census([3, 2, 1])])


def test_torn_marks_are_refused() -> None:
    with pytest.raises(PayloadCorrupt, match="are no marks"):
        is_marked(census([1]), marks([census([1])])[:-1])


@given(mine=NAMES, theirs=NAMES)
def test_marks_together_are_those_of_all_the_examples(mine: list[int], theirs: list[int]) -> None:
    """As if they had been one split, whichever comes first."""
    one, other = marks([census(mine)]), marks([census(theirs)])
    both = marks([census(mine), census(theirs)])
    assert together(one, other) == together(other, one) == both


def test_torn_marks_are_not_put_together() -> None:
    with pytest.raises(PayloadCorrupt, match="are no marks"):
        together(marks([census([1])]), marks([census([2])])[:-1])
