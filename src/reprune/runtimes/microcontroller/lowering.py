"""A module as operations for a microcontroller, with the weights of each. Needs torch; only `build` is here.

The module is exported (torch.export), so that what a forward pass does by functions is seen as well as
its layers. A batch norm behind a convolution becomes that layer's scale and bias: the weights stay as
they were trained, few values and zeros included.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reprune.core.errors import BuildError
from reprune.runtimes.microcontroller.graph import (
    AFFINE,
    WEIGHTED,
    Area,
    Graph,
    Op,
    Port,
    Shape,
)
from reprune.runtimes.microcontroller.plan import Life, offsets

if TYPE_CHECKING:
    from torch import Tensor, fx, nn
    from torch.export import ExportedProgram

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor of the module for one example. Values with one `buffer` share their memory."""

    buffer: int
    dims: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        return shape_of(self.dims)


@dataclass(kw_only=True)
class Step:
    """An operation whose areas have no place yet. `weight`, `scale` and `bias` belong to it."""

    code: int
    inputs: tuple[Value, ...]
    output: Value
    numbers: tuple[int, ...] = ()
    floats: tuple[float, ...] = ()
    weight: Array | None = None
    scale: NDArray[np.float64] | None = None
    bias: NDArray[np.float64] | None = None


def shape_of(dims: tuple[int, ...]) -> Shape:
    """Channels, rows and columns; a vector is a picture of 1 x 1, a sequence one of a single row."""
    if len(dims) == 3:
        return (dims[0], dims[1], dims[2])
    if len(dims) == 2:
        return (dims[0], 1, dims[1])
    return (dims[0] if dims else 1, 1, 1)


@dataclass(kw_only=True)
class Lowering:
    """What was made of the `nodes` so far. `constants` are the module's own tensors, by node name."""

    constants: dict[str, NDArray[Any]]
    nodes: dict[str, fx.Node]
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    buffers: int = 0
    batch: str = ""

    def fresh(self, node: fx.Node) -> Value:
        """A value of the node's form in memory of its own."""
        self.buffers += 1
        return Value(buffer=self.buffers - 1, dims=self.dims(node))

    def dims(self, node: fx.Node) -> tuple[int, ...]:
        """The node's dimensions without the batch. Raises BuildError where that is not the first."""
        found = node.meta["val"]
        if not hasattr(found, "shape") or not len(found.shape) or str(found.shape[0]) != self.batch:
            raise refusal(node, "gives a tensor whose first dimension is not the batch")
        dims = tuple(found.shape[1:])
        if not all(isinstance(side, int) and side > 0 for side in dims) or len(dims) > 3:
            raise refusal(node, f"gives a tensor of {list(dims)} for an example")
        return dims

    def value(self, node: object, user: fx.Node) -> Value:
        """What the node's tensor became. Raises BuildError for a constant where an activation must be."""
        name = getattr(node, "name", "")
        if name not in self.values:
            raise refusal(user, f"works on {node}, which is no activation")
        return self.values[name]

    def constant(self, node: object, user: fx.Node) -> NDArray[Any]:
        """A tensor of the module. Raises BuildError for one that is computed."""
        name = getattr(node, "name", "")
        if name not in self.constants:
            raise refusal(user, "takes a weight that is computed, not stored")
        return self.constants[name]

    def add(self, step: Step, node: fx.Node) -> None:
        self.steps.append(step)
        self.values[node.name] = step.output


def lowered(
    module: nn.Module, example_inputs: tuple[Tensor, ...], input_names: Sequence[str]
) -> tuple[Graph, list[Step]]:
    """The graph, and for each operation the step with its weights. The module is not changed.

    Raises BuildError that names the layer and the operator that no microcontroller code is there for.
    """
    from reprune.runtimes.microcontroller.operators import OPERATORS, SUPPORTED

    program = _exported(module, example_inputs)
    names = program.graph_signature.user_inputs
    inputs = [node for node in program.graph.nodes if node.name in names]
    state = Lowering(
        constants=_constants(program), nodes={node.name: node for node in program.graph.nodes}
    )
    for node, name in zip(inputs, input_names, strict=True):
        found = node.meta["val"]
        if str(found.dtype) != "torch.float32":
            raise BuildError(
                f"the input '{name}' holds {str(found.dtype).removeprefix('torch.')}: code for a "
                "microcontroller takes float32",
                fix="give the model its inputs as float32 numbers, or use another runtime",
            )
        state.batch = str(found.shape[0])
        state.values[node.name] = state.fresh(node)
    for node in program.graph.nodes:
        if node.op != "call_function" or not node.users or _is_size(node):
            continue
        operator = str(node.target)
        if operator not in OPERATORS:
            raise refusal(node, "is not supported", fix=f"supported are: {', '.join(SUPPORTED)}")
        OPERATORS[operator](state, node)
    outputs = [state.values.get(str(name)) for name in program.graph_signature.user_outputs]
    if any(value is None for value in outputs) or not outputs:
        raise BuildError(
            "an output of the model is a constant", fix="return only what depends on the inputs"
        )
    given = [state.values[node.name] for node in inputs]
    return _placed(state.steps, given, [value for value in outputs if value is not None])


