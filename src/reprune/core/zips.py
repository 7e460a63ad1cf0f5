"""Whether a zip archive of somebody else may be opened at all, by what it says it holds."""

from __future__ import annotations

import stat
import zipfile
from pathlib import PurePosixPath

MAX_ENTRIES = 20_000
# Bytes that unpacked content may have for each byte of the archive, and what every archive may have.
RATIO, SLACK_BYTES = 200, 2**20
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LINK_BITS = 16


def why_not(archive: zipfile.ZipFile, *, size: int, max_bytes: int, ratio: int = RATIO) -> str:
    """Why the archive, a file of `size` bytes, is not opened, in words; empty if nothing speaks against it.

    Nothing is unpacked for it. What it says is what `zipfile` then holds it to: no entry gives more
    bytes than it claims here.
    """
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        return f"holds {len(entries)} entries; {MAX_ENTRIES} are accepted"
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        return "holds a name twice, and readers differ in which they take"
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        return f"unpacks to {total} bytes; {max_bytes} are accepted"
    if total > ratio * size + SLACK_BYTES:
        return f"unpacks to {total // max(1, size)} times its size"
    for entry in entries:
        wrong = _wrong(entry)
        if wrong:
            return wrong
    return ""


def _wrong(entry: zipfile.ZipInfo) -> str:
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or not path.parts:
        return "names an entry outside itself"
    if stat.S_ISLNK(entry.external_attr >> _LINK_BITS):
        return "holds a link"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in _PLAIN:
        return "is packed in a way that is not read here"
    return ""
