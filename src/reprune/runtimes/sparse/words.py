"""What sparsity came to, in words and bytes: nobody may read a mask as a speed-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprune.core.artifacts import BuildFact
from reprune.runtimes.base import Capabilities
from reprune.runtimes.sparse.file import write_tensors
from reprune.runtimes.sparse.forms import FORMS, sizes


def sparsity_words(pattern: str, runtime: str, can: Capabilities, built: BuildFact) -> str:
    """What became of the zeros of a model with `pattern` in an engine of `runtime`; "" without masks.

    Promises no time: that is what a benchmark of the target says.
    """
    if not pattern:
        return ""
    if built.sparsity:
        return (
            f"the zeros ({pattern}) are skipped by {runtime}; what that saves is for the benchmark"
        )
    if pattern in can.stores_sparse:
        return (
            f"the zeros ({pattern}) take fewer bytes and save no time: "
            f"{runtime} computes them like any number"
        )
    if pattern in can.sparsity:
        return f"the zeros ({pattern}) could be skipped by {runtime}, which did not choose to"
    return (
        f"the zeros ({pattern}) are stored but not skipped: {runtime} computes them like any number"
    )


@dataclass(frozen=True, kw_only=True)
class StorageLine:
    """Bytes of all tensors of a model in one number type: by form, and `file`, a real file in which
    each has its smallest. A form that does not hold a tensor stores that one densely.
    """

    dtype: str
    forms: dict[str, int]
    file: int


def storage_lines(tensors: Mapping[str, NDArray[Any]], pattern: str = "2:4") -> list[StorageLine]:
    """The model's floats in fp32, fp16 and int8 (a scale of 4 bytes for each row of a tensor)."""
    lines: list[StorageLine] = []
    for dtype, cast in _CASTS.items():
        converted = {
            name: one for key, array in tensors.items() for name, one in cast(key, array).items()
        }
        counted = [sizes(array, pattern) for array in converted.values()]
        forms = {form: sum(one.get(form, one["dense"]) for one in counted) for form in FORMS}
        file = len(write_tensors(converted, pattern=pattern))
        lines.append(StorageLine(dtype=dtype, forms=forms, file=file))
    return lines


def int8_rows(array: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers from -127 to 127 and the scale of each row (dimension 0); zeros stay zeros, and no
    value that is not 0 becomes one.
    """
    rows = np.asarray(array, dtype=np.float32)
    flat = rows.reshape(rows.shape[0] if rows.ndim else 1, -1).astype(np.float64)
    largest = np.abs(flat).max(axis=1, initial=0.0)
    scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    levels = np.clip(np.rint(flat / scale[:, None].astype(np.float64)), -127, 127)
    levels = np.where((levels == 0) & (flat != 0), np.sign(flat), levels)
    return levels.astype(np.int8).reshape(rows.shape), scale


def _as_is(name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {name: array}


def _halved(name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    with np.errstate(over="ignore"):
        return {name: array.astype(np.float16) if array.dtype.kind == "f" else array}


def _whole(name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    if array.dtype.kind != "f" or array.ndim < 2:
        return {name: array}
    levels, scale = int8_rows(array)
    return {name: levels, f"{name}.scale": scale}


_CASTS = {"fp32": _as_is, "fp16": _halved, "int8": _whole}
