"""Arrays in an .npz that somebody else wrote: no bytes are made room for that do not lie in the file."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from reprune.core.errors import BuildError
from reprune.core.zips import why_not

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

# Zeros pack well, and outputs may be zeros.
_RATIO = 1100
_MAX_HEADER = 10_000
_MAX_DIMENSIONS = 16
# All that the zip reader and the reader of an array's header raise for what makes no sense.
_NONSENSE = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, MemoryError, NotImplementedError, OSError,
    OverflowError, RecursionError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


def read_npz(path: Path, *, max_bytes: int) -> Iterator[Array]:
    """The arrays "arr_0", "arr_1"... in order. Raises BuildError for anything that is not just that."""
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = why_not(archive, size=path.stat().st_size, max_bytes=max_bytes, ratio=_RATIO)
            if wrong:
                raise BuildError(wrong)
            for index in range(len(archive.infolist())):
                entry = archive.getinfo(f"arr_{index}.npy")
                with archive.open(entry) as stream:
                    yield _array(stream, entry.file_size)
    except _NONSENSE as error:
        raise BuildError(f"holds no arrays: {error}") from error


def _array(stream: IO[bytes], size: int) -> Array:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran, kind = read(stream, max_header_size=_MAX_HEADER)
    if kind.hasobject or kind.itemsize == 0:
        raise BuildError("holds objects, which are pickles")
    if len(shape) > _MAX_DIMENSIONS or any(each < 0 for each in shape):
        raise BuildError("holds an array of an impossible shape")
    wanted = math.prod(shape) * kind.itemsize
    if wanted > size:
        raise BuildError("holds an array that claims more than lies in the file")
    content = bytearray(stream.read(wanted))
    if len(content) != wanted or stream.read(1):
        raise BuildError("holds an array that is longer or shorter than it says")
    return np.frombuffer(content, dtype=kind).reshape(shape, order="F" if fortran else "C")
