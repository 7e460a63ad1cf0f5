"""Accuracy of a compact file, as a process that never saw the model decodes it.

`python -m benchmarks.lenet.read FILE [--held-out]`.

Decodes the file with numpy alone, runs the network and prints {"accuracy": ..., "bytes": ...}.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.common import data
from reprune.runtimes.compact import Quantised, decode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--held-out", action="store_true", help="not the test images")
    options = parser.parse_args()
    content = options.file.read_bytes()
    with np.load(data("mnist.npz")) as found:
        if options.held_out:
            images, labels = found["train_x"][-5_000:], found["train_y"][-5_000:]
        else:
            images, labels = found["test_x"], found["test_y"]
    tensors = {
        name: tensor.values()
        for name, tensor in decode(content).items()
        if isinstance(tensor, Quantised)
    }
    hidden = images.reshape(len(images), -1).astype(np.float32) / 255
    for layer in ("fc1", "fc2", "fc3"):
        hidden = hidden @ tensors[f"{layer}.weight"].T + tensors[f"{layer}.bias"]
        hidden = np.maximum(hidden, 0) if layer != "fc3" else hidden
    accuracy = 100.0 * float((hidden.argmax(1) == labels).mean())
    assert "torch" not in sys.modules, "the reader is to work without torch"
    print(json.dumps({"accuracy": accuracy, "bytes": len(content)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
