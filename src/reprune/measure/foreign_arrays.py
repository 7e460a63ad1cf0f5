"""Arrays in an .npz that somebody else wrote: no bytes are made room for that do not lie in the file."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from reprune.core.errors import BuildError
from reprune.core.zips import why_not

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

# Zeros pack well, and outputs may be zeros.
_RATIO = 1100
_MAX_HEADER = 10_000
_MAX_DIMENSIONS = 16
_PIECE = 2**20
# Truth values, integers with and without sign, floats, complex numbers.
_NUMBERS = "biufc"
# All that the zip reader and the reader of an array's header raise for what makes no sense.
_NONSENSE = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, MemoryError, NotImplementedError, OSError,
    OverflowError, RecursionError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


def read_npz(path: Path, *, max_bytes: int) -> Iterator[Array]:
    """The arrays "arr_0", "arr_1"... in order. Raises BuildError for anything that is not just that."""
    for told, stream in _entries(path, max_bytes):
        yield _array(told, stream)


def check_npz(path: Path, *, max_bytes: int) -> int:
    """How many bytes the arrays unpack to. Raises as read_npz does, and never holds more than a piece."""
    total = 0
    for told, stream in _entries(path, max_bytes):
        left = told.bytes
        while left and (piece := stream.read(min(left, _PIECE))):
            left -= len(piece)
        _refuse_other_length(whole=not left, stream=stream)
        total += told.bytes
    return total


class _Told(NamedTuple):
    """What the header of an array says of it."""

    shape: tuple[int, ...]
    fortran: bool
    kind: np.dtype[Any]
    bytes: int


def _entries(path: Path, max_bytes: int) -> Iterator[tuple[_Told, IO[bytes]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = why_not(archive, size=path.stat().st_size, max_bytes=max_bytes, ratio=_RATIO)
            if wrong:
                raise BuildError(wrong)
            count = len(archive.infolist())
            if not count:
                raise BuildError("holds no arrays: it is empty")
            for index in range(count):
                entry = archive.getinfo(f"arr_{index}.npy")
                with archive.open(entry) as stream:
                    yield _header(stream, entry.file_size), stream
    except _NONSENSE as error:
        raise BuildError(f"holds no arrays: {error}") from error


def _header(stream: IO[bytes], size: int) -> _Told:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran, kind = read(stream, max_header_size=_MAX_HEADER)
    if kind.hasobject or kind.itemsize == 0:
        raise BuildError("holds objects, which are pickles")
    if kind.kind not in _NUMBERS:
        raise BuildError(f"holds an array of what are no numbers: {str(kind)[:40]}")
    if len(shape) > _MAX_DIMENSIONS or any(each < 0 for each in shape):
        raise BuildError("holds an array of an impossible shape")
    wanted = math.prod(shape) * kind.itemsize
    if wanted > size:
        raise BuildError("holds an array that claims more than lies in the file")
    return _Told(shape=shape, fortran=fortran, kind=kind, bytes=wanted)


def _array(told: _Told, stream: IO[bytes]) -> Array:
    content = bytearray(stream.read(told.bytes))
    _refuse_other_length(whole=len(content) == told.bytes, stream=stream)
    order: Literal["F", "C"] = "F" if told.fortran else "C"
    return np.frombuffer(content, dtype=told.kind).reshape(told.shape, order=order)


def _refuse_other_length(*, whole: bool, stream: IO[bytes]) -> None:
    if not whole or stream.read(1):
        raise BuildError("holds an array that is longer or shorter than it says")
