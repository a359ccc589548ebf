"""NATS servers as fixtures.

`nats` is Debian's and the latest in turn, shared by all tests: each takes a stream of its own, and
none stops it. `new_nats` and `nats_cluster` are a test's own, to be broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nats_server import DEBIAN, LATEST, NatsCluster, NatsServer


@pytest.fixture(scope="session", params=[DEBIAN, LATEST], ids=["debian", "latest"])
def nats(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NatsServer]:
    server = NatsServer(directory=tmp_path_factory.mktemp("nats"), program=request.param)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def new_nats(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Starts a server with the settings of :class:`NatsServer`."""
    servers: list[NatsServer] = []

    def start(**settings: Any) -> NatsServer:
        server = NatsServer(directory=tmp_path / f"nats-{len(servers)}", **settings)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def nats_cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    cluster = NatsCluster(tmp_path / "nats")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
