"""Any number of examples through an engine that takes exactly so many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from reprune.core.errors import BuildError

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

# An engine's input without its first dimension, the batch: the type and the other sizes.
Signature: TypeAlias = tuple[np.dtype[Any], tuple[int, ...]]


def in_batches(
    call: Callable[[Sequence[Array]], list[Array]], inputs: Sequence[Array], batch_size: int
) -> list[Array]:
    """The outputs of `call`, which takes `batch_size` examples, for however many `inputs` hold.

    More are split, and the last part is filled up with its last example again, whose outputs are
    dropped. `inputs` are checked (`refuse_others`) and hold one example or more.
    """
    count = inputs[0].shape[0]
    if count == batch_size:
        return call(inputs)
    parts: list[list[Array]] = []
    for start in range(0, count, batch_size):
        part = [array[start : start + batch_size] for array in inputs]
        missing = batch_size - part[0].shape[0]
        if missing:
            part = [np.concatenate([array, *[array[-1:]] * missing]) for array in part]
        parts.append(call(part))
    return [np.concatenate(outputs)[:count] for outputs in zip(*parts, strict=True)]


def refuse_others(inputs: Sequence[Array], signatures: Sequence[Signature]) -> None:
    """Raises BuildError for inputs that the engine was not built for, and for a batch of nothing."""
    given = [(array.dtype, array.shape[1:]) for array in inputs]
    counts = {array.shape[:1] for array in inputs}
    if given != list(signatures) or len(counts) != 1 or counts & {(), (0,)}:
        raise BuildError(
            f"the engine does not run on these inputs: it takes {_words(signatures)} for each "
            f"example, and this is {_words(given)} for {_numbers(inputs)} examples",
            fix="give it arrays of the shapes and types that it was exported with",
        )


def shareable(array: Array) -> Array:
    """The array as torch takes it without a copy; a copy of it where it has to be one."""
    flags = array.flags
    return array if flags.c_contiguous and flags.writeable else np.array(array, order="C")


def _words(signatures: Sequence[Signature]) -> str:
    return " and ".join(f"{kind} {list(sizes)}" for kind, sizes in signatures) or "nothing"


def _numbers(inputs: Sequence[Array]) -> str:
    return " and ".join(str(array.shape[0]) if array.ndim else "no" for array in inputs) or "no"
