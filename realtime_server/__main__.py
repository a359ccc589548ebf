"""The entry point of ``python -m realtime_server`` and the command ``realtime-server``.

It only imports and runs :mod:`realtime_server.cli`. Without libpq that import fails, with an error
of psycopg's that has many lines; here the remedy is printed in one.

Without garbage collections a start and an end take a quarter less time: what a thousand modules
make stays until the end, where the system frees it with the process.
"""

import gc
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line; return its exit code, or 2 when there is no libpq."""
    gc.disable()
    try:
        from . import cli
    except ImportError as exc:
        # If a module is missing, Python names it; psycopg's error without libpq has no name.
        if exc.name is not None:
            raise
        print(
            "error: psycopg finds no libpq, PostgreSQL's client library; "
            'pip install "psycopg[binary]", or install libpq from the system\'s packages',
            file=sys.stderr,
        )
        return 2
    finally:
        gc.enable()
    try:
        return cli.main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
