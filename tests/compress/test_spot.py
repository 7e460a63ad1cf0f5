"""Two whole cuts, compared: an observation is a piece of a batch, whatever the task's batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats

from reprune.compress.planning.costs import cost_model
from reprune.compress.sensitivity.spot import Spot
from reprune.compress.sensitivity.subject import Subject
from reprune.compress.structure.groups import find_groups
from reprune.core.params import PruneParams
from reprune.measure.profile import count_cost
from tests.compress.small_digits import DigitsTask, trained

PLAIN = PruneParams(criterion="l2", compensate=False, recalibrate=False)
GENTLE, HARD = {"conv1": 14, "conv2": 20}, {"conv1": 6, "conv2": 10}


class Unrecorded(DigitsTask):
    """Its records do not tell what was answered rightly."""

    def records(self, outputs: Any, batch: Any) -> dict[str, Any]:
        return {"top": outputs[0].argmax(1).numpy()}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def spot(kind: type[DigitsTask], batch_size: int, prune: PruneParams = PLAIN) -> Spot:
    module = trained(DigitsTask())
    task = kind(batch_size=batch_size)
    groups = find_groups(module, task.example_inputs(2), ())
    cost = cost_model(module, groups, count_cost(module, task.example_inputs(1)))
    subject = Subject(task=task, module=module, groups=groups, cost=cost)
    return Spot(subject=subject, prune=prune, seed=0, examples=300)


@pytest.mark.parametrize("kind", [DigitsTask, Unrecorded])
def test_a_comparison_does_not_depend_on_the_size_of_batches(kind: type[DigitsTask]) -> None:
    """300 examples are ten pieces of 30, in one batch too, which by itself would show no spread."""
    few, many = (spot(kind, size).compare(HARD, GENTLE, 0.002, 0.05) for size in (300, 30))
    assert few.worse == pytest.approx(many.worse, abs=1e-6)
    assert few.standard_error == pytest.approx(many.standard_error, rel=1e-4)
    assert few.unit == ("share" if kind is DigitsTask else "loss")
    assert 0.0 < few.standard_error < 0.2 * few.worse
    assert few.worse_low == pytest.approx(
        few.worse - stats.t.ppf(0.95, 9) * few.standard_error, rel=1e-9
    )
    assert not few.holds


def test_the_gentler_cut_may_stay_and_equals_do() -> None:
    one = spot(DigitsTask, 100)
    assert one.compare(GENTLE, HARD, 0.002, 0.05).holds
    same = one.compare(GENTLE, GENTLE, 0.002, 0.05)
    assert (same.worse, same.standard_error, same.holds) == (0.0, 0.0, True)


def test_plans_are_repaired_onwards_whatever_is_asked_of_pruning() -> None:
    """Only `conv1` is cut: `depth`, which lost nothing, is fitted to what it is given now all the same."""
    one = spot(DigitsTask, 100, PruneParams(criterion="l2", recalibrate=False, refit="readers"))
    widths = {"conv1": 6, "conv2": 24}
    dense = one.subject.module
    compared = one._whole(widths)
    single = one._cutting().cut(widths)
    assert torch.equal(single.depth.weight, dense.depth.weight)
    assert not torch.equal(compared.depth.weight, dense.depth.weight)
    before = one.spent
    trial = one.compare(widths, GENTLE, 0.002, 0.05)
    assert trial.cost == one.spent - before > 0
