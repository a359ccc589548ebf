"""The entry point of ``python -m realtime_core`` and of the command ``realtime-core``."""

import sys

from ._cli.parser import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
