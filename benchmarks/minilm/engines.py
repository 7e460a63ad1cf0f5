"""A MiniLM as ONNX files, in fp32 and in dynamic int8, and their answers through ONNX Runtime."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from benchmarks.sst2 import MAX_TOKENS, Sst2Task
from reprune.core.params import Target
from reprune.runtimes.onnx_export import export_onnx
from reprune.runtimes.onnxruntime import OnnxRuntime
from reprune.task.protocol import Batch

TOKENS = {1: ("tokens", 2, MAX_TOKENS)}


def write_engines(task: Sst2Task, module: nn.Module, out: Path, name: str) -> dict[str, Path]:
    """`out/<name>-fp32.onnx` and `-int8.onnx`; any batch size and up to 48 tokens run.

    int8 is onnxruntime.quantization.quantize_dynamic with signed weights per tensor, as it comes:
    weights are stored as int8, activations are quantised at run time.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = {kind: out / f"{name}-{kind}.onnx" for kind in ("fp32", "int8")}
    content = export_onnx(module, task.example_inputs(2), task.input_names, open_dimensions=TOKENS)
    paths["fp32"].write_bytes(content)
    _quantise(content, paths["int8"])
    return paths


def _quantise(content: bytes, out: Path) -> None:
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_from_string(content)
    # Shapes that the exporter inferred before transposing stop the quantiser's own inference.
    del model.graph.value_info[:]
    level = logging.getLogger().level
    logging.getLogger().setLevel(
        logging.ERROR
    )  # it advises a preprocessing that changes nothing here
    try:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            onnx.save(model, str(source))
            quantize_dynamic(str(source), str(out), weight_type=QuantType.QInt8)
    finally:
        logging.getLogger().setLevel(level)


def engine_answers(path: Path) -> Callable[[Batch], np.ndarray]:
    """Logits by the engine, one thread, a sentence at a time and at its own length: as it is deployed.

    A dynamic range over a whole batch would make an answer depend on its neighbours.
    """
    session = OnnxRuntime().open(path, Target())

    def answer(batch: Batch) -> np.ndarray:
        ids, mask = (tensor.cpu().numpy() for tensor in batch.inputs)
        rows = []
        for row, width in enumerate(mask.sum(axis=1)):
            place = np.s_[row : row + 1, :width]
            rows.append(session.run([ids[place], mask[place]])[0])
        return np.concatenate(rows)

    return answer
