"""An ONNX model as a TensorRT plan: parsed, configured, built, and what the builder said of it.

For TensorRT 10, 11 and RTX alike: only names that all of them have are used (tests/runtimes holds the
list), and precision is the model's own. To be called in a process that may crash.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, convert

from reprune.core.artifacts import BuildFact
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.plugins import require
from reprune.runtimes.timing_cache import CachePlan, attach, keep

MIB = 2**20
# The builder's words about 2:4 weights (10.x says "Chose", older ones "picked").
_SPARSE = re.compile(
    r"\(Sparsity\).*(?:picked sparse implementation for layers|Chose (?P<count>\d+) layer\(s\) using sparse"
    r" tactics):?\s*(?P<layers>.*)",
    re.DOTALL,
)
_ON_GPU = re.compile(r"\[GpuLayer\]\s*(?P<layer>.+)")
_ON_DLA = re.compile(r"\[DlaLayer\]\s*(?P<layer>.+)")
_TYPES = {"float": "fp32", "fp32": "fp32", "half": "fp16", "fp16": "fp16", "int8": "int8"}
_SHOWN = 5


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `options` of a TensorRT target.

    `workspace_mb` bounds what a tactic may use; `max_batch_size` is the largest batch that one call
    takes (larger ones are split); `tf32` lets products in fp32 be rounded to 10 bits. `timing_cache` is ""
    (one of this machine's own), "none", or the sha256 that pins it. More than `max_fallbacks` layers
    on the GPU are an error of a DLA target. `copies` counts the copies of inputs and outputs into
    the times; `graph` false times launches one by one. `compute_capability` is what an RTX engine is
    built for ("8.6"; empty: what the machine has, or every one that is supported).
    """

    workspace_mb: Annotated[int, Meta(ge=1, le=1_000_000)] = 2048
    builder_optimization_level: Annotated[int, Meta(ge=0, le=5)] | None = None
    max_batch_size: Annotated[int, Meta(ge=1, le=4096)] = 1
    tf32: bool = False
    timing_cache: Annotated[str, Meta(pattern=r"^(|none|sha256:[0-9a-f]{64})$")] = ""
    max_fallbacks: Annotated[int, Meta(ge=0)] | None = None
    copies: bool = False
    graph: bool = True
    compute_capability: Annotated[str, Meta(pattern=r"^(\d+\.\d)?$")] = ""


