"""A loaded .tflite, ready to run. Nothing but ai-edge-litert and numpy is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reprune.core.errors import BuildError
from reprune.core.plugins import require
from reprune.runtimes.litert_ranges import input_places, output_places

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

INT8 = np.dtype(np.int8)


def load(content: bytes, threads: int, *, where: str) -> Any:
    """An interpreter of the file with XNNPACK on. Raises BuildError for a file that it cannot run."""
    module = require("ai_edge_litert.interpreter", "litert")
    try:
        interpreter = module.Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BuildError(
            f"LiteRT cannot load it: {first}", where=where, fix="build the engine again"
        ) from error
    return interpreter


class LiteRtSession:
    """One interpreter; inputs are positional, outputs in the module's order, both float where the
    module's are: what an int8 engine stores is converted here.
    """

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._inputs = [_Place(detail) for detail in input_places(interpreter)]
        self._outputs = [_Place(detail) for detail in output_places(interpreter)]
        self._size = self._inputs[0].shape[0]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for any number of examples: of a fixed batch size, they are split and the last
        call is filled up with its last example. Raises BuildError for inputs of another form.
        """
        self._check(inputs)
        count = len(inputs[0])
        if count == self._size:
            return self._call(inputs)
        parts = [
            self._call([_filled(one[start : start + self._size], self._size) for one in inputs])
            for start in range(0, count, self._size)
        ]
        return [np.concatenate(found)[:count] for found in zip(*parts, strict=True)]

    def _call(self, inputs: Sequence[Array]) -> list[Array]:
        for place, values in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(place.index, place.stored(values))
        self._interpreter.invoke()
        return [place.read(self._interpreter.get_tensor(place.index)) for place in self._outputs]

    def _check(self, inputs: Sequence[Array]) -> None:
        wanted = [place.shape[1:] for place in self._inputs]
        given = [tuple(one.shape[1:]) for one in inputs]
        counts = {len(one) for one in inputs if one.ndim}
        if given != wanted or len(counts) != 1 or counts == {0}:
            raise BuildError(
                f"the engine does not run on these inputs: it takes examples of the shapes {wanted} "
                f"and is given {[tuple(one.shape) for one in inputs]}",
                fix="give it arrays of the shapes that it was built for",
            )


class _Place:
    """One input or output: where it lies, and how numbers are stored in it."""

    def __init__(self, detail: dict[str, Any]) -> None:
        self.index = int(detail["index"])
        self.shape = tuple(int(size) for size in detail["shape"])
        self.dtype = np.dtype(detail["dtype"])
        self.scale, self.zero = detail["quantization"]

    def stored(self, values: Array) -> Array:
        """In the type that the engine reads. Raises BuildError for numbers that it cannot hold."""
        if values.dtype == self.dtype:
            return values
        if self.dtype == INT8 and self.scale:
            steps = np.rint(values.astype(np.float32) / np.float32(self.scale)) + self.zero
            small: Array = np.clip(steps, -128, 127).astype(np.int8)
            return small
        if self.dtype.kind in "iu":
            holds = np.iinfo(self.dtype)
            if values.size and not holds.min <= values.min() <= values.max() <= holds.max:
                raise BuildError(
                    f"the engine holds numbers up to {holds.max}, and is given {values.max()}",
                    fix="give it smaller numbers (token or class numbers)",
                )
        whole: Array = values.astype(self.dtype)
        return whole

    def read(self, values: Array) -> Array:
        if self.dtype == INT8 and self.scale:
            found: Array = (values.astype(np.float32) - self.zero) * np.float32(self.scale)
            return found
        return values


def _filled(values: Array, size: int) -> Array:
    missing = size - len(values)
    return values if not missing else np.concatenate([values, *[values[-1:]] * missing])
