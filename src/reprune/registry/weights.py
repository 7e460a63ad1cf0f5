"""The weight file of a dense version: found, checked within our own limits, without torch and pickle.

The safetensors library accepts what we do not: 300,000 tensors, a 100 MB header, NaN (see `check_weights`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import msgspec
import numpy as np

from reprune.core.artifacts import WEIGHTS
from reprune.core.confined import Bounds, ask_confined
from reprune.core.documents import strict_json
from reprune.core.errors import (
    CheckpointError,
    DocumentError,
    NonFiniteWeights,
    PickleRefused,
    RepruneError,
)
from reprune.core.sniff import PICKLE, SAFETENSORS, ZIP, sniff

MAX_TENSORS = 10_000
MAX_HEADER_BYTES = 8 * 2**20
PICKLED = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".pt2")
RISK = "unpickling runs code that the file's author chose; only do it for files of people you trust"
UNPICKLE_SECONDS = 600

_CHUNK = 2**22
Values: TypeAlias = np.ndarray[Any, Any]
# Formats numpy does not know, as they are read, and as one that it does. E4M3 has a NaN and no infinity.
_WIDENED: dict[str, tuple[type[np.generic], Callable[[Values], Values]]] = {
    "BF16": (np.uint16, lambda bits: (bits.astype(np.uint32) << 16).view(np.float32)),
    "F8_E5M2": (np.uint8, lambda bits: (bits.astype(np.uint16) << 8).view(np.float16)),
    "F8_E4M3": (np.uint8, lambda bits: np.where(bits & 0x7F == 0x7F, np.nan, 1.0)),
}
_FLOATS: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "C64": np.complex64,
}
_WHOLE = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8,
}  # fmt: skip


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of a safetensors header; `data_offsets` are from where the data begins."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def find_weights(folder: Path, *, allow_pickle: bool, where: str) -> Path:
    """The one file below `folder` that holds the weights: `*.safetensors`, else a pickled one if allowed.

    Raises PickleRefused where only pickled files are there, CheckpointError for none or for several.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    safe = [path for path in files if path.suffix == ".safetensors"]
    pickled = [path for path in files if path.suffix in PICKLED]
    found = safe or pickled
    names = ", ".join(path.relative_to(folder).as_posix() for path in found[:5])
    if not found:
        raise CheckpointError(
            "holds no weights",
            where=where,
            fix=f"register a folder with one state dict in safetensors, such as {WEIGHTS}",
        )
    if not safe and not allow_pickle:
        raise PickleRefused(
            f"holds only pickled weights ({names}); {RISK}",
            where=where,
            fix="save the state dict with safetensors.torch.save_file and register that, "
            "or, for a state dict and not a whole module, set registry.allow_pickle: true in params.yaml",
        )
    if len(found) > 1:
        raise CheckpointError(
            f"holds several weight files ({names}); it is not clear which to take",
            where=where,
            fix="register a folder with exactly one; docs/task.md says how shards become one",
        )
    return found[0]


def take_weights(found: Path, out: Path) -> None:
    """Writes what `found` holds to `out` as checked safetensors. What it is, its content says.

    It is parsed in a confined process, a pickled one only there. Raises what `check_weights` and
    `unpickle` raise, and CheckpointError for a file that is not what its name says.
    """
    from reprune.registry.inspecting import check_apart

    kind = sniff(found)
    if kind == SAFETENSORS:
        # What is checked below is the copy that is used.
        shutil.copyfile(found, out)
    elif found.suffix in PICKLED and kind in (PICKLE, ZIP):
        unpickle(found, out)
    else:
        raise CheckpointError(
            f"holds no weights that are read here: by its content it is of the kind '{kind}'",
            where=found.name,
            fix="save the state dict with safetensors.torch.save_file and register that",
        )
    check_apart(out)


def check_weights(path: Path) -> None:
    """Returns only if `path` is a sound safetensors file within our limits and every value is finite, but for
    tensors that are masks (`is_mask`): a file does not say what is a buffer, a bundle refuses them where they
    learn.

    Raises NonFiniteWeights naming the tensor, CheckpointError for anything else.
    """
    header, start = read_header(path)
    _check_structure(path, header)
    with path.open("rb") as stream:
        for name, tensor in header.items():
            _check_finite(stream, start, name, tensor, path)


