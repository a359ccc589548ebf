"""The control link between a supervisor and a worker: messages beside the changes.

A message is a JSON object on a line of its own; ``kind`` says what it is. They have a link of their
own, so that a worker that is behind answers all the same.

============ ============ =========================================================
kind         who sends it meaning
============ ============ =========================================================
``started``  worker       it accepts connections
``stats``    supervisor   what its source counts: ``stats``; why it may bring no changes:
                          ``why``; and who writes into the journal: ``writers``
``ping``     supervisor   it wants to know whether the worker's event loop runs
``pong``     worker       it does
``collect``  supervisor   it wants the worker's metrics: ``id``
``metrics``  worker       these: ``id``, ``text``
``ask``      worker       it wants the metrics of all: ``id``
``answer``   supervisor   these: ``id``, ``text``
============ ============ =========================================================
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Self

from realtime_core.errors import ServerError

__all__ = ["ControlLink"]

_MOST_BYTES: Final = 64 * 1024 * 1024
"""How long a message may be. Metrics take some 20 KB, more with many webhooks."""

Message = Mapping[str, Any]


class ControlLink:
    """One end of the link.

    Args:
        reader: the link.
        writer: the link's other direction.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Self:
        """Return the end that a connected socket is."""
        return cls(*await asyncio.open_connection(sock=sock, limit=_MOST_BYTES))

    def send(self, kind: str, **values: Any) -> None:
        """Send a message; if the other end has gone, do nothing."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"kind": kind, **values}).encode() + b"\n")

    async def messages(self) -> AsyncIterator[Message]:
        """Iterate over the messages that come, until the other end has gone.

        Raises:
            ServerError: from the iterator, if something else than messages comes.
        """
        try:
            while line := await self._reader.readline():
                yield json.loads(line)
        except OSError:
            return
        except ValueError as exc:
            raise ServerError(
                f"the control link between supervisor and worker cannot be read ({exc}): run one "
                "version of the server in all of its processes, and start it anew"
            ) from exc

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
