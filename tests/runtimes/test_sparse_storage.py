"""Sparse forms: every bit comes back, every size is that of real bytes, and no damage goes unnoticed."""

from __future__ import annotations

import binascii
import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from reprune.core.artifacts import BuildFact
from reprune.core.errors import CompressionError, PayloadCorrupt, SchemaTooNew
from reprune.runtimes.base import Capabilities
from reprune.runtimes.sparse import (
    FORMS,
    Stored,
    read_tensors,
    restored,
    sizes,
    smallest,
    sparsity_words,
    storage_lines,
    stored,
    write_tensors,
)

DTYPES = ("float32", "float16", "int8")
PLAIN = tuple(form for form in FORMS if form != "n:m")


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


@st.composite
def tensors(draw):
    """Any bits at all (NaN with payloads, -0.0, infinities), under any share of zeros."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    count = int(np.prod(shape)) * dtype.itemsize
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    whole = np.frombuffer(random.bytes(count), dtype=dtype).reshape(shape).copy()
    share = draw(st.sampled_from((0.0, 0.05, 0.5, 1.0)))
    whole[random.random(shape) >= share] = 0
    if draw(st.booleans()) and dtype.kind == "f":
        whole[random.random(shape) < 0.2] = -0.0
    return whole


@pytest.mark.slow
@given(tensor=tensors(), form=st.sampled_from(PLAIN))
@settings(max_examples=200, deadline=None)
def test_every_form_gives_every_bit_back(tensor, form):
    one = stored(tensor, form)
    assert same_bits(restored(one), tensor)
    assert sizes(tensor)[form] == len(one.payload)
    assert len(smallest(tensor).payload) <= len(one.payload)


@pytest.mark.slow
@given(tensor=tensors(), n=st.integers(1, 3), m=st.integers(2, 8))
@settings(max_examples=200, deadline=None)
def test_a_pattern_comes_back_or_is_refused(tensor, n, m):
    if n >= m:
        with pytest.raises(CompressionError, match="no pattern"):
            stored(tensor, "n:m", f"{n}:{m}")
        return
    fits = tensor.ndim >= 2 and tensor.shape[1] % m == 0
    if fits:
        last = np.moveaxis(tensor, 1, -1)
        bits = last.copy().view(f"u{tensor.dtype.itemsize}")
        fits = bool(((bits.reshape(-1, m) != 0).sum(axis=1) <= n).all())
    if fits:
        assert same_bits(restored(stored(tensor, "n:m", f"{n}:{m}")), tensor)
    else:
        with pytest.raises(CompressionError):
            stored(tensor, "n:m", f"{n}:{m}")
        assert "n:m" not in sizes(tensor, f"{n}:{m}")


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    rows=st.integers(0, 5),
    groups=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_two_of_four_take_their_values_and_two_bits_each(seed, dtype, rows, groups):
    random = np.random.default_rng(seed)
    weight = random.integers(-9, 10, size=(rows, groups, 4, 3)).astype(dtype)
    np.put_along_axis(weight, random.permuted(np.tile(np.arange(4), (rows, groups, 3, 1)), axis=-1)
                      .swapaxes(2, 3)[:, :, :2], 0, axis=2)  # fmt: skip
    weight = weight.reshape(rows, groups * 4, 3)
    one = stored(weight, "n:m", "2:4")
    assert same_bits(restored(one), weight)
    values = rows * groups * 3 * 2
    assert len(one.payload) == values * weight.dtype.itemsize + (2 * values + 7) // 8


def test_a_third_value_in_four_is_refused():
    weight = np.zeros((2, 8), dtype=np.float32)
    weight[1, 4:7] = 1
    with pytest.raises(CompressionError, match="holds 3 values"):
        stored(weight, "n:m", "2:4")
    weight[1, 5] = -0.0  # a value still: its sign would be lost
    with pytest.raises(CompressionError, match="holds 3 values"):
        stored(weight, "n:m", "2:4")
    weight[1, 5] = 0
    assert same_bits(restored(stored(weight, "n:m", "2:4")), weight)


@given(named=st.dictionaries(st.text(max_size=12), tensors(), max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_file_gives_all_tensors_back_in_order(named):
    data = write_tensors(named)
    found = read_tensors(data)
    assert list(found) == list(named)
    assert all(same_bits(found[name], named[name]) for name in named)
    assert write_tensors(found) == data


def model(seed: int = 0) -> dict[str, np.ndarray]:
    """Every form is somebody's smallest."""
    random = np.random.default_rng(seed)
    pruned = random.normal(size=(12, 16)).astype(np.float32)
    halves = pruned.copy()
    halves.reshape(12, 4, 4)[:, :, [0, 3]] = 0
    blocks = pruned.copy()
    blocks[3:] = 0
    lonely = np.zeros((9, 50), np.float32)
    lonely[::4, ::17] = 3
    return {
        "dense": pruned,
        "halves": halves.astype(np.float16),
        "blocks": blocks,
        "lonely": lonely.astype(np.int8),
        "mask": np.where(random.random((9, 16)) < 0.4, pruned[:9], 0),
        "count": np.array(7),
        "none": np.zeros((0, 3), np.float32),
    }


def test_each_form_is_the_smallest_for_some_tensor():
    assert {smallest(one).form for one in model().values()} >= set(PLAIN)
    assert smallest(np.tile(np.array([[0, 0, 0, 5]], np.int8), (9, 9)), "1:4").form == "n:m"


