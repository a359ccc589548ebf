"""Parses the arguments, runs a command, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from .._version import __version__
from ..errors import ConfigError, RealtimeError
from .lines import FORMATS
from .output import Output, OutputError, complain, use_utf_8

__all__ = ["main"]

_DESCRIPTION: Final = """\
Follow, decode and diagnose PostgreSQL's logical replication.
"""
_DECODE: Final = """\
Decode what a replication slot sent, from files, to one line a change. No database is needed.

A file holds what pg_recvlogical wrote, of pgoutput or wal2json; or messages each behind its length
(32 bits, big-endian), with or without CopyData's header; or lines of hexadecimal digits, as psql
prints them for pg_logical_slot_peek_binary_changes. It may be packed with gzip. Its first bytes
tell which it is.
"""
_DECODE_END: Final = """\
examples:
  python -m realtime_core decode changes.bin.gz
  pg_recvlogical -d shop --slot etl --start -o proto_version=1 -o publication_names=shop -f - |
      python -m realtime_core decode -

exit codes: 0 all decoded, 1 a file is not a whole capture, 2 wrong arguments or no such file
"""
_TAIL: Final = """\
Follow a database: write each change as it is committed, one line a change, until Ctrl-C.

Without --slot a temporary slot is used: it begins now, and nothing is left behind. With --slot
changes come from where that slot stands; --ack acknowledges them once they are written, so that
the next run goes on behind them. Broken connections are made again. What is said besides changes
goes to standard error.
"""
_TAIL_END: Final = """\
examples:
  python -m realtime_core tail postgresql://app@db/shop --publication shop
  python -m realtime_core tail --publication shop --filter 'public.orders:total=gt.9.5'
  python -m realtime_core tail --publication shop --slot log --create --ack --format json \\
      >> shop.jsonl

exit codes: 0 after Ctrl-C or SIGTERM, after --count changes, or when whoever reads the output had
enough; 1 the stream ended with an error; 2 wrong arguments; 130 Ctrl-C while nobody takes the
output
"""
_DOCTOR: Final = """\
Look for what would stop a stream from a database, or harm it later: server version, wal_level,
free replication slots and WAL senders, the role's privileges, the publications and their tables,
replica identities, the output plugin, how much WAL slots may keep. Each finding comes with the SQL
that mends it. Nothing is changed.
"""
_DOCTOR_END: Final = """\
examples:
  python -m realtime_core doctor postgresql://app@db/shop --publication shop --slot etl
  PGHOST=db PGDATABASE=shop python -m realtime_core doctor --json

