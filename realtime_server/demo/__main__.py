"""`python -m realtime_server.demo`: rows that change, and a page that shows it.

Starts an embedded PostgreSQL (or uses the database that DEMO_DSN names), makes
the sample tables, runs the server with development defaults on 127.0.0.1 and
PORT (4000), and changes a few rows a second. A second server, in RLS mode on
the port after that, shows two people what each may see of one table. Ctrl-C or
SIGTERM ends all of it.

While it runs, a file that DEMO_ENV_FILE names says where database and server are, as variables of a
shell: `make demo` has one, for the examples.

Exit codes: 0 after a stop, 2 for settings that cannot work (a busy port among
them), 1 for everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from random import Random
from typing import Any, TypeAlias

import attrs
import psycopg

from realtime_core.errors import ConfigError, RealtimeError, ServerError
from realtime_server.config import ServerConfig
from realtime_server.demo import notes, sample
from realtime_server.demo.embedded import EmbeddedPostgres
from realtime_server.demo.two_views import open_two_views
from realtime_server.server import RealtimeServer

__all__ = ["main", "run"]

_HOST = "127.0.0.1"
_WRITE_INTERVAL = 0.3  # seconds: fast enough to see, slow enough to read
_NOTE_INTERVAL = 1.0  # seconds: slow enough to compare two views

_ANNOUNCEMENT = """\
The demo is at http://{host}:{port}/ and shows rows as they change. Ctrl-C stops it.

{two_views}
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
_TWO_VIEWS = """\
What row level security lets Ann and Bob see of one table, side by side. Keep this address to
yourself, it has their tokens:

    {url}

Write as Ann; Bob sees it with `true` instead of `false`:

    {psql} -c {connect} -c "insert into notes (owner, shared, note) values ('Ann', false, 'hello')"
"""
_NO_TWO_VIEWS = """\
What row level security shows two people is left out: {reason}.
It would have a database and a role of its own, dropped at the end, for which the role of DEMO_DSN
needs CREATEDB and CREATEROLE.
"""


_Work: TypeAlias = Coroutine[Any, Any, None]


@attrs.frozen
class _Database:
    """Where the sample tables are, and the command that opens it in a shell."""

    dsn: str
    psql: str
    is_embedded: bool
    """Whether its server ends with the demo, and all that is on it."""


async def run(environ: Mapping[str, str]) -> None:
    """Run the demo until SIGINT or SIGTERM.

    Args:
        environ: PORT, DEMO_DSN, DEMO_ENV_FILE and EXAMPLES_PORT are read from it. Pages from
            EXAMPLES_PORT may connect, too: those of the examples.

    Raises:
        ConfigError: PORT or EXAMPLES_PORT is not a port, or PORT is in use; DEMO_ENV_FILE cannot
            be written.
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
    origins = _origins(settings["PORT"], environ.get("EXAMPLES_PORT") or "8000")
    # Blocks the loop for a second, in the one thread that lives long enough;
    # a signal that comes meanwhile is served as soon as everything is up.
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(_database(environ.get("DEMO_DSN")))
        with psycopg.connect(database.dsn, connect_timeout=3) as connection:
            sample.prepare(connection)
            settings |= _database_settings(connection.info)
        config = ServerConfig.from_env({**settings, **origins}, dev=True)
        async with (
            RealtimeServer(config) as server,
            _two_views(database, settings, server.port) as two,
        ):
            addresses = {
                "DATABASE_URL": database.dsn,
                "REALTIME_URL": f"ws://{_HOST}:{server.port}/socket",
            }
            stack.enter_context(_written_to(environ.get("DEMO_ENV_FILE"), addresses))
            said, work = two
            print(
                _ANNOUNCEMENT.format(
                    host=_HOST, port=server.port, psql=database.psql, two_views=said
                ),
                flush=True,
            )
            writer = sample.write_forever(database.dsn, interval=_WRITE_INTERVAL, random=Random())
            await _work_until(stop, [writer, server.wait(), *work])


@contextlib.asynccontextmanager
async def _two_views(
    database: _Database, settings: Mapping[str, str], port: int
) -> AsyncIterator[tuple[str, list[_Work]]]:
    """Open the part with row level security, if the database lets us.

    Yields:
        the text for the user, and the tasks that have to run meanwhile.
    """
    async with contextlib.AsyncExitStack() as stack:
        work: list[_Work] = []
        try:
            there = await stack.enter_async_context(
                notes.open_notes(database.dsn, keep=database.is_embedded)
            )
            two = await stack.enter_async_context(
                open_two_views(
                    there, {**settings, "DB_NAME": there.name}, host=_HOST, port=port + 1
                )
            )
        except (psycopg.Error, notes.NotesError, ServerError) as error:
            said = _NO_TWO_VIEWS.format(reason=str(error).splitlines()[0])
        else:
            connect = shlex.quote(f"\\c {there.name}")
            said = _TWO_VIEWS.format(url=two.url, psql=database.psql, connect=connect)
            writer = notes.write_forever(there.dsn, interval=_NOTE_INTERVAL, random=Random())
            work += writer, two.server.wait()
        yield said, work


async def _work_until(stop: asyncio.Event, work: list[_Work]) -> None:
    """Keep at it until the event is set, or something fails."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
            await stop.wait()
            for task in tasks:
                task.cancel()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _origins(port: str, examples: str) -> dict[str, str]:
    """Return the setting that lets pages of the examples connect, and the server's own."""
    if not examples.isdecimal() or not 0 < int(examples) < 65536:
        raise ConfigError(f"EXAMPLES_PORT is {examples!r}, which is no port; set 1 to 65535")
    if port == "0":
        return {}  # which the server's own would be is not known yet
    names = [f"http://{host}:{each}" for host in (_HOST, "localhost") for each in (port, examples)]
    return {"ALLOWED_ORIGINS": json.dumps(names)}


@contextlib.contextmanager
def _written_to(path: str | None, variables: Mapping[str, str]) -> Iterator[None]:
    """Have a file with variables, in a shell's syntax, that only its owner may read."""
    if not path:
        yield
        return
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # a demo that was killed has left it
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(lines)
    except OSError as error:
        raise ConfigError(
            f"DEMO_ENV_FILE is {path!r}, which cannot be written: {error.strerror}"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


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
        yield _Database(dsn, psql='psql "$DEMO_DSN"', is_embedded=False)
        return
    # A web page can speak to a port of this machine, and other users can.
    with EmbeddedPostgres(password=secrets.token_urlsafe(16)) as embedded:
        psql = shutil.which("psql") or embedded.bindir / "psql"
        yield _Database(embedded.dsn, psql=f"{psql} {embedded.dsn}", is_embedded=True)


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
