"""`python -m realtime_server.demo`: rows that change, and a page that shows it.

Starts an embedded PostgreSQL (or uses the database that DEMO_DSN names), makes
the sample tables, runs the server with development defaults on 127.0.0.1 and
PORT (4000), and changes a few rows a second. Ctrl-C or SIGTERM ends all of it.

Exit codes: 0 after a stop, 2 for settings that cannot work (a busy port among
them), 1 for everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from random import Random

import attrs
import psycopg

from realtime_core.errors import ConfigError, RealtimeError, ServerError
from realtime_server.config import ServerConfig
from realtime_server.demo import sample
from realtime_server.demo.embedded import EmbeddedPostgres
from realtime_server.server import RealtimeServer

__all__ = ["main", "run"]

_HOST = "127.0.0.1"
_WRITE_INTERVAL = 0.3  # seconds: fast enough to see, slow enough to read

_ANNOUNCEMENT = """\
The demo is at http://{host}:{port}/ and shows rows as they change. Ctrl-C stops it.

JavaScript, as demo.mjs (npm install @supabase/realtime-js@1.7.5; node demo.mjs):

    import {{ RealtimeClient }} from "@supabase/realtime-js";
    const socket = new RealtimeClient("ws://{host}:{port}/socket");
    socket.connect();
    const users = socket.channel("realtime:public:users");
    users.on("*", (change) => console.log(change));
    users.subscribe();

Python, as demo.py (in an environment without the server: pip install realtime; python demo.py):

    import asyncio, contextlib
    from realtime import AsyncRealtimeClient

    async def main():
        client = AsyncRealtimeClient("ws://{host}:{port}/socket", "anon")
        users = client.channel("demo")
        users.on_postgres_changes("*", lambda change: print(change["data"]), table="users")
        await users.subscribe()
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C
        asyncio.run(main())

Change something yourself:

    {psql} -c "insert into todos (task) values ('say hello')"
"""


@attrs.frozen
class _Database:
    """Where the sample tables are, and the command that opens it in a shell."""

    dsn: str
    psql: str


async def run(environ: Mapping[str, str]) -> None:
    """Run the demo until SIGINT or SIGTERM.

    Args:
        environ: PORT and DEMO_DSN are read from it.

    Raises:
        ConfigError: PORT is not a port, or is in use.
        ServerError: The port was taken while PostgreSQL started.
        RealtimeError: The embedded PostgreSQL or its sample tables cannot be had.
        psycopg.Error: DEMO_DSN's database refuses, or ended.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    settings = {"PORT": environ.get("PORT", "4000")}
    _check_port(ServerConfig.from_env(settings, dev=True).port)
    # Blocks the loop for a second, in the one thread that lives long enough;
    # a signal that comes meanwhile is served as soon as everything is up.
    with _database(environ.get("DEMO_DSN")) as database:
        with psycopg.connect(database.dsn, connect_timeout=3) as connection:
            sample.prepare(connection)
            settings |= _database_settings(connection.info)
        config = ServerConfig.from_env(settings, dev=True)
        async with RealtimeServer(config) as server:
            print(
                _ANNOUNCEMENT.format(host=_HOST, port=server.port, psql=database.psql), flush=True
            )
            await _write_until(stop, database, server)


async def _write_until(stop: asyncio.Event, database: _Database, server: RealtimeServer) -> None:
    """Keep the rows changing until the event is set, or somebody fails."""
    writer = sample.write_forever(database.dsn, interval=_WRITE_INTERVAL, random=Random())
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(writer), group.create_task(server.wait())]
            await stop.wait()
            for task in tasks:
                task.cancel()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _check_port(port: int) -> None:
    """Find out before anything is started, not after a second of waiting."""
    with socket.socket() as probe:
        # As the server will: a port whose last connections linger is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            reason = "in use, perhaps by another demo" if in_use else error.strerror
            raise ConfigError(
                f"port {port} on {_HOST} is not free: {reason}; "
                f"choose another one: PORT={4567 if port != 4567 else 4568} make demo"
            ) from None


@contextlib.contextmanager
def _database(dsn: str | None) -> Iterator[_Database]:
    if dsn:
        yield _Database(dsn, psql='psql "$DEMO_DSN"')
        return
    # A web page can speak to a port of this machine, and other users can.
    with EmbeddedPostgres(password=secrets.token_urlsafe(16)) as embedded:
        psql = shutil.which("psql") or embedded.bindir / "psql"
        yield _Database(embedded.dsn, psql=f"{psql} {embedded.dsn}")


def _database_settings(info: psycopg.ConnectionInfo) -> dict[str, str]:
    """Return the server's settings for the database of an open connection.

    The connection knows better than the DSN, which may leave things to
    services, password files and the environment.
    """
    settings = {
        "DB_HOST": info.host,
        "DB_PORT": str(info.port),
        "DB_USER": info.user,
        "DB_PASSWORD": info.password,
        "DB_NAME": info.dbname,
        "DB_SSL": "true" if info.pgconn.ssl_in_use else "false",
        "DB_IP_VERSION": "IPv6" if ":" in info.hostaddr else "IPv4",
    }
    return {name: value for name, value in settings.items() if value}


def main() -> int:
    """Run the demo and return the exit code, having said what failed."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(os.environ))
    except (ConfigError, ServerError) as error:
        return _complain(str(error), code=2)
    except RealtimeError as error:
        return _complain(str(error), code=1)
    except psycopg.Error as error:
        # libpq explains at length; its first line says it.
        return _complain(f"the database: {str(error).splitlines()[0]}", code=1)
    return 0


def _complain(message: str, *, code: int) -> int:
    print(f"demo: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
