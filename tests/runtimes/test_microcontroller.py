"""Microcontroller engines: numpy and compiled C give what the module gives, and damage is an error."""

from __future__ import annotations

import binascii
import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from torch import Tensor, nn

from reprune.core.errors import BuildError, PayloadCorrupt, SchemaTooNew
from reprune.core.params import Target
from reprune.runtimes.base import Source, get_runtime
from reprune.runtimes.compact import Quantised, recoded
from reprune.runtimes.microcontroller.csource import (
    CODE_BOUND,
    code_size,
    ram_bytes,
    write_sources,
)
from reprune.runtimes.microcontroller.engine import read_engine, sections
from reprune.runtimes.microcontroller.graph import CLAMP, CONV, WEIGHTED, read_graph, write_graph
from reprune.runtimes.microcontroller.plan import Life, offsets
from reprune.runtimes.sparse.forms import varints
from tests import zoo

CC = shutil.which("gcc") or shutil.which("cc")
needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler on this machine")
MCU = get_runtime("microcontroller")

# What the engine computes, and each weight as the decoder gives it; the engine is a file, so that
# damaged ones can be run without compiling again.
MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "reprune_model.h"
#include "reprune_infer.h"
static reprune_machine machine;
int main(int count, char **files) {
    int place, bad = 0;
    for (place = 2; place < count; place++) {
        FILE *file = fopen(files[place], "rb"), *inputs = fopen(files[1], "rb");
        uint32_t size = 0;
        static uint8_t read_to[1 << 20];
        static float x[INPUT];
        uint8_t *engine;
        int error = 0;
        size = (uint32_t)fread(read_to, 1, sizeof read_to, file);
        engine = malloc(size ? size : 1); /* of exactly its size: the sanitiser sees what lies beyond */
        memcpy(engine, read_to, size);
        while (!error && fread(x, sizeof x, 1, inputs) == 1) {
            memcpy(machine.arena + REPRUNE_INPUT_0, x, sizeof x);
            error = reprune_infer(&machine, engine, size);
            if (!error && count == 3) fwrite(machine.arena + REPRUNE_OUTPUT_0, sizeof(float), OUTPUT, stdout);
        }
        if (error > 0) return 9;
        bad += error != 0;
        free(engine);
        fclose(file);
        fclose(inputs);
    }
    fprintf(stderr, "%d\\n", bad);
    return 0;
}
"""


def build(
    folder: Path, module: nn.Module, example: Tensor, precision="fp32", **more
) -> tuple[Path, object]:
    engine = folder / "model.rpm"
    source = Source(
        module=module.eval(), example_inputs=(example,), input_names=("x",), sparsity=more.pop("sparsity", "")
    )  # fmt: skip
    target = Target(runtime="microcontroller", precision=precision, options=more)
    return engine, MCU.build(source, target, engine)


def outputs(engine: Path, inputs: Tensor) -> list[np.ndarray]:
    return MCU.open(engine, Target(runtime="microcontroller")).run([inputs.numpy()])


def compiled(folder: Path, engine: Path, *, sanitised: bool = True) -> Path:
    graph = sections(engine.read_bytes()).graph
    write_sources(engine.read_bytes(), folder)
    (folder / "main.c").write_text(MAIN)
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror"]
    if sanitised:
        flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sizes = [int(np.prod(port.dims)) for port in (graph.inputs[0], graph.outputs[0])]
    flags += [f"-DINPUT={sizes[0]}", f"-DOUTPUT={sizes[1]}"]
    code = sorted(path.name for path in folder.glob("*.c"))
    subprocess.run([CC, *flags, *code, "-lm", "-o", "program"], cwd=folder, check=True)
    return folder / "program"


def c_outputs(folder: Path, engine: Path, inputs: Tensor) -> np.ndarray:
    program = compiled(folder, engine)
    (folder / "inputs").write_bytes(inputs.numpy().astype("<f4").tobytes())
    done = subprocess.run(
        [program, folder / "inputs", engine], capture_output=True, check=True, timeout=120
    )
    assert done.stderr == b"0\n"
    return np.frombuffer(done.stdout, "<f4").reshape(len(inputs), -1)


def expected(module: nn.Module, inputs: Tensor) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(inputs).numpy()


class Everything(nn.Module):
    """Every kind of operation once, with sides, strides and channels that are odd and not alike."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, (3, 5), stride=(2, 1), padding=(1, 2), bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6)
        self.lone = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.up_norm = nn.BatchNorm2d(4)
        self.same = nn.Conv2d(4, 5, 3, padding="same")
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 5, 1), nn.Hardsigmoid(inplace=True)
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.average = nn.AvgPool2d((2, 3), stride=2, padding=(0, 1), count_include_pad=False)
        self.grow = nn.Upsample(scale_factor=(2, 3), mode="nearest")
        self.line = nn.Conv1d(7, 4, 3, stride=2, padding=1)
        self.drop = nn.Dropout()
        self.head = nn.Linear(4, 5)
        self.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.5
        x = nn.functional.relu(self.norm(self.first(x)))
        x = self.lone(nn.functional.leaky_relu(x + nn.functional.silu(self.deep(x)), 0.1))
        x = nn.functional.hardswish(self.up_norm(self.up(x)))
        x = torch.tanh(self.same(x))
        x = x * self.gate(x)
        x = self.pool(x)
        one, other = x.chunk(2, dim=1)
        x = torch.cat([nn.functional.pad(other, (0, 0, 0, 0, 1, 0)), one, x[:, :1]], dim=1)
        x = self.grow(nn.functional.relu6(self.average(x)))[:, :, 1::2, :-1]
        x = torch.sigmoid(self.line(x.flatten(2))).mean(2)
        return nn.functional.log_softmax(self.head(self.drop(x)).clamp(-3, 2), dim=1).softmax(1)


