"""The checks of a task's module: its inputs, outputs, loss, records and workload, on fresh weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reprune.core.errors import TaskError
from reprune.core.records import range_of
from reprune.task.outputs import outputs_of, said_of_outputs
from reprune.task.protocol import Batch, Task

EXAMPLES = 4
# Of an output's largest magnitude: kernels for other batch sizes add in another order.
BATCH_TOLERANCE = 1e-3


def check_model(task: Task, name: str) -> None:
    """A fresh module takes the example inputs, gives one output an example, and does not generate."""
    if callable(getattr(task, "generate", None)):
        raise _generates(name, "the task has a method `generate`")
    module = task.model()
    if not isinstance(module, nn.Module):
        raise TaskError(
            f"returns {type(module).__name__}, not an nn.Module", where=f"{name}.model()"
        )
    refuse_unfinished(module, f"{name}.model()")
    _check_same_architecture(module, task.model(), name)
    module.eval()
    inputs = task.example_inputs(EXAMPLES)
    check_inputs(inputs, module, where=f"{name}.example_inputs({EXAMPLES})", size=EXAMPLES)
    if len(task.input_names) != len(inputs) or len(set(task.input_names)) != len(inputs):
        raise TaskError(
            f"names {list(task.input_names)}, but example_inputs gives {len(inputs)}",
            where=f"{name}.input_names",
            fix="give one name of its own for each input, in order",
        )
    with torch.no_grad():
        outputs = _run(module, inputs, name)
        _refuse_sequences(module, inputs, outputs, name)
        _check_outputs(module, inputs, outputs, name)
        said = said_of_outputs(task)
        if isinstance(said, tuple) and len(said) != len(outputs):
            raise TaskError(
                f"tells of {len(said)} outputs, the model gives {len(outputs)}",
                where=f"{name}.outputs_are",
                fix="say what each one is, in order",
            )
        _check_workload(task, module, name)


def refuse_unfinished(module: nn.Module, where: str) -> None:
    """Raises TaskError, which names them, for layers that cannot be looked into or whose shapes are open."""
    for name, layer in module.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise TaskError(
                f"{name or 'the whole model'} is a TorchScript module, whose code cannot be changed",
                where=where,
                fix="build the model of plain modules, without torch.jit",
            )
        tensors = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
        for key, tensor in tensors:
            if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
                raise TaskError(
                    f"{name or 'the whole model'} ({type(layer).__name__}) gets the shape of its {key} "
                    "from the first batch",
                    where=where,
                    fix="write its number of inputs out, or run the model once before it is returned",
                )


def check_inputs(inputs: Any, module: nn.Module, *, where: str, size: int) -> None:
    """Tensors with `size` rows; floating ones of the parameters' own type. Raises TaskError."""
    floats = {p.dtype for p in module.parameters() if p.is_floating_point()} or {torch.float32}
    if not isinstance(inputs, tuple) or not inputs:
        raise TaskError("must be a tuple of tensors, one for each input", where=where)
    for place, tensor in enumerate(inputs):
        if not isinstance(tensor, Tensor):
            raise TaskError(f"input {place} is {type(tensor).__name__}, not a tensor", where=where)
        if tensor.ndim == 0 or len(tensor) != size:
            raise TaskError(
                f"input {place} has shape {tuple(tensor.shape)}; its first dimension must be the "
                f"{size} examples",
                where=where,
            )
        if tensor.is_floating_point() and tensor.dtype not in floats:
            raise TaskError(
                f"input {place} is {tensor.dtype}, the model's parameters are "
                f"{', '.join(sorted(map(str, floats)))}",
                where=where,
                fix="convert the data once, where it is loaded: array.astype(np.float32)",
            )


def check_loss_and_records(task: Task, batch: Batch, name: str, *, seed: int) -> frozenset[str]:
    """On one batch: the loss is a finite scalar with a gradient; records are int64, one an example. Returns
    the names of their columns.
    """
    module = task.model()
    module.train()
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        loss: Any = task.loss(module, batch, generator)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(
            f"gives {shape}, not a scalar tensor", where=f"{name}.loss", fix="use mean()"
        )
    if not math.isfinite(float(loss.detach())):
        raise TaskError(
            f"is {float(loss.detach())} on the first batch of fresh weights",
            where=f"{name}.loss",
            fix="look for a log of 0, a division by 0, or inputs that are not scaled",
        )
    if not loss.requires_grad:
        raise TaskError(
            "has no gradient",
            where=f"{name}.loss",
            fix="do not detach, and do not compute it under torch.no_grad()",
        )
    module.eval()
    with torch.no_grad():
        records = task.records(outputs_of(module, batch.inputs), batch)
    if not records:
        raise TaskError("gives no column", where=f"{name}.records")
    for column, values in records.items():
        _check_column(column, values, len(batch), name)
    for column in records:
        member, kind = column[: -len("numerator")], column.rpartition(".")[2]
        below = records.get(f"{member}denominator")
        if kind == "numerator" and below is not None and (records[column] > below).any():
            raise TaskError(
                "gives a numerator above its denominator", where=f"{name}.records ({column})"
            )
    return frozenset(records)


