"""The database's connection string, and DB_IP_VERSION: which of the host's addresses it names.

libpq connects to any address that a name has. That fails or is slow where a name has addresses of
both families and only one of them is routed, or where a resolver answers questions about one family
with an error. So names are looked up here, for each attempt to connect again, since a failover
changes a name's addresses.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Final

from psycopg.conninfo import make_conninfo

from realtime_core.errors import ConnectionLostError

from .. import DatabaseTls, IpVersion, ServerConfig

__all__ = ["make_dsn", "resolve_dsn"]

_THREADS: Final = ThreadPoolExecutor(4, "database-address")
"""Threads of their own: asyncio's may all wait for a resolver that has no answer about the names of
webhooks' endpoints."""


def make_dsn(config: ServerConfig, *hosts: tuple[str, str | None]) -> str:
    """Return a libpq connection string for the database that the settings name.

    Args:
        config: the settings.
        hosts: the hosts that libpq tries in turn, each with its address, or None to have libpq
            look the name up. Without any, ``DB_HOST`` as it is.
    """
    root = config.db_ssl_root_cert
    if root is None and not config.db_ssl.is_checked:
        # libpq's "require" checks certificates where it finds a root.crt in the home.
        root = "/nonexistent/root.crt"
    hosts = hosts or ((config.db_host, None),)
    addresses = [address or "" for _, address in hosts]
    return make_conninfo(
        host=",".join(host for host, _ in hosts),
        hostaddr=",".join(addresses) if any(addresses) else None,
        port=config.db_port,
        dbname=config.db_name,
        user=config.db_user,
        password=config.db_password,
        sslmode=config.db_ssl.sslmode,
        sslrootcert=None if config.db_ssl is DatabaseTls.OFF else root,
        application_name="realtime_server",
    )


async def resolve_dsn(config: ServerConfig) -> str:
    """Return the database's connection string with the addresses that its hosts have now.

    ``DB_HOST`` may be several hosts, separated by commas. Addresses and directories of sockets are
    not looked up.

    Raises:
        ConnectionLostError: if no host has an address of the family; it says what to do.
    """
    found: list[tuple[str, str | None]] = []
    failures: list[str] = []
    for host in config.db_host.split(","):
        if not host or host.startswith(("/", "@")):
            found.append((host, None))
        elif _is_address(host):
            found.append((host, host))
        else:
            try:
                found += [(host, each) for each in await _look_up(host, config.db_ip_version)]
            except OSError as exc:
                failures.append(f"{host!r} ({exc.strerror})")
            except UnicodeError:
                # Python encodes a name before it looks it up (RFC 3490).
                failures.append(f"{host!r} (a part of it is empty or longer than 63 characters)")
    if not found:
        wanted = config.db_ip_version
        other = IpVersion.IPV4 if wanted is IpVersion.IPV6 else IpVersion.IPV6
        raise ConnectionLostError(
            f"no {wanted.value} address was found for {', '.join(failures)}; check DB_HOST, or "
            f"set DB_IP_VERSION={other.value}"
        )
    return make_dsn(config, *found)


async def _look_up(host: str, version: IpVersion) -> list[str]:
    family = socket.AF_INET if version is IpVersion.IPV4 else socket.AF_INET6
    look_up = partial(socket.getaddrinfo, host, None, family=family, type=socket.SOCK_STREAM)
    answers = await asyncio.get_running_loop().run_in_executor(_THREADS, look_up)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
