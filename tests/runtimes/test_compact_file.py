"""The compact file: what was encoded comes back exactly, in a fresh process and in C; damage is an error."""

from __future__ import annotations

import binascii
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.errors import CompressionError, InputError, PayloadCorrupt, SchemaTooNew
from reprune.runtimes.compact import (
    Levels,
    Quantised,
    c_sources,
    cluster,
    decode,
    encode,
    linear_levels,
    quantised,
    recoded,
    snapped,
)
from reprune.runtimes.compact.tensors import levels_of

CODINGS = ("dense-entropy", "mcu")


@st.composite
def books(draw):
    kind = draw(st.sampled_from(("levels", "linear", "floats")))
    if kind == "linear":
        return linear_levels(draw(st.integers(1, 20)), draw(st.floats(1e-6, 100.0))).book()
    count = draw(st.integers(0, 20))
    if kind == "levels":
        levels = draw(st.lists(st.integers(-127, 127), min_size=count, max_size=count))
        return Levels(levels=(0, *levels), exponent=draw(st.integers(-20, 20))).book()
    floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
    values = draw(st.lists(floats, min_size=count, max_size=count))
    return np.array([0.0, *values], dtype=np.float32)


@st.composite
def coded(draw):
    shape = draw(
        st.sampled_from(
            [(), (0,), (1,), (7,), (1, 1), (0, 3), (3, 0), (5, 16), (6, 7), (4, 25), (3, 2, 3, 3)]
        )
    )
    book = draw(books())
    seed, fill = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from((0.0, 0.02, 0.3, 1.0)))
    random = np.random.default_rng(seed)
    codes = random.integers(1, max(len(book), 2), size=shape)
    if draw(st.booleans()):
        codes = np.full(shape, codes.flat[0] if codes.size else 1)
    codes = np.where(random.random(shape) < fill, codes, 0)
    if len(book) == 1:
        codes = np.zeros(shape)
    return Quantised(codes=codes.astype(np.uint8), book=book)


def same(first, second) -> bool:
    if isinstance(first, Quantised):
        return (
            isinstance(second, Quantised)
            and first.codes.shape == second.codes.shape
            and np.array_equal(first.codes, second.codes)
            and first.book.tobytes() == second.book.tobytes()
        )
    return first.dtype == second.dtype and np.array_equal(first, second)


@pytest.mark.slow
@given(tensors=st.lists(coded(), max_size=4))
@settings(max_examples=150, deadline=None)
def test_decoding_what_was_encoded_is_identity(tensors):
    named = {f"layer{n}.weight": tensor for n, tensor in enumerate(tensors)}
    data = encode(named)
    found = decode(data)
    assert list(found) == list(named)
    assert all(same(named[name], found[name]) for name in named)
    assert encode(found) == data
    if all(levels_of(tensor.book, 1 << 15) for tensor in tensors):
        plain = decode(encode(named, coding="mcu"))
        assert all(same(named[name], plain[name]) for name in named)


def sparse_mlp(seed=0, sizes=(64, 20, 12, 5), kept=0.08):
    """A chain like a pruned MLP: whole rows empty, the next layer's columns with them."""
    random = np.random.default_rng(seed)
    tensors, dead = {}, np.zeros(sizes[0], dtype=bool)
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = random.normal(size=(outputs, inputs)) * (random.random((outputs, inputs)) < kept)
        weight[:, dead] = 0
        dead = ~weight.any(axis=1)
        bias = np.where(dead, 0, random.normal(size=outputs) / 4)
        values = cluster(weight[weight != 0], 8)
        tensors[f"fc{number}.weight"] = quantised(weight, snapped(values))
        tensors[f"fc{number}.bias"] = quantised(bias, linear_levels(15, 0.05))
    return tensors


def test_a_negative_zero_in_a_book_comes_back():
    tensor = Quantised(codes=np.ones(2, np.uint8), book=np.array([0.0, -0.0, 1.0], np.float32))
    assert same(decode(encode({"w": tensor}))["w"], tensor)


def test_raw_tensors_come_back_with_their_type():
    tensors = {
        "norm.running_mean": np.array([1.5, -2.0], dtype=np.float32),
        "norm.num_batches_tracked": np.array(7, dtype=np.int64),
        "conv.weight": quantised(np.eye(4), snapped([1.0])),
    }
    found = decode(encode(tensors))
    assert all(same(tensors[name], found[name]) for name in tensors)


