"""Ten clients beside a room that is flooded, in a process of their own that notes the times.

    python -m benchmarks.load.neighbours PORT SERVER_PID                     # broadcasts in a room
    python -m benchmarks.load.neighbours PORT SERVER_PID TOPIC DSN INSERT    # changes of a table

For each line of its input, a number, so many messages follow one another: an eleventh member pushes
each, or a row is inserted. It answers with JSON: for each message the milliseconds until all ten
had it, and for how many of these this process, and the server, waited for a processor. Who sends
and who reads are one process, so that no other has to run in between.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.uri import parse_uri

from benchmarks._sender import JOIN, pushed

_COUNT = 10
_PAUSE = 0.02
"""Seconds between two messages."""
_HEARTBEAT, _HEARTBEAT_AFTER = b'[null,"h","phoenix","heartbeat",{}]', 15.0
_MARK = b'"record"'
"""What every message has, and no answer."""


class _Client:
    """A connection that has joined a topic."""

    def __init__(self, port: int, join: bytes) -> None:
        uri = f"ws://127.0.0.1:{port}/socket/websocket?vsn=2.0.0"
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._protocol = ClientProtocol(parse_uri(uri))
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        self.take(self.socket.recv(65536))
        self.send(join)
        answer = b""
        while b'"status":"ok"' not in answer:
            answer = self.socket.recv(65536)
            self.take(answer)

    def send(self, data: bytes, *, is_text: bool = True) -> None:
        send = self._protocol.send_text if is_text else self._protocol.send_binary
        send(data)
        self._flush()

    def take(self, data: bytes) -> None:
        """Take what was read, and answer the server's pings."""
        self._protocol.receive_data(data)
        events = self._protocol.events_received()
        if not data or any(getattr(event, "opcode", None) is Opcode.CLOSE for event in events):
            raise RuntimeError("the server closed a connection")
        self._flush()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self.socket.sendall(data)


def _waited(pid: int | str) -> float:
    """Milliseconds that a process has waited for a processor, ready to run, since it began."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e6


class _Neighbours:
    def __init__(
        self, server: int, clients: list[_Client], send: Callable[[], object], beside: list[_Client]
    ) -> None:
        self._server = server
        self._send = send
        self._of = {client.socket.fileno(): client for client in clients + beside}
        self._count = len(clients)
        self._poll = select.epoll()
        for number in self._of:
            self._poll.register(number, select.EPOLLIN)
        self._beaten = time.monotonic()

    def one(self) -> tuple[float, float, float]:
        """Send one message, and wait until all have it."""
        time.sleep(_PAUSE)
        if time.monotonic() - self._beaten > _HEARTBEAT_AFTER:
            self._beaten = time.monotonic()
            for client in self._of.values():
                client.send(_HEARTBEAT)
        waits = _waited("self"), _waited(self._server)
        missing, read = self._count, []
        begin = time.perf_counter()
        self._send()
        while missing:
            for number, _ in self._poll.poll():
                client = self._of[number]
                data = client.socket.recv(65536)
                missing -= _MARK in data
                read.append((client, data))
        taken = (time.perf_counter() - begin) * 1000
        own, servers = _waited("self") - waits[0], _waited(self._server) - waits[1]
        for client, data in read:
            client.take(data)
        return taken, own, servers


def _of_a_room(port: int, server: int) -> _Neighbours:
    join = JOIN.encode()
    clients = [_Client(port, join) for _ in range(_COUNT)]
    sender, push = _Client(port, join), pushed(1)
    return _Neighbours(server, clients, lambda: sender.send(push, is_text=False), [sender])


def _of_a_table(port: int, server: int, topic: str, dsn: str, insert: str) -> _Neighbours:
    connection = psycopg.connect(dsn, autocommit=True)
    join = json.dumps(["1", "1", topic, "phx_join", {}]).encode()
    clients = [_Client(port, join) for _ in range(_COUNT)]
    return _Neighbours(server, clients, lambda: connection.execute(insert, prepare=True), [])


def main(port: str, server: str, *table: str) -> None:
    make = _of_a_table if table else _of_a_room
    neighbours = make(int(port), int(server), *table)
    print("joined", flush=True)
    for line in sys.stdin:
        print(json.dumps([neighbours.one() for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
