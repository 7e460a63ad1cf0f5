"""What all converters have in common: they talk too much, and their errors do not say what to do."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

from reprune.core.errors import BuildError

NOISY = ("torch", "torchao", "executorch", "onnxscript", "onnx_ir")

_STDERR = 2
_COLOUR = re.compile(r"\x1b\[\d+m")
# Where a C++ library logs from: "[method.cpp:1243] ".
_PLACE = re.compile(r"^\[[\w.]+:\d+\] ")
_OPERATOR = re.compile(
    r"(?:OpOverload\(op='|OpOverload: |Operator torch\.(?:_)?ops\.|[Mm]issing operator: (?:\[\d+\] )?|"
    r"out variants: \{')(?P<operator>\w+(?:::|\.)\w+(?:\.\w+)?)"
)


class Said:
    """What was written to this process's standard error meanwhile; whole once `quiet` has ended."""

    text = ""

    def reason(self) -> str:
        """The first line that a library in C++ logged, without the place in its source; "" for none."""
        lines = [_PLACE.sub("", line) for line in self.text.splitlines() if _PLACE.match(line)]
        return lines[0] if lines else ""


@contextmanager
def quiet() -> Iterator[Said]:
    """Warnings, loggers and prints of converters are kept from the user's terminal, C++ ones included.

    Python's standard output is swallowed; the process's standard error, whoever writes to it, is kept
    for the error message. Loggers are asked to be silent; handlers that others have set stay.
    """
    said = Said()
    loggers = [logging.getLogger(name) for name in NOISY]
    loggers += [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.partition(".")[0] in NOISY and "." in name and isinstance(logger, logging.Logger)
    ]
    before = {logger: logger.level for logger in loggers}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    printed = StringIO()
    try:
        with (
            _stderr_to(said),
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            # Some libraries in C++ write to Python's standard error, others to the process's.
            redirect_stderr(printed),
        ):
            warnings.simplefilter("ignore")
            yield said
    finally:
        said.text += printed.getvalue()
        for logger, level in before.items():
            logger.setLevel(level)


def explained(error: BaseException, into: str, *, said: str = "") -> BuildError:
    """The error of a converter in words that name the operator, or what fixes the batch size.

    `into` is what the model was to become ("ONNX"); `said` is what the converter logged.
    """
    texts = [_COLOUR.sub("", str(cause)) for cause in causes(error)]
    operators = {
        found["operator"].replace("::", ".")
        for text in (*texts, said)
        for found in _OPERATOR.finditer(text)
    }
    if operators:
        return BuildError(
            f"the operator {', '.join(sorted(operators))} cannot be exported to {into}",
            fix="replace it in the task's model by supported operators, or move it out of the model",
        )
    first = next(
        (line.strip() for line in texts[-1].splitlines() if line.strip()), "no reason given"
    )
    if any("specialized" in text or "Constraints violated" in text for text in texts):
        return BuildError(
            f"the model's code fixes its batch size: {first}",
            fix="take the batch size from the input's shape wherever the model needs it",
        )
    return BuildError(
        f"the model cannot be exported to {into}: {first}",
        fix="keep control flow that depends on values out of the model's forward pass",
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


@contextmanager
def _stderr_to(said: Said) -> Iterator[None]:
    """The file descriptor itself is turned aside: libraries in C++ know nothing of sys.stderr."""
    sys.stderr.flush()
    try:
        kept = os.dup(_STDERR)
    except OSError:
        # A process without a standard error has nothing that could be disturbed.
        yield
        return
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            aside.seek(0)
            said.text = aside.read().decode("utf-8", errors="replace")
