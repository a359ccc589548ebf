"""Memory: how many bytes of memory this process may use, and how it gives memory back."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["memory_limit", "return_freed_memory"]

_PROC: Final = Path("/proc/self/cgroup")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_M_MMAP_THRESHOLD: Final = -3
"""From glibc's malloc.h."""
_LARGE: Final = 128 * 1024
"""Bytes of a buffer that has pages of its own: glibc's default, before it adapts."""


def memory_limit(*, cgroup_file: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return how many bytes of memory this process may use at most.

    That is the least of the machine's memory, the address space that ``ulimit -v`` allows, and the
    limits of the control groups that the process is in: containers and systemd put it there.

    Args:
        cgroup_file: names the control groups (cgroups(7), "/proc/pid/cgroup").
        cgroups: where they are mounted.
    """
    bounds = [_physical(), _address_space(), *_group_bounds(cgroup_file, cgroups)]
    return min(bound for bound in bounds if bound > 0)


def return_freed_memory() -> None:
    """Have the C library return the memory of a large buffer when the buffer is freed.

    glibc adapts to large buffers: once one was freed, it takes others of that size from its heap,
    and keeps what they leave between smaller objects. So the buffers of clients that read nothing
    would take nearly twice the bytes that wait for them. Other C libraries are left as they are,
    and so is glibc where the environment has ``MALLOC_MMAP_THRESHOLD_``.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _physical() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return sys.maxsize


def _address_space() -> int:
    try:
        import resource
    except ImportError:
        # Not on Windows.
        return sys.maxsize
    bound = resource.getrlimit(resource.RLIMIT_AS)[0]
    return sys.maxsize if bound == resource.RLIM_INFINITY else bound


def _group_bounds(cgroup_file: Path, cgroups: Path) -> Iterator[int]:
    """Yield the limits of the control groups and of their parents: each of them applies."""
    try:
        lines = cgroup_file.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # A container sees its own group as the root, whatever the path says.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            bound = _number(root.joinpath(*parts[:depth], name))
            if bound is not None:
                yield bound


def _number(file: Path) -> int | None:
    """Read a limit; return None for "max", and if the file is not there."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
