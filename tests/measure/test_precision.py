"""A quantised engine is held to the module, and the layers that hurt stay in float, named, with figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reprune.core.artifacts import BuildFact
from reprune.core.errors import ChainBroken, TaskError
from reprune.core.params import BuildParams, Target
from reprune.measure.precision import judged_once, with_float_layers, yardstick_of
from reprune.runtimes.base import Source, get_runtime
from reprune.runtimes.onnxruntime import OnnxRuntime
from reprune.task.protocol import Batch
from tests import zoo

INT8 = Target(precision="int8")


class ZooTask:
    """`tune` are the held examples of a zoo model; right is what the class number says, or not told."""

    input_names = ("image",)

    def __init__(self, model: zoo.ZooModel, *, tells: bool = True) -> None:
        self.model_, self.tells = model, tells

    def batches(self, split: str, *, epoch: int, seed: int, **_: int):
        assert split == "tune", "how good an engine is must be found out on tune alone"
        for start in range(0, len(self.model_.targets), 16):
            targets = self.model_.targets[start : start + 16]
            yield Batch(
                inputs=tuple(x[start : start + 16] for x in self.model_.held),
                targets=targets,
                ids=[f"{start + n}" for n in range(len(targets))],
            )

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> dict[str, np.ndarray]:
        right = (outputs[0].argmax(dim=1) == batch.targets).long().numpy()
        return {"correct": right} if self.tells else {"score": right * 1000}

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        return nn.functional.cross_entropy(module(*batch.inputs), batch.targets)


def destroyed(name: str = "layers.2.0") -> zoo.ZooModel:
    """The odd CNN with one input channel of one layer blown up, and its weights as much smaller: the
    same function, but all other channels of that layer's input fall below one int8 step.
    """
    model = zoo.pruned("odd-cnn")
    place = int(name.split(".")[1])
    before, after = model.module.layers[place - 1], model.module.layers[place]
    with torch.no_grad():
        before[1].weight[0] *= 3000.0
        before[1].bias[0] *= 3000.0
        after[0].weight[:, 0] /= 3000.0
    return model


def source_of(model: zoo.ZooModel) -> Source:
    return Source(
        module=model.module,
        example_inputs=model.example_inputs,
        input_names=model.input_names,
        calibration=model.calibration,
    )


def built(
    model: zoo.ZooModel,
    path: Path,
    params: BuildParams,
    *,
    tells: bool = True,
    target: Target = INT8,
) -> BuildFact:
    task = ZooTask(model, tells=tells)
    runtime = get_runtime(target.runtime)
    return with_float_layers(runtime, source_of(model), target, task, params, path)


@pytest.mark.slow
@pytest.mark.parametrize("tells", [True, False], ids=["answers", "loss"])
def test_exactly_the_layer_that_int8_destroys_stays_in_float(tmp_path: Path, tells: bool) -> None:
    """By the share of right answers where the records tell it, by the task's loss where they do not; and
    the engine that is kept is the better one.
    """
    model = destroyed()
    fact = built(model, tmp_path / "n.onnx", BuildParams(max_drop=0.02), tells=tells)
    assert fact.float_layers == ("layers.2.0",)
    assert fact.details["quantised layers"] == "4 of 5"
    first, second = fact.notes
    assert ("answered rightly" in first) == tells
    assert ("loss" in first) == (not tells)
    assert "with 1 more layers in float" in second
    (output,) = OnnxRuntime().open(tmp_path / "n.onnx", INT8).run([model.held[0].numpy()])
    right = (torch.from_numpy(output).argmax(1) == model.targets).float().mean()
    expected = (model.module(*model.held).argmax(1) == model.targets).float().mean()
    assert right >= expected - 0.02
    assert list(tmp_path.iterdir()) == [tmp_path / "n.onnx"], "no trial may be left behind"


@pytest.mark.slow
def test_few_builds_still_find_it_by_halving(tmp_path: Path) -> None:
    """With fewer builds than layers, neighbours are tried together first."""
    model = destroyed("layers.3.0")
    fact = built(model, tmp_path / "n.onnx", BuildParams(max_drop=0.02, trials=12))
    assert "layers.3.0" in fact.float_layers
    assert len(fact.float_layers) <= 2


@pytest.mark.slow
def test_a_model_that_int8_does_not_hurt_keeps_all_layers_in_int8(tmp_path: Path) -> None:
    """One build, one note with its figures, and the very bytes of a plain build."""
    model = zoo.pruned("odd-cnn")
    fact = built(model, tmp_path / "n.onnx", BuildParams())
    assert fact.float_layers == ()
    assert len(fact.notes) == 1
    OnnxRuntime().build(source_of(model), INT8, tmp_path / "plain.onnx")
    assert (tmp_path / "n.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


@pytest.mark.slow
def test_when_the_builds_run_out_the_best_is_kept_and_the_note_says_so(tmp_path: Path) -> None:
    """The gate judges quality; the build says what it could not reach."""
    fact = built(destroyed(), tmp_path / "n.onnx", BuildParams(trials=1))
    assert fact.float_layers == ()
    assert "the bound was not reached" in fact.notes[-1]
    assert (tmp_path / "n.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("tells", [True, False], ids=["answers", "loss"])
def test_an_engine_that_is_built_once_is_judged_and_nothing_is_tried(
    tmp_path: Path, tells: bool
) -> None:
    """Within the bounds that is one note; beyond them another says what was not reached and what to do."""
    runtime, path = get_runtime("onnxruntime"), tmp_path / "n.onnx"
    for model, notes in ((zoo.pruned("odd-cnn"), 1), (destroyed(), 2)):
        runtime.build(source_of(model), INT8, path)
        yardstick = yardstick_of(runtime, model.module, ZooTask(model, tells=tells), INT8)
        assert yardstick
        params = BuildParams(max_drop=0.02, max_loss_rise=0.05)
        found = judged_once(yardstick, runtime.open(path, INT8), INT8, params)
        assert len(found) == notes
        assert "examples of tune" in found[0]
        assert all("not reached" in note and "float_layers" in note for note in found[1:])
    assert yardstick_of(runtime, model.module, ZooTask(model), Target()) is None


@pytest.mark.slow
def test_the_search_repeats(tmp_path: Path) -> None:
    """The same layers, the same words, the same bytes."""
    params = BuildParams(max_drop=0.02)
    one, other = (built(destroyed(), tmp_path / f"{n}.onnx", params) for n in (1, 2))
    assert one == other
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


@pytest.mark.slow
def test_fp32_is_built_and_not_compared(tmp_path: Path) -> None:
    """Nothing of tune is read: the task has none."""

    class NoTune(ZooTask):
        def batches(self, *_: object, **__: object):
            raise AssertionError

    model = zoo.pruned("odd-cnn")
    fact = with_float_layers(
        OnnxRuntime(), source_of(model), Target(), NoTune(model), BuildParams(), tmp_path / "n.onnx"
    )
    assert fact == BuildFact()


def test_an_empty_tune_split_is_the_tasks_mistake(tmp_path: Path) -> None:
    """There is nothing to choose the layers on."""

    class Empty(ZooTask):
        def batches(self, *_: object, **__: object):
            return iter(())

    model = zoo.pruned("odd-cnn")
    with pytest.raises(TaskError, match="tune split is empty"):
        with_float_layers(
            OnnxRuntime(), source_of(model), INT8, Empty(model), BuildParams(), tmp_path / "n.onnx"
        )


class TwiceTask(ZooTask):
    """Its loss looks at the batch twice, as one with two kinds of noise does."""

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        return super().loss(module, batch, generator) + super().loss(module, batch, generator)


class RanElsewhere:
    """Answers that came back from a device: one a call, in the order in which it was asked."""

    def __init__(self, module: nn.Module, batches: list[Batch]) -> None:
        self.module, self.left = module, [batch.inputs for batch in batches]

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        given = self.left.pop(0) if self.left else ()
        if len(given) != len(inputs) or not np.array_equal(given[0].numpy(), inputs[0]):
            raise ChainBroken("the device was given other inputs than these")
        with torch.no_grad():
            return [self.module(*given).numpy()]


@pytest.mark.parametrize("task", [ZooTask, TwiceTask])
def test_a_loss_that_asks_a_device_for_more_is_not_compared(task: type[ZooTask]) -> None:
    """What the device was not asked nobody knows: that ends no build, and is said."""
    model = zoo.pruned("odd-cnn")
    runtime = get_runtime("onnxruntime")
    yardstick = yardstick_of(runtime, model.module, task(model, tells=False), INT8)
    assert yardstick is not None
    session = RanElsewhere(model.module, yardstick.batches)
    (told,) = judged_once(yardstick, session, INT8, BuildParams())
    assert ("not compared" in told) == (task is TwiceTask)
