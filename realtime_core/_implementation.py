"""Which implementation decodes: Python's, which is the reference, or the compiled one.

The distribution ``realtime-core-c`` has compiled functions that do the same as some here, and are
used where it is installed in this very version. The environment variable ``REALTIME_CORE_IMPL``
says ``python`` or ``c`` to have one of them in any case.
"""

from __future__ import annotations

import os
from typing import Final, Literal

from ._version import __version__

__all__ = ["IMPLEMENTATION", "choose"]


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


def _installed() -> str | None:
    try:
        import realtime_core_c
    except ModuleNotFoundError:
        return None
    return realtime_core_c.__version__


IMPLEMENTATION: Final = choose(os.environ.get("REALTIME_CORE_IMPL"), _installed())
"""The implementation that this process uses."""
