"""Engines and times are those of the models they are asked for, not of others that had their names."""

import json

import pytest
import torch
from torch import nn

from benchmarks.timing import build_engines, digests_of, read_times, shape_digest, time_engines
from benchmarks.weekly.cifar import WeeklyCifar
from reprune.core.params import Target


def net(width, kernel=3):
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(3, width, kernel, padding=kernel // 2), nn.ReLU(), nn.Flatten(), nn.Linear(width * 1024, 2)
    )  # fmt: skip


def test_an_architecture_is_told_by_its_layers_and_shapes_and_not_by_its_weights():
    torch.manual_seed(5)
    assert shape_digest(net(4)) == shape_digest(net(4))
    other = net(4)
    with torch.no_grad():
        other[0].weight.add_(1.0)
    assert shape_digest(net(4)) == shape_digest(other)
    assert shape_digest(net(4)) != shape_digest(net(8))
    assert shape_digest(nn.Sequential(nn.ReLU())) != shape_digest(nn.Sequential(nn.GELU()))


@pytest.mark.slow
def test_what_is_planned_anew_is_built_and_timed_anew(tmp_path):
    task, kept = WeeklyCifar(), tmp_path / "times.json"
    said = []

    def timed(width):
        engines = build_engines({"plan": net(width)}, task, tmp_path)
        time_engines(engines, task, Target(), 1, kept, said.append)
        return engines["plan"], json.loads(kept.read_text())

    first, times = timed(4)
    assert timed(4) == (first, times)
    second, later = timed(8)
    assert second != first
    assert first.is_file()
    assert later["engines"] == digests_of({"plan": second})
    assert json.loads((tmp_path / "times.before.json").read_text()) == times
    assert any("times of other engines" in words for words in said)


def test_times_count_for_the_very_engines_they_were_taken_of(tmp_path):
    kept = tmp_path / "times.json"
    assert read_times(kept, {"a": "1"}) == []
    kept.write_text(json.dumps({"ms": [{"a": 1.0}], "engines": {"a": "1"}}))
    assert read_times(kept, {"a": "1"}) == [{"a": 1.0}]
    assert read_times(kept, {"a": "2"}) == []
    assert read_times(kept, {"a": "1", "b": "1"}) == []
    kept.write_text(json.dumps({"ms": [{"a": 1.0}]}))
    assert read_times(kept, {"a": "1"}) == []
