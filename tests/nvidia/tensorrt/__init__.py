"""TensorRT whose engine is the ONNX model itself, computed by ONNX Runtime when the stream is waited for."""

# ruff: noqa: N815  # the names are TensorRT's
from __future__ import annotations

import ctypes
import enum
import hashlib
import json
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from cuda.bindings import runtime as cuda
from trouble import trouble

__version__ = "11.4.0"
_MAGIC = b"simulated plan\n"
_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    DETAILED = 2


class LayerInformationFormat(enum.Enum):
    JSON = 1


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class BuilderFlag(enum.Enum):
    TF32 = 0
    SPARSE_WEIGHTS = 1
    DISABLE_TIMING_CACHE = 2


class ILogger:
    def __init__(self) -> None:
        pass


class IProfiler:
    def __init__(self) -> None:
        pass


def nptype(dtype: Any) -> Any:
    return dtype


class Config:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profile: dict[str, list[list[int]]] = {}
        self.cache: Any = None

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        pass

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> None:
        self.profile = profile.shapes

    def create_timing_cache(self, blob: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: blob or b"tactics")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = [list(shape) for shape in shapes]


class Builder:
    num_DLA_cores = 0

    def __init__(self, logger: Any) -> None:
        pass

    def create_network(self, flags: int) -> Any:
        return SimpleNamespace(num_layers=0, num_inputs=0)

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Any, config: Config) -> bytes:
        head = {
            "profile": config.profile,
            "tf32": BuilderFlag.TF32 in config.flags,
            "digest": hashlib.sha256(network.content).hexdigest(),
        }
        return _MAGIC + json.dumps(head).encode() + b"\n" + network.content


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Any, logger: Any) -> None:
        self.network = network

    def parse(self, content: bytes) -> bool:
        graph = onnx.load_model_from_string(content).graph
        inputs = [
            SimpleNamespace(
                name=each.name,
                shape=tuple(size.dim_value or -1 for size in each.type.tensor_type.shape.dim),
            )
            for each in graph.input
        ]
        self.network.content, self.network.num_layers = content, len(graph.node)
        self.network.num_inputs, self.network.get_input = len(inputs), inputs.__getitem__
        return True


class Runtime:
    DLA_core = 0

    def __init__(self, logger: Any) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if not plan.startswith(_MAGIC) or plan.count(b"\n") < 2:
            return None
        told, _, content = plan.removeprefix(_MAGIC).partition(b"\n")
        head = json.loads(told)
        if head["digest"] != hashlib.sha256(content).hexdigest():
            return None
        return Engine(head["profile"], content)


class Engine:
    def __init__(self, profile: dict[str, Any], content: bytes) -> None:
        self.profile, self.size = profile, len(content)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options)
        self.inputs, self.outputs = self.session.get_inputs(), self.session.get_outputs()
        self.tensors = {each.name: each for each in (*self.inputs, *self.outputs)}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, place: int) -> str:
        return list(self.tensors)[place]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.profile else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return _TYPES[self.tensors[name].type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.tensors[name].shape[1:])

    def get_tensor_profile_shape(self, name: str, place: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.profile[name]]

    def create_execution_context(self) -> Context:
        return Context(self)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: '{"Layers": ["net"]}')


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.profiler: Any = None
        self.enqueue_emits_profile = False

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape

    def execute_async_v3(self, stream: int) -> bool:
        if cuda.state.capturing is not None and self.engine.size > trouble("captures", 10**12):
            cuda.state.refused = True
            return False
        cuda.do(self._compute)
        return True

    def _compute(self) -> None:
        begin = time.perf_counter()
        given = {}
        for each in self.engine.inputs:
            dtype = np.dtype(_TYPES[each.type])
            shape = self.shapes[each.name]
            flat = self._at(each.name, int(np.prod(shape)) * dtype.itemsize)
            given[each.name] = np.frombuffer(flat, dtype).reshape(shape)
        found = self.engine.session.run(None, given)
        for each, array in zip(self.engine.outputs, found, strict=True):
            flat = self._at(each.name, array.nbytes)
            np.frombuffer(flat, array.dtype)[:] = array.ravel()
        if self.profiler is not None:
            self.profiler.report_layer_time("net", (time.perf_counter() - begin) * 1e3)

    def _at(self, name: str, size: int) -> Any:
        return (ctypes.c_char * size).from_address(self.addresses[name])
