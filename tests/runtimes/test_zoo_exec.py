"""Real models, cut by our own surgery, on ExecuTorch and on torch: within the bounds of the precision.

CI converts one model for every runtime and precision; the others are deep.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from reprune.core.params import Precision, Target
from reprune.core.policy import PARITY_BY_PRECISION, ParityRules
from reprune.runtimes.base import Source, get_runtime
from tests import zoo

pytestmark = pytest.mark.slow
COLUMNS: list[tuple[str, Precision]] = [
    ("executorch", "fp32"),
    ("executorch", "int8"),
    ("torch", "fp32"),
    ("torch-compiled", "fp32"),
]
# As many as a build reads by default; more than one batch size, and less than one of it.
HELD = 64


def answers(outputs: np.ndarray) -> np.ndarray:
    """What the task would read: the class of an example, or the side of a pixel."""
    return outputs.argmax(axis=1) if outputs.ndim == 2 else outputs > 0


def check(
    model: zoo.ZooModel,
    runtime: str,
    precision: Precision,
    folder: Path,
    float_layers: tuple[str, ...] = (),
) -> Path:
    """Builds and runs for several numbers of examples; the engine's path."""
    target = Target(runtime=runtime, precision=precision, batch_size=2, float_layers=float_layers)
    source = Source(
        module=model.module,
        example_inputs=model.example_inputs,
        input_names=model.input_names,
        calibration=model.calibration,
    )
    path = folder / f"{runtime}-{precision}.engine"
    fact = get_runtime(runtime).build(source, target, path)
    session = get_runtime(runtime).open(path, target)
    with torch.no_grad():
        expected = model.module(*model.held).numpy()
    found = session.run([tensor.numpy() for tensor in model.held])[0]
    bounds = PARITY_BY_PRECISION.get(precision, ParityRules())
    one, other = expected.astype(float).ravel(), found.astype(float).ravel()
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) >= bounds.min_cosine
    assert (answers(expected) == answers(found)).mean() >= bounds.min_agreement
    assert bounds.max_abs is None or np.abs(one - other).max() <= bounds.max_abs
    for count in (1, 3):
        part = session.run([tensor[:count].numpy() for tensor in model.held])[0]
        assert np.abs(part - found[:count]).max() <= 1e-4 * np.abs(found).max()
    assert bool(fact.float_layers) == bool(float_layers)
    return path


@functools.cache
def size_of_pruned(name: str, runtime: str, precision: Precision) -> int:
    """The bytes of a cut model's engine, once it was checked; built once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        return check(zoo.pruned(name), runtime, precision, Path(folder)).stat().st_size


@pytest.mark.parametrize(
    "name", [zoo.FAST[0], *(pytest.param(name, marks=pytest.mark.deep) for name in zoo.FAST[1:])]
)
@pytest.mark.parametrize(("runtime", "precision"), COLUMNS)
def test_pruned(name: str, runtime: str, precision: Precision) -> None:
    assert size_of_pruned(name, runtime, precision) > 0


@pytest.mark.deep
@pytest.mark.parametrize(("runtime", "precision"), COLUMNS)
def test_dense(runtime: str, precision: Precision, tmp_path: Path) -> None:
    check(zoo.dense("odd-cnn"), runtime, precision, tmp_path)


def test_int8_and_a_cut_both_make_the_file_smaller(tmp_path: Path) -> None:
    dense = check(zoo.dense("odd-cnn"), "executorch", "fp32", tmp_path).stat().st_size
    sizes = [dense, *(size_of_pruned("odd-cnn", "executorch", one) for one in ("fp32", "int8"))]
    assert sizes[1] < 0.8 * sizes[0]
    assert sizes[2] < 0.4 * sizes[1]


@pytest.mark.deep
@pytest.mark.skipif(not zoo.has_minilm, reason="the weights of MiniLM are not installed")
@pytest.mark.parametrize(("runtime", "precision"), COLUMNS)
def test_minilm(runtime: str, precision: Precision, tmp_path: Path) -> None:
    # In int8 throughout its outputs have a cosine of 0.90: what is added to the residual stream hurts.
    kept = ("*.output.dense",) if precision == "int8" else ()
    check(zoo.pruned("minilm"), runtime, precision, tmp_path, kept)
