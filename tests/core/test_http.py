"""A service that means to hold us up gets the time of one request, whatever its status."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from reprune.core.http import MAX_SAID_BYTES, Ask, RefusedError, Service, TransientError, send

HEAD = "HTTP/1.1 {} x\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n"


@contextmanager
def talking(head: str, talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server that sends `head` to whoever asks first, and then talks."""
    ended = threading.Event()

    def run() -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(head.encode())
            talk(connection, ended)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


def a_letter_now_and_then(connection: socket.socket, ended: threading.Event) -> None:
    for _ in range(600):
        connection.sendall(b"n")
        if ended.wait(0.05):
            return


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "kind"), [(200, TransientError), (400, RefusedError), (503, TransientError)]
)
def test_one_letter_at_a_time_is_listened_to_no_longer_than_asked(
    status: int, kind: type[Exception]
) -> None:
    """It would talk for thirty seconds."""
    with talking(HEAD.format(status), a_letter_now_and_then) as host:
        began = time.monotonic()
        with pytest.raises(kind):
            send(Service(host=host, timeout_s=0.5), Ask(method="GET", path="/"))
        assert time.monotonic() - began < 15.0


def test_of_a_long_refusal_the_beginning_is_read() -> None:
    """And no more: what comes after may never end."""

    def much(connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(b"no " * MAX_SAID_BYTES)
        ended.wait(30.0)

    with talking(HEAD.format(400), much) as host:
        with pytest.raises(RefusedError) as caught:
            send(Service(host=host, timeout_s=20.0), Ask(method="GET", path="/"))
        assert caught.value.said.startswith("no no no")
