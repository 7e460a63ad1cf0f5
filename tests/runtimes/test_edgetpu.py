"""What would run on the Edge TPU: by what is published of it, and by its compiler's own log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from msgspec import structs
from torch import Tensor, nn

from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.runtimes import edgetpu
from reprune.runtimes.base import Source, get_runtime
from reprune.runtimes.edgetpu import checked, parse_log
from reprune.runtimes.edgetpu_rules import fallbacks, refusal
from reprune.runtimes.tflite_file import TfliteOperator, TfliteTensor, read_tflite
from tests import tflite_files as made
from tests import zoo
from tests.litert_environment import converter_python

RUNTIME = edgetpu.EdgeTpu()
LOG = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 5 ms.

Input model: model.tflite
Input size: 7.31MiB
Number of Edge TPU subgraphs: 1
Total number of operations: 6
Number of operations that will run on Edge TPU: 3
Number of operations that will run on CPU: 3

Operator                       Count      Status

CONV_2D                        3          Mapped to Edge TPU
CONV_2D                        2          More than one subgraph is not supported
SOFTMAX                        1          Max 16000 elements supported
"""


def tensor(
    *shape: int, kind: str = "INT8", constant: int = 0, numbers: tuple[int, ...] = ()
) -> TfliteTensor:
    return TfliteTensor(
        name="t", type=kind, shape=shape, constant_bytes=constant, scales=1, numbers=numbers
    )


def numbers(*values: int) -> TfliteTensor:
    return tensor(len(values), kind="INT32", constant=4 * len(values), numbers=values)


def one(
    name: str, *inputs: TfliteTensor, output: TfliteTensor | None = None, **knobs: int
) -> TfliteOperator:
    return TfliteOperator(
        name=name,
        version=1,
        inputs=inputs or (tensor(1, 8, 8, 4),),
        outputs=(output or tensor(1, 8, 8, 4),),
        knobs=dict(knobs),
    )


PICTURE = tensor(1, 8, 8, 4)


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        (one("GELU"), "is not supported"),
        (one("CUSTOM Whatever"), "is not supported"),
        (one("ADD", tensor(1, 8, kind="FLOAT32")), "computes in FLOAT32"),
        (one("ADD", tensor(-1, 8)), "has a tensor of no fixed size"),
        (one("ADD", tensor(2, 8, 8, 4)), "only the last three"),
        (one("CONV_2D", dilationHFactor=2, dilationWFactor=1), "other dilations"),
        (one("FULLY_CONNECTED", tensor(4, 8), output=tensor(4, 5)), "more than one row"),
        (one("FULLY_CONNECTED", tensor(1, 8), output=tensor(1, 5), weightsFormat=1), "shuffled"),
        (one("SOFTMAX", tensor(1, 4, 5)), "not over one dimension"),
        (one("SOFTMAX", tensor(1, 16_001)), "not over one dimension"),
        (one("MAX_POOL_2D", fusedActivationFunction=1), "fused activation"),
        (one("CONCATENATION", PICTURE, PICTURE, fusedActivationFunction=1), "fused activation"),
        (one("CONCATENATION", PICTURE, PICTURE, tensor(1, 8, constant=8)), "joins a constant"),
        (one("PAD", PICTURE, numbers(0, 0, 1, 1, 1, 1, 0, 1)), "pads the batch or channels"),
        (one("STRIDED_SLICE", PICTURE, numbers(0), numbers(1), numbers(2)), "a stride above 1"),
        (
            one("STRIDED_SLICE", PICTURE, numbers(0), numbers(1), numbers(1), newAxisMask=1),
            "new axis",
        ),
        (one("MEAN", tensor(1, 8, 8, 41), numbers(3)), "a mean over 41 channels"),
        (one("MEAN", tensor(4, 41), numbers(0)), "reduces the batch"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_what_is_published_as_unsupported_is_refused(operator: TfliteOperator, reason: str) -> None:
    assert reason in refusal(operator)


@pytest.mark.parametrize(
    "operator",
    [
        one("ADD"),
        one(
            "CONV_2D",
            PICTURE,
            tensor(13, 3, 3, 4, constant=468),
            dilationHFactor=2,
            dilationWFactor=2,
        ),
        one("FULLY_CONNECTED", tensor(1, 8), output=tensor(1, 5)),
        one("SOFTMAX", tensor(1, 16_000)),
        one("PAD", PICTURE, numbers(0, 0, 1, 1, 1, 1, 0, 0)),
        one("MEAN", tensor(1, 8, 8, 41), numbers(1, 2)),
        one("MEAN", tensor(1, 8, 8, 44), numbers(-1)),
        one("STRIDED_SLICE", PICTURE, numbers(0), numbers(1), numbers(1)),
        one("CONCATENATION", PICTURE, PICTURE, PICTURE),
    ],
    ids=lambda value: value.name,
)
def test_what_is_published_as_supported_is_not_refused(operator: TfliteOperator) -> None:
    assert refusal(operator) == ""


def chain(*names: str, kind: str = "INT8") -> bytes:
    """(1, 4) through operators of one input each."""
    scale = (0.1,) if kind == "INT8" else ()
    tensors = [made.Tensor(f"t{n}", (1, 4), kind, scale) for n in range(len(names) + 1)]
    operators = [made.operator(name, [n], [n + 1]) for n, name in enumerate(names)]
    return made.tflite(tensors, operators, inputs=[0], outputs=[len(names)])


def test_what_comes_after_the_cpu_is_on_the_cpu_too() -> None:
    found = fallbacks(read_tflite(chain("TANH", "GELU", "TANH", "LOGISTIC"), where=""))
    assert [(each.place, each.operator) for each in found] == [
        (1, "GELU"),
        (2, "TANH"),
        (3, "LOGISTIC"),
    ]
    assert [each.reason for each in found] == [
        "is not supported",
        "comes after GELU on the CPU",
        "comes after GELU on the CPU",
    ]


def test_a_float_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match="net: the model computes in float: TANH"):
        checked(chain("TANH", kind="FLOAT32"), where="net")
    with pytest.raises(BuildError, match=r"no \.tflite file"):
        checked(b"nothing at all", where="net")


