"""Logs: one JSON object a line on stderr, each with model, version and run, and none with a secret."""

from __future__ import annotations

import base64
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO
from urllib.parse import quote, quote_plus

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
        forms = _forms(self._confidential())
        return json.dumps({key: _shown(value, forms) for key, value in line.items()})


def _forms(secrets: tuple[str, ...]) -> list[str]:
    """Each secret as a line may hold it: plain, quoted by Python or JSON, in an address, in a header.

    The longest first: one secret may lie within another.
    """
    plain = {each for each in secrets if each}
    forms = plain | {code(each)[1:-1] for code in (repr, json.dumps) for each in plain}
    forms |= {code(each) for code in (quote, quote_plus, _base64) for each in plain}
    return sorted(forms, key=len, reverse=True)


def _shown(value: object, forms: list[str]) -> object:
    """The value as JSON can hold it, without any of the forms. In the finished line they could also be
    found across an escape, and taking them out would leave no JSON.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(_shown(str(key), forms)): _shown(each, forms) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(each, forms) for each in value]
    text = str(value)
    for form in forms:
        text = text.replace(form, _HIDDEN)
    return text


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


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
