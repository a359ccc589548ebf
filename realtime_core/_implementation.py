"""Which implementation decodes: Python's, which is the reference, or the compiled one.

The distribution ``realtime-core-c`` has compiled functions that do the same as some here, and are
used where it is installed in this very version. The environment variable ``REALTIME_CORE_IMPL``
says ``python`` or ``c`` to have one of them in any case.
"""

from __future__ import annotations

import os
from typing import Final, Literal

from ._version import __version__

__all__ = ["IMPLEMENTATION", "choose", "installed"]


def choose(wanted: str | None, installed: str | None) -> Literal["c", "python"]:
    """Return the implementation to use; warn if the compiled one is installed in vain.

    Args:
        wanted: what ``REALTIME_CORE_IMPL`` says; None or empty if it says nothing.
        installed: the version of realtime-core-c; None if it is not installed.

    Raises:
        ImportError: if ``wanted`` is none of them, or cannot be had.
    """
    if wanted not in (None, "", "c", "python"):
        raise ImportError(
            f"REALTIME_CORE_IMPL is {wanted!r}: set it to 'python' or 'c', or unset it"
        )
    if wanted == "python":
        return "python"
    if installed == __version__:
        return "c"
    if wanted == "c":
        what = "is not installed" if installed is None else f"is version {installed}"
        raise ImportError(
            f"REALTIME_CORE_IMPL is 'c', but realtime-core-c {what}: install realtime-core-c"
            f" {__version__}, or unset REALTIME_CORE_IMPL"
        )
    if installed is not None:
        import warnings

        warnings.warn(
            f"realtime-core-c is version {installed}, and is not used: install version"
            f" {__version__}, which realtime-core has, or uninstall it",
            RuntimeWarning,
            stacklevel=2,
        )
    return "python"


def installed(wanted: str | None) -> str | None:
    """Return the version of realtime-core-c; None if it is not installed, or of no use here.

    What is compiled may be missing, or made for another Python, or refuse to be loaded where it is,
    as in a second interpreter of a process. That has to show now, not when a stream begins.

    Args:
        wanted: what ``REALTIME_CORE_IMPL`` says; with ``python`` nothing is loaded.

    Raises:
        ImportError: if ``wanted`` is ``c``, and it cannot be loaded.
    """
    if wanted == "python":
        return None
    try:
        import realtime_core_c

        if realtime_core_c.__version__ == __version__:
            from importlib.util import find_spec

            import realtime_core_c.rows

            # These are loaded later, by what uses them.
            for part in (
                "changes",
                "copied_rows",
                "copy_data",
                "loaders",
                "steps",
                "stream",
                "values",
            ):
                name = f"realtime_core_c.{part}"
                if find_spec(name) is None:
                    raise ImportError(f"there is no {name}", name=name)
    except ImportError as exc:
        if exc.name == "realtime_core_c":
            return None
        if wanted == "c":
            raise
        import warnings

        warnings.warn(
            f"realtime-core-c cannot be loaded, and is not used ({exc}): install it anew, or "
            "uninstall it",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return realtime_core_c.__version__


_wanted = os.environ.get("REALTIME_CORE_IMPL")
IMPLEMENTATION: Final = choose(_wanted, installed(_wanted))
"""The implementation that this process uses."""
