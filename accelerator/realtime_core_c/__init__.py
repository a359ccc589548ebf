"""Compiled parts of realtime-core, which uses them where they are installed.

Nobody else imports this package: its functions take and return realtime-core's own objects, and
change with its version. What each of them does is said where it is done in Python: see
``realtime_core.pgoutput`` and ``realtime_core.records``.
"""

__all__ = ["__version__"]

__version__ = "1.0.0rc1"
