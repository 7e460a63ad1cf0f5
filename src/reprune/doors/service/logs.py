"""Logs: one JSON object a line on stderr, each with model, version and run, and none with a secret."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import TextIO

LOGGER = logging.getLogger("reprune.serve")
_ALWAYS = ("model", "version", "run")
_HIDDEN = "***"


class JsonLines(logging.Formatter):
    """`confidential` tells which texts are hidden, asked anew for every line."""

    def __init__(self, confidential: Callable[[], tuple[str, ...]]) -> None:
        super().__init__()
        self._confidential = confidential

    def format(self, record: logging.LogRecord) -> str:
        """One line. What an exception was is said in its last line; where, in `trace`."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **dict.fromkeys(_ALWAYS, ""),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        text = json.dumps(line, ensure_ascii=True)
        for secret in self._confidential():
            text = text.replace(json.dumps(secret)[1:-1], _HIDDEN)
        return text


def say(event: str, *, level: int = logging.INFO, **facts: object) -> None:
    """One line about `event`, a few fixed words; what differs from time to time is in `facts`."""
    LOGGER.log(level, event, extra={"facts": facts})


def crashed(event: str, **facts: object) -> None:
    """As `say`, about the exception that is being handled, with where it was raised."""
    LOGGER.error(event, exc_info=True, extra={"facts": facts})


def configure(confidential: Callable[[], tuple[str, ...]], stream: TextIO | None = None) -> None:
    """From now on all loggers of this process write such lines; libraries only from warnings on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(confidential))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    LOGGER.setLevel(logging.INFO)
