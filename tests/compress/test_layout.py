"""Training with weights in channels-last: the same model, and refused where it would not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from reprune.compress.masks.shaper import MaskShaper
from reprune.compress.training.recover import Lesson, recover
from reprune.core.errors import InputError
from reprune.core.params import DistillParams
from tests.compress.small_digits import DigitsTask
from tests.compress.test_recover import Stop, dense, halved, lesson, quiet, same_weights, stop

PLAIN = DistillParams(epochs=2, learning_rate=0.05)
LAST = replace(PLAIN, memory_format="channels-last")


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


def is_last(weight: torch.Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


class Watching(DigitsTask):
    """Notes of each loss whether the module's weights, and what its second convolution gives, lie so."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, bool]] = set()

    def loss(self, module, batch, generator):
        given = []
        hook = module.conv2.register_forward_hook(lambda *args: given.append(args[-1]))
        try:
            return super().loss(module, batch, generator)
        finally:
            hook.remove()
            self.seen.add((is_last(module.conv2.weight), is_last(given[0])))


def test_the_same_is_learnt(tmp_path: Path) -> None:
    """Up to rounding; the weights lie so while it trains, and as before in what is returned and in what was
    given.
    """
    task = Watching()
    given = lesson(task)
    last = recover(given, LAST, seed=0, work=tmp_path / "last", say=quiet)
    assert task.seen == {(True, True)}
    plain = recover(lesson(), PLAIN, seed=0, work=tmp_path / "plain", say=quiet)
    for model in (last.module, given.student, given.teacher):
        assert all(weight.is_contiguous() for weight in model.parameters())
    for one, other in zip(last.recovery.epochs, plain.recovery.epochs, strict=True):
        assert one.tune_loss == pytest.approx(other.tune_loss, rel=0.02)
    assert last.recovery.examples == plain.recovery.examples


def test_what_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        recover(lesson(), LAST, seed=3, work=tmp_path / "a", say=stop)
    resumed = recover(lesson(), LAST, seed=3, work=tmp_path / "a", say=quiet)
    unbroken = recover(lesson(), LAST, seed=3, work=tmp_path / "b", say=quiet)
    assert same_weights(resumed.module, unbroken.module)
    assert resumed.recovery == unbroken.recovery


class Viewing(nn.Sequential):
    """Its forward asks how a convolution's output lies in memory: by `view`, or by its strides."""

    def __init__(self, how: str) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(4 * 64, 10),
        )
        self.how = how

    def forward(self, x):
        made = self[1](self[0](x))
        count = len(made)
        if self.how == "view":
            return self[2](made.view(count, -1))
        return self[2](made.as_strided((count, 4 * 64), (4 * 64, 1)))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Viewing("view"), "does not run in channels-last: view size is not compatible"),
        (Viewing("strides"), "outputs are others in channels-last"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no weight of four dimensions"),
    ],
)
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_model_that_would_be_another_is_refused(
    tmp_path: Path, module: nn.Module, said: str, who: str
) -> None:
    """Whichever it is, before anything trains; in the usual order it trains."""
    task = DigitsTask()
    models = {"student": halved(), "teacher": dense()} | {who: module.eval()}
    given = Lesson(task=task, teacher_digest="sha256:teacher", **models)
    with pytest.raises(InputError, match=said) as caught:
        recover(given, LAST, seed=0, work=tmp_path / "last", say=quiet)
    assert caught.value.where == "params.yaml (distill.memory_format)"
    assert not list(tmp_path.rglob("*.safetensors"))
    plain = replace(PLAIN, epochs=1)
    assert recover(given, plain, seed=0, work=tmp_path / "plain", say=quiet).recovery.epochs


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"ema": 0.9, "teacher": "ema"},
        {"quantize": "int8"},
        {"features": 1.0, "attention": 1.0, "feature_modules": ("conv2",)},
        {"clip_norm": 0.5, "optimizer": "adamw", "learning_rate": 0.002},
        {},
    ],
    ids=["average", "quantised", "features", "clipped", "masked"],
)
def test_all_that_a_training_can_do_it_does(tmp_path: Path, more: dict[str, Any]) -> None:
    """With nothing that counts on the usual order; without `more` under masks, which hold."""
    torch.manual_seed(0)
    held = {"conv2.weight": torch.rand_like(halved().conv2.weight) > 0.5}
    losses, module = {}, dense()
    for name, params in (("plain", PLAIN), ("last", LAST)):
        shapers = [] if more else [MaskShaper(masks=dict(held))]
        asked = replace(params, **more)
        made = recover(lesson(), asked, seed=0, work=tmp_path / name, say=quiet, shapers=shapers)
        losses[name], module = made.recovery.epochs[-1].tune_loss, made.module
    assert losses["last"] == pytest.approx(losses["plain"], rel=0.05)
    if not more:
        assert not module.conv2.weight[~held["conv2.weight"]].any()
