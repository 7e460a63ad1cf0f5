"""The routes. A delivery is refused before its body is read, if its headers do; the body is read up to a
limit, checked as it came, and then only asked which model it is about.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from reprune.core.errors import InputError
from reprune.doors.service.events import Hint, NotAnEvent, concerns, of_cloudevent, of_mlflow
from reprune.doors.service.logs import say
from reprune.doors.service.loop import Loop
from reprune.doors.service.metrics import CONTENT_TYPE, Metrics
from reprune.doors.service.openapi import OPENAPI
from reprune.doors.service.signatures import (
    CLOUDEVENTS,
    MLFLOW,
    STATUS,
    Names,
    Refused,
    Seen,
    check,
    claim,
)

BODY_S = 10.0
_JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the routes work with. `models` are (name, workspace) of the watches; `secrets` are asked for
    anew at each delivery.
    """

    loop: Loop
    metrics: Metrics
    models: tuple[tuple[str, str], ...]
    secrets: Callable[[], tuple[bytes, ...]]
    window_s: float
    max_body_bytes: int
    clock: Callable[[], float] = time.time
    seen: Seen = field(init=False)

    def __post_init__(self) -> None:
        """Nothing was heard yet."""
        object.__setattr__(self, "seen", Seen(window_s=self.window_s, clock=self.clock))


class _Answer(Exception):
    """Ends a delivery with a status and one word."""

    def __init__(self, status: int, word: str) -> None:
        super().__init__(word)
        self.status = status
        self.word = word


def build_app(service: Service) -> Starlette:
    """The ASGI application; it starts and stops nothing."""

    async def mlflow(request: Request) -> Response:
        return await _received(service, request, MLFLOW, of_mlflow)

    async def cloudevents(request: Request) -> Response:
        return await _received(service, request, CLOUDEVENTS, of_cloudevent)

    async def healthz(_: Request) -> Response:
        return _state(service.loop.alive, "alive", "the sweeps have stopped")

    async def readyz(_: Request) -> Response:
        return _state(service.loop.ready, "ready", "not every watch was looked at yet")

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(_: Request) -> Response:
        return JSONResponse(OPENAPI)

    return Starlette(
        routes=[
            Route("/webhooks/mlflow", mlflow, methods=["POST"]),
            Route("/webhooks/cloudevents", cloudevents, methods=["POST"]),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
        ]
    )


async def _received(
    service: Service, request: Request, names: Names, read: Callable[[bytes], Hint | None]
) -> Response:
    source = request.url.path.rpartition("/")[2]
    size = 0
    try:
        given = claim(request.headers.raw, names, now_s=service.clock(), window_s=service.window_s)
        _check_kind(request, names)
        body = await _body(request, service.max_body_bytes)
        size = len(body)
        check(given, body, _secrets(service))
        hint = _read(read, body)
        service.seen.once(given)
    except Refused as error:
        return _refused(service, source, size, _Answer(STATUS[error.reason], error.reason))
    except _Answer as answer:
        return _refused(service, source, size, answer)
    wanted = hint is not None and any(concerns(hint, *model) for model in service.models)
    if wanted:
        service.loop.wake()
    word = "woken" if wanted else "ignored"
    service.metrics.add("reprune_deliveries_total", source=source, result=word)
    say("a delivery was accepted", source=source, result=word, body_bytes=size)
    return JSONResponse({"result": word}, status_code=202)


def _check_kind(request: Request, names: Names) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON:
        raise _Answer(415, "not-json")
    if names is CLOUDEVENTS:
        wanted = [request.headers.get(f"ce-{name}", "") for name in ("type", "source")]
        if request.headers.get("ce-specversion") != "1.0" or not all(wanted):
            raise _Answer(400, "malformed")


async def _body(request: Request, limit: int) -> bytes:
    """All of it, within the limit and in time. Raises _Answer."""
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > limit:
        raise _Answer(413, "too-large")
    return await _in_time(_chunks(request, limit))


async def _chunks(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _Answer(413, "too-large")
    return bytes(body)


async def _in_time(reading: Awaitable[bytes]) -> bytes:
    try:
        return await asyncio.wait_for(reading, BODY_S)
    except TimeoutError:
        raise _Answer(408, "too-slow") from None
    except ClientDisconnect:
        raise _Answer(400, "cut-short") from None


def _secrets(service: Service) -> tuple[bytes, ...]:
    try:
        return service.secrets()
    except InputError as error:
        say("the webhook secret cannot be used", level=logging.ERROR, why=str(error))
        raise _Answer(503, "no-secret") from error


def _read(read: Callable[[bytes], Hint | None], body: bytes) -> Hint | None:
    try:
        return read(body)
    except NotAnEvent as error:
        raise _Answer(400, "no-event") from error


def _refused(service: Service, source: str, size: int, answer: _Answer) -> Response:
    """Nothing of the body, nor of any header, is told to anybody."""
    service.metrics.add("reprune_deliveries_total", source=source, result=answer.word)
    say(
        "a delivery was refused",
        level=logging.WARNING,
        source=source,
        result=answer.word,
        body_bytes=size,
    )
    headers = {"Retry-After": "30", "Connection": "close"} if answer.status == 503 else {}
    if answer.status in (408, 413):
        headers["Connection"] = "close"
    return JSONResponse({"result": answer.word}, status_code=answer.status, headers=headers)


def _state(good: bool, yes: str, no: str) -> Response:
    return PlainTextResponse(yes if good else no, status_code=200 if good else 503)
