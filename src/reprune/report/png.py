"""A small picture as a PNG inside the page, the same bytes on every machine."""

from __future__ import annotations

import base64
import struct
import zlib

MAX_SIDE = 512
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def data_uri(width: int, height: int, channels: int, pixels: bytes) -> str | None:
    """The picture (rows of `channels` bytes a pixel, 1 or 3) as a `data:` address; None for what is none."""
    sized = 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and channels in (1, 3)
    if not sized or len(pixels) != width * height * channels:
        return None
    row = width * channels
    rows = b"".join(b"\0" + pixels[at : at + row] for at in range(0, len(pixels), row))
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    # Not compressed: libraries compress differently, and a report is the same wherever it is made.
    body = b"".join(
        _chunk(kind, data)
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    )
    return f"data:image/png;base64,{base64.b64encode(_SIGNATURE + body).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
