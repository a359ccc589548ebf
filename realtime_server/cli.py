"""The command line of ``python -m realtime_server``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from realtime_core import Finding, Severity, __version__, diagnose
from realtime_core.errors import ConfigError, RealtimeError, ServerError, SourceError
from realtime_core.filters import has_regex

from . import logs
from .auth.authorizer import make_authorizer
from .config import EventLoop, IpVersion, ReplicationMode, ServerConfig, print_config, variables
from .config.database.addresses import resolve_dsn
from .config.database.other_slots_check import missing_slots
from .config.database.source import setting_names
from .config.process_memory import return_freed_memory
from .fanout.stream.check import stream_findings
from .messages.check import message_findings, private_channel_findings
from .net.garbage import Garbage
from .net.notify import Notifier
from .replay.check import replay_findings
from .rls.setup.check import rls_findings
from .rls.setup.command import run_migrate
from .server import RealtimeServer
from .webhooks.check import webhook_findings
from .webhooks.redeliver import run_redeliver

if TYPE_CHECKING:
    from .cluster.database_reader import DatabaseReader
    from .workers.supervisor import Supervisor

if sys.platform != "win32":
    import resource

__all__ = ["main"]

logger = logging.getLogger("realtime.server")

WorkerLinks: TypeAlias = tuple[int, int, int, int, str]
"""How a supervisor starts a worker: the number of the worker, the file descriptors of its links for
changes, for rooms and for everything else, and the name of its process."""
CUT_OFF: Final = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else signal.SIGTERM
"""The signal by which a supervisor has its workers cut their clients off."""
_SPARE_FILES: Final = 100
"""How many files may be open besides the clients' connections, also for refusing further ones."""

_DESCRIPTION = """\
Broadcast PostgreSQL's changes to WebSocket clients that speak the Phoenix channel protocol.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until SIGTERM or SIGINT, or run another command.

    Args:
        argv: the arguments, without the program's name; None for those of the process.

    Returns:
        The exit code: 0 after a signal or when the command succeeded, 1 if the stream cannot go on
        or the database refused something, 2 if the settings cannot work.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "migrate":
        return _migrate(dev=arguments.dev, dry_run=arguments.dry_run)
    if arguments.command == "webhooks":
        return _redeliver(dev=arguments.dev)
    warnings = ServerConfig.near_misses(os.environ)
    try:
        config = ServerConfig.from_env(os.environ, dev=arguments.dev)
    except ConfigError as exc:
        for warning in warnings:
            print(f"configuration warning: {warning}", file=sys.stderr)
        return _refuse(exc)
    worker = None if arguments.worker is None else arguments.worker[0]
    logs.configure(config.log_level, config.log_format, worker=worker)
    if arguments.worker is None:  # the supervisor of several has said it
        for warning in (*warnings, *config.shortcomings()):
            logger.warning("configuration: %s", warning)
    if arguments.print_config:
        _print_lines(print_config(config))
        return 0
    try:
        if arguments.check:
            return asyncio.run(_check(config))
        with asyncio.Runner(loop_factory=_loop_factory(config.event_loop)) as runner:
            runner.run(_serve(config, dev=arguments.dev, links=arguments.worker))
    except ConfigError as exc:
        return _refuse(exc)
    except ServerError as exc:
        named = "" if worker is None else f"worker {worker}: "
        print(f"{named}error: {exc}", file=sys.stderr)
        return 2
    except RealtimeError as exc:
        logger.critical("the stream cannot go on: %s", exc)
        return 1
    return 0


def _loop_factory(event_loop: EventLoop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the function that makes the event loop; None for asyncio's own loop.

    Raises:
        ConfigError: if uvloop is wanted and not installed.
    """
    if event_loop is EventLoop.ASYNCIO:
        return None
    try:
        import uvloop
    except ImportError:
        problem = (
            "EVENT_LOOP is 'uvloop', which is not installed; use "
            "pip install uvloop, or EVENT_LOOP=asyncio"
        )
        raise ConfigError([problem]) from None
    return uvloop.new_event_loop


