"""The template: a process that has imported what a worker needs, and that workers are forked from.

A worker that is started by itself imports a thousand modules, which takes most of a second of the
processor, and the clients of the others wait for that. A fork has them at once, and shares some
of their memory. The template runs no event loop, no threads and no connections, so nothing of that
kind is copied.

The supervisor sends the argument of a worker, and its links. A process between the template and the
worker ends at once, so the worker becomes a child of the supervisor, which has asked the system for
that (``PR_SET_CHILD_SUBREAPER``): it is told how the worker ends, and the template's end is not the
worker's.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import time
from typing import Final

from .. import __main__ as program
from .forks import MOST_FILES, MOST_TEXT

__all__ = ["main"]

_NEEDED: Final = ("realtime_server.cli", "realtime_server.workers.worker", "uvloop")
"""What a worker imports, if it is installed."""
_IGNORED: Final = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to the template, too."""


def main() -> int:
    """Fork a worker for each request; return the exit code of the template, or of a worker."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
    # As in a process that is started by itself; and later one would write to what workers share.
    gc.disable()
    link = socket.socket(fileno=int(sys.argv[1]))
    options = sys.argv[2:]
    for module in _NEEDED:
        try:
            importlib.import_module(module)
        except ImportError:
            # The worker says what that means.
            continue
    gc.freeze()
    while True:
        text, files, _, _ = socket.recv_fds(link, MOST_TEXT, MOST_FILES)
        if not text:
            return 0
        if not _is_worker(link):
            for file in files:
                os.close(file)
            continue
        for number, handler in handlers.items():
            signal.signal(number, handler)
        link.close()
        worker, _, name = text.decode().partition(",")
        with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
            # Its command line is the template's.
            comm.write(f"worker {worker}")
        links = ",".join([worker, *map(str, files), name])
        sys.argv = ["realtime_server", *options, "--worker", links]
        return program.main()


def _is_worker(link: socket.socket) -> bool:
    """Fork a worker, and tell the supervisor its process ID, or the error's number below zero.

    Returns:
        Whether this is the worker.
    """
    told, telling = os.pipe()
    try:
        between = os.fork()
    except OSError as exc:
        os.close(told)
        os.close(telling)
        link.send(str(-(exc.errno or 1)).encode())
        return False
    if between:
        os.close(telling)
        with open(told, "rb") as answer:
            pid = answer.read()
        # When that has ended, the worker is the supervisor's child.
        os.waitpid(between, 0)
        link.send(pid)
        return False
    parent = os.getpid()
    try:
        pid_or_error = os.fork()
    except OSError as exc:
        pid_or_error = -(exc.errno or 1)
    if pid_or_error:
        os.write(telling, str(pid_or_error).encode())
        os._exit(0)
    os.close(told)
    os.close(telling)
    while os.getppid() == parent:
        # A worker asks to be killed when its parent ends, and that must not be this one.
        time.sleep(0.0005)
    return True


if __name__ == "__main__":
    sys.exit(main())