def _check_column(column: str, values: Any, size: int, name: str) -> None:
    where = f"{name}.records ({column})"
    if not isinstance(values, np.ndarray) or values.dtype != np.int64:
        kind = getattr(values, "dtype", type(values).__name__)
        raise TaskError(
            f"is {kind}, not a numpy array of int64",
            where=where,
            fix="sums must be the same on every machine: use .cpu().numpy().astype(np.int64)",
        )
    if values.shape != (size,):
        raise TaskError(
            f"has shape {values.shape} for {size} examples",
            where=where,
            fix="give one number an example, not one a batch",
        )
    low, high = range_of(column.rpartition(".")[2]) or (values.min(), values.max())
    if ((values < low) | (values > high)).any():
        demand = "0 or more" if low == 0 and high > 2**60 else f"within {low}..{high}"
        demand = "0 or 1" if (low, high) == (0, 1) else demand
        raise TaskError(
            f"has values {values.min()}..{values.max()}; it must be {demand}",
            where=where,
            fix="docs/metrics.md says what each column holds",
        )


def _check_same_architecture(one: nn.Module, two: nn.Module, name: str) -> None:
    shapes = [
        {key: tuple(value.shape) for key, value in m.state_dict().items()} for m in (one, two)
    ]
    if shapes[0] != shapes[1]:
        other = sorted(
            key
            for key in shapes[0].keys() | shapes[1].keys()
            if shapes[0].get(key) != shapes[1].get(key)
        )
        raise TaskError(
            f"gives another architecture each time: {', '.join(other[:3])} differ",
            where=f"{name}.model()",
            fix="let nothing random decide layers or widths",
        )


def _run(module: nn.Module, inputs: tuple[Tensor, ...], name: str) -> tuple[Tensor, ...]:
    try:
        return outputs_of(module, inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        given = ", ".join(f"{x.dtype} {tuple(x.shape)}" for x in inputs)
        raise TaskError(
            f"the model does not accept {len(inputs[0])} of its own example inputs ({given}): {error}",
            where=f"{name}.example_inputs",
            fix="give inputs of the shape and type that the model's first layers take",
        ) from error


def _check_outputs(
    module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], name: str
) -> None:
    where = f"{name}.model()"
    for place, output in enumerate(outputs):
        if output.ndim == 0 or len(output) != EXAMPLES:
            raise TaskError(
                f"output {place} has shape {tuple(output.shape)} for {EXAMPLES} examples; its size "
                "depends on something else than the batch",
                where=where,
                fix="keep the examples in the first dimension of every output",
            )
        if output.is_floating_point() and not output.isfinite().all():
            raise TaskError(f"output {place} of fresh weights is not finite", where=where)
    again = _run(module, inputs, name)
    if not all(torch.equal(a, b) for a, b in zip(outputs, again, strict=True)):
        raise TaskError(
            "gives other outputs for the same inputs in eval mode",
            where=where,
            fix="let module.eval() turn off whatever is random (F.dropout needs training=...)",
        )
    alone = [_run(module, tuple(x[i : i + 1] for x in inputs), name) for i in range(EXAMPLES)]
    for place, output in enumerate(outputs):
        single = torch.cat([row[place] for row in alone])
        if single.shape != output.shape or not _close(single, output):
            raise TaskError(
                f"output {place} of an example depends on the batch that it is in",
                where=where,
                fix="let no operation mix examples: no batch statistics in eval mode "
                "(track_running_stats), no mean or softmax over dimension 0, no fixed batch size",
            )


def _close(one: Tensor, two: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, two)
    scale = max(float(two.abs().max()), 1e-6)
    return float((one - two).abs().max()) <= BATCH_TOLERANCE * scale


def _refuse_sequences(
    module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], name: str
) -> None:
    """A next-token model: whole numbers (N, L) in, (N, L, vocabulary of one of its embeddings) out."""
    vocabularies = {
        part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)
    }
    for tokens in inputs:
        if tokens.ndim != 2 or tokens.is_floating_point():
            continue
        sizes = {
            output.shape[2]
            for output in outputs
            if output.shape[:2] == tokens.shape
            if output.ndim == 3
        }
        for size in sizes & vocabularies:
            raise _generates(
                name, f"every token gets {size} scores, one for each of the vocabulary"
            )


def _generates(name: str, sign: str) -> TaskError:
    return TaskError(
        f"generates sequences ({sign}). That is not supported: the gate judges one record an "
        "example, and a generated text is neither right nor wrong by itself",
        where=name,
        fix="compress a model that classifies, segments, detects or embeds",
    )


def _check_workload(task: Task, module: nn.Module, name: str) -> None:
    where = f"{name}.workload()"
    work = list(task.workload())
    if not work or not math.isclose(sum(part.weight for part in work), 1.0, rel_tol=1e-6):
        raise TaskError(
            f"has {len(work)} shapes whose weights sum to {sum(part.weight for part in work):g}",
            where=where,
            fix="give at least one, with weights that sum to 1",
        )
    for part in work:
        if part.weight <= 0:
            raise TaskError(f"has a weight of {part.weight:g}", where=where)
        check_inputs(part.inputs, module, where=where, size=len(part.inputs[0]))
        if not len(part.inputs[0]):
            raise TaskError("holds no example", where=where, fix="fill the split `calibration`")
        _run(module, tuple(tensor[:EXAMPLES] for tensor in part.inputs), name)
