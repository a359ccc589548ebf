"""What ``python -m realtime_core`` runs."""

import sys

from ._cli.parser import main

if __name__ == "__main__":
    sys.exit(main())