def read_options(target: Target) -> Options:
    """The target's options. Raises BuildError naming one that is unknown or out of range."""
    try:
        return convert(target.options, Options)
    except msgspec.ValidationError as error:
        known = ", ".join(Options.__struct_fields__)
        raise BuildError(
            str(error), where="params.yaml (options of the target)", fix=f"known are: {known}"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is built: an ONNX model for a target. `sparsity` is the pattern of its masked weights."""

    content: bytes
    target: Target
    sparsity: str = ""
    cache: CachePlan | None = None


@dataclass(kw_only=True)
class Log:
    """What a TensorRT object said, in order: severity by name, and the words."""

    messages: list[tuple[str, str]] = field(default_factory=list)

    def errors(self) -> str:
        """The last errors, which are the only reasons that TensorRT gives."""
        found = [words for severity, words in self.messages if "ERROR" in severity]
        return "; ".join(dict.fromkeys(found[-_SHOWN:])) or "TensorRT gave no reason"

    def words(self) -> Iterator[str]:
        """Every message, line by line."""
        for _, words in self.messages:
            yield from words.splitlines()


def listening(trt: Any) -> tuple[Any, Log]:
    """A logger that keeps what it is told, and prints nothing."""
    log = Log()

    class Listener(trt.ILogger):  # type: ignore[misc]  # the bindings ship no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.messages.append((str(severity.name), msg))

    return Listener(), log


def build_plan(trt: Any, order: Order) -> tuple[bytes, BuildFact]:
    """The plan's bytes and what is known of it without running it.

    Raises BuildError naming the operator and layer that cannot be parsed, or with the builder's words.
    """
    logger, log = listening(trt)
    builder = made_by(trt.Builder, logger, log)
    network, parser = _parsed(trt, builder, (logger, log), order.content)
    config = builder.create_builder_config()
    _configure(trt, builder, config, network, order)
    notes = () if order.cache is None else attach(config, order.cache).notes
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(
            f"TensorRT cannot build an engine: {log.errors()}",
            fix="see which layer it names; a larger workspace_mb or another precision may help",
        )
    options = read_options(order.target)
    least, usual, largest = batches(order.target, options)
    details = {
        "network layers": str(network.num_layers),
        "TF32": "on" if options.tf32 else "off",
        "profile": f"{least} to {largest} examples, usually {usual}",
    }
    if order.cache is not None:
        details["timing cache"] = keep(config, order.cache)
    content = bytes(plan)
    # The parser holds weights that the network reads until it is built.
    del parser
    return content, _fact(order, log, notes, details)


def made_by(kind: Any, logger: Any, log: Log) -> Any:
    """A TensorRT object. Raises BuildError where there is no device, in whatever way TensorRT says so."""
    try:
        made = kind(logger)
    except (TypeError, RuntimeError) as error:
        raise _no_device(log) from error
    if made is None:
        raise _no_device(log)
    return made


def _no_device(log: Log) -> BuildError:
    return BuildError(
        f"TensorRT finds no usable CUDA device: {log.errors()}",
        fix="see whether nvidia-smi works here and its driver is new enough for this TensorRT",
    )


def _parsed(trt: Any, builder: Any, listener: tuple[Any, Log], content: bytes) -> tuple[Any, Any]:
    """The network, and the parser that keeps its weights alive."""
    _refuse_corrupt(content)
    # Needed by 10, ignored by 11, where every network is strongly typed.
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly is None else 1 << int(strongly))
    parser = trt.OnnxParser(network, listener[0])
    if not parser.parse(content):
        found = [_parse_error(parser.get_error(place)) for place in range(parser.num_errors)]
        raise BuildError(
            f"TensorRT cannot parse the model: {'; '.join(dict.fromkeys(found)) or listener[1].errors()}",
            fix="replace the operator in the task's model by supported ones, or move it out of the model",
        )
    return network, parser


def _parse_error(error: Any) -> str:
    operator, layer = error.node_operator(), error.node_name()
    if not operator:
        return str(error.desc())
    return f"the operator {operator} of the layer '{layer}' ({error.code().name}: {error.desc()})"


def _refuse_corrupt(content: bytes) -> None:
    """Raises BuildError for bytes that are no ONNX model: some parsers crash on what they half read."""
    onnx = require("onnx", "onnx")
    damaged = require("google.protobuf.message", "onnx").DecodeError
    try:
        onnx.checker.check_model(onnx.load_model_from_string(content))
    except (damaged, onnx.checker.ValidationError, ValueError) as error:
        raise BuildError(
            f"this is no ONNX model: {error}", fix="run build again; the file was damaged"
        ) from error


def _configure(trt: Any, builder: Any, config: Any, network: Any, order: Order) -> None:
    options, target = read_options(order.target), order.target
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * MIB)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.builder_optimization_level is not None:
        config.builder_optimization_level = options.builder_optimization_level
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if order.sparsity == "2:4":
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if order.cache is None:
        config.set_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)
    elif order.cache.pin:
        for flag in (
            trt.BuilderFlag.EDITABLE_TIMING_CACHE,
            trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS,
            trt.BuilderFlag.DISABLE_COMPILATION_CACHE,
        ):
            config.set_flag(flag)
    if target.device.startswith("dla"):
        _use_dla(trt, builder, config, target)
    _set_capability(trt, config, options.compute_capability)
    _add_profile(builder, config, network, target, options)


def _use_dla(trt: Any, builder: Any, config: Any, target: Target) -> None:
    core = int(target.device.partition(":")[2] or 0)
    if core >= builder.num_DLA_cores:
        raise BuildError(
            f"there is no DLA core {core} for TensorRT {trt.__version__} here, which sees "
            f"{builder.num_DLA_cores}",
            where="params.yaml (device of the target)",
            fix="use gpu:0, or a board with a DLA and a TensorRT that supports it (11.0 and 11.1 do not)",
        )
    if target.precision == "fp32":
        raise BuildError(
            "a DLA computes in fp16 and int8 only",
            where="params.yaml (precision of the target)",
            fix="use int8-fp16 or fp16",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _set_capability(trt: Any, config: Any, wanted: str) -> None:
    """What an ahead-of-time engine of TensorRT-RTX is for; the full library builds for its own GPU."""
    if not wanted:
        return
    known = getattr(trt, "ComputeCapability", None)
    name = f"SM{wanted.replace('.', '')}"
    if known is None or not hasattr(known, name):
        offered = [name for name in dir(known) if name.startswith("SM")] if known else []
        raise BuildError(
            f"TensorRT {trt.__version__} builds for no compute capability {wanted} by name",
            where="params.yaml (compute_capability of the target)",
            fix=f"use one of: {', '.join(offered)}" if offered else "leave it out",
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(known, name), 0)


def batches(target: Target, options: Options) -> tuple[int, int, int]:
    """The least, usual and largest batch of a call. A DLA has but one (it knows no open dimensions)."""
    if target.device.startswith("dla"):
        return (target.batch_size,) * 3
    largest = max(target.batch_size, *target.throughput_batch_sizes, options.max_batch_size)
    return 1, target.batch_size, largest


def _add_profile(builder: Any, config: Any, network: Any, target: Target, options: Options) -> None:
    profile = builder.create_optimization_profile()
    for place in range(network.num_inputs):
        given = network.get_input(place)
        open_places = [i for i, size in enumerate(given.shape) if size < 0]
        if open_places not in ([], [0]):
            raise BuildError(
                f"the input '{given.name}' has open dimensions besides the batch: {tuple(given.shape)}",
                fix="export it with one fixed shape for each example",
            )
        if open_places:
            rest = tuple(given.shape)[1:]
            shapes = [(size, *rest) for size in batches(target, options)]
            profile.set_shape(given.name, *shapes)
    config.add_optimization_profile(profile)


def _fact(order: Order, log: Log, notes: Sequence[str], details: Mapping[str, str]) -> BuildFact:
    used, said = sparse_layers(log)
    on_gpu = fallback_layers(log) if order.target.device.startswith("dla") else []
    _refuse_fallbacks(on_gpu, read_options(order.target).max_fallbacks)
    told = dict(details)
    if used:
        told["sparse layers"] = said
    if on_gpu:
        told["layers that fell back to the GPU"] = "; ".join(on_gpu)
    return BuildFact(
        sparsity="2:4" if used else "", fallbacks=len(on_gpu), notes=tuple(notes), details=told
    )


def sparse_layers(log: Log) -> tuple[bool, str]:
    """Whether the builder picked sparse kernels, and for which layers, by its own words."""
    for _, words in log.messages:
        found = _SPARSE.search(words)
        if found is not None:
            layers = " ".join(found["layers"].split())
            none = found["count"] == "0" or (found["count"] is None and not layers)
            return (not none), layers
    return False, ""


def fallback_layers(log: Log) -> list[str]:
    """The layers that a DLA engine runs on the GPU, copies between the two included."""
    return [found["layer"].strip() for line in log.words() if (found := _ON_GPU.search(line))]


def _refuse_fallbacks(layers: Sequence[str], most: int | None) -> None:
    if most is not None and len(layers) > most:
        raise BuildError(
            f"{len(layers)} layers fall back from the DLA to the GPU, and max_fallbacks is {most}: "
            f"{'; '.join(layers[:_SHOWN])}",
            fix="change these layers, raise max_fallbacks, or use the GPU",
        )


def inspected(raw: str) -> dict[str, str]:
    """The engine inspector's JSON in a few words: how many layers, in which types their outputs are.

    10 writes a tensor's type into "Format/Datatype", 11 into "Datatype"; with less than detailed
    verbosity layers are bare names.
    """
    try:
        layers = json.loads(raw).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return {}
    types: Counter[str] = Counter()
    for layer in layers:
        for output in layer.get("Outputs", []) if isinstance(layer, dict) else []:
            types[
                _type_name(str(output.get("Datatype") or output.get("Format/Datatype") or ""))
            ] += 1
    kinds = Counter(str(one.get("LayerType", "?")) for one in layers if isinstance(one, dict))
    return {
        "engine layers": str(len(layers)),
        "outputs by type": ", ".join(f"{name} {count}" for name, count in sorted(types.items())),
        "layers by kind": ", ".join(f"{name} {count}" for name, count in sorted(kinds.items())),
    }


def _type_name(words: str) -> str:
    found = re.search(r"[a-z]+\d*", words.lower())
    name = "" if found is None else found[0]
    return next((known for word, known in _TYPES.items() if word in words.lower()), name or "other")


def read_model(path: Path) -> bytes:
    """The ONNX file that `prepare` left. Raises BuildError where it is not there."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(
            "what was prepared for the engine is not there", where=str(path), fix="run build again"
        ) from error
