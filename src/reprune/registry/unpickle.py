"""`python -m reprune.registry.unpickle BOUNDS IN OUT`: a pickled state dict to safetensors, confined.

Run by `weights.unpickle` only, and only where params.yaml says `allow_pickle: true`. It loads with
weights_only=True; that narrows what a file can do. What it does all the same, it does in a process
without network, programs and files.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from reprune.core.confined import serve
from reprune.core.errors import CheckpointError, MissingExtra
from reprune.core.zips import why_not

if TYPE_CHECKING:
    import torch

# What a file unpacks to, as a multiple of its size: tied weights count once for each name.
MOST_TIMES, SLACK_BYTES = 16, 2**20
_FIX = "save module.state_dict() with safetensors.torch.save_file and register that (docs/task.md)"
_MORE = "it holds more than tensors, as a whole module does (torch.save, mlflow.pytorch.log_model)"


def main(arguments: list[str]) -> int:
    """Exit code 0: OUT holds the tensors of IN."""
    # Opened before files can no longer be.
    with Path(arguments[2]).open("wb") as out:
        try:
            import torch

            torch.set_num_threads(1)
        except ModuleNotFoundError:
            return serve(arguments, _without_torch)
        return serve(arguments, lambda given: _convert(Path(given[0]), out))


def _without_torch(_: Sequence[str]) -> bytes:
    raise MissingExtra(
        "reading pickled weights needs torch, which is not installed here",
        fix="pip install 'reprune[torch]', or register safetensors",
    )


def _convert(source: Path, out: BinaryIO) -> bytes:
    import torch

    size = source.stat().st_size
    _check_archive(source, size)
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error).strip()
        # torch's own first line tells how to load it all the same.
        why = _MORE if "Unsupported global" in text else text.partition("\n")[0][:300]
        raise _refused(why, source) from error
    if not isinstance(loaded, Mapping):
        raise _refused(f"it holds a {type(loaded).__name__}, not a state dict", source)
    wrong = [key for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if wrong or not all(isinstance(key, str) for key in loaded):
        names = ", ".join(map(repr, wrong[:3])) or "a key that is not text"
        raise _refused(f"it is not a plain state dict: {names} is no tensor", source)
    # A view of one number may claim any size.
    if sum(each.nelement() * each.element_size() for each in loaded.values()) > (
        MOST_TIMES * size + SLACK_BYTES
    ):
        raise _refused("its tensors are far larger than the file", source)
    _save(loaded, out, source)
    return b"{}"


def _check_archive(source: Path, size: int) -> None:
    """Returns for what is no archive, and for one that torch wrote: stored as it is, nothing twice."""
    if not zipfile.is_zipfile(source):
        return
    with zipfile.ZipFile(source) as archive:
        wrong = why_not(archive, size=size, max_bytes=MOST_TIMES * size + SLACK_BYTES)
        if sum(each.file_size for each in archive.infolist()) > size:
            wrong = "it unpacks to more bytes than it has"
    if wrong:
        raise _refused(wrong, source)


def _save(loaded: Mapping[str, torch.Tensor], out: BinaryIO, source: Path) -> None:
    """One tensor after the other: tied and sliced ones are written out, and no second copy is held."""
    import torch

    known = _types()
    names = sorted(loaded, key=lambda name: (-loaded[name].element_size(), name))
    header: dict[str, object] = {}
    end = 0
    for name in names:
        tensor = loaded[name]
        if tensor.dtype not in known or tensor.layout != torch.strided or tensor.is_quantized:
            raise _refused(f"the tensor {name!r} has a type that safetensors does not know", source)
        begin, end = end, end + tensor.nelement() * tensor.element_size()
        header[name] = {
            "dtype": known[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        out.write(loaded[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    out.flush()


def _types() -> dict[torch.dtype, str]:
    import torch

    return {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fn: "F8_E4M3", torch.complex64: "C64",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
        torch.uint8: "U8", torch.bool: "BOOL",
    }  # fmt: skip


def _refused(why: str, source: Path) -> CheckpointError:
    return CheckpointError(
        f"is not a state dict that can be read safely: {why}", where=source.name, fix=_FIX
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
