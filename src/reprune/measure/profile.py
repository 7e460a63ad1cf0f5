"""What a model costs: parameters, MACs and bytes counted, nothing silently 0; its latency measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from reprune.core.artifacts import Cost, LayerProfile, OperatorTime, TargetProfile
from reprune.core.errors import TaskError
from reprune.core.params import BenchmarkParams, ProfileParams, Target
from reprune.measure.calls import Shape
from reprune.measure.hostlock import host_lock
from reprune.measure.latency import LatencyJob
from reprune.measure.operators import FORMULAS, FREE
from reprune.measure.outputs import evaluating
from reprune.measure.timing_place import TimingPlace
from reprune.runtimes.base import OperatorTimed, Session


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What `count_cost` found. `layers` are in the order of `named_modules`, "" being the model itself.

    `uncounted` names each operator that multiplies and has no formula, and the layer that ran it.
    """

    cost: Cost
    layers: tuple[LayerProfile, ...]
    uncounted: tuple[str, ...]


def count_cost(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> Counted:
    """The cost of one forward pass in eval mode, for one example (the first of `example_inputs`).

    MACs are half the FLOPs of torch.utils.flop_counter, and belong to the innermost module that was
    running: functional operators, attention, products and subclassed layers are seen, because what
    is counted is what torch dispatches. Tied tensors count once. The module is left as it was.
    Raises TaskError if it does not run on its example.
    """
    one = tuple(tensor[:1] for tensor in example_inputs)
    names = {inner: name for name, inner in module.named_modules()}
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    shares = _Shares(names, counter)
    leaves = _Leaves(shares, frozenset({*counter.flop_registry}))
    with ExitStack() as stack:
        stack.enter_context(_plain_eval(module))
        stack.enter_context(shares)
        # Entered before the counter, this mode sees what is left after the counter decomposed it.
        stack.enter_context(leaves)
        stack.enter_context(counter)
        try:
            module(*one)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise TaskError(
                f"the model does not run on its own example inputs: {error}",
                fix="correct the task's model() or example_inputs()",
            ) from error
    cost = Cost(
        params=sum(parameter.numel() for parameter in module.parameters()),
        macs=counter.get_total_flops() // 2,
        bytes=_stored_bytes(module),
    )
    return Counted(cost=cost, layers=_layers(module, shares), uncounted=tuple(leaves.uncounted))


def measure_target(
    engine: Path, name: str, where: TimingPlace, shapes: Sequence[Shape], params: ProfileParams
) -> TargetProfile:
    """The engine's latency and that of its operators, now: a figure, no evidence.

    `latency_us` is the traffic-weighted median over the workload's shapes; operators are those of
    the shape with most traffic, none where the runtime does not tell or another process times it. Waits
    for the host's measurement lock. Raises BuildError, and what `where.units` raises.
    """
    target, runtime = where.target, where.runtime
    if not where.inside:
        return _told(name, target, _call_us_apart(engine, name, where, shapes), ())
    with host_lock():
        latency_us = sum(
            shape.weight * _median_call_us(runtime.open(engine, target), shape, params)
            for shape in shapes
        )
        main = max(shapes, key=lambda shape: shape.weight)
        operators = (
            runtime.operator_times(engine, target, main.inputs, params.calls)
            if isinstance(runtime, OperatorTimed)
            else ()
        )
    return _told(name, target, latency_us, operators)


def _told(
    name: str, target: Target, latency_us: float, operators: tuple[OperatorTime, ...]
) -> TargetProfile:
    return TargetProfile(
        target=name,
        runtime=target.runtime,
        batch_size=target.batch_size,
        latency_us=round(latency_us, 3),
        operators=operators,
    )


def _call_us_apart(engine: Path, name: str, where: TimingPlace, shapes: Sequence[Shape]) -> float:
    """The median call of a unit in another process, which may crash."""
    job = LatencyJob(
        target=where.target,
        engines={"dense": engine},
        shapes=shapes,
        params=BenchmarkParams(),
        seed=f"profile {name}",
    )
    (unit,) = where.units(job, 1)
    return median(call for block in unit.arms["dense"].blocks_ns for call in block) / 1e3


def _median_call_us(session: Session, shape: Shape, params: ProfileParams) -> float:
    for _ in range(params.warmup_calls):
        session.run(shape.inputs)
    took = []
    for _ in range(params.calls):
        begin = time.perf_counter_ns()
        session.run(shape.inputs)
        took.append(time.perf_counter_ns() - begin)
    return median(took) / 1e3


class _Shares:
    """Splits the counter's running total among the modules that were innermost while it grew."""

    def __init__(self, names: Mapping[nn.Module, str], counter: FlopCounterMode) -> None:
        self.names = names
        self.counter = counter
        self.flops: dict[str, int] = dict.fromkeys(names.values(), 0)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.running: list[str] = []
        self._seen = 0
        self._hooks: list[Any] = []

    def __enter__(self) -> _Shares:
        for inner in self.names:
            self._hooks.append(inner.register_forward_pre_hook(self._begin, prepend=True))
            self._hooks.append(inner.register_forward_hook(self._end))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, inner: nn.Module, _: object) -> None:
        self._settle()
        self.running.append(self.names[inner])

    def _end(self, _: nn.Module, __: object, output: object) -> None:
        self._settle()
        name = self.running.pop()
        self.shapes.setdefault(name, _first_shape(output))

    def _settle(self) -> None:
        total = self.counter.get_total_flops()
        if self.running:
            self.flops[self.running[-1]] += total - self._seen
        self._seen = total


