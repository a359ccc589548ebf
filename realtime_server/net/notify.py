"""Notifier: tells the service manager, such as systemd, whether the server is ready.

systemd gives a service of ``Type=notify`` the address of a datagram socket (``NOTIFY_SOCKET``), and
with ``WatchdogSec=`` the time within which it has to hear from the process again. The protocol is
in sd_notify(3) and sd_watchdog_enabled(3). Without ``NOTIFY_SOCKET`` nothing is sent.

The messages are sent from the event loop that serves the clients. When that loop stands still, they
fail to come, and systemd restarts the server. A database that cannot be reached is no reason to:
the server attaches again by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["Notifier"]

logger = logging.getLogger("realtime.server")

_LOOK_INTERVAL: Final = 0.5
"""Seconds between two looks at the server, at most."""


class Notifier:
    """Sends messages to the service manager.

    Args:
        environ: the environment variables: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and
            ``WATCHDOG_PID``.
        is_attached: returns whether the database's changes are being read. The first time that
            they are, the service counts as started.
        why_not_ready: returns why clients would not get changes now, None if they would.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        is_attached: Callable[[], bool],
        why_not_ready: Callable[[], str | None],
    ) -> None:
        self._address = _socket_address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog_interval(environ)
        self._is_attached = is_attached
        self._why_not_ready = why_not_ready
        self._has_warned = False

    async def run(self) -> None:
        """Send ``READY=1`` when the server is attached, its status, and ``WATCHDOG=1`` regularly.

        It returns at once if there is no service manager to tell, and never otherwise.
        """
        if self._address is None:
            return
        pause = min(_LOOK_INTERVAL, self._watchdog or _LOOK_INTERVAL)
        loop = asyncio.get_running_loop()
        started, told, alive_at = False, "", loop.time()
        while True:
            if not started and self._is_attached():
                started = True
                self._send("READY=1")
            problem = self._why_not_ready()
            status = f"Not ready: {problem}" if problem else "Changes are being read"
            if status != told:
                told = status
                self._send(f"STATUS={status}")
            if self._watchdog is not None and loop.time() >= alive_at:
                alive_at = loop.time() + self._watchdog
                self._send("WATCHDOG=1")
            await asyncio.sleep(pause)

    def stopping(self) -> None:
        """Send ``STOPPING=1``: the server drains."""
        if self._address is not None:
            self._send("STOPPING=1\nSTATUS=Stopping: closing connections")

    def _send(self, message: str) -> None:
        try:
            # A socket for each message, so that the file that it is sent to may be replaced.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(message.encode(), self._address or "")
        except OSError as exc:
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "the service manager is not notified that the server is up: nothing can be "
                    "sent to NOTIFY_SOCKET (%s); start the server by systemd, or unset "
                    "NOTIFY_SOCKET",
                    exc,
                )


def _socket_address(text: str) -> str | None:
    """Return the address of the socket, None if there is none.

    A path begins with a slash. An at sign stands for the NUL byte with which the name of a socket
    begins that is not in the file system (unix(7)).
    """
    if text.startswith("@"):
        return f"\0{text[1:]}"
    return text or None


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return after how many seconds to send each time, None if nobody waits for it.

    sd_watchdog_enabled(3) recommends half of the time in which systemd wants to hear from the
    process; a quarter leaves room for an event loop that is busy.
    """
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    microseconds = int(text) if text.isascii() and text.isdigit() else 0
    return microseconds / 4_000_000 if microseconds else None