def everything(seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    module = Everything()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        module.head.weight.mul_(8)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2.0)
    return module, torch.randn(5, 3, 9, 8)


@pytest.mark.slow
@needs_cc
def test_every_operation_in_numpy_and_in_c(tmp_path):
    module, x = everything()
    engine, _ = build(tmp_path, module, x[:2])
    wanted = expected(module, x)
    assert np.ptp(wanted, axis=0).max() > 0.01  # it depends on the input
    (found,) = outputs(engine, x)
    assert np.abs(found - wanted).max() < 1e-5
    assert np.abs(c_outputs(tmp_path / "c", engine, x) - found).max() < 1e-6
    used = {op.code for op in sections(engine.read_bytes()).graph.ops}
    assert used == set(range(18))


@pytest.mark.slow
@needs_cc
def test_the_code_without_an_exponential_calls_nothing_of_math_h(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU())
    x = torch.randn(4, 3, 2, 2)
    engine, _ = build(tmp_path, module, x[:2])
    found = c_outputs(tmp_path / "c", engine, x)
    assert np.abs(found - outputs(engine, x)[0]).max() < 1e-6
    assert "USES_EXP 0" in (tmp_path / "c" / "reprune_model.h").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["odd-cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in zoo.FAST[1:])]
)
def test_a_pruned_model_converts_and_agrees(name, tmp_path):
    model = zoo.pruned(name)
    x = model.held[0][:8]
    engine, fact = build(tmp_path, model.module, model.example_inputs[0])
    (found,) = outputs(engine, x)
    assert np.abs(found - expected(model.module, x)).max() < 1e-4
    assert fact.notes == ()


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *itertools.product(zoo.FAST[:1], ("fp32", "int8-weights", "palette4")),
        *(
            pytest.param(*pair, marks=pytest.mark.deep)
            for pair in itertools.product(zoo.FAST[1:], ("fp32", "int8-weights", "palette4"))
        ),
    ],
)
def test_a_pruned_model_in_every_precision_and_in_c(name, precision, tmp_path):
    model = zoo.pruned(name)
    x = model.held[0]
    engine, _ = build(tmp_path, model.module, model.example_inputs[0], precision)
    (found,) = outputs(engine, x)
    wanted = expected(model.module, x)
    cosine = (found * wanted).sum() / np.linalg.norm(found) / np.linalg.norm(wanted)
    assert cosine > {"fp32": 0.999999, "int8-weights": 0.999, "palette4": 0.95}[precision]
    c_found = c_outputs(tmp_path / "c", engine, x[:4])
    assert np.abs(c_found - found[:4].reshape(4, -1)).max() < 2e-5
    share = {"fp32": 1.01, "int8-weights": 0.3, "palette4": 0.17}[precision]
    size = 4 * sum(parameter.numel() for parameter in model.module.parameters())
    assert engine.stat().st_size < share * size


