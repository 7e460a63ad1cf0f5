"""What a plan's trials call its engines with: the commonest shape of the workload, as profile's tables do."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import torch

from reprune.compress.planning import latency
from reprune.compress.planning.latency import Bench, timed_inputs, timing
from reprune.compress.structure.groups import survey
from reprune.core.params import Target
from reprune.measure.calls import commonest
from reprune.measure.latency import timed_shapes
from reprune.steps.plan_latency import timers
from reprune.task.protocol import Work
from tests.compress.small_digits import DigitsTask


class BusyTask(DigitsTask):
    """Real calls are mostly larger than the examples that the architecture is read by."""

    side = 16

    def workload(self):
        small, usual = self.example_inputs(1), (torch.rand(1, 1, self.side, self.side),)
        return [Work(inputs=small, weight=0.2), Work(inputs=usual, weight=0.8)]


def test_trials_time_the_shape_that_the_tables_are_of():
    """Not `example_inputs`, which need not look like any call."""
    task = BusyTask()
    module = task.model().eval()
    seen = []

    def take(pairs):
        seen.extend([array.shape for array in np.load(pair.inputs).values()] for pair in pairs)
        return [SimpleNamespace(ratio=0.5) for _ in pairs]

    where = SimpleNamespace(
        target=Target(batch_size=3),
        runtime=SimpleNamespace(suffix=".onnx"),
        make=lambda sources, target: None,
        take=take,
    )
    groups = survey(module, task.example_inputs(2), ()).groups
    with timing(Bench(task=task, module=module, groups=groups, where=where, seed=0)) as ratio:
        assert ratio({groups[0].name: 8}) == 0.5
    tables = [array.shape for array in commonest(timed_shapes(task, 3)).inputs]
    assert seen == [tables] == [[(3, 1, 16, 16)]]


def test_a_ratio_is_not_taken_for_that_of_other_calls(tmp_path, monkeypatch):
    """What is kept in the work folder is of one shape; without that, a plan that goes on would mix them."""
    asked = []

    @contextmanager
    def clock(bench):
        def ratio(widths, *, sure=False):
            asked.append([array.shape for array in timed_inputs(bench.task, 1)])
            return 0.1 * len(asked)

        yield ratio

    monkeypatch.setattr(latency, "timing", clock)
    ctx = SimpleNamespace(work=tmp_path, say=lambda text: None)
    task = BusyTask()
    opened = SimpleNamespace(task=task, module=task.model(), groups=(), blocks=())

    def timed():
        with timers(opened, {"cpu": Target()}, {}, [], 0, 1, ctx) as found:
            return found["cpu"].once({"conv1": 8})

    assert (timed(), timed()) == (0.1, 0.1)
    task.side = 12
    assert timed() == 0.2
    assert asked == [[(1, 1, 16, 16)], [(1, 1, 12, 12)]]
