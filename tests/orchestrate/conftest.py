"""Tests here wait for nobody: pauses between tries are short, and their lengths are kept."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from reprune.orchestrate.endpoint import Backoff, Endpoint
from tests.kfp_server import KfpServer


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with KfpServer() as running:
        yield running


@pytest.fixture
def endpoint(server: KfpServer) -> Endpoint:
    return Endpoint(host=server.url, backoff=Backoff(tries=4))


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for, in seconds; none of them lasts."""
    kept: list[float] = []
    pause = time.sleep

    def shortened(seconds: float) -> None:
        kept.append(seconds)
        pause(min(seconds, 0.001))

    monkeypatch.setattr(time, "sleep", shortened)
    return kept
