"""PromptClient: the client library's client, without its queues before sending and behind reading.

The library gives each subscription a queue and a task, reads every header of a message letter by
letter, and has a task of its own write what is to be sent. Where changes come one by one, that is a
tenth of a server's time for each of them. Here a message is handed over as soon as it was read, by
a plain call, and what is sent is written at once.

The library has no public way to either, so methods are overridden that are private. If another
version does not call them, everything goes its slower way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import attrs
from nats.aio.client import Client

__all__ = ["Message", "PromptClient", "Take"]

_VERSION: Final = b"NATS/1.0"
"""What headers begin with. A status follows, if there is one."""
_LINE_END: Final = b"\r\n"


@attrs.define
class Message:
    """What arrives on a subscription."""

    subject: str
    reply: str
    data: bytes
    status: str = ""
    """The status that the server sends in place of content, three digits; else empty."""
    description: str = ""
    """What the status means, in the server's words."""


Take: TypeAlias = Callable[[Message], None]
"""Takes a message. It must not raise."""


class PromptClient(Client):
    """A client that hands messages over, and sends, without waiting for the event loop."""

    def __init__(self) -> None:
        super().__init__()
        # Who takes the messages, by the number of the subscription.
        self._takers: dict[int, Take] = {}

    async def hand_over(self, subject: str, take: Take) -> Callable[[], Awaitable[None]]:
        """Have a function called with each message of a subject; return what ends that.

        Their order is kept from when this has returned.
        """

        async def take_later(message: Any) -> None:
            headers = message.headers or {}
            status, description = headers.get("Status", ""), headers.get("Description", "")
            take(Message(message.subject, message.reply, message.data, status, description))

        subscription = await self.subscribe(
            subject, cb=take_later, pending_msgs_limit=0, pending_bytes_limit=0
        )
        number = subscription._id
        self._takers[number] = take

        async def end() -> None:
            self._takers.pop(number, None)
            await subscription.unsubscribe()

        return end

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        take = self._takers.get(sid)
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            take(Message(subject.decode(), reply.decode(), data, *_status(headers)))

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if force_flush or not self.is_connected or self._transport is None:
            return await super()._flush_pending(force_flush)
        # What the connection does not take waits in the event loop's transport. That is not much:
        # the next append waits until the last one was answered.
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        self._transport.writelines(pending)
        return None


def _status(headers: bytes | None) -> tuple[str, str]:
    """Return the status and its description, both empty if there is none."""
    if not headers or headers.startswith(_LINE_END, len(_VERSION)):
        return "", ""
    line = headers[len(_VERSION) : headers.index(_LINE_END)].decode(errors="replace").strip()
    status, _, description = line.partition(" ")
    return status, description