def test_a_fresh_process_without_torch_reads_the_file(tmp_path):
    tensors = sparse_mlp()
    (tmp_path / "model.rpc").write_bytes(encode(tensors))
    program = (
        "import sys, numpy as np\n"
        "from reprune.runtimes.compact import decode\n"
        "found = decode(open(sys.argv[1], 'rb').read())\n"
        "assert 'torch' not in sys.modules\n"
        "np.savez(sys.argv[2], **{name: tensor.values() for name, tensor in found.items()})\n"
    )
    arguments = [str(tmp_path / "model.rpc"), str(tmp_path / "values.npz")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)
    values = np.load(tmp_path / "values.npz")
    assert all(np.array_equal(values[name], tensors[name].values()) for name in tensors)


@pytest.mark.parametrize("coding", CODINGS)
def test_every_damaged_byte_is_noticed(coding):
    data = encode(sparse_mlp(), coding=coding)
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        with pytest.raises(PayloadCorrupt):
            decode(damaged)
    for end in (0, 3, 9, len(data) - 1):
        with pytest.raises(PayloadCorrupt):
            decode(data[:end])


def test_a_coding_of_the_future_is_not_called_damage():
    import binascii

    content = encode({})[:-4]
    content = content[:3] + bytes([9]) + content[4:]
    with pytest.raises(SchemaTooNew, match="format 9"):
        decode(content + binascii.crc32(content).to_bytes(4, "little"))


def test_the_bytes_are_pinned():
    """A file is kept for years: bytes written today are read tomorrow, on any machine."""
    places = np.arange(6 * 16).reshape(6, 16)
    codes = np.where(places % 7 % 3 == 1, places % 5, 0)
    codes[[1, 4]] = 0
    codes[:, 9:12] = 0
    book = Levels(levels=(0, -90, -31, 5, 127), exponent=-7).book()
    bias = linear_levels(3, 0.25).book()
    tensors = {
        "fc1.weight": Quantised(codes=codes.astype(np.uint8), book=book),
        "fc1.bias": Quantised(codes=np.array([1, 0, 6, 3, 0, 2], np.uint8), book=bias),
    }
    assert {coding: encode(tensors, coding=coding).hex() for coding in CODINGS} == PINNED


PINNED = {
    "dense-entropy": "525043010203893180020610001904f9a6e1057f03893181010601050601fe5da3db04b47080c1e8abc6"
    "79659e69811f",
    "mcu": "525043020203893180020610001904f9a6e1057f03893181010601050601fe65c8d960e7fa55722a9fb080b4c4"
    "4061c086",
}


def test_sparse_structured_weights_cost_less_than_their_plain_entropy():
    random = np.random.default_rng(3)
    weight = np.zeros((300, 784), dtype=np.float32)
    middle = np.zeros((28, 28), dtype=bool)
    middle[8:20, 8:20] = True
    active = np.ix_(range(90), np.flatnonzero(middle))
    weight[active] = random.normal(size=(90, 144)) * (random.random((90, 144)) < 0.1)
    kept, cells = np.count_nonzero(weight), weight.size
    share = kept / cells
    places = -cells * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    found = quantised(weight, snapped(cluster(weight[weight != 0], 8)))
    assert len(encode({"w": found})) < 0.7 * (places + kept * 3 / 8)
    assert len(encode({"w": found}, coding="mcu")) < 0.75 * (places + kept * 3 / 8)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (np.zeros(2, dtype=np.float64), "float64"),
        (Quantised(codes=np.ones(2, np.uint8), book=np.zeros(1, np.float32)), "not in a book"),
        (Quantised(codes=np.ones(2, np.uint8), book=np.ones(2, np.float32)), "the first of them 0"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tensor, words):
    with pytest.raises(CompressionError, match=words):
        encode({"odd": tensor})


def test_a_microcontroller_file_takes_whole_numbers_only():
    thirds = Quantised(codes=np.ones(2, np.uint8), book=np.array([0, 1, 1 / 3], dtype=np.float32))
    assert same(decode(encode({"w": thirds}))["w"], thirds)
    with pytest.raises(CompressionError, match="whole numbers"):
        encode({"w": thirds}, coding="mcu")
    with pytest.raises(InputError, match="mcu"):
        c_sources(encode({"w": thirds}))


@pytest.mark.parametrize("book", [[0, 1, 200], [0, 128, 130, 131], [0, 1 << 14, 3]])
def test_whole_numbers_that_the_c_decoder_cannot_read_are_refused(book):
    """They would be written as floats, which it does not know."""
    tensor = Quantised(codes=np.ones(2, np.uint8), book=np.array(book, dtype=np.float32))
    with pytest.raises(CompressionError, match="at most 127"):
        encode({"w": tensor}, coding="mcu")
    assert same(decode(encode({"w": tensor}))["w"], tensor)


