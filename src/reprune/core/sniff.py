"""What a file is by its first bytes. Its name says nothing."""

from __future__ import annotations

from pathlib import Path

_MAGIC = {
    b"PK\x03\x04": "zip archive",
    b"PK\x05\x06": "empty zip archive",
    b"\x1f\x8b": "gzip file",
    b"BZh": "bzip2 file",
    b"\xfd7zXZ\0": "xz file",
    b"7z\xbc\xaf\x27\x1c": "7z archive",
    b"\x28\xb5\x2f\xfd": "zstd file",
    b"\x89HDF\r\n\x1a\n": "HDF5 file",
    b"\x93NUMPY": "NumPy file",
    b"GGUF": "GGUF file",
    b"\x7fELF": "program",
    b"MZ": "program",
    b"ftrt": "TensorRT engine",
    b"#!": "script",
}
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
SAFETENSORS, PICKLE, ZIP = "safetensors", "pickle", "zip archive"


def sniff(path: Path) -> str:
    """A word such as "safetensors", "pickle" or "zip archive"; "unknown" for what nobody knows."""
    with path.open("rb") as stream:
        head = stream.read(512)
    return sniffed(head)


def sniffed(head: bytes) -> str:
    """As `sniff`, of a file's first 512 bytes."""
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    # Protocol 2 on says so; the older ones of torch and of Python begin with these.
    pickled = (head[:1] == b"\x80" and head[1:2] <= b"\x05") or _LEGACY in head[:24]
    # A length of eight bytes, and a table: blanks may stand before it.
    table = len(head) >= 10 and head[8:].lstrip(b" \t\r\n").startswith(b"{")
    tells = {
        "TFLite model": head[4:8] == b"TFL3",
        "tar archive": head[257:262] == b"ustar",
        SAFETENSORS: table,
        PICKLE: pickled or (head != b"" and head[:1] in b"(c}]l"),
        "ONNX model": head[:1] == b"\x08" and b"\x12" in head[:4],
    }
    return next((kind for kind, found in tells.items() if found), "unknown")
