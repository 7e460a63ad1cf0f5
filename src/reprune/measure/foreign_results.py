"""What a device gave back, parsed for the first time: in a process that can do nothing else.

    python -m reprune.measure.foreign_results BOUNDS FOLDER

Who answers for a device may answer anything. Before a byte of it is parsed here, numbers and sizes are
counted, and a confined process reads every array and every sample; what it dies of is its own.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from reprune.core.archive import MAX_BYTES, MAX_FILES
from reprune.core.confined import Bounds, ask_confined, serve
from reprune.core.errors import BuildError, PayloadCorrupt
from reprune.measure.foreign_arrays import check_npz

# What all arrays of one result may unpack to: a million examples of a thousand classes in float.
MAX_OUTPUT_BYTES = 4 * 2**30
_MEMORY_BYTES = 2**29
_SECONDS, _BYTES_A_SECOND, _FILES_A_SECOND = 30, 4 * 2**20, 200
_FIX = "see whether the device, and the way to it, are yours; let it run the job again"


class Weighed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a folder holds, by its directory alone."""

    files: int
    total_bytes: int


def weigh(folder: Path) -> Weighed:
    """How much lies below `folder`. Raises PayloadCorrupt for more than a result may hold, and for what is
    no plain file.
    """
    files = total = 0
    for path, size in _files(folder):
        files, total = files + 1, total + size
        if files > MAX_FILES or total > MAX_BYTES:
            raise PayloadCorrupt(
                f"holds more than {MAX_FILES} files or {MAX_BYTES} bytes",
                where=str(path),
                fix=_FIX,
            )
    return Weighed(files=files, total_bytes=total)


def check_apart(folder: Path) -> None:
    """Returns only if every array and every sample of the result in `folder` can be read, within limits.

    Raises PayloadCorrupt, or the DocumentError of a sample that does not decode. That they are those of the
    job is for the caller to see.
    """
    weighed = weigh(folder)
    bounds = Bounds(
        memory_bytes=_MEMORY_BYTES,
        seconds=_SECONDS
        + weighed.total_bytes // _BYTES_A_SECOND
        + weighed.files // _FILES_A_SECOND,
    )
    ask_confined(
        "reprune.measure.foreign_results",
        [str(folder)],
        bounds,
        doing="reading what the device gave back",
        refusal=PayloadCorrupt,
    )


def check(folder: Path) -> None:
    """As `check_apart`, in this process."""
    from reprune.core.documents import decode_json, read_bounded
    from reprune.measure.device_results import (
        RESULT_FILE,
        DeviceResult,
        read_result_pairs,
        read_result_starts,
        read_result_units,
    )

    path = folder / RESULT_FILE
    result = decode_json(read_bounded(path), DeviceResult, name=str(path))
    left = MAX_OUTPUT_BYTES
    for by_arm in result.outputs.values():
        for file in [each for files in by_arm.values() for each in files]:
            left -= _check_arrays(folder / file, left)
    for file in result.units:
        read_result_units(folder, file)
    if result.starts:
        read_result_starts(folder, result)
    read_result_pairs(folder, result)


def _check_arrays(path: Path, most: int) -> int:
    try:
        return check_npz(path, max_bytes=most)
    except BuildError as error:
        raise PayloadCorrupt(error.what, where=str(path), fix=_FIX) from error


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every file below the folder with its size, as it is met: nothing is gathered."""
    with os.scandir(folder) as entries:
        for entry in entries:
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                yield from _files(Path(entry.path))
            elif stat.S_ISREG(facts.st_mode):
                yield Path(entry.path), facts.st_size
            else:
                raise PayloadCorrupt("holds what is no plain file", where=entry.path, fix=_FIX)


def _serve(arguments: Sequence[str]) -> bytes:
    check(Path(arguments[0]))
    return b"{}"


if __name__ == "__main__":
    # Loaded before the memory is counted.
    import reprune.measure.device_results  # noqa: F401

    sys.exit(serve(sys.argv[1:], _serve))
