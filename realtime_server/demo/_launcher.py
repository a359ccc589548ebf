"""Become another program: step down from root, be tied to the parent, exec.

`embedded` runs this file as a script, in a fresh interpreter, with the
arguments `PARENT_PID USER GROUP PROGRAM ARGUMENT…` (USER and GROUP are -1 for
"stay who you are"). A fresh interpreter may do what a forked one must not:
`subprocess` runs a `preexec_fn` between fork and exec, where a lock that
another thread held stays held for ever. It starts as root, so it is found even
where the program's own user cannot look.

It imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Change user, ask to be told of the parent's death, become the program.

    Args:
        arguments: The parent's process id, user id, group id, the program's
            path and its arguments.
    """
    parent, user, group = (int(number) for number in arguments[:3])
    if user != -1:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    if sys.platform == "linux":
        _quit_with(parent)
    try:
        os.execv(arguments[3], arguments[3:])
    except OSError as error:
        sys.exit(f"cannot run {arguments[3]}: {error.strerror}")


def _quit_with(parent: int) -> None:
    """Have the kernel send SIGQUIT when the parent's thread ends.

    A change of user clears the request, so it comes after `setuid`; an exec
    keeps it. SIGQUIT is PostgreSQL's immediate shutdown: a fast one (SIGINT)
    would wait for a consumer that no longer reads.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the request was made
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
