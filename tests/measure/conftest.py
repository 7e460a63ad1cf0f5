"""Two small engines, and a runtime that writes down what is done to it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from reprune.core.params import Target
from reprune.runtimes.base import Source
from reprune.runtimes.onnxruntime import OnnxRuntime

PROBE = '''
"""A runtime whose sessions append (pid, event, arm) to a log; an engine's text says how it behaves."""
import json, os, signal, time
from pathlib import Path
from reprune.core.errors import BuildError


class Probe:
    suffix = ".probe"

    def version(self):
        return "1"

    def open(self, engine, target):
        return ProbeSession(Path(engine))


class ProbeSession:
    def __init__(self, engine):
        self.arm = engine.stem
        self.does = json.loads(engine.read_text())
        self.log = Path(os.environ["PROBE_LOG"])
        self.note("open")
        if self.does.get("refuses"):
            raise BuildError("the probe does not load", where=str(engine))

    def note(self, event):
        with self.log.open("a") as stream:
            stream.write(json.dumps([os.getpid(), event, self.arm]) + "\\n")

    def run(self, inputs):
        self.note("run")
        if self.does.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        until = time.perf_counter() + self.does["ms"] / 1e3
        while time.perf_counter() < until:
            pass
        return []
'''


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_and_big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Engines for inputs of 1x64: a net, and one with some sixty times as much to do."""
    folder = tmp_path_factory.mktemp("engines")
    paths = []
    for name, width in (("small", 64), ("big", 1024)):
        torch.manual_seed(0)
        layers = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Linear(width, 4)).eval()
        path = folder / f"{name}.onnx"
        OnnxRuntime().build(
            Source(module=net, example_inputs=(torch.zeros(1, 64),), input_names=["x"]),
            Target(),
            path,
        )
        paths.append(path)
    return paths[0], paths[1]


class ProbeBench:
    """A folder with the probe runtime installed for this process and its children."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.jsonl"
        self.target = Target(runtime="probe")

    def engine(self, arm: str, **does: object) -> Path:
        path = self.folder / f"{arm}.probe"
        path.write_text(json.dumps({"ms": 0.1, **does}))
        return path

    def events(self) -> list[tuple[int, str, str]]:
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProbeBench:
    site = tmp_path / "site"
    facts = site / "probe_runtime-1.dist-info"
    facts.mkdir(parents=True)
    (site / "probe_runtime.py").write_text(PROBE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-runtime\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[reprune.runtimes]\nprobe = probe_runtime:Probe\n")
    bench = ProbeBench(tmp_path)
    monkeypatch.syspath_prepend(str(site))
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("PROBE_LOG", str(bench.log))
    return bench
