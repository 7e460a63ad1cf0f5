"""Files that mean harm, made here: small, and each in one way. What runs of them writes a canary."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from tests.hostile import goods

BIG = 48 * 2**20


class Boom:
    """Unpickled without care, it writes the canary."""

    def __init__(self, canary: Path, how: str = "system") -> None:
        self.canary, self.how = canary, how

    def __reduce__(self) -> tuple[Any, ...]:
        import os
        import subprocess

        if self.how == "open":
            return (open, (str(self.canary), "w"))
        if self.how == "eval":
            return (eval, (f"open({str(self.canary)!r}, 'w').write('x')",))
        if self.how == "popen":
            return (subprocess.Popen, (["touch", str(self.canary)],))
        return (os.system, (f"touch {self.canary}",))


# --- pickles in every wrapper ---------------------------------------------------------------------


def pickles(canary: Path) -> dict[str, tuple[str, bytes]]:
    """By case: the name that the file goes by, and its content."""
    plain = pickle.dumps({"w": Boom(canary)})
    found = {
        f"protocol {level}": ("m.pkl", pickle.dumps({"w": Boom(canary)}, level))
        for level in range(6)
    }
    found |= {
        f"by {how}": ("m.pth", pickle.dumps(Boom(canary, how))) for how in ("open", "eval", "popen")
    }
    return found | {
        "named safetensors": ("w.safetensors", plain),
        "named safetensors, protocol 0": ("w.safetensors", pickle.dumps({"w": Boom(canary)}, 0)),
        "torch's archive": ("m.pt", _torch_zip(plain)),
        "torch's archive named safetensors": ("w.safetensors", _torch_zip(plain)),
        "torch's archive, packed": ("m.pt", _torch_zip(plain, zipfile.ZIP_DEFLATED)),
        "torch's archive of a module": ("m.pt", _torch_zip(pickle.dumps(Boom(canary, "eval")))),
        "torch's old tar": ("m.pth", _tar({"storages": plain, "tensors": plain, "pickle": plain})),
        "gzip": ("m.pt", gzip.compress(plain)),
        "bzip2": ("m.bin", bz2.compress(plain)),
        "xz": ("m.ckpt", lzma.compress(plain)),
        "a zip in a zip": ("m.pt", _zip({"inner.pt": _torch_zip(plain)})),
        "a tar in gzip": ("m.pt", gzip.compress(_tar({"data.pkl": plain}))),
        "after a safetensors header": ("w.safetensors", save({"w": np.ones(2, np.float32)}) + plain),
        "before an archive": ("m.pt", plain + _torch_zip(plain)),
        "an array of objects": ("m.npy", _objects(canary)),
        "an array of objects named pt": ("m.pt", _objects(canary)),
        "two in a row": ("m.pkl", plain + plain),
        "a script": ("m.pt", b"#!/bin/sh\ntouch " + str(canary).encode()),
        "a program": ("m.bin", b"\x7fELF" + bytes(100)),
        "an engine": ("m.pt", b"ftrt" + bytes(100)),
        "nothing": ("m.pt", b""),
        "HDF5": ("m.bin", b"\x89HDF\r\n\x1a\n" + bytes(100)),
    }  # fmt: skip


def _torch_zip(content: bytes, packed: int = zipfile.ZIP_STORED) -> bytes:
    parts = {"data.pkl": content, "version": b"3\n", "byteorder": b"little", "data/0": bytes(16)}
    return _zip({f"archive/{name}": each for name, each in parts.items()}, packed)


def _zip(parts: dict[str, bytes], packed: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packed) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _tar(parts: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _objects(canary: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Boom(canary)], dtype=object), allow_pickle=True)
    return stream.getvalue()


# --- archives --------------------------------------------------------------------------------------


def archives() -> dict[str, bytes]:
    """Archives that are no state dict and no arrays, or far more than they seem."""
    honest = {"archive/data.pkl": pickle.dumps({}), "archive/version": b"3\n"}
    bomb = _zip({**honest, "archive/data/0": bytes(BIG)}, zipfile.ZIP_DEFLATED)
    link = zipfile.ZipInfo("archive/data/0")
    link.external_attr = 0o120777 << 16
    encrypted = bytearray(_zip(honest))
    for at in range(len(encrypted) - 4):
        if encrypted[at : at + 4] == b"PK\x01\x02":
            encrypted[at + 8] |= 1
    arrays = io.BytesIO()
    np.savez_compressed(arrays, np.zeros(BIG, np.uint8))
    return {
        "a bomb": bomb,
        "a bomb of arrays": _with_claim(arrays.getvalue()),
        "bombs in a bomb": _zip({f"archive/{n}": bomb for n in range(20)}, zipfile.ZIP_DEFLATED),
        "a name twice": _twice(honest),
        "a way out": _zip({**honest, "../../canary": b"x"}),
        "an absolute name": _zip({**honest, "/tmp/canary": b"x"}),
        "a link": _linked(honest, link),
        "encrypted": bytes(encrypted),
        "entries without end": _zip({f"archive/{n}": b"" for n in range(20_001)}),
        "an array that claims more": _zip({"arr_0.npy": _npy("(1099511627776,)")}),
        "an array below none": _zip({"arr_0.npy": _npy("(-1,)")}),
        "an array of expressions": _zip({"arr_0.npy": _npy("(__import__('os'),)")}),
        "an array of a nested header": _zip({"arr_0.npy": _npy("(" * 3000 + ")" * 3000)}),
        "no directory": _zip(honest)[:-22],
        "a directory alone": b"PK\x05\x06" + bytes(18),
        "a directory that lies": _zip(honest)[:-12]
        + struct.pack("<IIH", 2**31, 2**31, 0)
        + b"\0\0",
    }


def _npy(shape: str) -> bytes:
    header = (
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode()
        + b"\n"
    )
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(4)


def _with_claim(content: bytes) -> bytes:
    """A first entry that is an honest array, packed to a thousandth; beside it one under another name."""
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_9.npy", bytes(BIG))
    return stream.getvalue()


def _twice(parts: dict[str, bytes]) -> bytes:
    import warnings

    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")
        for _ in range(2):
            for name, content in parts.items():
                archive.writestr(name, content)
    return stream.getvalue()


def _linked(parts: dict[str, bytes], link: zipfile.ZipInfo) -> bytes:
    stream = io.BytesIO(_zip(parts))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    return stream.getvalue()


# --- safetensors -----------------------------------------------------------------------------------


def safetensors_files() -> dict[str, bytes]:
    """Headers that lie, and numbers that are none."""
    found = {
        "a huge header": struct.pack("<Q", 2**40) + b'{"w":',
        "a header beyond the file": struct.pack("<Q", 10**6) + b"{}",
        "no header": struct.pack("<Q", 0),
        "a negative offset": _header({"w": _tensor("F32", [1], [-4, 0])}, 4),
        "offsets that run back": _header({"w": _tensor("F32", [1], [4, 0])}, 4),
        "offsets beyond": _header({"w": _tensor("F32", [1], [2**62, 2**62 + 4])}, 4),
        "tensors that overlap": _header(
            {"a": _tensor("F32", [2], [0, 8]), "b": _tensor("F32", [2], [4, 12])}, 12
        ),
        "a hole": _header({"a": _tensor("F32", [1], [0, 4]), "b": _tensor("F32", [1], [8, 12])}, 12),
        "bytes at the end": _header({"a": _tensor("F32", [1], [0, 4])}, 400),
        "a shape that overflows": _header({"w": _tensor("F32", [2**62, 4], [0, 4])}, 4),
        "a shape that is none": _header({"w": _tensor("F32", [1.5], [0, 4])}, 4),
        "a type that is none": _header({"w": _tensor("PICKLE", [1], [0, 4])}, 4),
        "tensors without end": _header(
            {f"t{n}": _tensor("F32", [0], [0, 0]) for n in range(10_001)}, 0
        ),
        "no tensors": _header({}, 0),
        "a list": struct.pack("<Q", 2) + b"[]",
        "deep": struct.pack("<Q", 40_004) + b'{"w":' + b"[" * 20_000 + b"]" * 20_000,
        "a name twice": struct.pack("<Q", 122) + (
            b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        ).ljust(122) + bytes(4),
    }  # fmt: skip
    for value in (np.nan, np.inf, -np.inf):
        for kind in (np.float64, np.float32, np.float16):
            numbers = np.ones(1000, kind)
            numbers[777] = value
            found[f"{value} in {kind.__name__}"] = save({"w": numbers})
    for code, bits in (("BF16", 0x7F81), ("F8_E5M2", 0x7D), ("F8_E4M3", 0x7F)):
        size = 2 if code == "BF16" else 1
        found[f"NaN in {code}"] = _header({"w": _tensor(code, [1], [0, size])}, 0) + bits.to_bytes(
            size, "little"
        )
    return found


def _tensor(kind: str, shape: list[Any], offsets: list[int]) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": offsets}


def _header(table: dict[str, Any], data: int) -> bytes:
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


# --- ONNX and TFLite -------------------------------------------------------------------------------


def onnx_files() -> dict[str, bytes]:
    """Data outside, graphs in graphs, shapes and numbers that are none."""
    found = {f"data at {place}": _external(place) for place in (
        "../../etc/passwd", "/etc/passwd", "weights.bin", "C:\\x", "..\\x", "/proc/self/mem", ".",
    )}  # fmt: skip
    for name, value in (("NaN", np.nan), ("infinity", np.inf)):
        numbers = np.ones((2, 2), np.float32)
        numbers[1, 1] = value
        found[f"{name} in a weight"] = _with_weight(numpy_helper.from_array(numbers, "w0"))
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "w0")
    for name, dims in (("negative", [-2, 2]), ("huge", [2**40, 2]), ("more than there is", [4, 4])):
        changed = TensorProto()
        changed.CopyFrom(weight)
        del changed.dims[:]
        changed.dims.extend(dims)
        found[f"a {name} shape"] = _with_weight(changed)
    return found | {
        "graphs in graphs": _nested(60),
        "protobuf in protobuf": b"\x08\x08" + _wrapped(3000),
        "a length beyond the file": b"\x08\x08\x3a\xff\xff\xff\xff\x07",
        "a graph of nothing": b"\x08\x08",
        "a field without end": b"\x08\x08" + b"\xff" * 100,
        "text": b"ir_version: 8\ngraph {}",
    }


def _with_weight(weight: TensorProto) -> bytes:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w0"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
            [weight],
        ),
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def _external(place: str) -> bytes:
    weight = TensorProto(name="w0", data_type=TensorProto.FLOAT, dims=[2, 2])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "-8"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    return _with_weight(weight)


def _nested(depth: int) -> bytes:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [out])
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "g", [], [out])
        if graph.ByteSize() > 2**20:
            break
    return bytes(helper.make_model(graph, ir_version=8).SerializeToString())


def _wrapped(depth: int) -> bytes:
    """Graphs in attributes of nodes in graphs, by hand: deeper than the parser's own limit."""
    content = b""
    for tag in (b"\x3a", b"\x0a", b"\x2a", b"\x32") * (depth // 4):
        content = tag + _varint(len(content)) + content
    return b"\x3a" + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def tflite_files() -> dict[str, bytes]:
    """Offsets and lengths that lead elsewhere."""
    good = goods.tflite_files()[2]
    found = {
        f"a root at {place}": struct.pack("<I", place) + good[4:]
        for place in (0, 2**16, 2**31 - 1, 2**32 - 1, len(good) - 1)
    }
    for at in range(8, len(good) - 4, max(4, len(good) // 24)):
        found[f"a length of billions at {at}"] = good[:at] + b"\xff\xff\xff\x7f" + good[at + 4 :]
    return found | {
        "the name alone": b"\x1c\0\0\0TFL3",
        "cut in half": good[: len(good) // 2],
        "zeros": b"\0\0\0\0TFL3" + bytes(1000),
    }


MODELS: dict[str, Callable[[], dict[str, bytes]]] = {
    "safetensors": safetensors_files,
    "onnx": onnx_files,
    "tflite": tflite_files,
    "zip": archives,
}
