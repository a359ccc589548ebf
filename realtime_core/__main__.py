"""What ``python -m realtime_core`` and the command ``realtime-core`` run."""

import sys

from ._cli.parser import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
