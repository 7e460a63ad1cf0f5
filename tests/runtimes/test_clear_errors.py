"""For every runtime: what is not installed is named with its install line, and a full disk loses nothing.

Damaged files, other inputs and threads are in the promises that tests/measure/test_conformance.py holds
each of them to; engines of another machine in tests/steps/test_engines.py; crashes and hangs, which are the
same for all of them, in tests/runtimes/test_isolated.py, test_guarded.py and tests/measure/test_latency.py.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from reprune.core.errors import DiskFull, MissingExtra
from reprune.core.params import Target
from reprune.measure.conformance import small_net, small_source
from reprune.runtimes.base import RUNTIMES, get_runtime
from reprune.runtimes.isolated import build_within
from tests.litert_environment import converter_python

# Those of ours, and those whose library is not asked for a version.
WITHOUT_LIBRARY = {"microcontroller"}
BUILT = (
    "onnxruntime", "openvino", "torch", "torch-compiled", "microcontroller", "executorch", "litert",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(RUNTIMES) - WITHOUT_LIBRARY))
def test_a_missing_extra_is_named_with_the_line_that_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the latest when an engine is opened."""
    runtime = get_runtime(name)
    can = runtime.capabilities
    assert can.modules
    wanted = {module.partition(".")[0] for module in can.modules}
    if name == "tensorrt-rtx":
        wanted.add("tensorrt_rtx")
    for module in [each for each in sys.modules if each.partition(".")[0] in wanted]:
        monkeypatch.setitem(sys.modules, module, None)
    for module in (*wanted, *can.modules):
        monkeypatch.setitem(sys.modules, module, None)
    engine = tmp_path / "engine"
    engine.write_bytes(b"any")
    with pytest.raises(MissingExtra) as caught:
        runtime.version()
        # ExecuTorch's is told by the package's metadata, without loading it.
        runtime.open(engine, Target(runtime=name))
    assert f"reprune[{can.extra}]" in caught.value.fix


class Full:
    """A disk on which nothing more can be written under `folder`, by whatever way our code writes."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        really_open, really_copy = os.open, shutil.copyfile

        def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR) and self._here(path):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return really_open(path, flags, *rest, **named)

        def copied(source: Any, destination: Any, **named: Any) -> Any:
            if self._here(destination):
                raise OSError(errno.ENOSPC, "No space left on device", str(destination))
            return really_copy(source, destination, **named)

        patch.setattr(os, "open", opened)
        patch.setattr(shutil, "copyfile", copied)

    def _here(self, path: Any) -> bool:
        return not isinstance(path, int) and str(path).startswith(str(self.folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    # What compiles or converts for long does so in the deep tier.
    [
        pytest.param(name, marks=pytest.mark.deep) if name in {"litert", "torch-compiled"} else name
        for name in BUILT
    ],
)
def test_a_full_disk_is_said_and_the_engine_that_was_there_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half-written is left beside it either."""
    pytest.importorskip("executorch") if name == "executorch" else None
    runtime = get_runtime(name)
    target = Target(runtime=name, python=converter_python() if name == "litert" else "")
    folder = tmp_path / "disk"
    folder.mkdir()
    destination = folder / f"net{runtime.suffix}"
    destination.write_bytes(b"the engine before")
    module = small_net()
    Full(folder, monkeypatch)
    with pytest.raises(DiskFull) as caught:
        build_within(runtime, small_source(module), target, destination, seconds=300)
    assert str(folder) in caught.value.where
    assert caught.value.fix
    monkeypatch.undo()
    assert [path.name for path in folder.iterdir()] == [destination.name]
    assert destination.read_bytes() == b"the engine before"
