"""What ``python -m realtime_server`` and the command ``realtime-server`` run.

Only the way to :mod:`realtime_server.cli`, which cannot be imported without libpq: psycopg
raises an ImportError of many lines then, and the remedy is one.
"""

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line; return its exit code, or 2 when there is no libpq."""
    try:
        from . import cli
    except ImportError as exc:
        # Python itself names the module that is missing; psycopg, without libpq, does not.
        if exc.name is not None:
            raise
        print(
            "error: psycopg finds no libpq, PostgreSQL's client library; "
            'pip install "psycopg[binary]", or install libpq from the system\'s packages',
            file=sys.stderr,
        )
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