@pytest.mark.parametrize(
    "levels", [[130], [-130, 390], [-896, 128, 256, 384, 640], [65, 650], [635], [889]]
)
def test_few_values_of_a_wide_even_book_fit_a_microcontroller(levels):
    """Some rungs of a ladder are not used: the values are still told by it, in whole numbers."""
    values = np.array([0, *levels], dtype=np.float32) * np.float32(2.0**-10)
    found = decode(encode({"b": recoded(values)}, coding="mcu"))["b"]
    assert np.array_equal(found.values(), values)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data(), coding=st.sampled_from(CODINGS))
def test_a_changed_file_with_a_right_checksum_is_an_error_or_a_model(data, coding):
    """No crash, no endless work, no warning: whoever can change a file can mend its checksum too."""
    content = bytearray(encode(sparse_mlp(), coding=coding)[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(4, 60))] = data.draw(st.integers(0, 255))
    file = bytes(content) + binascii.crc32(bytes(content)).to_bytes(4, "little")
    try:
        found = decode(file)
    except PayloadCorrupt:
        return
    for tensor in found.values():
        assert isinstance(tensor, Quantised)
        assert np.isfinite(tensor.book).all() or coding == "dense-entropy"


@pytest.mark.parametrize("coding", CODINGS)
def test_a_code_that_no_byte_holds_is_damage(coding):
    """A book of 254 values has codes of 8 bits: a damaged stream may hold the 256th."""
    random = np.random.default_rng(0)
    book = Levels(levels=(0, *range(-127, 0), *range(1, 128)), exponent=0).book()
    codes = random.integers(0, 255, size=(8, 9)).astype(np.uint8)
    data = encode({"w": Quantised(codes=codes, book=book)}, coding=coding)
    refused = 0
    for place in range(20, len(data) - 4):
        content = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 : -4]
        try:
            decode(content + binascii.crc32(content).to_bytes(4, "little"))
        except PayloadCorrupt:
            refused += 1
    assert refused > 0


def test_a_reader_bounds_what_it_takes():
    """A few bytes stand for many zeros; the limit holds for all tensors together."""
    empty = Quantised(codes=np.zeros((30, 30), np.uint8), book=np.zeros(1, np.float32))
    data = encode({"a": empty, "b": empty})
    assert len(decode(data, max_elements=1800)) == 2
    with pytest.raises(PayloadCorrupt, match="more than 1799 elements"):
        decode(data, max_elements=1799)


def test_rows_of_no_columns_do_not_take_all_memory():
    head = encode({"w": Quantised(codes=np.zeros((1, 0), np.uint8), book=np.zeros(1, np.float32))})
    content = head[:-4].replace(b"w\x02\x01\x00", b"w\x02\xff\xff\xff\xff\x7f\x00")
    assert len(content) > len(head) - 4
    with pytest.raises(PayloadCorrupt, match="more than"):
        decode(content + binascii.crc32(content).to_bytes(4, "little"))


def test_snapped_and_clustered_books_are_near_what_was_asked():
    values = np.random.default_rng(0).normal(size=1000)
    centres = cluster(values, 8)
    assert len(centres) == 8
    assert (np.diff(centres) > 0).all()
    book = snapped(centres).book()
    assert np.abs(book[1:] - centres).max() <= np.abs(centres).max() / 126
    error = np.square(quantised(values, snapped(centres)).values() - values).mean()
    assert error < 0.04  # Lloyd-Max for 8 levels of a Gaussian: 0.0345


CC = shutil.which("gcc") or shutil.which("cc")

MAIN = """
#include <stdio.h>
#include "reprune_model.h"
#include "reprune_compact.h"
static reprune_reader reader;
static int32_t values[1024], spare[1024];
int main(void) {
    uint32_t row, place, count = 0;
    int error = reprune_open(&reader, reprune_model, REPRUNE_MODEL_SIZE);
    if (error) { printf("error %d\\n", error); return 3; }
    while (reader.tensors) {
        if ((error = reprune_next_tensor(&reader)) != 0) { printf("error %d\\n", error); return 3; }
        printf("%d", reader.tensor.exponent);
        for (row = 0; row < reader.tensor.rows; row++) {
            if ((error = reprune_next_row(&reader)) != 0) return 4;
            for (place = 0; place < reader.tensor.columns; place++)
                printf(" %d", reader.tensor.levels[reader.codes[place]]);
        }
        printf("\\n");
    }
    while (scanf("%d", &values[0]) == 1) {
        for (place = 1; place < INPUTS; place++) if (scanf("%d", &values[place]) != 1) return 5;
        if (reprune_open(&reader, reprune_model, REPRUNE_MODEL_SIZE)) return 6;
        if (reprune_run_mlp(&reader, INPUTS, values, spare, &count)) return 7;
        for (place = 0; place < count; place++) printf("%d ", values[place]);
        printf("\\n");
    }
    return 0;
}
"""


