"""What torch-pruning 1.6 gets wrong about heads and layers of one's own, each with what happens here.

The rest of the sixteen, and how they are written down, is in test_torch_pruning_traps.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reprune.compress.stages import Course, cut_in_stages, stage_widths
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of, difference, mask
from reprune.compress.structure.groups import survey
from reprune.compress.structured import CutResult, cut
from reprune.core.errors import CompressionError
from reprune.core.params import DistillParams, PruneParams, ScheduleParams
from tests import models

ModelTask = Callable[..., object]
PLAIN = PruneParams(criterion="l2", examples=32, compensate=False, recalibrate=False)


def quiet(_: str) -> None:
    """Says nothing."""


class TwelveHeads(models.Bert):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([models.BertLayer(24, 12) for _ in range(2)])


@pytest.mark.slow
def test_5_heads_do_not_compound_over_stages(
    model_task: ModelTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Half of 12 heads in five steps leaves 10, 8, 5, 3 and then 1. Here it leaves 6, in the weights and
    in the numbers that forward() reads, whatever the schedule.
    """
    monkeypatch.setitem(models.MODELS, "twelve", TwelveHeads)
    monkeypatch.setattr(models, "TOKENS", (*models.TOKENS, "twelve"))
    module, inputs = models.build("twelve"), models.inputs("twelve", 2)
    groups = survey(module, inputs, ()).groups
    course = Course(
        task=model_task("twelve", examples=32),  # type: ignore[arg-type]
        module=module,
        teacher=module,
        digest="sha256:dense",
        groups=groups,
        regroup=lambda now: survey(now, inputs, ()).groups,
        widths={"layers.0:heads": 6, "layers.1:heads": 6},
        blocks=(),
        prune=PruneParams(examples=32, schedule=ScheduleParams(kind="iterative", steps=5)),
        distill=DistillParams(),
        seed=0,
        say=quiet,
    )
    heads = [stage_widths(course, number)["layers.0:heads"] for number in range(1, 6)]
    assert heads == [11, 10, 8, 7, 6]
    done = cut_in_stages(course, tmp_path)
    for layer in done.module.layers:
        assert layer.num_attention_heads == 6
        assert layer.query.out_features == layer.value.out_features == layer.dense.in_features == 12
    assert {cut.keep for cut in done.surgery.groups if cut.group.endswith(":heads")} == {6}


def cut_heads(task: object, name: str, widths: dict[str, int]) -> CutResult:
    module = models.build(name)
    groups = survey(module, models.inputs(name, 2), ()).groups
    return cut(task, module, groups, widths, PLAIN, 0, quiet)  # type: ignore[arg-type]


def test_6_heads_alone_are_cut(model_task: ModelTask) -> None:
    """Its head_pruning_ratio does nothing, without a word, where pruning_ratio is 0. Here a cut may be of
    heads alone: they go, and nothing else is touched.
    """
    result = cut_heads(model_task("bert", examples=32), "bert", {"layers.1:heads": 1})
    places = {(item.module, item.axis) for item in result.architecture.cuts}
    assert places == {(f"layers.1.{name}", "out") for name in ("query", "key", "value")} | {
        ("layers.1.dense", "in")
    }
    assert result.module.layers[1].num_attention_heads == 1
    assert result.surgery.after.params == result.surgery.before.params - 2 * 8 * (4 * 24 + 3)


@pytest.mark.parametrize(
    ("name", "keep", "queries", "keys"),
    [("grouped-queries", 1, 2, 1), ("one-key-head", 1, 1, 1), ("one-key-head", 3, 3, 1)],
)
def test_7_grouped_queries_have_the_heads_that_their_numbers_say(
    model_task: ModelTask, name: str, keep: int, queries: int, keys: int
) -> None:
    """Its global mode sets the number of heads to 0 and its local one from 12 to 4 while the weights
    stay, or takes 4 of 12 where a quarter was asked for. Here weights, numbers and the plan agree.
    """
    group = "layers.0.attention:heads"
    result = cut_heads(model_task(name, examples=32), name, {group: keep})
    attention = result.module.layers[0].attention
    assert attention.q_proj.out_features == attention.o_proj.in_features == 4 * queries
    assert attention.k_proj.out_features == attention.v_proj.out_features == 4 * keys
    assert attention.num_key_value_groups == queries // keys
    assert next(item.keep for item in result.surgery.groups if item.group == group) == keep
    assert result.surgery.equality_max_abs < 1e-5


def test_7_no_heads_or_more_than_there_are_is_refused(model_task: ModelTask) -> None:
    """There is no number of heads, right or wrong, at which nothing is left."""
    for keep in (0, 3):
        with pytest.raises(CompressionError, match=f"cannot keep {keep} of 2"):
            task = model_task("grouped-queries", examples=32)
            cut_heads(task, "grouped-queries", {"layers.0.attention:heads": keep})


class Scale(nn.Module):
    """A gain for each channel, which no layer of torch's knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain[:, None, None]


class Mix(nn.Module):
    """Channels mixed by a matrix of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,cd->ndhw", x, self.matrix)


@pytest.mark.parametrize(("own", "parameter"), [(Scale, "1.gain"), (Mix, "1.matrix")])
def test_12_a_layer_of_ones_own_is_left_out_by_name(own: type[nn.Module], parameter: str) -> None:
    """Its customized_pruners take only classes where instances are documented, and without one the layer's
    parameters are cut wrongly or not at all. Here what meets them stays whole and is named, with the
    parameter; the rest is cut exactly.
    """
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        own(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
        nn.ReLU(),
        nn.Conv2d(5, 2, 1),
    ).double()
    inputs = (torch.randn(2, 3, 4, 4, dtype=torch.float64),)
    found = survey(module, inputs, ())
    assert [group.name for group in found.groups] == ["3"]
    assert parameter in found.skipped["0"]
    kept = {"3": [0, 2]}
    sliced = apply(module, architecture_of(module, found.groups, kept))
    assert difference(mask(module, found.groups, kept), sliced, [inputs]) < 1e-12
    assert torch.equal(dict(sliced.named_parameters())[parameter], module.get_parameter(parameter))
