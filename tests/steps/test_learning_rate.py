"""The learning rate of a recovery: what is given wins, "auto" asks the champion, and else tries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from reprune.compress.training.reach import without_gain
from reprune.core import store
from reprune.core.artifacts import ModelBundle, Recovery, RecoveryEpoch
from reprune.core.errors import Diverged
from reprune.core.params import DistillParams, Params
from reprune.steps.learning_rate import chosen_rate
from tests.steps import test_inheriting
from tests.steps.test_inheriting import KNOBS, WARM, fetched, ground, made, past, second

__all__ = ["ground"]
_one_work_folder = test_inheriting._one_work_folder

AUTO: dict[str, Any] = {"distill": {"epochs": 2, "learning_rate": "auto"}}


def epoch(loss: float, rate: float = 0.1) -> RecoveryEpoch:
    return RecoveryEpoch(epoch=1, train_loss=loss, tune_loss=loss, learning_rate=rate)


class Valley:
    """Training whose loss is least at `best`; it diverges above `limit`."""

    def __init__(self, best: float, limit: float = 1e9) -> None:
        self.best, self.limit = best, limit
        self.rates: list[float] = []

    def __call__(self, params: DistillParams, work: Path) -> Any:
        rate = float(params.learning_rate)
        self.rates.append(rate)
        assert params.epochs == 1
        self.held = params.hold_epochs
        if rate > self.limit:
            raise Diverged("the train loss is nan in epoch 1")
        loss = abs(rate / self.best - 1.0) if rate > self.best else abs(self.best / rate - 1.0)
        recovery = Recovery(epochs=(epoch(loss),), best_epoch=1, examples=100, teacher="t")
        return SimpleNamespace(recovery=recovery)


def asked(params: DistillParams, train: Valley, tmp_path: Path) -> Any:
    nobody = SimpleNamespace(manifest=past(None), path=tmp_path)
    context = SimpleNamespace(work=tmp_path, say=lambda _: None)
    return chosen_rate(params, nobody, UNSET, train, context)  # type: ignore[arg-type]


@pytest.mark.parametrize("best", [0.0004, 0.001, 0.003, 0.01, 0.02, 0.08, 0.3])
def test_the_search_ends_beside_the_best_rate_and_looks_no_further(
    tmp_path: Path, best: float
) -> None:
    """Within one step of it where it is within what is looked at, else at the end nearest to it."""
    train = Valley(best)
    found = asked(DistillParams(learning_rate="auto", hold_epochs=3.0), train, tmp_path)
    assert found.how == "tried"
    assert train.held == 0.75  # of one epoch, as of all four
    assert len(train.rates) == len(set(train.rates)) == len(found.tried) <= 5
    reached = min(max(best, 0.01 / 27), 0.27)
    assert 1 / 3 < found.learning_rate / reached < 3
    assert found.examples == 100 * len(found.tried)
    losses = {one.learning_rate: one.tune_loss for one in found.tried}
    assert losses[found.learning_rate] == min(losses.values())


def test_rates_that_diverge_are_passed_over_unless_all_do(tmp_path: Path) -> None:
    found = asked(
        DistillParams(learning_rate="auto", hold_epochs=3.0), Valley(0.05, limit=0.02), tmp_path
    )
    assert found.learning_rate == 0.01
    assert [one.tune_loss is None for one in found.tried] == [False, False, True]
    with pytest.raises(Diverged, match="nan"):
        asked(
            DistillParams(learning_rate="auto", hold_epochs=3.0), Valley(0.05, limit=0.0), tmp_path
        )


def test_each_optimiser_has_its_own_beginning(tmp_path: Path) -> None:
    train = Valley(3e-4)
    found = asked(DistillParams(learning_rate="auto", optimizer="adamw"), train, tmp_path)
    assert (found.learning_rate, found.optimizer) == (3e-4, "adamw")


def test_a_given_rate_wins_and_without_training_there_is_none(tmp_path: Path) -> None:
    train = Valley(0.1)
    found = asked(DistillParams(learning_rate=0.005), train, tmp_path)
    assert (found.learning_rate, found.how, found.tried) == (0.005, "given", ())
    assert asked(DistillParams(learning_rate="auto", epochs=0), train, tmp_path) is UNSET
    assert train.rates == []


def test_the_params_take_a_number_or_auto_and_nothing_else() -> None:
    def read(rate: object) -> object:
        raw = {"name": "n", "task": "t:T", "distill": {"learning_rate": rate}}
        return msgspec.convert(raw, Params).distill.learning_rate

    assert read(0.5) == 0.5
    assert read("auto") == "auto"
    for wrong in ("car", 0.0, -1.0):
        with pytest.raises(msgspec.ValidationError):
            read(wrong)


@pytest.mark.slow
def test_generations_hand_the_rate_on_and_try_again_when_it_is_old(
    ground: Path, tmp_path: Path
) -> None:
    """The first one tries; the second one takes its rate over; what is given always wins."""
    root = second(ground, tmp_path)
    for step, out in (("sensitivity", "table"), ("plan", "plan"), ("prune", "pruned")):
        made(root, step, out, KNOBS, ground / "first/previous")
    cold = made(root, "distill", "cold", KNOBS | AUTO, ground / "first/previous").manifest
    rate = cold.recovery.rate
    assert rate.how == "tried"
    assert rate.learning_rate in [one.learning_rate for one in rate.tried]
    assert cold.recovery.examples > rate.examples > 0

    champion = store.read(ground / "first/candidate", ModelBundle).manifest
    assert champion.recovery is not None
    assert champion.recovery.rate
    assert (champion.recovery.rate.how, champion.recovery.rate.learning_rate) == ("given", 0.02)
    previous = fetched(ground, tmp_path / "previous")
    warm = made(root, "distill", "warm", KNOBS | AUTO | WARM, previous).manifest
    assert warm.recovery.rate.learning_rate == 0.02
    assert (warm.recovery.rate.how, warm.recovery.rate.age) == ("champion", 1)
    assert warm.recovery.examples < cold.recovery.examples
    mine = {"distill": {"epochs": 2, "learning_rate": 0.03}}
    told = made(root, "distill", "told", KNOBS | mine | WARM, previous).manifest.recovery.rate
    assert (told.how, told.learning_rate) == ("given", 0.03)

    aged = msgspec.structs.replace(
        champion.recovery, rate=msgspec.structs.replace(champion.recovery.rate, age=7)
    )
    previous = fetched(ground, tmp_path / "aged", champion={"recovery": aged})
    again = made(root, "distill", "again", KNOBS | AUTO | WARM, previous).manifest.recovery.rate
    assert again.how == "tried"
    assert 0.02 in [one.learning_rate for one in again.tried]
    other = msgspec.structs.replace(
        champion.recovery, rate=msgspec.structs.replace(champion.recovery.rate, optimizer="adam")
    )
    previous = fetched(ground, tmp_path / "other", champion={"recovery": other})
    again = made(root, "distill", "again", KNOBS | AUTO | WARM, previous).manifest.recovery.rate
    assert again.how == "tried"
    assert 0.02 not in [one.learning_rate for one in again.tried]


@pytest.mark.parametrize(
    ("losses", "idle"),
    [
        ([], 0),
        ([1.0], 0),
        ([1.0, 2.0], 1),
        ([1.0, 0.5, 0.5, 0.6], 2),
        ([1.0, 0.5, 0.499, 0.498], 2),
        ([1.0, 0.5, 0.499, 0.498, 0.4], 0),
        ([1.0, 0.5, *(0.5 - 0.003 * step for step in range(1, 4))], 1),
        ([2.0, 3.0, 1.0], 0),
    ],
)
def test_epochs_without_a_gain_are_those_that_bring_less_than_a_hundredth(
    losses: list[float], idle: int
) -> None:
    assert without_gain(losses) == idle


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=20))
def test_a_worse_epoch_at_the_end_is_one_more_without_a_gain(losses: list[float]) -> None:
    assert without_gain([*losses, max(losses)]) == without_gain(losses) + 1