def _exported(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> ExportedProgram:
    import torch

    # A batch of one would be taken for a constant.
    two = tuple(torch.cat([tensor[:1], tensor[:1]]).cpu() for tensor in example_inputs)
    batch = torch.export.Dim("batch")
    modes = {inner: inner.training for inner in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Behind *inputs: a dynamic shape for each, whatever the module's own parameters are called.
            return torch.export.export(
                _positional(module), two, dynamic_shapes=(tuple({0: batch} for _ in two),)
            )
    except Exception as error:  # torch.export raises all kinds of its own
        first = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise BuildError(
            f"the model cannot be exported: {first.strip()}",
            fix="keep control flow that depends on values out of the model's forward pass, and take "
            "the batch size from the input's shape",
        ) from error
    finally:
        for inner, was in modes.items():
            inner.training = was


def _positional(module: nn.Module) -> nn.Module:
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *inputs: Tensor) -> object:
            return self.model(*inputs)

    return Model()


def _constants(program: ExportedProgram) -> dict[str, NDArray[Any]]:
    signature = program.graph_signature
    state = {**program.state_dict, **program.constants}
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {
        node: state[name].detach().cpu().numpy() for node, name in named.items() if name in state
    }


def _is_size(node: fx.Node) -> bool:
    """Sizes and checks of the batch: they compute nothing of an example."""
    return str(node.target).startswith(("aten.sym_size", "aten._assert")) or not hasattr(
        node.meta.get("val"), "dtype"
    )


def refusal(node: fx.Node, why: str, *, fix: str = "") -> BuildError:
    """An error that names the layer as the user knows it, and the operator."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    path = path.removeprefix("model").removeprefix(".")
    layer = f"layer '{path}' ({str(kind).rpartition('.')[2]})" if path else "the model"
    operator = str(node.target).removeprefix("aten.").partition(".")[0]
    return BuildError(
        f"{layer}: {operator} {why}",
        where="microcontroller",
        fix=fix or "replace it in the task's model, or use another runtime",
    )


def _placed(
    steps: Sequence[Step], inputs: Sequence[Value], outputs: Sequence[Value]
) -> tuple[Graph, list[Step]]:
    """The graph with an offset for every buffer, which lives from its first write to its last read."""
    first: dict[int, int] = {value.buffer: 0 for value in inputs}
    last: dict[int, int] = {value.buffer: 0 for value in inputs}
    size: dict[int, int] = {}
    for place, step in enumerate(steps, start=1):
        for value in (*step.inputs, step.output):
            first.setdefault(value.buffer, place)
            last[value.buffer] = place
    for value in outputs:
        last[value.buffer] = len(steps) + 1
    for value in (*inputs, *outputs, *(value for s in steps for value in (*s.inputs, s.output))):
        size[value.buffer] = math.prod(value.dims)
    order = sorted(size)
    found, arena = offsets(
        [Life(size=size[one], first=first[one], last=last[one]) for one in order]
    )
    at = dict(zip(order, found, strict=True))

    def area(value: Value) -> Area:
        return Area(offset=at[value.buffer], shape=value.shape)

    ops = tuple(
        Op(
            code=step.code,
            inputs=tuple(map(area, step.inputs)),
            output=area(step.output),
            numbers=step.numbers,
            floats=step.floats,
        )
        for step in steps
    )
    ports = [
        tuple(Port(offset=at[value.buffer], dims=value.dims) for value in values)
        for values in (inputs, outputs)
    ]
    return Graph(arena=arena, inputs=ports[0], outputs=ports[1], ops=ops), list(steps)


def takes_weights(step: Step) -> bool:
    return step.code in WEIGHTED or step.code == AFFINE
