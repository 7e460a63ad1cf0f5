"""Tensors measured one at a time, resumable; zeros shared out with the least predicted rise, exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.compress.masks.choosing import apply_masks, choose_masks, plan_counts
from reprune.compress.masks.maskable import maskable
from reprune.compress.masks.scores import magnitude
from reprune.compress.masks.sensitivity import (
    PROGRESS_FILE,
    MaskSubject,
    allocate_zeros,
    fit_tensors,
    measure_tensors,
    shares_for,
)
from reprune.compress.paired import at_most, batch_losses
from reprune.compress.planning.curves import Curve
from reprune.core.artifacts import TensorSensitivity
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams
from tests import models
from tests.compress.small_digits import DigitsTask, trained


def subject(model_task: Callable, *, criterion: str = "magnitude") -> MaskSubject:
    module = models.build("flattened")
    return MaskSubject(
        task=model_task("flattened"),
        module=module,
        weights=maskable(module),
        prune=PruneParams(criterion=criterion, examples=64),
        seed=0,
    )


def measured(one: MaskSubject, work: Path, said: list[str] | None = None):
    return measure_tensors(
        one,
        (0.5, 0.9),
        examples=64,
        work=work,
        say=(said if said is not None else []).append,
    )


def test_a_rise_is_the_loss_with_that_tensor_alone_masked(
    model_task: Callable, tmp_path: Path
) -> None:
    """Worked out by hand for one tensor and share."""
    one = subject(model_task)
    result = measured(one, tmp_path)
    table = {item.tensor: item for item in result.tensors}
    name = "fc1.weight"
    size = one.weights.shapes[name].numel()
    assert table[name].shares == (0.5, round(0.9 * size) / size)
    masks = choose_masks(
        magnitude(one.module, [name]),
        plan_counts({name: one.weights.shapes[name]}, {name: size // 2}),
    )
    batches = list(at_most(one.task, "tune", examples=64, seed=0))
    before = batch_losses(one.task, one.module, batches, seed=0)
    after = batch_losses(one.task, apply_masks(one.module, masks), batches, seed=0)
    assert table[name].loss_increases[0] == pytest.approx(after.mean - before.mean)
    assert result.base_loss == before.mean
    assert result.cost == 64 * (1 + 2 * 3)


@pytest.mark.parametrize("criterion", ["magnitude", "sparsegpt", "movement"])
def test_a_killed_measurement_goes_on_to_the_same_result(
    model_task: Callable, tmp_path: Path, criterion: str
) -> None:
    one = subject(model_task, criterion=criterion)
    whole = measured(one, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(text: str) -> None:
        if "3 of 6" in text:
            raise Killed

    with pytest.raises(Killed):
        measure_tensors(one, (0.5, 0.9), examples=64, work=tmp_path / "part", say=kill)
    said: list[str] = []
    assert measured(one, tmp_path / "part", said) == whole
    assert len(said) == 3
    (tmp_path / "part" / PROGRESS_FILE).write_bytes(b"rubbish")
    assert measured(one, tmp_path / "part") == whole


def test_a_broken_dense_model_is_refused(model_task: Callable, tmp_path: Path) -> None:
    one = subject(model_task)
    with torch.no_grad():
        one.module.fc1.weight.fill_(torch.nan)
    with pytest.raises(CompressionError, match="dense model's loss on tune is nan"):
        measured(one, tmp_path)


def test_shares_lie_around_what_is_wanted() -> None:
    assert shares_for(0.9) == pytest.approx((0.6, 0.8, 0.9, 0.95, 0.975))
    assert shares_for(0.5) == pytest.approx((0.5, 0.75, 0.875))


def curve(size: int, rises: list[float]) -> Curve:
    """Rises at 0, 1, 2, ... zeros; only as many are measured as there are."""
    keeps = tuple(size - zeros for zeros in range(len(rises)))[::-1]
    return Curve(keeps=keeps, increases=tuple(rises[::-1]), errors=(0.0,) * len(rises))


convex = st.lists(st.integers(0, 8), min_size=1, max_size=6).map(
    lambda steps: [float(sum(sorted(steps)[:n])) for n in range(len(steps) + 1)]
)


@given(tables=st.lists(convex, min_size=1, max_size=3), data=st.data())
@settings(deadline=None)
def test_no_other_sharing_out_is_predicted_to_lose_less(
    tables: list[list[float]], data: st.DataObject
) -> None:
    """Against every possible allocation, by dynamic programming."""
    curves = {f"t{n}": curve(len(rises) + 3, rises) for n, rises in enumerate(tables)}
    most = sum(len(rises) - 1 for rises in tables)
    total = data.draw(st.integers(0, most))
    zeros = allocate_zeros(curves, total)
    assert sum(zeros.values()) == total
    assert all(0 <= zeros[f"t{n}"] < len(rises) for n, rises in enumerate(tables))
    best = {0: 0.0}
    for rises in tables:
        sums: dict[int, float] = {}
        for done, loss in best.items():
            for more, rise in enumerate(rises):
                sums[done + more] = min(sums.get(done + more, 1e9), loss + rise)
        best = sums
    got = sum(rises[zeros[f"t{n}"]] for n, rises in enumerate(tables))
    assert got == pytest.approx(best[total])
    if total == most:
        with pytest.raises(CompressionError, match="1 are over"):
            allocate_zeros(curves, total + 1)


def test_the_sensitive_tensor_keeps_more() -> None:
    """Known answer: b loses ten times as much, so a takes all it can first."""
    table = [
        TensorSensitivity(
            tensor=name,
            size=100,
            shares=(0.5, 0.9),
            loss_increases=(0.1 * factor, 0.5 * factor),
            standard_errors=(0.01, 0.01),
        )
        for name, factor in (("a", 1.0), ("b", 10.0))
    ]
    curves = fit_tensors(table)
    assert allocate_zeros(curves, 60) == {"a": 60, "b": 0}
    assert allocate_zeros(curves, 90) == {"a": 90, "b": 0}
    assert allocate_zeros(curves, 100) == {"a": 90, "b": 10}


def test_noise_below_zero_is_no_invitation() -> None:
    """A rise that falls again is fitted monotone, and never below none at all."""
    table = TensorSensitivity(
        tensor="a",
        size=10,
        shares=(0.2, 0.5, 0.8),
        loss_increases=(-0.3, 0.4, 0.2),
        standard_errors=(0.1, 0.1, 0.1),
    )
    fitted = fit_tensors([table])["a"]
    assert [fitted.at(keep) for keep in (10, 8, 5, 2)] == pytest.approx([0.0, 0.0, 0.3, 0.3])


@pytest.mark.slow
def test_a_mask_is_judged_with_fresh_statistics_where_they_are_better(tmp_path: Path) -> None:
    """As pruning does, which keeps the better one: nothing costs more, and deep masks much less."""
    task, module = DigitsTask(), trained(DigitsTask())
    found = {}
    for fresh in (False, True):
        one = MaskSubject(
            task=task,
            module=module,
            weights=maskable(module),
            prune=PruneParams(criterion="magnitude", recalibrate=fresh),
            seed=0,
        )
        found[fresh] = measure_tensors(
            one, (0.5, 0.8), examples=200, work=tmp_path / str(fresh), say=lambda _: None
        )
    rises = {
        fresh: [rise for item in result.tensors for rise in item.loss_increases]
        for fresh, result in found.items()
    }
    assert all(a <= b for a, b in zip(rises[True], rises[False], strict=True))
    assert sum(rises[True]) < 0.8 * sum(rises[False])
    # Statistics take a batch of 100 from calibration, and the second look all of the 200 again.
    assert found[False].cost == 200 * (1 + 8)
    assert found[True].cost == 200 + 8 * (2 * 200 + 100)
