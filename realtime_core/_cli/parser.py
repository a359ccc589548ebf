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
Follow, copy, decode and diagnose PostgreSQL's logical replication.
"""
_DECODE: Final = """\
Decode files with what a replication slot sent, and write each change as a line. No database is
needed.

A file has the output of pg_recvlogical, of pgoutput or wal2json; or messages behind their lengths
(32 bits, big-endian), with or without CopyData's header; or lines of hexadecimal digits, as psql
prints them for pg_logical_slot_peek_binary_changes. It may be compressed with gzip. The first bytes
tell which form it has.
"""
_DECODE_END: Final = """\
examples:
  python -m realtime_core decode changes.bin.gz
  pg_recvlogical -d shop --slot etl --start -o proto_version=1 -o publication_names=shop -f - |
      python -m realtime_core decode -

exit codes: 0 all decoded, 1 a file is not a whole capture, 2 wrong arguments or no such file
"""
_TAIL: Final = """\
Follow a database: write each change as a line when it is committed, until Ctrl-C.

Without --slot a temporary slot is used: it begins now, and PostgreSQL drops it at the end. With
--slot changes come from the position of that slot; --ack acknowledges them when they are written,
so that the next run goes on behind them. A broken connection is made again. Messages that are not
changes go to standard error.
"""
_TAIL_END: Final = """\
examples:
  python -m realtime_core tail postgresql://app@db/shop --publication shop
  python -m realtime_core tail --publication shop --filter 'public.orders:total=gt.9.5'
  python -m realtime_core tail --publication shop --slot log --create --ack --format json \\
      >> shop.jsonl

exit codes: 0 after Ctrl-C or SIGTERM, after --count changes, or when the program that reads the
output has ended; 1 the stream ended with an error; 2 wrong arguments; 130 Ctrl-C while no program
reads the output
"""
_COPY: Final = """\
Copy tables to PostgreSQL or to a SQLite file, and keep the copies as the tables are, until Ctrl-C:
first all rows, then each change. The position is stored in the target, in the transaction of the
rows, so that the next run goes on where this one has ended, however it has ended.

The target has to have the tables, with the same primary keys. A publication and a slot are made in
the source; the slot keeps WAL until the next run, or until it is dropped.
"""
_COPY_END: Final = """\
examples:
  python -m realtime_core copy postgresql://app@db/shop postgresql://app@copy/shop \\
      --tables public.orders public.items
  python -m realtime_core copy postgresql://app@db/shop sqlite:shop.db --tables public.orders

exit codes: 0 after Ctrl-C or SIGTERM, and after --dry-run if all fits; 1 the source or the target
failed; 2 wrong arguments, or the tables do not fit
"""
_DOCTOR: Final = """\
Look for what blocks replication from a database, or may harm it later: server version, wal_level,
free replication slots and WAL senders, the role's privileges, the publications and their tables,
replica identities, the output plugin, how much WAL slots may keep. Each finding comes with the SQL
that fixes it. Nothing is changed.
"""
_DOCTOR_END: Final = """\
examples:
  python -m realtime_core doctor postgresql://app@db/shop --publication shop --slot etl
  PGHOST=db PGDATABASE=shop python -m realtime_core doctor --json

exit codes: 0 nothing blocks replication (there may be warnings), 1 something does, 2 wrong
arguments
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
    _add_copy(
        commands.add_parser(
            "copy",
            help="copy tables to another database, and follow their changes",
            description=_COPY,
            epilog=_COPY_END,
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
            help="find what blocks replication, and the SQL that fixes it",
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
        help="publication to follow; may be repeated",
    )
    what.add_argument(
        "--messages", action="store_true", help="also write messages of pg_logical_emit_message"
    )
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
        help="table to follow with wal2json, where * stands for any schema or table; may be "
        "repeated (default: all tables)",
    )
    what.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="[SCHEMA.TABLE:]FILTER",
        help="write only rows that pass this filter, as in 'total=gt.9.5,status=in.(new,paid)'; "
        "with a table before it, it is for that table only; may be repeated",
    )
    where = parser.add_argument_group("from where")
    where.add_argument(
        "--slot", metavar="NAME", help="name of a permanent slot (default: a temporary slot)"
    )
    where.add_argument(
        "--create",
        action="store_true",
        help="create the slot if it is missing; it keeps WAL until it is read or dropped",
    )
    where.add_argument(
        "--snapshot",
        action="store_true",
        help="first write the rows that the tables have already; with --slot, only if there is no "
        "such slot yet",
    )
    where.add_argument(
        "--ack",
        action="store_true",
        help="acknowledge changes that were written (default: the slot does not move)",
    )
    where.add_argument(
        "--from-position",
        metavar="POSITION",
        help="begin behind this position, which a JSON line of an earlier run had",
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
    output.add_argument(
        "--count", type=int, metavar="N", help="end after N changes, besides the rows of --snapshot"
    )
    output.add_argument("--quiet", action="store_true", help="only warnings on standard error")
    parser.set_defaults(run=_tail)


def _add_copy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="connection string or URI of the source")
    parser.add_argument(
        "target", metavar="TARGET", help="that of another PostgreSQL database, or sqlite:FILE"
    )
    parser.add_argument(
        "--tables",
        nargs="+",
        action="extend",
        required=True,
        metavar="SCHEMA.TABLE",
        help="tables to copy; a name that has a dot stands in double quotes",
    )
    parser.add_argument(
        "--name",
        default="realtime_copy",
        help="name of the copy: of the slot and the publication in the source, and of the position "
        "in the target (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="remove the rows that the target has in these tables, and copy all anew",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check that all fits, and change nothing"
    )
    parser.set_defaults(run=_copy)


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
        help="publication to check; may be repeated (default: all publications)",
    )
    parser.add_argument("--slot", metavar="NAME", help="name of the permanent slot to check")
    parser.add_argument(
        "--plugin",
        choices=["pgoutput", "wal2json"],
        default="pgoutput",
        help="the output plugin to check (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_doctor)


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dsn",
        nargs="?",
        default="",
        metavar="DSN",
        help="connection string or URI; parameters that it leaves out come from PGHOST, PGDATABASE "
        "and libpq's other environment variables",
    )


def _add_output(parser: argparse._ActionsContainer, *, default: str) -> None:
    parser.add_argument(
        "--format",
        choices=sorted(FORMATS),
        default=default,
        help="JSON for programs, or text for people (default: %(default)s)",
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
            snapshot=arguments.snapshot,
        )
    )


def _copy(arguments: argparse.Namespace) -> int:
    from .copy import copy

    return copy(
        arguments.source,
        arguments.target,
        arguments.tables,
        name=arguments.name,
        overwrite=arguments.overwrite,
        dry_run=arguments.dry_run,
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
