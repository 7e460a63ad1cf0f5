"""Which examples a model was made with, small enough to travel beside it.

A champion is judged on today's eval split. What it was trained, tuned or calibrated on in its own
generation must not judge it, so its bundle carries a mark of every such example, and of those that its
second teacher was made with: the first 8 bytes of a sha256, sorted, one after the other. A million marks
meet one of ten thousand others by chance with a probability below 1e-9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from reprune.core.errors import PayloadCorrupt

if TYPE_CHECKING:
    from reprune.task.seal import Census

TRAINED_ON = "trained_on.bin"
BYTES = 8


def marks(censuses: Iterable[Census]) -> bytes:
    """The marks of all examples of these splits.

    Of an example it is the content that counts. Where train is augmented, contents cannot be compared,
    and the ids, which a task promises to be stable, are marked instead.
    """
    found: set[bytes] = set()
    for census in censuses:
        if census.augmented:
            found.update(_of_id(name) for name in census.ids)
        else:
            found.update(map(_of_content, census.contents))
    return b"".join(sorted(found))


def together(first: bytes, second: bytes) -> bytes:
    """The marks of all examples that either knows. Raises PayloadCorrupt for bytes that are no marks."""
    return b"".join(sorted(_split(first) | _split(second)))


def is_marked(census: Census, raw: bytes) -> list[bool]:
    """For each example of the census, whether `raw` (see `marks`) knows its content or its id.

    Raises PayloadCorrupt for bytes that are no marks.
    """
    known = _split(raw)
    return [
        _of_content(content) in known or _of_id(name) in known
        for name, content in zip(census.ids, census.contents, strict=True)
    ]


def _split(raw: bytes) -> set[bytes]:
    if len(raw) % BYTES:
        raise PayloadCorrupt(f"holds {len(raw)} bytes, which are no marks of {BYTES} bytes each")
    return {raw[place : place + BYTES] for place in range(0, len(raw), BYTES)}


def _of_content(content: str) -> bytes:
    return bytes.fromhex(content)[:BYTES]


def _of_id(name: str) -> bytes:
    return hashlib.sha256(f"id {name}".encode()).digest()[:BYTES]
