"""`reprune serve`: a service that watches registries, until it is told to end."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from reprune.core.errors import EXIT_BROKEN, EXIT_DONE, InputError
from reprune.core.plugins import require
from reprune.doors.commands import Execute
from reprune.doors.output import ServeOutput
from reprune.doors.root import enter

if TYPE_CHECKING:
    from reprune.doors.service.config import Settings
    from reprune.doors.service.wiring import Sweeper

# What is under way when SIGTERM comes has this long: deliveries, then the sweep.
DELIVERIES_S = 1
SWEEP_S = 3.0
# A single sweep waits so long for its messages to be taken.
DRAIN_S = 30.0


def define_serve(parser: argparse.ArgumentParser) -> Execute:
    """`reprune serve`: the newest version of each watched model comes to an end of its own."""
    parser.description = (
        "Looks at the registries of the watches, on time and whenever a signed webhook wakes it, and "
        "starts one run for the newest version of each model. Serves POST /webhooks/mlflow and "
        "/webhooks/cloudevents, /healthz, /readyz, /metrics, /openapi.json. SIGTERM ends it in seconds."
    )
    parser.add_argument(
        "--config", required=True, type=Path, metavar="FILE", help="see docs/serve.md"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.add_argument("--port", default=8080, type=int, help="0: any free one (%(default)s)")
    parser.add_argument(
        "--once", action="store_true", help="sweep over all watches once, listen nowhere, and end"
    )

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.doors.service.config import read_settings
        from reprune.doors.service.logs import configure
        from reprune.doors.service.wiring import make_sweeper

        enter(parsed.root)
        # Not resolved: a mounted secret is a link into a folder that goes when any of its files is renewed.
        settings = read_settings(parsed.config.absolute())
        if not parsed.once:
            settings.secrets()
        configure(settings.confidential)
        sweeper = make_sweeper(settings)
        if parsed.once:
            return _once(parsed, settings, sweeper)
        return _serve(parsed, settings, sweeper)

    return execute


def _once(parsed: argparse.Namespace, settings: Settings, sweeper: Sweeper) -> int:
    sweeper(0)
    sweeper.couriers.drain(DRAIN_S)
    sweeper.couriers.stop()
    _tell(parsed, settings, 0, sweeper.last_failures)
    return EXIT_BROKEN if sweeper.last_failures else EXIT_DONE


def _serve(parsed: argparse.Namespace, settings: Settings, sweeper: Sweeper) -> int:
    uvicorn = require("uvicorn", "service")
    require("starlette", "service")
    from reprune.doors.service.app import Service, build_app
    from reprune.doors.service.listening import MAX_CONNECTIONS, server_config
    from reprune.doors.service.logs import say
    from reprune.doors.service.wiring import make_loop

    webhook = settings.config.webhook
    if webhook is None:
        raise InputError("the service does not start without a webhook secret")
    loop = make_loop(sweeper)
    watches = settings.watches.watches
    service = Service(
        loop=loop,
        metrics=sweeper.metrics,
        models=tuple(
            (model, watch.registry.workspace)
            for watch in watches
            for model in (watch.name, *watch.members.values())
        ),
        secrets=settings.secrets,
        window_s=webhook.window_s,
        max_body_bytes=webhook.max_body_bytes,
    )
    # uvicorn raises the signal again once it has ended; by then there is nothing left to do.
    signal.signal(signal.SIGTERM, lambda *_: None)
    listening = _listen(parsed.host, parsed.port, MAX_CONNECTIONS)
    port = listening.getsockname()[1]
    server = uvicorn.Server(server_config(build_app(service), graceful_s=DELIVERIES_S))
    # Whatever the process puts aside, a download too, goes with it, even if it is cut short.
    scratch = tempfile.TemporaryDirectory(prefix="reprune-serve-", ignore_cleanup_errors=True)
    before, tempfile.tempdir = tempfile.tempdir, scratch.name
    loop.start()
    say("listening", host=parsed.host, port=port, watches=len(watches))
    _tell(parsed, settings, port, 0)
    try:
        server.run(sockets=[listening])
    finally:
        ended = loop.stop(SWEEP_S)
        sweeper.couriers.stop()
        say("ended", sweep_ended=ended)
        scratch.cleanup()
        tempfile.tempdir = before
    if not ended:
        _cut_short()
    return EXIT_DONE


def _cut_short() -> NoReturn:
    """Ends the process at once. Python itself would wait for the threads in which MLflow downloads, which
    may be hours.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(EXIT_DONE)


def _listen(host: str, port: int, waiting: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends each answer at once; else it waits 40 ms for more.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        # From now on who asks waits, instead of being turned away.
        listening.listen(waiting)
    except (OSError, OverflowError) as error:
        listening.close()
        raise InputError(
            f"cannot listen there: {error}", where=f"{host}:{port}", fix="give another --port"
        ) from error
    return listening


def _tell(parsed: argparse.Namespace, settings: Settings, port: int, failures: int) -> None:
    if parsed.json:
        output = ServeOutput(
            host=parsed.host,
            port=port,
            watches=len(settings.watches.watches),
            failures=failures,
        )
        print(msgspec.json.encode(output).decode(), flush=True)