@pytest.mark.slow
@pytest.mark.skipif(not zoo.has_minilm, reason="the package with MiniLM's weights is not installed")
def test_a_transformer_is_refused_by_name(tmp_path):
    model = zoo.pruned("minilm")
    source = Source(
        module=model.module, example_inputs=model.example_inputs, input_names=model.input_names
    )
    with pytest.raises(BuildError, match="'input_ids' holds int64: code for a microcontroller"):
        MCU.build(source, Target(runtime="microcontroller"), tmp_path / "m.rpm")
    assert not (tmp_path / "m.rpm").exists()


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()), r"layer '1' \(GELU\): gelu is not supported"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), Turned()), r"layer '1' \(Turned\): transpose"),
        (nn.Sequential(nn.Linear(8, 4)), r"layer '0' \(Linear\): linear works on more than a vector"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(3)), r"divides \[8, 8\] into \[3, 3\] unequal parts"),
        (nn.Sequential(nn.Flatten(0)), "first dimension is not the batch"),
        (nn.Sequential(nn.ReflectionPad2d(1)), "pads with something else than zeros|not supported"),
    ],
)  # fmt: skip
def test_what_there_is_no_code_for_is_named(module, words, tmp_path):
    with pytest.raises(BuildError, match=words):
        build(tmp_path, module, torch.randn(2, 3, 8, 8))


def test_weights_that_are_not_finite_and_options_that_are_none_are_refused(tmp_path):
    module = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(BuildError, match="'flash: 3' is no option"):
        build(tmp_path, module, torch.randn(2, 3), flash=3)
    with torch.no_grad():
        module[0].weight[0, 0] = torch.nan
    with pytest.raises(BuildError, match="not finite"):
        build(tmp_path, module, torch.randn(2, 3))


def test_layers_cannot_stay_in_float_where_all_are_small(tmp_path):
    """In fp32 they do by themselves."""
    source = Source(
        module=nn.Sequential(nn.Linear(3, 2)).eval(),
        example_inputs=(torch.randn(2, 3),),
        input_names=("x",),
    )
    target = Target(runtime="microcontroller", float_layers=("0",))
    MCU.build(source, target, tmp_path / "m.rpm")
    for precision in ("int8-weights", "palette4"):
        small = structs.replace(target, precision=precision)
        with pytest.raises(BuildError, match="0 cannot stay in float"):
            MCU.build(source, small, tmp_path / "m.rpm")