exit codes: 0 nothing stands in the way (warnings are possible), 1 something would stop the stream,
2 wrong arguments
"""


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments in one line."""

    def error(self, message: str) -> NoReturn:
        complain("error", f"{message}; {self.prog} --help explains the arguments")
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 when all went well; 1 when something stops, or would stop, the stream;
        2 when the arguments or settings cannot work; 130 after Ctrl-C.
    """
    use_utf_8()
    arguments = _make_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except BrokenPipeError:
        Output.give_up()
        return 0
    except OutputError as exc:
        Output.give_up()
        complain("error", exc)
        return 1
    except KeyboardInterrupt:
        # The program that reads the output may be stuck, so the buffer is not flushed.
        Output.give_up()
        return 130
    except ImportError as exc:
        # An ImportError of Python names the missing module; psycopg's, without libpq, does not.
        if exc.name is not None:
            raise
        complain(
            "error",
            "psycopg finds no libpq, PostgreSQL's client library; "
            'pip install "psycopg[binary]", or install libpq from the system\'s packages',
        )
        return 2
    except ConfigError as exc:
        for problem in exc.problems:
            complain("error", problem)
        return 2
    except RealtimeError as exc:
        complain("error", exc)
        return 1


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m realtime_core", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"realtime-core {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_tail(
        commands.add_parser(
            "tail",
            help="follow a database",
            description=_TAIL,
            epilog=_TAIL_END,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_decode(
        commands.add_parser(
            "decode",
            help="decode captures to JSON lines",
            description=_DECODE,
            epilog=_DECODE_END,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_doctor(
        commands.add_parser(
            "doctor",
            help="find what would stop a stream, and the SQL that mends it",
            description=_DOCTOR,
            epilog=_DOCTOR_END,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    return parser


def _add_tail(parser: argparse.ArgumentParser) -> None:
    _add_database(parser)
    what = parser.add_argument_group("what")
    what.add_argument(
        "--publication",
        action="append",
        default=[],
        metavar="NAME",
        help="what to follow; may be repeated",
    )
    what.add_argument("--messages", action="store_true", help="also pg_logical_emit_message's")
    what.add_argument(
        "--plugin",
        choices=["pgoutput", "wal2json"],
        default="pgoutput",
        help="the output plugin (default: %(default)s); wal2json needs no publication",
    )
    what.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="SCHEMA.TABLE",
        help="with wal2json, only this one; * stands for any; may be repeated (default: all)",
    )
    what.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="[SCHEMA.TABLE:]FILTER",
        help="only rows that pass, as in 'total=gt.9.5,status=in.(new,paid)'; with a table before "
        "it for that one alone; may be repeated",
    )
    where = parser.add_argument_group("from where")
    where.add_argument("--slot", metavar="NAME", help="a permanent slot (default: a temporary one)")
    where.add_argument(
        "--create",
        action="store_true",
        help="make the slot if it is missing; it keeps WAL until it is read or dropped",
    )
    where.add_argument(
        "--ack",
        action="store_true",
        help="acknowledge what was written (default: the slot stays where it is)",
    )
    where.add_argument(
        "--from-position",
        metavar="POSITION",
        help="leave out everything up to this one, as JSON lines have it",
    )
    where.add_argument(
        "--on-gap",
        choices=["continue", "raise"],
        default="continue",
        help="when changes may have been lost: go on with a line that says so, or end "
        "(default: %(default)s)",
    )
    output = parser.add_argument_group("output")
    _add_output(output, default="text")
    output.add_argument("--count", type=int, metavar="N", help="end after N changes")
    output.add_argument("--quiet", action="store_true", help="only warnings on standard error")
    parser.set_defaults(run=_tail)


def _add_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a capture; - is standard input")
    _add_output(parser, default="json")
    parser.set_defaults(run=_decode)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    _add_database(parser)
    parser.add_argument(
        "--publication",
        action="append",
        default=[],
        metavar="NAME",
        help="one that is to be streamed; may be repeated (default: look at all there are)",
    )
    parser.add_argument(
        "--slot", metavar="NAME", help="the permanent slot that is to be used, if there is one"
    )
    parser.add_argument(
        "--plugin",
        choices=["pgoutput", "wal2json"],
        default="pgoutput",
        help="the output plugin that is to be used (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_doctor)


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dsn",
        nargs="?",
        default="",
        metavar="DSN",
        help="connection string or URI; what it leaves out comes from PGHOST, PGDATABASE and "
        "libpq's other environment variables",
    )


def _add_output(parser: argparse._ActionsContainer, *, default: str) -> None:
    parser.add_argument(
        "--format",
        choices=sorted(FORMATS),
        default=default,
        help="one JSON object a line, or text for people (default: %(default)s)",
    )
    parser.add_argument(
        "--boundaries",
        action="store_true",
        help="also write a line where a transaction begins and one where it ends",
    )


def _tail(arguments: argparse.Namespace) -> int:
    from .tail import TailSettings, tail

    return tail(
        TailSettings(
            dsn=arguments.dsn,
            plugin=arguments.plugin,
            publications=tuple(arguments.publication),
            tables=tuple(arguments.table),
            filters=tuple(arguments.filter),
            messages=arguments.messages,
            slot=arguments.slot,
            create=arguments.create,
            ack=arguments.ack,
            from_position=arguments.from_position,
            on_gap=arguments.on_gap,
            boundaries=arguments.boundaries,
            count=arguments.count,
            line=FORMATS[arguments.format],
            quiet=arguments.quiet,
        )
    )


def _decode(arguments: argparse.Namespace) -> int:
    from .decode import decode

    return decode(arguments.files, line=FORMATS[arguments.format], boundaries=arguments.boundaries)


def _doctor(arguments: argparse.Namespace) -> int:
    from .doctor import doctor

    return doctor(
        arguments.dsn,
        publications=arguments.publication,
        slot=arguments.slot,
        plugin=arguments.plugin,
        as_json=arguments.json,
    )
