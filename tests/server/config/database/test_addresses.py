"""The database's connection string, and which addresses its host stands for."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from realtime_core.errors import ConnectionLostError
from realtime_server.config import ServerConfig
from realtime_server.config.database.addresses import make_dsn, resolve_dsn

OPEN = {"SECURE_CHANNELS": "false"}
NAMES = {
    ("db.example", socket.AF_INET): ["192.0.2.1", "192.0.2.2", "192.0.2.1"],
    ("db.example", socket.AF_INET6): ["2001:db8::1"],
    ("four.example", socket.AF_INET): ["192.0.2.4"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a resolver that knows three names."""

    def getaddrinfo(host: str, port: None, *, family: int, type: int) -> list[tuple[Any, ...]]:
        host.encode("idna")  # as the real one does
        if (host, family) not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, type, 6, "", (address, 0)) for address in NAMES[host, family]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def hosts(host: str, version: str = "") -> tuple[str, str | None]:
    environ = {"DB_HOST": host, "DB_IP_VERSION": version}
    dsn = conninfo_to_dict(await resolve_dsn(ServerConfig.from_env(environ, dev=True)))
    return dsn["host"], dsn.get("hostaddr")


async def test_a_name_is_looked_up_in_the_chosen_family_and_kept_for_certificates() -> None:
    assert await hosts("db.example") == ("db.example,db.example", "192.0.2.1,192.0.2.2")
    assert await hosts("db.example", "IPv6") == ("db.example", "2001:db8::1")


async def test_it_does_not_wait_for_other_look_ups() -> None:
    """As those of webhooks' endpoints, which may take as long as their resolver likes."""
    goes_on = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    other = loop.run_in_executor(None, goes_on.wait)
    try:
        async with asyncio.timeout(10):
            assert await hosts("four.example") == ("four.example", "192.0.2.4")
        assert not other.done()
    finally:
        goes_on.set()
        await other


@pytest.mark.parametrize("version", ["IPv4", "IPv6"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_an_address_is_connected_to_whatever_its_family(address: str, version: str) -> None:
    assert await hosts(address, version) == (address, address)


@pytest.mark.parametrize("path", ["/var/run/postgresql", "@abstract"])
async def test_a_sockets_directory_stays_as_it_is(path: str) -> None:
    assert await hosts(path) == (path, None)


async def test_of_several_hosts_those_are_left_out_that_have_no_address() -> None:
    assert await hosts("no.example,four.example,/tmp,192.0.2.9") == (
        "four.example,/tmp,192.0.2.9",
        "192.0.2.4,,192.0.2.9",
    )


async def test_a_name_without_an_address_of_the_family_is_said_with_the_remedy() -> None:
    with pytest.raises(ConnectionLostError) as caught:
        await hosts("four.example,no.example", "ipv6")
    assert str(caught.value) == (
        "no IPv6 address was found for 'four.example' (Name or service not known), 'no.example' "
        "(Name or service not known); check DB_HOST, or set DB_IP_VERSION=IPv4"
    )


@pytest.mark.parametrize("name", ["db..example", "a" * 64])
async def test_what_cannot_be_a_name_is_said_with_the_remedy(name: str) -> None:
    with pytest.raises(ConnectionLostError) as caught:
        await hosts(name)
    assert str(caught.value) == (
        f"no IPv4 address was found for {name!r} (a part of it is empty or longer than 63 "
        "characters); check DB_HOST, or set DB_IP_VERSION=IPv6"
    )


def test_the_dsn_holds_any_password_and_asks_for_tls_without_a_certificate_check() -> None:
    config = ServerConfig.from_env({"DB_PASSWORD": "it's a \\ secret", **OPEN})
    assert conninfo_to_dict(make_dsn(config)) == {
        "host": "localhost",
        "port": "5432",
        "dbname": "postgres",
        "user": "postgres",
        "password": "it's a \\ secret",
        "sslmode": "require",
        "sslrootcert": "/nonexistent/root.crt",
        "application_name": "realtime_server",
    }


@pytest.mark.parametrize(
    ("environ", "mode", "root"),
    [
        ({"DB_SSL": "false"}, "disable", None),
        ({"DB_SSL": "true"}, "require", "/nonexistent/root.crt"),
        ({"DB_SSL": "verify-ca"}, "verify-ca", None),
        ({"DB_SSL": "verify-full", "DB_SSL_ROOT_CERT": "system"}, "verify-full", "system"),
    ],
)
def test_only_two_ways_check_the_certificate(
    environ: dict[str, str], mode: str, root: str | None
) -> None:
    dsn = conninfo_to_dict(make_dsn(ServerConfig.from_env({**OPEN, **environ})))
    assert (dsn["sslmode"], dsn.get("sslrootcert")) == (mode, root)
