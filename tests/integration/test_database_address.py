"""DB_IP_VERSION: the address that a host's name stands for, on real connections."""

from __future__ import annotations

import socket

import pytest

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database, until_streaming
from tests.server_helpers import dev_config
from tests.waiting import eventually

pytestmark = pytest.mark.integration


async def test_a_name_is_connected_to_by_its_ipv4_address(one_pg: Server) -> None:
    with fresh_database(one_pg) as database:
        database.execute("create publication shop for all tables")
        config = dev_config(database.dsn, DB_HOST="localhost")
        async with RealtimeServer(config):
            await until_streaming(database)
            assert client_addresses(database) == ["127.0.0.1"]


async def test_a_name_without_an_address_of_the_family_is_said_and_looked_up_again(
    one_pg: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known: list[str] = []

    def getaddrinfo(host: str, port: object, *, family: int, type: int) -> list[object]:
        if not (family == socket.AF_INET6 and host == "db.example" and known):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        # As in a failover: the name leads somewhere else. IPv4-mapped, as the server has no IPv6.
        return [(family, socket.SOCK_STREAM, 6, "", (known[0], 0, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with fresh_database(one_pg) as database:
        database.execute("create publication shop for all tables")
        config = dev_config(database.dsn, DB_HOST="db.example", DB_IP_VERSION="IPv6")
        async with RealtimeServer(config):
            await eventually(lambda: "no IPv6 address was found" in caplog.text)
            assert (
                "no IPv6 address was found for 'db.example' (Name or service not known); check "
                "DB_HOST, or set DB_IP_VERSION=IPv4; trying again in "
            ) in caplog.text
            known.append("::ffff:127.0.0.1")
            await until_streaming(database)


def client_addresses(database: Database) -> list[str]:
    rows = database.execute(
        "select host(client_addr) from pg_stat_activity"
        " where application_name = 'realtime_server' and datname = current_database()"
    )
    return [address for (address,) in rows]