@pytest.mark.slow
def test_the_module_and_its_bytes_stay_the_same(tmp_path):
    module, x = everything()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.train()
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        source = Source(module=module, example_inputs=(x[:2],), input_names=("x",))
        paths.append(tmp_path / name / "m.rpm")
        MCU.build(source, Target(runtime="microcontroller", precision="int8-weights"), paths[-1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def lenet(kept: float = 0.1) -> nn.Sequential:
    """LeNet-300-100 with `kept` of its weights, drawn at random: none sits where it codes well."""
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )  # fmt: skip
    with torch.no_grad():
        for layer in module:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(torch.rand_like(layer.weight) < kept)
    return module


DENSE_BYTES = 4 * (784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10)

DUMP = """
#include <stdio.h>
#include "reprune_model.h"
#include "reprune_compact.h"
static reprune_reader reader;
int main(void) {
    uint32_t row, place;
    if (reprune_open(&reader, reprune_model + CODED, SIZE)) return 3;
    while (reader.tensors) {
        if (reprune_next_tensor(&reader)) return 4;
        for (row = 0; row < reader.tensor.rows; row++) {
            if (reprune_next_row(&reader)) return 5;
            for (place = 0; place < reader.tensor.columns; place++)
                fwrite(&reader.tensor.levels[reader.codes[place]], 2, 1, stdout);
        }
    }
    return 0;
}
"""


def decoded_in_c(folder: Path, engine: Path) -> np.ndarray:
    """Every level of every coded weight, as the C decoder gives it."""
    data = engine.read_bytes()
    parts = sections(data)
    write_sources(data, folder)
    (folder / "dump.c").write_text(DUMP)
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    flags += [
        "-fno-sanitize-recover=all",
        f"-DCODED={parts.coded_at}",
        f"-DSIZE={len(parts.coded)}",
    ]
    code = ["dump.c", "reprune_model.c", "reprune_compact.c"]
    subprocess.run([CC, *flags, *code, "-o", "dump"], cwd=folder, check=True)
    done = subprocess.run([folder / "dump"], capture_output=True, check=True)
    return np.frombuffer(done.stdout, "<i2")


def levels(weights) -> np.ndarray:
    """The whole numbers that the books of these weights stand for."""
    found = []
    for one in weights:
        if isinstance(one.weight, Quantised):
            book = one.weight.book.astype(np.float64)
            parts = [np.frexp(abs(value)) for value in book if value]
            exponent = min(
                int(power) - 24 + (int(part * 2**24) & -int(part * 2**24)).bit_length() - 1
                for part, power in parts
            )
            found.append(np.ldexp(book, -exponent)[one.weight.codes].ravel())
    return np.concatenate(found)


@pytest.mark.slow
@needs_cc
def test_a_sparse_lenet_fits_in_a_tenth_and_in_a_megabyte_with_its_decoder(tmp_path):
    """90 % sparse in int8: bit for bit what was encoded after decoding in C, and in Python."""
    module = lenet()
    x = torch.rand(3, 1, 28, 28)
    engine, fact = build(tmp_path, module, x[:2], "int8-weights", sparsity="unstructured")
    size = engine.stat().st_size
    assert size < 0.05 * DENSE_BYTES
    assert size + code_size(engine.read_bytes()).bytes < 0.1 * DENSE_BYTES < 1_000_000
    assert fact.sparsity == "unstructured"
    assert fact.notes == ()
    _, weights = read_engine(engine.read_bytes())
    layers = [layer for layer in module if isinstance(layer, nn.Linear)]
    for one, layer in zip([w for w in weights if w.weight is not None], layers, strict=True):
        weight = layer.weight.detach().numpy()
        # Quantised here once more, by its definition.
        step = (np.abs(weight).max(axis=1, keepdims=True) / 127).astype(np.float32)
        whole = np.rint(weight.astype(np.float64) / step)
        whole = np.where((whole == 0) & (weight != 0), np.sign(weight), whole)
        assert np.array_equal(one.values(), whole)
        assert np.array_equal(one.scale, step[:, 0])
        assert np.array_equal(one.bias, layer.bias.detach().numpy())
    assert np.array_equal(decoded_in_c(tmp_path / "c", engine), levels(weights))
    found = outputs(engine, x)[0]
    assert np.abs(found - expected(module, x)).max() < 0.02


@needs_cc
@pytest.mark.slow
def test_a_sparse_lenet_runs_in_c(tmp_path):
    module, x = lenet(), torch.rand(20, 1, 28, 28)
    for precision in ("fp32", "int8-weights", "palette4"):
        engine, _ = build(tmp_path, module, x[:2], precision)
        (found,) = outputs(engine, x)
        assert np.abs(c_outputs(tmp_path / precision, engine, x) - found).max() < 1e-6


@pytest.mark.deep
@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(os.environ.get("REPRUNE_DATA", "../shared/data")) / "mnist.npz").exists(),
    reason="needs mnist.npz in REPRUNE_DATA",
)
def test_a_lenet_trained_to_90_percent_sparsity_fits_and_answers_as_before(tmp_path):
    from benchmarks.common import data
    from benchmarks.lenet.training import Setting, dense, ours_once

    setting = Setting(seed=0, shifts=False, held_out=True)
    module = ours_once(dense(setting), 0.9, setting).eval()
    with np.load(data("mnist.npz")) as found:
        images = found["train_x"][-5000:].reshape(-1, 784).astype(np.float32) / 255
        labels = found["train_y"][-5000:]
    right = (expected(module, torch.from_numpy(images)).argmax(1) == labels).mean()
    assert right > 0.96
    for precision, share in (("fp32", 0.13), ("int8-weights", 0.045), ("palette4", 0.03)):
        engine, _ = build(tmp_path, module, torch.rand(2, 784), precision)
        content = engine.read_bytes()
        assert len(content) < share * DENSE_BYTES
        assert len(content) + code_size(content).bytes < 1_000_000
        (answers,) = outputs(engine, torch.from_numpy(images))
        assert (answers.argmax(1) == labels).mean() > right - 0.005


@pytest.mark.slow
def test_too_large_for_its_flash_or_ram_is_built_and_said(tmp_path):
    engine, fact = build(
        tmp_path, lenet(), torch.rand(2, 1, 28, 28), "palette4", flash_bytes=20_000, ram_bytes=3_000
    )
    assert engine.exists()
    flash, ram = fact.notes
    assert "more than flash_bytes (20,000)" in flash
    assert "more than ram_bytes (3,000)" in ram
    assert f"{engine.stat().st_size:,} bytes of model" in fact.details["flash"]


