"""The payload files of a benchmark, read strictly: what is not as it was written raises."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from reprune.core.artifacts import Fact
from reprune.core.documents import MAX_SAMPLES_BYTES, decode_json, read_bounded
from reprune.core.errors import PayloadCorrupt
from reprune.judge.evidence import Start, Unit, decode_units

RECORDS_FILE = "records.safetensors"
EXAMPLES_FILE = "examples.json"
_MEASURE = "run `dvc repro -s -f benchmark`, then `dvc repro`"

T = TypeVar("T")


class ExamplesFile(Fact, kw_only=True):
    """Which examples were judged, in the order of the records (see core.artifacts.Recorded)."""

    ids: tuple[str, ...]
    slices: dict[str, tuple[str, ...]]
    sources: tuple[str, ...] | None
    times: tuple[str, ...] | None = None


def read_examples(path: Path) -> ExamplesFile:
    """The judged examples. Raises DocumentError or PayloadCorrupt."""
    return read_sample(path, ExamplesFile)


def read_units(path: Path) -> tuple[Unit, ...]:
    """The units in one payload file. Raises DocumentError or PayloadCorrupt."""
    return decode_units(_bytes(path), name=str(path))


def read_memory(path: Path) -> dict[str, tuple[int, ...]]:
    """Peak resident bytes by arm, one for each process. Raises DocumentError or PayloadCorrupt."""
    return read_sample(path, dict[str, tuple[int, ...]])


def read_starts(path: Path) -> dict[str, tuple[Start, ...]]:
    """How engines began, by arm, one for each process. Raises DocumentError or PayloadCorrupt."""
    return read_sample(path, dict[str, tuple[Start, ...]])


def read_sample(path: Path, kind: type[T]) -> T:
    """One JSON payload file as `kind`. Raises DocumentError or PayloadCorrupt."""
    return decode_json(_bytes(path), kind, name=str(path), max_bytes=MAX_SAMPLES_BYTES)


def read_records(path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Column by arm key and column name, each one integer an example.

    Raises PayloadCorrupt for a file that does not decode, or holds anything but rows of int64.
    """
    try:
        tensors = load(_bytes(path))
    except (SafetensorError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise _corrupt(path, f"does not decode: {error}") from error
    columns: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        key, _, column = name.rpartition("/")
        if not key or not column:
            raise _corrupt(path, f"holds '{name}', which names no arm and column")
        if tensor.dtype != np.int64 or tensor.ndim != 1:
            raise _corrupt(
                path, f"holds '{name}' as {tensor.dtype}{list(tensor.shape)}, not int64[n]"
            )
        columns.setdefault(key, {})[column] = tuple(tensor.tolist())
    return columns


def _bytes(path: Path) -> bytes:
    try:
        return read_bounded(path, max_bytes=MAX_SAMPLES_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise PayloadCorrupt("is not among the samples", where=str(path), fix=_MEASURE) from None


def _corrupt(path: Path, what: str) -> PayloadCorrupt:
    return PayloadCorrupt(what, where=str(path), fix=_MEASURE)
