"""Exits with 0 if this Python has what it takes to compile a module in C, and else says what lacks.

It runs before anything is installed, so it needs nothing.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path


def lacking() -> str | None:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler {compiler}"
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").is_file():
        return f"Python's headers are not in {headers}"
    return None


if __name__ == "__main__":
    sys.exit(lacking())