def test_weights_of_few_values_come_back_exactly_in_every_precision(tmp_path):
    """What was trained on a few values, or is zero, is never rounded again: a batch norm is a scale."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    few = torch.tensor([0.0, -0.375, 0.125, 0.5])
    with torch.no_grad():
        for layer in (module[0], module[3]):
            layer.weight.copy_(few[torch.randint(4, layer.weight.shape)])
        module[1].running_var.uniform_(0.5, 2)
    for precision in ("fp32", "int8-weights", "palette4"):
        engine, _ = build(tmp_path, module, torch.randn(2, 2, 4, 4), precision)
        graph, weights = read_engine(engine.read_bytes())
        coded = [one for op, one in zip(graph.ops, weights, strict=True) if op.code in WEIGHTED]
        assert all(isinstance(one.weight, Quantised) for one in coded)
        for one, layer in zip(coded, (module[0], module[3]), strict=True):
            assert np.array_equal(one.values(), layer.weight.detach().numpy())


def test_the_session_loads_no_torch_and_takes_only_what_it_was_built_for(tmp_path):
    engine, _ = build(tmp_path, nn.Sequential(nn.Linear(3, 2)), torch.randn(2, 3))
    program = (
        "import sys, numpy as np\nfrom pathlib import Path\n"
        "from reprune.core.params import Target\nfrom reprune.runtimes.base import get_runtime\n"
        "runtime = get_runtime('microcontroller')\n"
        "session = runtime.open(Path(sys.argv[1]), Target())\n"
        "assert session.run([np.zeros((7, 3), np.float32)])[0].shape == (7, 2)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(engine)], check=True)
    session = MCU.open(engine, Target())
    for wrong in (np.zeros((1, 4), np.float32), np.zeros((1, 3)), np.zeros(3, np.float32)):
        with pytest.raises(BuildError, match="takes"):
            session.run([wrong])


def small_engine(folder: Path) -> Path:
    module, x = everything()
    with torch.no_grad():
        module.same.weight.mul_(torch.rand_like(module.same.weight) < 0.2)
    return build(folder, module, x[:2], "int8-weights")[0]


def mended(content: bytes) -> bytes:
    return content + binascii.crc32(content).to_bytes(4, "little")


def doubly_mended(data: bytes, parts) -> bytes:
    """With the checksums of the parts made right as well."""
    start, end = parts.coded_at, parts.coded_at + len(parts.coded)
    inner = data[start : end - 4]
    whole = data[:start] + mended(inner) + data[end:-4]
    start, end = parts.stored_at, parts.stored_at + len(parts.stored)
    return mended(whole[:start] + mended(whole[start : end - 4]) + whole[end:])


@pytest.mark.slow
def test_cut_or_changed_anywhere_an_engine_is_refused(tmp_path):
    data = small_engine(tmp_path).read_bytes()
    for end in range(len(data)):
        with pytest.raises(PayloadCorrupt):
            read_engine(data[:end])
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
        with pytest.raises((PayloadCorrupt, SchemaTooNew)):
            read_engine(changed)
    damaged = tmp_path / "damaged.rpm"
    damaged.write_bytes(data[:-1])
    with pytest.raises(BuildError, match="checksum is wrong"):
        MCU.open(damaged, Target())


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_with_all_checksums_mended_a_changed_engine_is_an_error_or_runs(data):
    whole, parts, _ = victim()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(4, len(content) - 5))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PayloadCorrupt, SchemaTooNew):
        read_engine(doubly_mended(bytes(content), parts))


@functools.cache
def victim():
    with tempfile.TemporaryDirectory() as folder:
        data = small_engine(Path(folder)).read_bytes()
    return data, sections(data), everything()[1]


@pytest.mark.slow
@needs_cc
def test_hostile_engines_end_in_c_without_a_step_out_of_bounds(tmp_path):
    """Cut at every byte, and 1,500 changed ones with right checksums, under both sanitisers."""
    data, parts, x = victim()
    (tmp_path / "whole.rpm").write_bytes(data)
    program = compiled(tmp_path / "c", tmp_path / "whole.rpm")
    (tmp_path / "inputs").write_bytes(x[:1].numpy().tobytes())
    random = np.random.default_rng(0)
    files = [mended(data[:end]) for end in range(0, len(data) - 4, 3)]
    files += [data[:end] for end in range(0, len(data), 7)]
    header = parts.coded_at + 120
    for number in range(1500):
        content = bytearray(data)
        for _ in range(int(random.integers(1, 4))):
            # The graph and headers more often than the weights, in which any byte is as good.
            most = header if number % 2 else len(content) - 4
            content[int(random.integers(4, most))] = int(random.integers(256))
        files.append(doubly_mended(bytes(content), parts))
    names = []
    for number, content in enumerate(files):
        names.append(tmp_path / f"{number}.rpm")
        names[-1].write_bytes(content)
    done = subprocess.run(
        [program, tmp_path / "inputs", *names], capture_output=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert int(done.stderr) > 500
    assert int(done.stderr) < len(files)


@pytest.mark.slow
@needs_cc
@pytest.mark.parametrize(
    "coded",
    [
        b"RPC\x02\xff\xff\xff\xff\x0f",
        b"RPC\x02\x01\xff\xff\xff\xff\x0fw",
        b"RPC\x02\x01\x01w\xff\xff\xff\xff\x0f",
        b"RPC\x02\x01\x01w\x02\xff\xff\xff\xff\x0f\xff\xff\xff\xff\x0f\x00\x00\x01\x00\x01",
        b"RPC\x02\x01\x01w\x02\x01\xff\xff\x03\x00\x00\xff\x00",
    ],
)
def test_huge_counts_in_c_end_at_once(coded, tmp_path):
    data, parts, x = victim()
    (tmp_path / "whole.rpm").write_bytes(data)
    graph = write_graph(parts.graph)
    out = b"RPM\x01"
    for section in (graph, mended(coded), parts.stored):
        out += varints([len(section)]) + section
    (tmp_path / "huge.rpm").write_bytes(mended(out))
    with pytest.raises(PayloadCorrupt):
        read_engine(mended(out))
    program = compiled(tmp_path / "c", tmp_path / "whole.rpm", sanitised=False)
    (tmp_path / "inputs").write_bytes(x[:1].numpy().tobytes())
    command = [program, tmp_path / "inputs", tmp_path / "huge.rpm", tmp_path / "huge.rpm"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=10)
    assert done.stderr == b"2\n"


@pytest.mark.slow
def test_an_engine_of_the_future_is_not_called_damage():
    data = victim()[0]
    with pytest.raises(SchemaTooNew, match="format 9"):
        read_engine(mended(data[:3] + b"\x09" + data[4:-4]))


def test_a_graph_comes_back():
    graph = victim()[1].graph
    assert read_graph(write_graph(graph)) == graph
    assert {op.code for op in graph.ops} >= {CONV, CLAMP}


@pytest.mark.slow
@needs_cc
def test_the_code_is_no_larger_than_its_bound_and_the_ram_is_what_compilers_take(tmp_path):
    data = victim()[0]
    size = code_size(data)
    assert "measured with" in size.how
    assert 2_000 < size.bytes <= CODE_BOUND
    write_sources(data, tmp_path)
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "reprune_model.h"\n#include "reprune_infer.h"\n'
        'int main(void) { printf("%zu", sizeof(reprune_machine)); return 0; }\n'
    )
    subprocess.run([CC, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    here = int(subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout)
    # A pointer is 4 bytes wider here, and what holds it is aligned to 8.
    assert 0 <= here - ram_bytes(data) <= 16


@given(
    lives=st.lists(
        st.tuples(st.integers(1, 50), st.integers(0, 12), st.integers(0, 6)),
        min_size=1,
        max_size=12,
    )
)
def test_no_two_buffers_share_a_place_while_both_live(lives):
    lives = [Life(size=size, first=first, last=first + more) for size, first, more in lives]
    found, arena = offsets(lives)
    for one, other in itertools.combinations(range(len(lives)), 2):
        a, b = lives[one], lives[other]
        if a.first <= b.last and b.first <= a.last:
            assert found[one] + a.size <= found[other] or found[other] + b.size <= found[one]
    at_once = max(
        sum(life.size for life in lives if life.first <= step <= life.last) for step in range(20)
    )
    assert at_once <= arena <= sum(life.size for life in lives)


def test_recoded_levels_are_what_was_given():
    """The ladder of int8: -127 to 127 without a gap is one book."""
    values = np.arange(-127, 128, dtype=np.float32)
    assert np.array_equal(recoded(values).values(), values)