def compile_and_run(folder: Path, data: bytes, inputs: np.ndarray) -> list[list[int]]:
    for name, text in c_sources(data).items():
        (folder / name).write_text(text)
    (folder / "main.c").write_text(MAIN)
    program = folder / "program"
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined,address"]
    flags.append("-fno-sanitize-recover=all")
    sources = [str(folder / name) for name in ("main.c", "reprune_model.c", "reprune_compact.c")]
    width = f"-DINPUTS={inputs.shape[1]}"
    subprocess.run([CC, *flags, width, *sources, "-o", str(program)], check=True)
    text = "\n".join(" ".join(map(str, row)) for row in inputs.tolist())
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


@pytest.mark.skipif(CC is None, reason="no C compiler on this machine")
def test_the_c_decoder_gives_the_same_weights_and_runs_the_network(tmp_path):
    tensors = sparse_mlp(kept=0.15)
    images = np.random.default_rng(1).integers(0, 4097, size=(6, 64))
    lines = compile_and_run(tmp_path, encode(tensors, coding="mcu"), images)
    for line, tensor in zip(lines, tensors.values(), strict=False):
        exponent, *levels = line
        values = np.ldexp(np.array(levels, dtype=np.float32), exponent)
        assert np.array_equal(values.reshape(tensor.codes.shape), tensor.values())
    hidden = images.T / 4096
    for number in range(3):
        hidden = tensors[f"fc{number}.weight"].values() @ hidden
        hidden = hidden + tensors[f"fc{number}.bias"].values()[:, None]
        hidden = np.maximum(hidden, 0) if number < 2 else hidden
    logits = np.array(lines[len(tensors) :]).T / 4096
    assert np.abs(logits - hidden).max() < 0.005
    assert np.abs(hidden).max() > 0.1


@pytest.mark.skipif(CC is None, reason="no C compiler on this machine")
@pytest.mark.parametrize("exponent", [25, 110])
def test_what_32_bits_do_not_hold_becomes_the_largest_they_do(tmp_path, exponent):
    """Wrapping round would turn the surest answer into the least sure one."""
    codes = np.array([[1, 1], [2, 2], [0, 0]], np.uint8)
    book = Levels(levels=(0, 3, -3), exponent=exponent).book()
    tensors = {
        "w": Quantised(codes=codes, book=book),
        "b": Quantised(codes=np.array([1, 2, 0], np.uint8), book=book),
    }
    data = encode(tensors, coding="mcu")
    lines = compile_and_run(tmp_path, data, np.array([[4096, 1], [-4096, -1]]))
    largest, smallest = 2**31 - 1, -(2**31)
    assert lines[2][:1] == [largest]
    assert lines[2] == [largest, smallest, 0]
    assert lines[3][2] == 0


@pytest.mark.skipif(CC is None, reason="no C compiler on this machine")
def test_the_c_decoder_refuses_a_damaged_model(tmp_path):
    data = encode(sparse_mlp(), coding="mcu")
    sources = c_sources(data)
    damaged = sources["reprune_model.c"]
    last = f"0x{data[-1]:02x}\n"
    assert damaged.count(last) == 1
    (tmp_path / "damaged").mkdir()
    for name, text in {**sources, "main.c": MAIN}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "reprune_model.c").write_text(damaged.replace(last, f"0x{data[-1] ^ 1:02x}\n"))
    program = tmp_path / "program"
    files = [str(tmp_path / name) for name in ("main.c", "reprune_model.c", "reprune_compact.c")]
    subprocess.run([CC, "-std=c99", "-DINPUTS=64", *files, "-o", str(program)], check=True)
    done = subprocess.run([program], input="", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "error -2\n")


def test_few_values_far_apart_on_a_ladder_are_read_in_whole_numbers():
    """A short row of biases holds few places of its ladder, the largest beyond a signed byte."""
    values = np.array([90 * 15, -90, 0, 90 * 7], dtype=np.float32)
    again = decode(encode({"head.bias": recoded(values)}, coding="mcu"))
    assert np.array_equal(again["head.bias"].values(), values)
