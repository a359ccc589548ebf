"""PromptClient: the client library's client, without its queues before sending and behind reading.

The library gives each subscription a queue and a task, reads every header of a message letter by
letter, and has a task of its own write what is to be sent. Where changes come one by one, that is a
tenth of a server's time for each of them. Here a message is handed over as soon as it was read, by
a plain call, and what is sent is written at once. Messages that come while the library has nothing
to read are read here, in the callback of the event loop that they have come with, and whoever waits
for them goes on right there. Of a large one the library would make four copies more.

The library has no public way to either. Where another version does not call the private methods
that are overridden here, or has no buffer where it is looked for, messages go its slower way;
without the private attributes that are used nothing can be sent, and :attr:`PromptClient.lacks`
names them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs
import nats.errors
from nats.aio.client import Client
from nats.protocol.parser import MAX_CONTROL_LINE_SIZE

from realtime_core.sources.prompt_future import promptly

__all__ = ["Message", "PromptClient", "Take"]

_VERSION: Final = b"NATS/1.0"
"""What headers begin with. A status follows, if there is one."""
_LINE_END: Final = b"\r\n"
_MESSAGES: Final = (b"MSG ", b"HMSG ")
"""What a message begins with."""
_WITH_HEADERS: Final = ord("H")


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
"""Takes a message. An error of it goes where the server's complaints go."""


