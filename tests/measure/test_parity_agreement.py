"""When an engine gives the same answer as its bundle: measured values need only be close."""

from __future__ import annotations

import numpy as np
import pytest

from reprune.core.records import ALIKE, NOTHING, SCALE, pack_detection
from reprune.measure.parity import alike


def column(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize("name", ["predicted", "score", "confidence", "depth.predicted"])
def test_measured_values_need_only_be_close(name: str) -> None:
    """Rounding alone moves them by some millionths; a hundredth of the range is the border."""
    found = alike(name, column(0, 0, 0, -5), column(0, ALIKE, ALIKE + 1, ALIKE))
    assert found.tolist() == [True, True, False, False]


@pytest.mark.parametrize("name", ["correct", "answer", "numerator", "eye.numerator", "my_own"])
def test_answers_and_counts_must_be_equal(name: str) -> None:
    assert alike(name, column(1, 3), column(1, 4)).tolist() == [True, False]


def test_a_detection_is_the_same_with_its_class_its_match_and_nearly_its_score() -> None:
    """Also where an example has fewer, and whatever the scores are next to a class's border."""
    one = column(
        pack_detection(3, 500_000, True),
        pack_detection(3, 500_000, True),
        pack_detection(3, 500_000, True),
        pack_detection(3, SCALE, False),
        pack_detection(3, 0, True),
        NOTHING,
        NOTHING,
    )
    other = column(
        pack_detection(3, 500_000 + ALIKE, True),
        pack_detection(3, 500_000, False),
        pack_detection(2, 500_000, True),
        pack_detection(4, 0, False),
        NOTHING,
        NOTHING,
        pack_detection(0, 0, False),
    )
    found = alike("detection_003", one, other)
    assert found.tolist() == [True, False, False, False, False, True, False]
