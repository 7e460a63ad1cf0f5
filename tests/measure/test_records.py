"""Records of the sealed split, and parity: the same examples for all arms, integers, nothing doubtful."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from reprune.core.errors import BuildError, EvalIsSealed, NonFiniteWeights, TaskError
from reprune.measure.parity import take_parity
from reprune.measure.records import take_records, without_trained_on, write_records
from reprune.task.bases import Classification, Examples, Regression, TaskSet
from reprune.task.protocol import Batch
from reprune.task.seal import Sealed
from reprune.task.trained_on import marks


class Vectors(Classification):
    """Sixty vectors of three classes, twenty of them for eval, in batches of at most eight."""

    def __init__(self, **columns: Any) -> None:
        random = np.random.default_rng(1)
        targets = np.arange(60) % 3
        inputs = (random.normal(size=(60, 5)) + targets[:, None]).astype(np.float32)
        facts: dict[str, Any] = {
            "inputs": (inputs,),
            "targets": targets,
            "ids": [f"v{row}" for row in range(60)],
            "slices": {"parity": [("even", "odd")[row % 2] for row in range(60)]},
        }
        splits = {"train": range(20), "tune": range(20, 28), "calibration": range(28, 40)}
        splits["eval"] = range(40, 60)
        super().__init__(Examples(**(facts | columns)), splits, batch_size=8)

    def model(self) -> nn.Module:
        return nn.Linear(5, 3)


class FromModule:
    """A session that runs a module, and may change its outputs."""

    def __init__(self, module: nn.Module, change: Any = None) -> None:
        self.module = module
        self.change = change or (lambda output: output)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        with torch.no_grad():
            output = self.module(*(torch.from_numpy(array) for array in inputs))
        return [self.change(output).numpy()]


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(5, 3).eval()


def opened(task: Any) -> Sealed:
    return Sealed(task, splits=("eval",))


def test_every_arm_answers_the_same_examples(tmp_path: Path) -> None:
    """Columns are per arm, in the order of the ids; files hold them as int64, the same bytes twice."""
    task, dense, other = Vectors(), model(), model(1)
    engines = {"dense@cpu": FromModule(dense), "candidate@cpu": FromModule(other)}
    taken = take_records(opened(task), engines, dense)
    assert taken.ids == tuple(f"v{row}" for row in range(40, 60))
    assert taken.slices["parity"][:2] == ("even", "odd")
    assert taken.sources is None
    assert taken.eval_digest == Sealed(task).census("eval").digest
    (batch,) = [Batch(inputs=(torch.cat([b.inputs[0] for b in task.plain("eval")]),),
                      targets=torch.cat([b.targets for b in task.plain("eval")]), ids=taken.ids)]  # fmt: skip
    expected = (other(batch.inputs[0]).argmax(1) == batch.targets).numpy().astype(np.int64)
    np.testing.assert_array_equal(taken.arms["candidate@cpu"]["correct"], expected)
    np.testing.assert_array_equal(
        taken.arms["dense"]["correct"], taken.arms["dense@cpu"]["correct"]
    )
    recorded = write_records(tmp_path, taken)
    names = ("actual", "answer", "correct")
    assert (recorded.examples, recorded.columns) == (20, names)
    stored = load_file(tmp_path / "records.safetensors")
    keys = ("dense", "dense@cpu", "candidate@cpu")
    assert set(stored) == {f"{key}/{name}" for key in keys for name in names}
    assert all(column.dtype == np.int64 for column in stored.values())
    examples = json.loads((tmp_path / "examples.json").read_text())
    assert examples["ids"] == list(taken.ids)
    assert examples["sources"] is None
    write_records(tmp_path / "again", take_records(opened(task), engines, dense))
    for name in ("records.safetensors", "examples.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_what_an_arm_was_made_with_is_left_out_of_every_column(tmp_path: Path) -> None:
    """And counted for each arm; an arm that does not tell is named, and nothing is left out for it."""
    task = Vectors(source=[f"s{row // 4}" for row in range(60)])
    view = opened(task)
    census = view.census("eval")
    taken = take_records(view, {"candidate@cpu": FromModule(model(1))}, model())
    mine = replace(census, ids=census.ids[:3], contents=census.contents[:3])
    other = replace(census, ids=census.ids[2:5], contents=census.contents[2:5])
    trained_on = {"champion": marks([mine]), "anchor": marks([other])}
    left = without_trained_on(taken, census, trained_on)
    assert left.dropped == {"champion": 3, "anchor": 3}
    assert left.ids == taken.ids[5:]
    assert left.sources == (taken.sources or ())[5:]
    assert left.slices["parity"] == taken.slices["parity"][5:]
    for key, columns in taken.arms.items():
        for name, column in columns.items():
            np.testing.assert_array_equal(left.arms[key][name], column[5:])
    recorded = write_records(tmp_path, left)
    assert (recorded.examples, recorded.eval_digest) == (15, census.digest)
    assert recorded.dropped == {"champion": 3, "anchor": 3}
    untold = without_trained_on(taken, census, {"champion": None})
    assert (untold.ids, untold.dropped) == (taken.ids, {"champion": None})


def test_sources_are_kept_where_the_task_has_them() -> None:
    """One video, one source: the judge needs to know."""
    task = Vectors(source=[f"s{row // 4}" for row in range(60)])
    taken = take_records(opened(task), {}, model())
    assert taken.sources is not None
    assert len(set(taken.sources)) == 5


def test_a_sealed_view_gives_no_records() -> None:
    """Without the key there is nothing to see, not even here."""
    with pytest.raises(EvalIsSealed):
        take_records(Sealed(Vectors()), {}, model())


def test_an_engine_that_is_not_finite_is_named_with_its_example() -> None:
    """NaN is not a wrong answer: nobody can judge it."""

    def spoil(output: Tensor) -> Tensor:
        output[1, 0] = float("nan")
        return output

    engines = {"candidate@cpu": FromModule(model(), spoil)}
    with pytest.raises(BuildError, match=r"candidate@cpu .* not finite for example 'v41'"):
        take_records(opened(Vectors()), engines, model())
    broken = model()
    with torch.no_grad():
        broken.bias[0] = float("inf")
    with pytest.raises(NonFiniteWeights, match="v40"):
        take_records(opened(Vectors()), {}, broken)


class Changed(Vectors):
    """A task whose eval batches or records are altered."""

    change: Any = staticmethod(lambda batches: batches)
    record: Any = None

    def batches(self, split: Any, **options: Any) -> Iterator[Batch]:
        return iter(type(self).change(list(super().batches(split, **options))))

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Any:
        found = super().records(outputs, batch)
        return type(self).record(found) if type(self).record else found


def test_times_are_written_where_there_are_any(tmp_path: Path) -> None:
    """One an example, in the order of the ids, and only of the examples that are judged."""
    task = Vectors(time=[f"day {row:02d}" for row in range(60)])
    taken = take_records(opened(task), {}, model())
    census = Sealed(task).census("eval")
    mine = replace(census, ids=census.ids[:3], contents=census.contents[:3])
    left = without_trained_on(taken, census, {"champion": marks([mine])})
    assert left.times == (taken.times or ())[3:]
    for one in (taken, left):
        write_records(tmp_path, one)
        examples = json.loads((tmp_path / "examples.json").read_text())
        assert examples["times"] == [f"day {int(name[1:]):02d}" for name in examples["ids"]]
    write_records(tmp_path, take_records(opened(Vectors()), {}, model()))
    assert "times" not in json.loads((tmp_path / "examples.json").read_text())


def changed(**what: Any) -> Any:
    return type("Changed", (Changed,), {name: staticmethod(f) for name, f in what.items()})()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"change": lambda b: [b[0], b[0], *b[1:]]}, "stand for several examples"),
        ({"change": lambda b: b[:-1]}, "two passes over the eval split differ"),
        ({"change": lambda b: b[::-1]}, "two passes over the eval split differ"),
        (
            {"change": lambda b: [replace(b[0], ids=[f"x{i}" for i in range(len(b[0]))]), *b[1:]]},
            "two passes over the eval split differ",
        ),
        ({"record": lambda r: {"correct": r["correct"].astype(np.float32)}}, "float32"),
        ({"record": lambda r: {"correct": r["correct"][1:]}}, "is needed"),
        ({"record": lambda r: {"correct": r["correct"][:, None]}}, "is needed"),
        ({"record": lambda r: {}}, "no column"),
    ],
)
def test_doubtful_records_are_refused(what: dict[str, Any], words: str) -> None:
    """Ids twice, a split that changes between passes, columns that are no integers an example."""
    with pytest.raises(TaskError, match=words):
        take_records(opened(changed(**what)), {"candidate@cpu": FromModule(model())}, model())


def test_columns_that_come_and_go_are_refused() -> None:
    """A column that only some batches, or only some arms, have cannot be counted."""
    calls: list[int] = []

    def sometimes(found: Any) -> Any:
        calls.append(1)
        return {**found, "extra": found["correct"]} if len(calls) == 1 else found

    with pytest.raises(TaskError, match="only some batches"):
        take_records(opened(changed(record=sometimes)), {}, model())
    turns: list[int] = []

    def by_turns(found: Any) -> Any:
        turns.append(1)
        return {"other": found["correct"]} if len(turns) % 2 == 0 else found

    with pytest.raises(TaskError, match="other columns for candidate@cpu"):
        take_records(
            opened(changed(record=by_turns)), {"candidate@cpu": FromModule(model())}, model()
        )


def calibration(task: Any) -> list[Batch]:
    return list(task.batches("calibration", epoch=0, seed=0))


def test_parity_is_measured_on_outputs_and_on_outcomes() -> None:
    """An equal engine is at 0 and 1; a shifted one shows by how much."""
    task = Vectors()
    batches = calibration(task)
    same = take_parity("dense@cpu", FromModule(model()), model(), task, batches)
    assert (same.max_abs, same.cosine, same.agreement) == (0.0, 1.0, 1.0)
    assert same.examples == sum(map(len, batches))
    shift = torch.tensor([0.25, 0.0, 0.0])
    moved = FromModule(model(), lambda y: y + shift)
    shifted = take_parity("x", moved, model(), task, batches)
    y = model()(torch.cat([batch.inputs[0] for batch in batches])).detach()
    cosine = torch.cosine_similarity(y.flatten(), (y + shift).flatten(), dim=0)
    targets = torch.cat([batch.targets for batch in batches])
    right = [(out.argmax(1) == targets) for out in (y, y + shift)]
    assert shifted.max_abs == pytest.approx(0.25, abs=1e-6)
    assert shifted.cosine == pytest.approx(float(cosine), abs=1e-6)
    assert shifted.agreement == pytest.approx(float((right[0] == right[1]).float().mean()))
    # One answer in twelve is turned from right to wrong.
    nudge = torch.zeros(3)
    place = next(i for i, (row, ok) in enumerate(zip(y, right[0], strict=True)) if ok)
    wrong = (int(targets[place]) + 1) % 3
    nudge[wrong] = float(y[place].max() - y[place][wrong]) + 1e-3

    def turn(out: Tensor) -> Tensor:
        same = (out - y[place]).abs().sum(1) < 1e-5
        return out + same[:, None] * nudge

    turned = take_parity("x", FromModule(model(), turn), model(), task, batches)
    assert turned.agreement == pytest.approx(11 / 12)


class Maps(Regression):
    """One number of a vector."""

    input_names = ("vector",)
    bounds = (-4.0, 6.0)

    def __init__(self) -> None:
        task = Vectors()
        targets = task.examples.inputs[0][:, 0]
        super().__init__(
            replace(task.examples, targets=targets, slices={}), task.rows, batch_size=8
        )

    def model(self) -> nn.Module:
        return nn.Linear(5, 1)


class Wide(Vectors):
    """Three classes, and large outputs beside them that nobody's records read."""

    input_names = ("vector",)

    def __init__(self) -> None:
        super().__init__(slices={})

    def model(self) -> nn.Module:
        return WideLayer()


class WideLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), 100.0 * x


class Pair(TaskSet):
    """Of one member there is so much to see that the other hardly counts."""

    members = {"maps": Maps, "wide": Wide}


class OfSet(FromModule):
    """A session with several outputs, of which the first is changed."""

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        with torch.no_grad():
            first, *others = self.module(*(torch.from_numpy(array) for array in inputs))
        return [self.change(first).numpy(), *(output.numpy() for output in others)]


def test_parity_of_a_set_is_that_of_the_member_with_the_least() -> None:
    """A member that computes something else is refused however much the others answer rightly."""
    torch.manual_seed(0)
    task = Pair()
    module = task.model().eval()
    batches = calibration(task)
    same = take_parity("x", OfSet(module), module, task, batches)
    assert (same.cosine, same.agreement) == (1.0, 1.0)
    near = take_parity("x", OfSet(module, lambda y: y + 0.3), module, task, batches)
    alone = Maps()
    expected = take_parity(
        "x",
        FromModule(module.get_submodule("maps"), lambda y: y + 0.3),
        module.get_submodule("maps"),
        alone,
        calibration(alone),
    )
    assert (near.cosine, near.agreement) == (expected.cosine, expected.agreement)
    assert near.agreement < 1.0
    with pytest.raises(BuildError, match="does not compute what its bundle does"):
        take_parity("x", OfSet(module, lambda y: -y), module, task, batches)


def test_an_engine_of_another_function_is_refused() -> None:
    """Opposite outputs, other shapes: that is no question of precision."""
    task = Vectors()
    with pytest.raises(BuildError, match="does not compute what its bundle does"):
        take_parity("x", FromModule(model(), lambda y: -y), model(), task, calibration(task))
    with pytest.raises(BuildError, match="gives outputs"):
        take_parity("x", FromModule(model(), lambda y: y[:, :2]), model(), task, calibration(task))
    zero = nn.Linear(5, 3)
    nn.init.zeros_(zero.weight)
    nn.init.zeros_(zero.bias)
    assert take_parity("x", FromModule(zero), zero, task, calibration(task)).cosine == 1.0
    with pytest.raises(BuildError, match=r"cosine .* is 0\.0"):
        take_parity("x", FromModule(zero), model(), task, calibration(task))