class PromptClient(Client):
    """A client that hands messages over, and sends, without waiting for the event loop."""

    def __init__(self) -> None:
        super().__init__()
        # Who takes the messages, by the number of the subscription.
        self._takers: dict[int, Take] = {}
        # Whether the library has read all that has come, and waits for more.
        self._waits = False
        # The begin of a message that is not there as a whole, and how much of it is missing.
        self._begun: list[bytes] = []
        self._missing = 0
        # Those that tell of errors.
        self._telling: set[asyncio.Future[None]] = set()
        used = ("_pending", "_pending_data_size", "_transport")
        self.lacks = [name for name in used if not hasattr(self, name)]
        """Attributes that the library has not, and that are needed to send."""

    async def connect(self, *args: Any, **options: Any) -> None:
        """Connect as the library does."""
        await super().connect(*args, **options)
        transport = self._transport
        assert transport is not None
        read = transport.read

        async def note_wait(buffer_size: int) -> bytes:
            # If something is there already, nothing else runs before it is returned.
            self._waits = True
            try:
                return await read(buffer_size)
            finally:
                self._waits = False

        transport.read = note_wait  # type: ignore[method-assign]
        writer = getattr(transport, "_io_writer", None)
        if writer is not None:
            library = writer.transport.get_protocol()
            writer.transport.set_protocol(_Receiver(library, self._received))

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

    def _received(self, data: bytes) -> bytes:
        """Hand over the messages that some bytes begin with; return the rest, for the library.

        The begin of a message waits here for the rest of it.
        """
        if self._begun:
            self._begun.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return b""
            data = b"".join(self._begun)
            self._begun.clear()
        at, size = 0, len(data)
        # Otherwise the library has the begin of a message, or messages that are before these.
        if self._waits and not getattr(self._ps, "buf", True):
            while (found := self._message_at(data, at)) is not None:
                take, message, end = found
                if message is None:
                    self._begun.append(data[at:])
                    self._missing = end - size
                    return b""
                at = end
                try:
                    take(message)
                except Exception as exc:
                    telling = asyncio.ensure_future(self._error_cb(exc))
                    self._telling.add(telling)
                    telling.add_done_callback(self._telling.discard)
        if at == size:
            return b""
        self._waits = False
        return data[at:]

    def _message_at(self, data: bytes, at: int) -> tuple[Take, Message | None, int] | None:
        """Return who takes the message that stands there, the message, and where it ends.

        The message is None if it is not there as a whole, and the end may be a guess then. Nothing
        is returned if nobody takes it, or something else stands there.
        """
        if not data.startswith(_MESSAGES, at):
            return None
        line_end = data.find(_LINE_END, at, at + MAX_CONTROL_LINE_SIZE)
        if line_end < 0:
            is_cut = len(data) - at < MAX_CONTROL_LINE_SIZE
            return (_nobody, None, len(data) + 1) if is_cut else None
        words = data[at:line_end].split()
        has_headers = data[at] == _WITH_HEADERS
        # The subject that an answer would go to may be missing.
        if len(words) - has_headers not in (4, 5) or not words[-1].isdigit():
            return None
        start = line_end + len(_LINE_END)
        try:
            take = self._takers.get(int(words[2]))
            behind = start + int(words[-1])
            end = behind + len(_LINE_END)
            if take is None:
                return None
            if end > len(data):
                return take, None, end
            content = start + int(words[-2]) if has_headers else start
            reply = words[3].decode() if len(words) - has_headers == 5 else ""
            status = _status(data[start:content])
            message = Message(words[1].decode(), reply, data[content:behind], *status)
        except ValueError:
            # The library says what is wrong with it.
            return None
        return take, message, end

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        take = self._takers.get(sid)
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            take(Message(subject.decode(), reply.decode(), data, *_status(headers)))
        except Exception as exc:
            # Otherwise nothing more would be read.
            await self._error_cb(exc)

    def send(
        self,
        subject: str,
        payload: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a message.

        What the connection does not take waits in the event loop's transport, without a bound:
        whoever sends much waits for answers, or for :meth:`taken`.

        Args:
            subject: where to; it is not checked.
            payload: what.
            reply: the subject that the answer comes on.
            headers: of the message; neither names nor values may have a line end.

        Raises:
            nats.errors.Error: if it cannot be sent.
        """
        if not self.is_connected or self._transport is None:
            raise nats.errors.ConnectionClosedError
        if len(payload) > self.max_payload:
            raise nats.errors.MaxPayloadError
        size = len(payload)
        if headers is None:
            head = f"PUB {subject} {reply} {size}\r\n"
        else:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            # All of it is ASCII: names that are configured, numbers and digits.
            lines = f"NATS/1.0\r\n{lines}\r\n"
            head = f"HPUB {subject} {reply} {len(lines)} {len(lines) + size}\r\n{lines}"
        self._pending.append(b"".join((head.encode("ascii"), payload, _LINE_END)))
        self._write()

    async def taken(self) -> None:
        """Wait while the connection does not take what was sent.

        Raises:
            OSError: if it has broken.
        """
        if self._transport is not None:
            await self._transport.drain()  # type: ignore[no-untyped-call]

    def abort(self) -> None:
        """Break the connection off: what was not sent must not come later, behind newer messages.

        Where another version of the library keeps its socket elsewhere, it is left to end.
        """
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if force_flush or not self.is_connected or self._transport is None:
            return await super()._flush_pending(force_flush)
        self._write()
        return None

    def _write(self) -> None:
        assert self._transport is not None
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        self._transport.writelines(pending)


def _nobody(message: Message) -> None:
    """Take nothing, in the place of whoever is not known yet."""


class _Receiver(asyncio.Protocol):
    """Has what comes on a connection looked at before the library's protocol gets it.

    Args:
        library: the protocol.
        take: gets what comes; returns what the library's protocol is to get of it.
    """

    def __init__(self, library: asyncio.Protocol, take: Callable[[bytes], bytes]) -> None:
        self._library = library
        self._take = take

    def data_received(self, data: bytes) -> None:
        promptly(self._look, data)

    def eof_received(self) -> bool | None:
        return self._library.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._library.connection_lost(exc)

    def pause_writing(self) -> None:
        self._library.pause_writing()

    def resume_writing(self) -> None:
        self._library.resume_writing()

    def _look(self, data: bytes) -> None:
        rest = self._take(data)
        if rest:
            self._library.data_received(rest)


def _status(headers: bytes | None) -> tuple[str, str]:
    """Return the status and its description, both empty if there is none."""
    if not headers or headers.startswith(_LINE_END, len(_VERSION)):
        return "", ""
    line = headers[len(_VERSION) : headers.index(_LINE_END)].decode(errors="replace").strip()
    status, _, description = line.partition(" ")
    return status, description