def test_without_its_compiler_the_notes_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found, notes = checked(chain("TANH", "GELU", "GELU"), where="net")
    assert len(found) == 2
    assert notes == (
        "not compiled: edgetpu_compiler is not on PATH; what runs where is as published",
        "on the CPU: 2 x GELU: is not supported",
    )


def test_parameters_that_do_not_fit_on_the_chip_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    rows = 9 * 2**20 // 4
    content = made.tflite(
        [
            made.Tensor("x", (1, 4), "INT8", (0.1,)),
            made.Tensor("w", (rows, 4), "INT8", (0.1,), values=np.zeros((rows, 4))),
            made.Tensor("y", (1, rows), "INT8", (0.1,)),
        ],
        [made.operator("FULLY_CONNECTED", [0, 1], [2], options=schema.FullyConnectedOptionsT())],
        inputs=[0],
        outputs=[2],
    )
    found, notes = checked(content, where="net")
    assert found == ()
    assert (
        f"parameters of {9 * 2**20} bytes do not fit on the chip: {2**20} are streamed" in notes[-1]
    )


def compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = folder / "edgetpu_compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_compilers_own_log_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path, monkeypatch, f': > "$3/model_edgetpu.tflite"\ncat <<"END"\n{LOG}END')
    found, notes = checked(chain("TANH"), where="net")
    assert [each.operator for each in found] == ["CONV_2D", "CONV_2D", "SOFTMAX"]
    assert notes == (
        "compiled by Edge TPU Compiler version 16.0.384591198",
        "on the CPU: 2 x CONV_2D: more than one subgraph is not supported",
        "on the CPU: 1 x SOFTMAX: max 16000 elements supported",
    )


def test_a_log_that_maps_everything_has_no_fallbacks() -> None:
    assert parse_log([line for line in LOG.splitlines() if "Mapped" in line]) == ()