def test_the_bytes_are_pinned():
    """A file is kept for years: bytes written today are read tomorrow, on any machine."""
    tensor = np.array([[0, 5, 0, -7], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=np.int8)
    assert {form: stored(tensor, form).payload.hex() for form in FORMS} == PINNED
    assert write_tensors({"w": tensor.astype(np.float16)}).hex() == PINNED_FILE


PINNED = {
    "dense": "000500f90000010000000000",
    "zeros": "0301010101020105f901",
    "bitmask": "4a0005f901",
    "delta": "02032505f901",
    "n:m": "8d0405f900010000",
}
PINNED_FILE = "525053010101770102020304084a00004500c7003c49a35ec0"


def test_cut_anywhere_or_changed_anywhere_a_file_is_refused():
    data = write_tensors(model())
    for end in range(len(data)):
        with pytest.raises(PayloadCorrupt):
            read_tensors(data[:end])
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
        with pytest.raises((PayloadCorrupt, SchemaTooNew)):
            read_tensors(changed)


def mended(content: bytes) -> bytes:
    return content + binascii.crc32(content).to_bytes(4, "little")


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_with_its_checksum_mended_a_changed_file_is_an_error_or_tensors(data):
    content = bytearray(write_tensors(model())[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PayloadCorrupt):
        read_tensors(mended(bytes(content)), max_elements=1 << 20)


@pytest.mark.parametrize(
    "content",
    [
        b"RPS\x01\xff\xff\xff\xff\x0f",
        b"RPS\x01\x01\xff\xff\xff\xff\x0fw",
        b"RPS\x01\x01\x01w\x00\x01\x04\xff\xff\xff\xff\x0f\x00\x00\x00\x01\x00",
        b"RPS\x01\x01\x01w\x00\x01\x01\xff\xff\xff\xff\x0f\x01\x00",
        b"RPS\x01\x01\x01w\x00\x02\x01\xff\xff\xff\x7f\x01\x00",
        b"RPS\x01\x01\x01w\x00\x03\x01\x05\x06\x03\xff\xff\xff\xff\x0f",
        b"RPS\x01\x01\x01w\x00\x01\x01\x05\x06\xff\xff\xff\xff\x0f\x00",
        b"RPS\x01\x01\x01w\x00\x01\x01\x05\xff\xff\xff\xff\x0f",
    ],
)
def test_huge_counts_cost_nothing(content):
    with pytest.raises(PayloadCorrupt):
        read_tensors(mended(content))


def test_a_reader_bounds_what_it_takes():
    data = write_tensors({"w": np.zeros((1000, 1000), np.float32)})
    assert len(data) < 60
    with pytest.raises(PayloadCorrupt, match="more than 999999"):
        read_tensors(data, max_elements=999_999)
    assert read_tensors(data)["w"].shape == (1000, 1000)


def test_a_format_of_the_future_and_a_name_twice():
    content = write_tensors({})[:-4]
    with pytest.raises(SchemaTooNew, match="format 2"):
        read_tensors(mended(content[:3] + b"\x02" + content[4:]))
    one = write_tensors({"w": np.zeros(0, np.float32)})[5:-4]
    with pytest.raises(PayloadCorrupt, match="twice"):
        read_tensors(mended(b"RPS\x01\x02" + one + one))


def test_what_no_form_holds_is_refused():
    with pytest.raises(CompressionError, match="complex"):
        stored(np.zeros(2, complex), "dense")
    with pytest.raises(CompressionError, match="no form 'csr'"):
        stored(np.zeros(2, np.float32), "csr")
    with pytest.raises(PayloadCorrupt, match="form 'csr'"):
        restored(Stored(form="csr", shape=(2,), dtype=np.dtype("<f4"), payload=b""))


def test_big_endian_and_strided_tensors_are_stored_by_value():
    whole = np.arange(24, dtype=">f4").reshape(4, 6)[::2, ::3]
    assert np.array_equal(restored(stored(whole, "bitmask")), whole)


def test_the_bytes_of_every_form_are_reported_beside_a_real_file():
    random = np.random.default_rng(1)
    weight = random.normal(size=(64, 64)).astype(np.float32)
    weight = np.where(random.random((64, 64)) < 0.1, weight, 0)
    lines = {one.dtype: one for one in storage_lines({"w": weight, "b": weight[0, :8]})}
    assert lines["fp32"].forms["dense"] == 4 * (4096 + 8)
    assert lines["int8"].forms["dense"] == 4096 + 64 * 4 + 4 * 8
    for line in lines.values():
        least = min(line.forms.values())
        assert line.file < least + 100
        assert line.forms["bitmask"] < line.forms["dense"] / 2
        assert line.forms["n:m"] == line.forms["dense"]  # it is no 2:4


CAN = Capabilities(precisions=("fp32",), extra="x", modules=())


@pytest.mark.parametrize(
    ("pattern", "can", "built", "words"),
    [
        ("", CAN, BuildFact(), ""),
        ("unstructured", CAN, BuildFact(), "stored but not skipped: peer computes them like any"),
        ("2:4", Capabilities(precisions=("fp32",), extra="x", modules=(), sparsity=("2:4",)),
         BuildFact(), "did not choose to"),
        ("2:4", Capabilities(precisions=("fp32",), extra="x", modules=(), stores_sparse=("2:4",)),
         BuildFact(), "fewer bytes and save no time"),
        ("2:4", CAN, BuildFact(sparsity="2:4"), "for the benchmark"),
    ],
)  # fmt: skip
def test_zeros_are_never_called_a_speed_up(pattern, can, built, words):
    said = sparsity_words(pattern, "peer", can, built)
    assert words in said
    assert "fast" not in said
    assert bool(said) == bool(pattern)
