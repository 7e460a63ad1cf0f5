"""Two whole cuts, compared: an observation is a piece of a batch, whatever the task's batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from msgspec import UNSET
from msgspec.structs import replace
from scipy import stats

from reprune.compress.paired import paired_increase
from reprune.compress.planning.costs import cost_model
from reprune.compress.sensitivity.again import row_again
from reprune.compress.sensitivity.measure import look
from reprune.compress.sensitivity.reuse import Unit
from reprune.compress.sensitivity.spot import Spot
from reprune.compress.sensitivity.subject import Subject
from reprune.compress.structure.groups import find_groups
from reprune.core.params import GenerationsParams, PruneParams, SensitivityParams
from reprune.measure.profile import count_cost
from reprune.steps.inheriting import _checked
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


def test_what_holds_and_may_be_worse_than_allowed_says_up_to_how_much() -> None:
    """Few examples rarely refuse anything; then they do not show that nothing was lost either."""
    one = spot(DigitsTask, 100)
    kept = replace(one.compare(GENTLE, HARD, 0.002, 0.05), worse=0.001, worse_low=-0.017)
    assert kept.holds
    assert kept.doubt == "cannot tell: may be up to 1.9 points worse"
    assert replace(kept, unit="loss").doubt == "cannot tell: may be up to 0.019 of loss worse"
    for sure in ({"worse_low": 0.0005}, {"worse_low": UNSET}, {"worse": 0.1, "worse_low": 0.05}):
        assert replace(kept, **sure).doubt == ""


@pytest.mark.parametrize("seed", range(2))
def test_a_row_of_a_calibrated_table_is_repaired_as_the_table_was(
    seed: int, tmp_path: Path
) -> None:
    """On the table's own examples, all looked at: the same model makes the same rise, to rounding."""
    subject = spot(DigitsTask, 100).subject
    subject = dataclasses.replace(subject, module=trained(DigitsTask(), seed=seed))
    prune, params = PruneParams(examples=200), SensitivityParams(examples=300, method="calibrated")
    seen = look(subject, params, prune, seed=0, work=tmp_path, say=lambda text: None)
    again = Spot(subject=subject, prune=prune, seed=0, examples=300, calibrated=params)
    checked = 0
    for key, cut in seen.cuts.items():
        name, _, keep = key.rpartition("@")
        unit = Unit(name=name, keep=int(keep), why="near")
        row = row_again(again._cutting(), params, again.batches, unit.name, unit.keep)
        assert row.after.losses[: len(cut.losses)] == pytest.approx(cut.losses, rel=1e-4)
        checked += len(cut.losses)
        assert again.rise(unit) == pytest.approx(paired_increase(row.after, row.before), rel=1e-6)
    assert checked > 0
    assert again.spent > 0


@pytest.mark.parametrize("method", ["full", "calibrated"])
def test_a_check_knows_by_what_method_the_table_was_made(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    def asked(**given: Any) -> None:
        raise Asked(given["calibrated"])

    monkeypatch.setattr("reprune.compress.sensitivity.spot.Spot", asked)
    params = SensitivityParams(method=method)
    knobs = SimpleNamespace(prune=PLAIN, seed=0, sensitivity=params)
    work = SimpleNamespace(subject=None, blocks=(), knobs=knobs)
    found = SimpleNamespace(table=SimpleNamespace(manifest=None), work=work)
    with pytest.raises(Asked) as seen:
        _checked(found, GenerationsParams(), SimpleNamespace())
    assert seen.value.args == (params if method == "calibrated" else None,)
