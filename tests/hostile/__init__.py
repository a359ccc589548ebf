"""Clients that mean no good, for tests and benchmarks; see :mod:`tests.hostile.process`."""

from tests.hostile.process import HostileProcess

__all__ = ["HostileProcess"]