def is_mask(values: Any) -> bool:
    """Whether an array or tensor holds nothing but zeros and negative infinities, as what is added to the
    scores of attention does.
    """
    return bool(((values == 0) | (values == -math.inf)).all())


def unpickle(found: Path, out: Path) -> None:
    """Turns a pickled state dict into safetensors, in a confined child; nothing is at `out` if it fails.

    The child loads with weights_only=True and never falls back; it has no network, starts nothing and
    opens no other file for writing. Raises MissingExtra without torch, CheckpointError for anything
    that is not a plain state dict, and where the system cannot confine it so.
    """
    size = found.stat().st_size
    bounds = Bounds(
        memory_bytes=2**30 + 4 * size,
        seconds=UNPICKLE_SECONDS,
        written_bytes=2**22 + 17 * size,
        sealed=True,
    )
    try:
        ask_confined(
            "reprune.registry.unpickle",
            [str(found), str(out)],
            bounds,
            doing=f"reading {found.name}",
            refusal=CheckpointError,
        )
    except RepruneError:
        out.unlink(missing_ok=True)
        raise


def read_header(path: Path) -> tuple[dict[str, Tensor], int]:
    """The file's tensors by name, and where its data begins. Raises CheckpointError."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= MAX_HEADER_BYTES:
            raise CheckpointError(
                f"its header claims {size} bytes; 2 to {MAX_HEADER_BYTES} are accepted",
                where=str(path),
            )
        raw = stream.read(size)
    try:
        value: Any = strict_json(raw, name=str(path), max_bytes=MAX_HEADER_BYTES)
    except DocumentError as error:
        raise CheckpointError(f"its header {error.what}", where=str(path)) from error
    if not isinstance(value, dict):
        raise CheckpointError("its header is no table of tensors", where=str(path))
    value.pop("__metadata__", None)
    if not 1 <= len(value) <= MAX_TENSORS:
        raise CheckpointError(
            f"holds {len(value)} tensors; 1 to {MAX_TENSORS} are accepted", where=str(path)
        )
    try:
        return msgspec.convert(value, dict[str, Tensor]), 8 + size
    except msgspec.ValidationError as error:
        raise CheckpointError(f"its header is malformed: {error}", where=str(path)) from error


def _check_structure(path: Path, header: dict[str, Tensor]) -> None:
    """Leaves overlaps, holes and sizes to the library, and sees that it found what we found."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            names = set(opened.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"is not a sound safetensors file: {error}", where=str(path)
        ) from error
    if names != set(header):
        raise CheckpointError("its header can be read in two ways", where=str(path))


def _check_finite(stream: BinaryIO, start: int, name: str, tensor: Tensor, path: Path) -> None:
    if tensor.dtype in _WHOLE:
        return
    kind, widen = _WIDENED.get(tensor.dtype, (_FLOATS.get(tensor.dtype), np.asarray))
    if kind is None:
        raise CheckpointError(
            f"the tensor {name!r} has the type {tensor.dtype}, which is not supported",
            where=str(path),
            fix="save floating point or integer weights",
        )
    stream.seek(start + tensor.data_offsets[0])
    left = math.prod(tensor.shape)
    finite, mask = True, tensor.dtype != "C64"
    while left > 0:
        values = np.fromfile(stream, dtype=kind, count=min(left, _CHUNK))
        if not len(values):
            raise CheckpointError(f"ends inside the tensor {name!r}", where=str(path))
        left -= len(values)
        numbers = widen(values)
        finite = finite and bool(np.isfinite(numbers).all())
        mask = mask and is_mask(numbers)
        if not finite and not mask:
            raise NonFiniteWeights(
                f"the tensor {name!r} holds values that are not finite (NaN or infinity)",
                where=str(path),
                fix="train again, or pin an earlier version with `reprune update --dense-version N`",
            )