class _Leaves(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base has no types
    """Names every operator that reached the end uncounted and is not free."""

    supports_higher_order_operators = True

    def __init__(self, shares: _Shares, counted: frozenset[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.shares = shares
        self.counted = counted
        self.uncounted: dict[str, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if not self._is_known(func):
            layer = self.shares.running[-1] if self.shares.running else ""
            self.uncounted[f"{_operator_name(func)} in {layer or 'the model itself'}"] = None
        return func(*args, **(kwargs or {}))

    def _is_known(self, func: Any) -> bool:
        packet = getattr(func, "overloadpacket", func)
        if packet in self.counted or func in self.counted:
            return True
        if not isinstance(func, torch._ops.OpOverload):
            return False
        if func.is_view or torch.Tag.pointwise in func.tags or torch.Tag.reduction in func.tags:
            return True
        space, _, name = func._schema.name.partition("::")
        return space in ("aten", "prim", "prims") and name in FREE


def _operator_name(func: Any) -> str:
    schema = getattr(func, "_schema", None)
    return str(schema.name).replace("::", ".") if schema is not None else str(func)


@contextmanager
def _plain_eval(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients or fused kernels: those would hide the products inside them."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # `mkldnn.flags()` would touch more than this one switch, and warn on most machines.
    mkldnn = torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        with evaluating(module), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch._C._set_mkldnn_enabled(mkldnn)


def _layers(module: nn.Module, shares: _Shares) -> tuple[LayerProfile, ...]:
    """Every module that ran or owns parameters; a tied parameter belongs to the first that has it."""
    seen: set[int] = set()
    found: list[LayerProfile] = []
    for name, inner in module.named_modules():
        own = {id(p): p.numel() for p in inner.parameters(recurse=False) if id(p) not in seen}
        seen |= set(own)
        macs = shares.flops[name] // 2
        leaf_ran = name in shares.shapes and next(inner.children(), None) is None
        if own or macs or leaf_ran:
            found.append(
                LayerProfile(
                    layer=name,
                    type=type(inner).__name__,
                    params=sum(own.values()),
                    macs=macs,
                    output_shape=shares.shapes.get(name, ()),
                )
            )
    return tuple(found)


def _stored_bytes(module: nn.Module) -> int:
    """Parameters and persistent buffers, tied ones once, in their own precision."""
    stored = set(module.state_dict(keep_vars=True))
    tensors = {
        id(tensor): tensor.numel() * tensor.element_size()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if name in stored
    }
    return sum(tensors.values())


def _first_shape(output: object) -> tuple[int, ...]:
    """The shape of the first tensor in a module's output, () if it holds none."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    inside: Sequence[object] = ()
    if isinstance(output, Mapping):
        inside = list(output.values())
    elif isinstance(output, list | tuple):
        inside = output
    return next((shape for shape in map(_first_shape, inside) if shape), ())
