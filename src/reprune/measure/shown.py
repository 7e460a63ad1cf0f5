"""The examples that changed their answer, small enough to be looked at: pictures, or the task's own words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reprune.core.artifacts import SHOWN_FILE, ShownExample
from reprune.core.documents import canonical
from reprune.core.store import write_bytes
from reprune.task.protocol import Batch, Split
from reprune.task.seal import Sealed

if TYPE_CHECKING:
    from reprune.measure.records import Taken

MAX_SIDE = 48
MAX_TEXT = 400


def changed_ids(taken: Taken, most: int) -> list[str]:
    """The ids of examples that the candidate answers otherwise than the dense model, at most `most`:
    one that became wrong, one that became right, and so on, whichever member of a set answered; empty
    where records are not right or wrong.
    """
    dense = {n: c for n, c in taken.arms["dense"].items() if n.rpartition(".")[2] == "correct"}
    worse: dict[int, None] = {}
    better: dict[int, None] = {}
    for key in sorted(taken.arms):
        for name, column in dense.items():
            mine = taken.arms[key].get(name)
            if not key.startswith("candidate@") or mine is None:
                continue
            worse |= dict.fromkeys(_places((column == 1) & (mine == 0)))
            better |= dict.fromkeys(_places((column == 0) & (mine == 1)))
    turns = chain.from_iterable(zip_longest(sorted(worse), sorted(better)))
    # On two targets an example may change in both directions.
    found = dict.fromkeys(taken.ids[place] for place in turns if place is not None)
    return list(found)[:most]


def write_shown(out: Path, task: Sealed, ids: Sequence[str], *, split: Split = "eval") -> None:
    """Writes SHOWN_FILE with those of the examples that can be shown. `task` must have the split open."""
    wanted = set(ids)
    words = getattr(task, "shown", None)
    found: dict[str, ShownExample] = {}
    for batch in task.batches(split, epoch=0, seed=0):
        if wanted & set(batch.ids):
            texts = None if words is None else [str(each) for each in words(batch)]
            for row, name in enumerate(batch.ids):
                one = shown_example(batch, row, None if texts is None else texts[row])
                if name in wanted and one is not None:
                    found[name] = one
    shown = tuple(found[name] for name in ids if name in found)
    write_bytes(out / SHOWN_FILE, canonical(shown))


def picture(values: Tensor) -> tuple[int, int, int, bytes] | None:
    """Width, height, channels and pixels (rows, then columns, then channels) of an image (C, H, W) or
    (H, W), its own least value black and its greatest white; at most MAX_SIDE a side, by leaving pixels
    out. None for anything that is no image of one or three channels.
    """
    image = values.detach().cpu()
    image = image[None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[0] not in (1, 3) or min(image.shape[1:]) < 2:
        return None
    step = -(-max(image.shape[1:]) // MAX_SIDE)
    small = image[:, ::step, ::step].to(torch.float64)
    low, high = float(small.min()), float(small.max())
    if not torch.isfinite(small).all():
        return None
    bright = torch.zeros_like(small) if high <= low else (small - low) / (high - low) * 255
    pixels = bright.round().to(torch.uint8).permute(1, 2, 0).contiguous()
    height, width, channels = pixels.shape
    return width, height, channels, pixels.numpy().tobytes()


def shown_example(batch: Batch, row: int, text: str | None) -> ShownExample | None:
    """One example of the batch: in these words where there are any, else as the picture that an input of it
    is; None for what is neither.
    """
    name = batch.ids[row]
    if text is not None:
        return ShownExample(id=name, text=text[:MAX_TEXT])
    for given in batch.inputs:
        drawn = picture(given[row]) if given.is_floating_point() else None
        if drawn is not None:
            width, height, channels, pixels = drawn
            return ShownExample(
                id=name, width=width, height=height, channels=channels, pixels=pixels
            )
    return None


def _places(changed: Any) -> list[int]:
    return [int(place) for place in changed.nonzero()[0]]
