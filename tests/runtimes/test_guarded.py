"""A session in a process of its own: the same answers, and a crash or a hang is an error in words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reprune.core.errors import BuildError, RepruneError
from reprune.core.params import Target
from reprune.runtimes.base import Source
from reprune.runtimes.guarded import GuardedSession
from reprune.runtimes.onnxruntime import OnnxRuntime

PROBE = '''
"""A runtime whose sessions do to themselves what their engine says."""
import ctypes, json, os, time
from reprune.core.errors import BuildError


class Probe:
    suffix = ".probe"

    def open(self, engine, target):
        does = json.loads(engine.read_text())
        if does.get("open") == "refuses":
            raise BuildError("no such device", fix="plug it in")
        if does.get("open") == "segfault":
            ctypes.string_at(0)
        return Session(does)


class Session:
    def __init__(self, does):
        self.does, self.calls = does, 0

    def run(self, inputs):
        print("noise on stdout")
        self.calls += 1
        if self.does.get("run") == "segfault":
            ctypes.string_at(0)
        if self.does.get("run") == "hangs":
            time.sleep(600)
        if self.does.get("run") == "refuses":
            raise BuildError("not these inputs")
        if self.does.get("run") == "exits":
            os._exit(5)
        return [inputs[0] * 2, inputs[-1].sum(axis=1) + self.calls]
'''


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    site = tmp_path / "site"
    facts = site / "guarded_probe-1.dist-info"
    facts.mkdir(parents=True)
    (site / "guarded_probe.py").write_text(PROBE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: guarded-probe\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[reprune.runtimes]\nprobe = guarded_probe:Probe\n")
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def made(**does: str) -> Path:
        path = tmp_path / "engine.probe"
        path.write_text(json.dumps(does))
        return path

    return made


TARGET = Target(runtime="probe")
INPUTS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), dtype=np.int64)]


def test_answers_come_back_whole_and_the_session_goes_on(engine: Any) -> None:
    """Types and shapes as they were, whatever the runtime prints; one process for all calls."""
    session = GuardedSession(engine(), TARGET)
    for call in (1, 2, 3):
        first, second = session.run(INPUTS)
        assert first.dtype == np.float32
        assert np.array_equal(first, 2 * INPUTS[0])
        assert second.tolist() == [3 + call, 3 + call]
    session.close()


@pytest.mark.slow
def test_the_same_as_in_this_process(tmp_path: Path) -> None:
    """ONNX Runtime, to the bit."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh()).eval()
    source = Source(module=module, example_inputs=(torch.zeros(2, 5),), input_names=["x"])
    path = tmp_path / "net.onnx"
    OnnxRuntime().build(source, Target(), path)
    given = [torch.randn(300, 5).numpy()]
    (here,) = OnnxRuntime().open(path, Target()).run(given)
    (there,) = GuardedSession(path, Target()).run(given)
    assert here.tobytes() == there.tobytes()


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ({"run": "segfault"}, "probe with engine.probe was killed by signal 11"),
        ({"run": "exits"}, "ended with exit code 5"),
    ],
)
def test_a_crash_is_an_error_here(engine: Any, does: dict[str, str], words: str) -> None:
    session = GuardedSession(engine(**does), TARGET)
    with pytest.raises(RepruneError, match=words):
        session.run(INPUTS)
    with pytest.raises(RepruneError):
        session.run(INPUTS)


def test_a_crash_while_opening_is_one_too(engine: Any) -> None:
    with pytest.raises(RepruneError, match="killed by signal 11"):
        GuardedSession(engine(open="segfault"), TARGET)


def test_what_the_runtime_refuses_is_the_users_error(engine: Any) -> None:
    """In its own words; after a refused call the session is still there."""
    with pytest.raises(BuildError, match="no such device"):
        GuardedSession(engine(open="refuses"), TARGET)
    session = GuardedSession(engine(run="refuses"), TARGET)
    for _ in range(2):
        with pytest.raises(BuildError, match="not these inputs"):
            session.run(INPUTS)


@pytest.mark.slow
def test_a_hang_ends_at_the_limit(engine: Any) -> None:
    session = GuardedSession(engine(run="hangs"), TARGET)
    session._seconds = 1.0
    with pytest.raises(RepruneError, match="did not answer within 1 s and was stopped"):
        session.run(INPUTS)
    assert session._child.poll() is not None