def test_what_the_compiler_refuses_is_told_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(tmp_path, monkeypatch, "echo 'Invalid model: model.tflite' >&2; exit 1")
    with pytest.raises(BuildError, match=r"edgetpu_compiler refuses the model: Invalid model"):
        checked(chain("TANH"), where="net")
    compiler(tmp_path, monkeypatch, "echo 'Internal compiler error. Aborting!'")
    with pytest.raises(BuildError, match="Internal compiler error"):
        checked(chain("TANH"), where="net")
    compiler(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(edgetpu, "COMPILING_SECONDS", 0.2)
    with pytest.raises(BuildError, match="did not end within"):
        checked(chain("TANH"), where="net")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(runtime="edgetpu", precision="fp32"), "computes in int8 alone"),
        (Target(runtime="edgetpu", precision="int8", options={"max_fallback": 1}), "did you mean"),
        (Target(runtime="edgetpu", precision="int8", options={"max_fallbacks": -1}), "no count"),
        (Target(runtime="edgetpu", precision="int8", options={"max_fallbacks": True}), "no count"),
    ],
)
def test_targets_that_make_no_sense_are_refused(
    tmp_path: Path, target: Target, message: str
) -> None:
    source = Source(module=nn.Linear(4, 2), example_inputs=(torch.randn(2, 4),), input_names=("x",))
    with pytest.raises(BuildError, match=message):
        RUNTIME.build(source, target, tmp_path / "net.tflite")


@pytest.mark.parametrize("by_target", [False, True], ids=["by-source", "by-target"])
def test_nothing_may_stay_in_float(tmp_path: Path, by_target: bool) -> None:
    kept = ("layer",)
    source = Source(
        module=nn.Linear(4, 2),
        example_inputs=(torch.randn(2, 4),),
        input_names=("x",),
        float_layers=() if by_target else kept,
    )
    target = Target(runtime="edgetpu", precision="int8", float_layers=kept if by_target else ())
    with pytest.raises(BuildError, match="layer is to stay so"):
        RUNTIME.build(source, target, tmp_path / "net.tflite")


def test_its_latency_here_means_nothing() -> None:
    assert not get_runtime("edgetpu").capabilities.latency


@pytest.mark.slow
def test_a_pruned_network_is_whole_on_the_edge_tpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(runtime="edgetpu", precision="int8", python=converter_python())
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    model, path = zoo.pruned("odd-cnn"), tmp_path / "net.tflite"
    source = Source(
        module=model.module,
        example_inputs=model.example_inputs,
        input_names=model.input_names,
        calibration=model.calibration,
    )
    strict = structs.replace(target, options={"max_fallbacks": 0})
    fact = RUNTIME.build(source, strict, path)
    assert fact.fallbacks == 0
    assert any(note.startswith("not compiled") for note in fact.notes)
    read = read_tflite(path.read_bytes(), where="")
    assert {each.type for each in (*read.inputs, *read.outputs)} == {"INT8"}
    dense = [each for each in read.operators if each.name == "FULLY_CONNECTED"]
    assert [each.inputs[1].scales for each in dense] == [1]
    (found,) = RUNTIME.open(path, target).run([each.numpy() for each in model.held])
    with torch.no_grad():
        wanted = model.module(*model.held).numpy()
    assert float((found.argmax(1) == wanted.argmax(1)).mean()) >= 0.95


@pytest.mark.slow
def test_an_operator_that_falls_back_is_named_and_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gelu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 5, 3), nn.Linear(180, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.gelu(self.conv(x)).flatten(1))

    target = Target(runtime="edgetpu", precision="int8", python=converter_python())
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    torch.manual_seed(0)
    inputs = (torch.randn(8, 3, 8, 8),)
    source = Source(module=Gelu(), example_inputs=inputs, input_names=("x",), calibration=[inputs])
    strict = structs.replace(target, options={"max_fallbacks": 0})
    with pytest.raises(BuildError, match="GELU: is not supported"):
        RUNTIME.build(source, strict, tmp_path / "net.tflite")
    assert not (tmp_path / "net.tflite").exists()
    fact = RUNTIME.build(source, target, tmp_path / "net.tflite")
    assert fact.fallbacks >= 2
    assert any("1 x GELU: is not supported" in note for note in fact.notes)