def _refuse(error: ConfigError) -> int:
    for problem in error.problems:
        print(f"configuration error: {problem}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m realtime_server",
        description=_DESCRIPTION,
        epilog=_describe_variables(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    changed = ", ".join(
        f"{variable.name}={variable.dev}" for variable in variables() if variable.dev is not None
    )
    parser.add_argument(
        "--dev",
        action="store_true",
        help=f"development defaults: {changed}, listen on 127.0.0.1 only",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the settings in effect as an environment file, secrets masked, and exit",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="connect to the database, report what would stop the server, and exit",
    )
    # How a supervisor starts its workers.
    parser.add_argument("--worker", type=_worker_links, help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"realtime-core {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    migrate = commands.add_parser("migrate", help="set up the schema realtime in the database")
    migrate.add_argument(
        "--dry-run", action="store_true", help="report what is missing, and change nothing"
    )
    webhooks = commands.add_parser("webhooks", help="look after webhooks")
    actions = webhooks.add_subparsers(dest="action", title="actions", required=True)
    actions.add_parser("redeliver", help="send what is in WEBHOOK_DEAD_LETTERS again")
    return parser


def _redeliver(*, dev: bool) -> int:
    """Send dead letters again; return 0 when none is left."""
    try:
        return 0 if asyncio.run(_send_again(dev=dev)) else 1
    except ConfigError as exc:
        return _refuse(exc)
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("interrupted: what endpoints had taken is not in the file any more", file=sys.stderr)
        return 1


async def _send_again(*, dev: bool) -> bool:
    task = asyncio.current_task()
    assert task is not None
    _on_stop_signals(task.cancel)
    return await run_redeliver(os.environ, dev=dev, tell=_print_line)


def _migrate(*, dev: bool, dry_run: bool) -> int:
    try:
        asyncio.run(run_migrate(os.environ, dev=dev, dry_run=dry_run, tell=_print_line))
    except ConfigError as exc:
        return _refuse(exc)
    except RealtimeError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


async def _check(config: ServerConfig) -> int:
    """Print what would stop a server with these settings; return the exit code.

    Raises:
        ConfigError: if a key for tokens cannot be used.
    """
    make_authorizer(config)
    is_rls = config.replication_mode is ReplicationMode.RLS
    try:
        dsn = await resolve_dsn(config)
        diagnosis = await diagnose(
            dsn,
            publications=config.publications,
            slot=config.slot_name,
            plugin=config.output_plugin.value,
            persistent=True,
            setting_names=setting_names(config),
        )
        more = [
            *_missing_packages(),
            *await replay_findings(config, dsn, diagnosis),
            *await webhook_findings(config, dsn, diagnosis),
        ]
        if config.nats_url is not None:
            from .cluster.check import cluster_findings

            most = config.max_payload_bytes * config.broadcast
            window = config.replay_window / 1000 if config.keeps_journal else 0.0
            more += await cluster_findings(config, replay_window=window, broadcast_bytes=most)
        if diagnosis.database is not None:
            more += await missing_slots(config, dsn)
            if is_rls:
                more += await rls_findings(dsn, config.publications, config.output_plugin)
            else:
                more += await stream_findings(dsn, config.publications)
            if config.broadcast_from_database:
                more += await message_findings(dsn)
            if config.has_private_channels:
                more += await private_channel_findings(dsn, migrates=is_rls)
        diagnosis = attrs.evolve(diagnosis, findings=(*diagnosis.findings, *more))
    except SourceError as exc:
        _print_line(f"problem  {exc}")
        return 1
    _print_lines(diagnosis.lines())
    return 1 if diagnosis.count(Severity.PROBLEM) else 0


def _missing_packages() -> Iterator[Finding]:
    if not has_regex():
        yield Finding.warning(
            "packages",
            "google-re2 is not installed: joins whose filter has match or imatch are refused",
            remedy="pip install google-re2",
        )


def _raise_file_limit(connections: int) -> None:
    """Raise the limit of open files to one for each connection, as far as the system allows."""
    if sys.platform == "win32":
        return
    wanted = connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        logger.warning(
            "MAX_CONNECTIONS is %d, and the process may open %d files; raise its limit to %d "
            "(LimitNOFILE, ulimit -Hn), or lower MAX_CONNECTIONS",
            connections,
            hard,
            wanted,
        )
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _worker_links(text: str) -> WorkerLinks:
    *numbers, name = text.split(",")
    number, changes, rooms, control = map(int, numbers)
    return number, changes, rooms, control, name


async def _serve(config: ServerConfig, *, dev: bool, links: WorkerLinks | None) -> None:
    """Run a server, or the supervisor of several workers, or one of these, until it is stopped.

    Args:
        config: the settings.
        dev: whether workers take the defaults of ``--dev``.
        links: for one of several: its number, the file descriptors of its links, and its name.
    """
    return_freed_memory()
    if links is not None or config.worker_count == 1:
        _raise_file_limit(config.max_connections)
    stop = asyncio.Event()
    _on_stop_signals(stop.set)
    server = await _make_server(config, dev=dev, links=links)
    notifier = Notifier(
        os.environ, is_attached=lambda: server.is_attached, why_not_ready=server.why_not_ready
    )
    if hasattr(signal, "SIGHUP"):  # not on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.reload_keys)
    if links is not None:
        asyncio.get_running_loop().add_signal_handler(CUT_OFF, server.cut_off)
    async with server:
        garbage = asyncio.create_task(Garbage().run())
        tasks = [asyncio.create_task(notifier.run())]
        if links is None:
            tasks.append(asyncio.create_task(_say_listening(server, config)))
        stopped = asyncio.create_task(stop.wait())
        ended = asyncio.create_task(server.wait())
        await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, ended, *tasks):
            task.cancel()
        notifier.stopping()
        if ended.done():
            ended.result()
        if links is None:
            # A second signal cuts the clients off. A worker may get the first one twice, from the
            # service manager and from its supervisor.
            _on_stop_signals(server.cut_off)
            logger.info("stopping: closing connections, for at most %d ms", config.drain_timeout)
    garbage.cancel()  # not before: clients go on sending until the server is closed
    if links is None:
        logger.info("stopped")


async def _make_server(
    config: ServerConfig, *, dev: bool, links: WorkerLinks | None
) -> RealtimeServer | Supervisor | DatabaseReader:
    # One process alone needs nothing of what several need.
    if links is not None:
        from .workers.worker import Worker

        return RealtimeServer(config, await Worker.open(config, *links))
    if not config.serves_clients:
        from .cluster.database_reader import DatabaseReader

        return DatabaseReader(config)
    if config.worker_count > 1:
        from .workers.supervisor import Supervisor

        return Supervisor(config, dev=dev)
    return RealtimeServer(config)


async def _say_listening(
    server: RealtimeServer | Supervisor | DatabaseReader, config: ServerConfig
) -> None:
    await server.listening()
    logger.info("listening on %s, port %d", _host(config), server.port)


def _on_stop_signals(callback: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not on Windows, where Ctrl-C raises KeyboardInterrupt instead.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, callback)


def _host(config: ServerConfig) -> str:
    if config.loopback:
        return "127.0.0.1"
    ipv4 = config.realtime_ip_version is IpVersion.IPV4
    return "all IPv4 addresses" if ipv4 else "all addresses"


def _describe_variables() -> str:
    """Return the environment variables and their defaults, by section."""
    lines = ["configured by environment variables, with these defaults:"]
    section = ""
    for variable in variables():
        if variable.section != section:
            section = variable.section
            lines += ["", f"  {section}:"]
        lines.append(f"    {variable.name}={variable.default}")
    secrets = ", ".join(f"{variable.name}_FILE" for variable in variables() if variable.secret)
    lines += ["", f"  read from a file instead: {secrets}"]
    return "\n".join(lines)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        _print_line(line)


def _print_line(line: str) -> None:
    """Print a line without delay.

    If the reader has closed the pipe, as ``head`` does, nothing further is written, and the command
    goes on: its exit code says what it found.
    """
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # The interpreter flushes once more when it ends, which would fail again.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
