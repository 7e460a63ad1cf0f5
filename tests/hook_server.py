"""A receiver of messages on loopback: real sockets, answers as told, everything that came kept."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What a test signs with: whsec_ and the base64 of 24 bytes.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass(frozen=True)
class Came:
    """One request."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class HookServer:
    """Answers 200, or first what is in `answers`: a status, or something that is done with the socket."""

    def __init__(self) -> None:
        self.came: list[Came] = []
        self.answers: list[int | Callable[[BaseHTTPRequestHandler], None]] = []
        self.ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.came.append(Came(self.path, headers, raw))
                answer = outer.answers.pop(0) if outer.answers else 200
                if callable(answer):
                    answer(self)
                    return
                self.send_response(answer)
                if 300 <= answer < 400:
                    self.send_header("Location", f"{outer.url}/elsewhere")
                text = f"no JSON; you asked {outer.url}{self.path}".encode()
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def __enter__(self) -> HookServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """A header that never ends, a byte now and then: no single read takes long."""
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while not self.ended.wait(0.05):
                handler.wfile.write(b"a")
                handler.wfile.flush()
        except OSError:
            return

    def hang(self, _: BaseHTTPRequestHandler) -> None:
        """No answer at all."""
        self.ended.wait(20)

    def wait_for(self, count: int, seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while len(self.came) < count:
            assert time.monotonic() < until, f"{len(self.came)} of {count} messages came"
            time.sleep(0.02)
