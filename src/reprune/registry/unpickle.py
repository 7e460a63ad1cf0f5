"""`python -m reprune.registry.unpickle IN OUT`: a pickled state dict to safetensors, in a process of its own.

Run by `weights.unpickle` only, and only where params.yaml says `allow_pickle: true`. It loads with
weights_only=True; that narrows what a file can do, it does not make a stranger's file safe.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from reprune.registry.weights import NO_TORCH

REFUSED = 1
# What a file unpacks to, as a multiple of its size: tied weights count once for each name.
MOST_TIMES, SLACK_BYTES = 16, 2**20


def main(arguments: list[str]) -> int:
    """Exit code 0: OUT holds the tensors of IN. Otherwise the last line on stderr says why not."""
    source, out = map(Path, arguments)
    try:
        import torch
        from safetensors.torch import save_file
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        return NO_TORCH
    torch.set_num_threads(1)
    size = source.stat().st_size
    if _unpacked(source) > size:
        print("it unpacks to more bytes than it has", file=sys.stderr)
        return REFUSED
    loaded = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(loaded, Mapping):
        print(f"it holds a {type(loaded).__name__}, not a state dict", file=sys.stderr)
        return REFUSED
    wrong = [key for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if wrong or not all(isinstance(key, str) for key in loaded):
        names = ", ".join(map(repr, wrong[:3])) or "a key that is not text"
        print(f"it is not a plain state dict: {names} is no tensor", file=sys.stderr)
        return REFUSED
    # A view of one number may claim any size.
    if sum(each.nelement() * each.element_size() for each in loaded.values()) > (
        MOST_TIMES * size + SLACK_BYTES
    ):
        print("its tensors are far larger than the file", file=sys.stderr)
        return REFUSED
    # Clones, because safetensors refuses tensors that share memory, as tied weights do.
    tensors = {key: loaded[key].detach().clone().contiguous() for key in sorted(loaded)}
    save_file(tensors, out)
    return 0


def _unpacked(source: Path) -> int:
    """How many bytes the members of an archive claim; torch stores them as they are. 0 if it is none."""
    if not zipfile.is_zipfile(source):
        return 0
    with zipfile.ZipFile(source) as archive:
        return sum(each.file_size for each in archive.infolist())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
