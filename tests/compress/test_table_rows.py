"""Layers whose first dimension is not the batch: windows, sequences, tokens that were flattened into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reprune.compress.tables.sites import sites_of, timed_layers
from reprune.compress.tables.timers import Place, timer_for
from reprune.core.params import Target
from reprune.measure.calls import read_inputs
from reprune.measure.pairs import Pair, PairTimes
from reprune.measure.timing_place import here
from reprune.runtimes.base import Source

BATCH, STEPS = 3, 6


class Rows(nn.Module):
    """A linear layer on all steps as rows, a recurrent one on (steps, batch, features), one on examples."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(4, 4)
        self.steps = nn.LSTM(4, 4)
        self.examples = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.tanh(self.rows(x.flatten(0, 1))).reshape(x.shape)
        made, _ = self.steps(made.transpose(0, 1))
        return self.examples(made[-1])


def dense() -> Rows:
    torch.manual_seed(0)
    return Rows().eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "batch"), [("torch", 1), ("openvino", BATCH), ("executorch", BATCH)]
)
def test_each_layer_is_timed_on_what_it_is_called_with(
    runtime: str, batch: int, tmp_path: Path
) -> None:
    """Engines run what the place's inputs make of them, whatever the batch of the task's examples."""
    module = dense()
    target = Target(runtime=runtime, batch_size=batch)
    shapes: list[tuple[int, ...]] = []

    def take(pairs: Sequence[Pair]) -> tuple[PairTimes, ...]:
        for pair in pairs:
            (given,) = read_inputs(Path(pair.inputs))
            shapes.append(given.shape)
            (made, *_) = place.where.runtime.open(Path(pair.engine), target).run([given])
            assert made.shape == given.shape
        return tuple(PairTimes(ratio=float(len(shapes))) for _ in pairs)

    def source(whole: nn.Module) -> Source:
        example = torch.randn(2, STEPS, 4)
        return Source(module=whole, example_inputs=(example,), input_names=("x",))

    place = Place(
        where=replace(here(target, 1), take=take),
        source=source,
        inputs=[np.random.default_rng(0).normal(size=(batch, STEPS, 4)).astype(np.float32)],
        folder=tmp_path,
        rounds=1,
        dense_us=100.0,
        seed=0,
    )
    seen = timer_for(place, module, tmp_path / "dense").look(module)
    assert set(seen.shares) == {"rows", "steps", "examples"}
    assert shapes == [(batch * STEPS, 4), (batch, STEPS, 4), (batch, 4)]


def test_layers_on_other_rows_are_another_question() -> None:
    """Two linear layers of one shape on B x 6 rows and on B have not one time; that of usual layers keeps
    its words, and so earlier tables their digest.
    """
    module = dense()
    kinds = dict.fromkeys(timed_layers(module), ("Gemm",))
    asked = {
        batch: {
            site.layer: site.question
            for site in sites_of(module, (), (torch.randn(batch, STEPS, 4),), kinds)
        }
        for batch in (2, 3)
    }
    assert asked[2] == asked[3]
    words = "Linear {} bias=True on  Gemm 4->4"
    assert asked[2]["rows"] == words.format("rows=6")
    assert asked[2]["examples"] == words.format("")
