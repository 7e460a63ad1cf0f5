"""One request to an ASGI application, without a network: what uvicorn would hand it, chunk by chunk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    # How many chunks of the body were asked for.
    read: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(
    app: ASGIApp,
    method: str,
    path: str,
    headers: Mapping[str, bytes] | Sequence[tuple[bytes, bytes]] = (),
    chunks: Sequence[bytes] = (b"",),
) -> Reply:
    pairs = (
        [(key.lower().encode(), value) for key, value in headers.items()]
        if isinstance(headers, Mapping)
        else list(headers)
    )
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": pairs,
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    left = list(chunks)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = sent[0]
    return Reply(
        status=start["status"],
        headers={key.decode(): value.decode() for key, value in start["headers"]},
        body=b"".join(each.get("body", b"") for each in sent[1:]),
        read=len(chunks) - len(left),
    )
