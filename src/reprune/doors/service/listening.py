"""HTTP on a socket that anybody may reach: heads are bounded in size and in time.

uvicorn bounds neither the time that a request's head may take nor, with its other parser, its size; two
hundred connections that send one letter a minute would keep everybody else out.
"""

from __future__ import annotations

from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
MAX_HEAD_BYTES = 16_384
MAX_CONNECTIONS = 200


class Impatient(H11Protocol):
    """Closes a connection on which no request is under way for `HEAD_S`, whatever trickles in."""

    def connection_made(self, transport: Any) -> None:
        """Somebody connected."""
        super().connection_made(transport)
        self._idle_since_s = self.loop.time()
        self._watching = self.loop.call_later(HEAD_S / 4, self._watch)

    def on_response_complete(self) -> None:
        """A request was answered: whoever sends the next one in time is not idle."""
        self._idle_since_s = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """And went."""
        self._watching.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        now_s = self.loop.time()
        cycle: Any = self.cycle  # None before the first request.
        if cycle is not None and not cycle.response_complete:
            # What is under way has limits of its own.
            self._idle_since_s = now_s
        if now_s - self._idle_since_s >= HEAD_S:
            self.transport.close()
            return
        self._watching = self.loop.call_later(HEAD_S / 4, self._watch)


def server_config(app: Any, *, graceful_s: int) -> Config:
    """How uvicorn serves the application here: nothing but HTTP, no logs of its own, within limits."""
    return Config(
        app,
        http=Impatient,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=graceful_s,
        lifespan="off",
        ws="none",
    )
