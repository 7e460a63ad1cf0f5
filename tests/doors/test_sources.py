"""`reprune sources` gives C files that compile as they are and compute what the engine computes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reprune.core.params import Target
from reprune.doors.cli import main
from reprune.runtimes.base import Source, get_runtime
from reprune.runtimes.microcontroller.csource import CODE_BOUND

CC = shutil.which("gcc") or shutil.which("cc")
MAIN = """
#include <stdio.h>
#include <string.h>
#include "reprune_model.h"
#include "reprune_infer.h"
static reprune_machine machine;
int main(void) {
    float x[3];
    if (fread(x, sizeof x, 1, stdin) != 1) return 2;
    memcpy(machine.arena + REPRUNE_INPUT_0, x, sizeof x);
    if (reprune_infer(&machine, reprune_model, REPRUNE_MODEL_SIZE)) return 3;
    return fwrite(machine.arena + REPRUNE_OUTPUT_0, sizeof(float), 2, stdout) != 2;
}
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    source = Source(module=module, example_inputs=(torch.randn(2, 3),), input_names=("x",))
    path = tmp_path / "candidate.rpm"
    get_runtime("microcontroller").build(source, target(), path)
    return path


def target() -> Target:
    return Target(runtime="microcontroller", precision="int8-weights")


@pytest.mark.slow
def test_the_files_are_there_and_told(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sources", engine.name, "--out", "out/c", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    folder = engine.parent / "out" / "c"
    assert sorted(told["files"]) == sorted(path.name for path in folder.iterdir())
    assert {"reprune_model.c", "reprune_compact.c", "reprune_infer.c"} <= set(told["files"])
    assert told["model_bytes"] == engine.stat().st_size
    assert 0 < told["code_bytes"] <= CODE_BOUND
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.skipif(CC is None, reason="no C compiler on this machine")
def test_they_compile_and_compute_the_same(engine: Path) -> None:
    assert main(["sources", engine.name, "--out", "c"]) == 0
    folder = engine.parent / "c"
    (folder / "main.c").write_text(MAIN)
    code = sorted(path.name for path in folder.glob("*.c"))
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-lm", "-o", "program"]
    subprocess.run([str(CC), *code, *flags], cwd=folder, check=True)
    x = np.array([[0.5, -1.0, 2.0]], np.float32)
    done = subprocess.run(
        [folder / "program"], input=x.tobytes(), capture_output=True, check=True, timeout=60
    )
    (wanted,) = get_runtime("microcontroller").open(engine, target()).run([x])
    np.testing.assert_allclose(np.frombuffer(done.stdout, np.float32), wanted[0], atol=1e-6)


def test_what_is_no_engine_writes_nothing(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut short, another runtime's, absent; and a folder that is there already is left alone."""
    for name, content in (
        ("cut.rpm", engine.read_bytes()[:-1]),
        ("net.onnx", b"onnx"),
        ("no", None),
    ):
        if content is not None:
            Path(name).write_bytes(content)
        assert main(["sources", name, "--out", "c"]) == 2
        assert name in capsys.readouterr().err
        assert not Path("c").exists()
    Path("mine").mkdir()
    assert main(["sources", engine.name, "--out", "mine"]) == 2
    assert list(Path("mine").iterdir()) == []


def test_facts_do_not_depend_on_a_compiler(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts enter digests: one model has the same ones on machines with and without gcc."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    source = Source(module=module, example_inputs=(torch.randn(2, 3),), input_names=("x",))
    build = get_runtime("microcontroller").build
    here = build(source, target(), tmp_path / "here.rpm")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build(source, target(), tmp_path / "there.rpm") == here
    assert (tmp_path / "there.rpm").read_bytes() == engine.read_bytes()
