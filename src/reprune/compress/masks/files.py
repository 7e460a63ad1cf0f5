"""Masks beside a bundle's weights, one bit a weight, and what masked weights cost in bytes.

The file is a safetensors file: a uint8 tensor a mask, its bits packed from the lowest on in the order
of the flattened weight, bits past the end zero; the shapes are JSON in the header. No pickle. Equal
masks give equal bytes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from reprune.compress.masks.choosing import Masks, count_zeros, verify_masks
from reprune.core.documents import decode_json
from reprune.core.errors import CheckpointError, CompressionError, DocumentError
from reprune.core.store import write_bytes

# One entry only: a safetensors header keeps several in no fixed order.
SHAPES = "shapes"


@dataclass(frozen=True, kw_only=True)
class MaskedBytes:
    """What a model takes in bytes, by ways of writing it. None of them says anything about speed.

    `dense` is every tensor in full, zeros included: what a runtime loads. `bitmask` is a bit a weight
    for masked tensors and the kept values in full, the other tensors in full. `compressed` is the
    dense safetensors file deflated (zlib, level 9); it may differ a little between zlib versions.
    """

    dense: int
    bitmask: int
    compressed: int


def write_masks(path: Path, masks: Masks) -> None:
    """Afterwards the file holds `masks`, or what it held before."""
    bits = {
        name: torch.from_numpy(
            np.packbits(masks[name].detach().cpu().numpy().reshape(-1), bitorder="little")
        )
        for name in sorted(masks)
    }
    shapes = {name: list(masks[name].shape) for name in sorted(masks)}
    header = {SHAPES: msgspec.json.encode(shapes).decode()}
    write_bytes(path, save(bits, metadata=header))


def read_masks(path: Path) -> dict[str, Tensor]:
    """The masks at `path`, on the CPU. Raises CheckpointError for a file that is no file of masks."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(SHAPES, "")
            shapes = decode_json(header.encode(), dict[str, tuple[int, ...]], name=str(path))
            bits = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, DocumentError) as error:
        raise CheckpointError(f"is no file of masks: {error}", where=str(path)) from error
    if bits.keys() != shapes.keys():
        raise CheckpointError("its shapes are not of its masks", where=str(path))
    return {name: _unpacked(bits[name], shapes[name], f"{path}: {name}") for name in shapes}


def check_masks(module: nn.Module, masks: Masks, path: Path) -> None:
    """Raises CheckpointError unless the masks are of the model's weights, all zero where masked."""
    try:
        verify_masks(module, masks)
    except CompressionError as error:
        raise CheckpointError(
            f"the masks do not fit the weights: {error.what}",
            where=f"{path}: {error.where}" if error.where else str(path),
            fix="run the step that made the bundle again",
        ) from error


def masked_bytes(tensors: Mapping[str, Tensor], masks: Masks) -> MaskedBytes:
    """The sizes of a model's stored tensors (bundle.stored_tensors), of which `masks` are masked."""
    dense = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    saved = 0
    for name, mask in masks.items():
        gone = count_zeros({name: mask}) * tensors[name].element_size()
        saved += gone - math.ceil(mask.numel() / 8)
    return MaskedBytes(
        dense=dense, bitmask=dense - saved, compressed=len(zlib.compress(save(dict(tensors)), 9))
    )


def _unpacked(bits: Tensor, shape: tuple[int, ...], where: str) -> Tensor:
    count = math.prod(shape)
    if (
        min(shape, default=1) < 0
        or bits.dtype != torch.uint8
        or bits.shape != (math.ceil(count / 8),)
    ):
        raise CheckpointError("does not hold one bit a weight", where=where)
    flat = np.unpackbits(bits.numpy(), bitorder="little")
    if flat[count:].any():
        raise CheckpointError("has bits set past its last weight", where=where)
    return torch.from_numpy(flat[:count].astype(np.bool_)).view(shape)
