"""Arguments to a command's call, and errors to exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from ..errors import ConfigError, RealtimeError
from .lines import FORMATS
from .output import Output, OutputError, complain

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


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        complain("error", f"{message}; {self.prog} --help explains the arguments")
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 when all went well; 1 when something stops, or would stop, the stream;
        2 when the arguments or settings cannot work; 130 after Ctrl-C.
    """
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
        return 130
    except ConfigError as exc:
        for problem in exc.problems:
            complain("error", problem)
        return 2
    except RealtimeError as exc:
        complain("error", exc)
        return 1


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m realtime_core", description=_DESCRIPTION)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_decode(
        commands.add_parser(
            "decode",
            help="decode captures to JSON lines",
            description=_DECODE,
            epilog=_DECODE_END,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    return parser


def _add_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a capture; - is standard input")
    _add_output(parser, default="json")
    parser.set_defaults(run=_decode)


def _add_output(parser: argparse.ArgumentParser, *, default: str) -> None:
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


def _decode(arguments: argparse.Namespace) -> int:
    from .decode import decode

    return decode(arguments.files, line=FORMATS[arguments.format], boundaries=arguments.boundaries)
