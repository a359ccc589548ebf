"""Log: the stream of NATS JetStream that holds one slot's envelopes.

An append names the sequence of the one before it, and is refused if another message is there by
now. So of two servers that both take themselves for the leader, only one can append. **Only one
append may be under way at a time**: the expected sequence is a number only, so the second of two
that an old leader has sent could be taken right behind the first one of its successor.

That could happen to a single one, too, where NATS has lost the end of the log without the leader's
noticing. So from its second one on a leader's appends also name the ID of the message before them.
The first cannot: after a restart NATS 2.10 does not know the ID of the last message any more.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, Final, cast

import attrs

from .connection import ANSWER, NatsConnection
from .envelope import Envelope, EnvelopeError, Place, VersionError, decode
from .errors import ApiError, FencedError, LogError, MissingError
from .questions import Question

__all__ = ["Log", "LogSettings", "LogState", "differences", "stream_config"]

_API: Final = "$JS.API"
_NO_STREAM: Final = 10059
_NO_MESSAGE: Final = 10037
_NOT_THE_LAST: Final = frozenset((10070, 10071, 10164))
_NANOSECONDS: Final = 1_000_000
"""In a millisecond."""
_MAKING: Final = 15.0
"""Seconds that making the stream may take: servers of NATS that have just begun agree first on who
of them says where it is kept."""
APPEND_TIMEOUT: Final = 4.0
"""Seconds until an append counts as lost."""


@attrs.frozen(kw_only=True)
class LogSettings:
    """What the stream is to be."""

    name: str
    """The stream's name, which its subjects begin with."""
    replicas: int = 1
    """How many servers of NATS keep it."""
    max_bytes: int = 1024**3
    """How many bytes it keeps."""
    max_age: int = 600_000
    """How many milliseconds it keeps a message."""

    @property
    def subject(self) -> str:
        """The subject of the envelopes."""
        return f"{self.name}.log"


@attrs.frozen
class LogState:
    """What the stream in NATS holds at one moment."""

    first: int
    """The sequence of the first message that is kept."""
    last: int
    """The sequence of the last message; it is one below ``first`` if none is kept."""
    bytes: int
    """How many bytes are kept."""
    created: str
    """When the stream was made: a stream that was deleted and made again is another one."""


class Log:
    """One connection's view of the stream.

    Args:
        connection: to NATS.
        settings: what the stream is to be.
    """

    def __init__(self, connection: NatsConnection, settings: LogSettings) -> None:
        self.connection = connection
        """To NATS."""
        self.settings = settings
        """What the stream is to be."""
        # The sequence and the ID of what was appended last over this connection.
        self._appended: tuple[int, str] | None = None

    async def prepare(self) -> list[str]:
        """Make the stream if it is missing.

        Returns:
            How an existing stream differs from what it is to be; it is not changed.

        Raises:
            LogError: if there is none and it cannot be made.
        """
        try:
            info = await self._api("STREAM.INFO")
        except MissingError:
            info = await self._api("STREAM.CREATE", stream_config(self.settings), within=_MAKING)
        return differences(info["config"], self.settings)

    async def state(self) -> LogState:
        """Return what the stream has.

        Raises:
            MissingError: if there is no stream.
            LogError: if NATS does not say.
        """
        info = await self._api("STREAM.INFO")
        state = info["state"]
        first, last = int(state["first_seq"]), int(state["last_seq"])
        first = first if state["messages"] else last + 1
        return LogState(first, last, int(state["bytes"]), str(info["created"]))

    async def tail(self) -> tuple[int, Envelope | None]:
        """Return the last sequence, and the last envelope; None if none is kept.

        What others have written behind it is passed over, and so is what is broken.

        Raises:
            LogError: if NATS does not say.
            VersionError: if the end was written by a newer server. Whoever went on before it would
                have to tell everybody of a gap.
        """
        state = await self.state()
        sequence = last = state.last
        while state.first <= sequence:
            try:
                return last, await self.envelope_at(sequence)
            except VersionError:
                raise
            except EnvelopeError:
                sequence -= 1
            except MissingError:
                # It has expired in between, or is not in the log any more for another reason.
                sequence -= 1
                state = await self.state()
                if state.last != last:
                    sequence = last = state.last
        return last, None

    async def envelope_at(self, sequence: int) -> Envelope:
        """Return the envelope at a sequence.

        Raises:
            MissingError: if it is not kept, or was never there.
            LogError: if NATS does not say.
            NoEnvelopeError: if the message is none.
            EnvelopeError: if it cannot be read.
        """
        answer = await self._api("STREAM.MSG.GET", {"seq": sequence})
        return decode(base64.b64decode(answer["message"].get("data", "")), sequence)

    async def find(self, place: Place) -> int:
        """Return the sequence of the first envelope that ends behind a place.

        That is one behind the last sequence if none does. Of a piece in parts it is the first part.
        If there is something just before it that cannot be read, it may be the sequence of that.

        Raises:
            LogError: if NATS does not say.
        """
        state = await self.state()
        low, high = state.first, state.last + 1
        while low < high:
            middle = (low + high) // 2
            try:
                _, envelope = await self._next_envelope(middle, high)
                is_behind = envelope is None or envelope.last > place
            except MissingError:
                is_behind = False
            if is_behind:
                high = middle
            else:
                low = middle + 1
        if state.first < low <= state.last:
            at, envelope = await self._next_envelope(low, state.last + 1)
            if envelope is not None:
                low = max(min(low, at - envelope.part + 1), state.first)
        return low

    async def find_since(self, seconds: float) -> int:
        """Return the sequence of the first message of the time before the last one was appended.

        Args:
            seconds: that time.

        Raises:
            LogError: if NATS does not say.
        """
        state = await self.state()
        low, high = state.first, state.last
        if low > high:
            return low
        since = await self._time_of(high) - timedelta(seconds=seconds)
        while low < high:
            middle = (low + high) // 2
            try:
                is_within = await self._time_of(middle) >= since
            except MissingError:
                # It has expired meanwhile.
                is_within = False
            if is_within:
                high = middle
            else:
                low = middle + 1
        return low

    async def _time_of(self, sequence: int) -> datetime:
        answer = await self._api("STREAM.MSG.GET", {"seq": sequence})
        return datetime.fromisoformat(answer["message"]["time"])

    async def is_first_part(self, sequence: int, of: Envelope) -> bool:
        """Return whether at a sequence is the first part of the piece that another one is of.

        Raises:
            LogError: if NATS does not say.
        """
        try:
            first = await self.envelope_at(sequence)
        except (MissingError, EnvelopeError):
            return False
        return first.part == 1 and (first.prev, first.parts) == (of.prev, of.parts)

    async def _next_envelope(self, sequence: int, end: int) -> tuple[int, Envelope | None]:
        """Return the first envelope from a sequence on that can be read, and its own sequence; None
        if none is before the end."""
        while sequence < end:
            try:
                return sequence, await self.envelope_at(sequence)
            except EnvelopeError:
                sequence += 1
        return end, None

    def append(self, data: bytes, behind: int) -> Coroutine[Any, Any, int]:
        """Send an envelope to be appended; return what waits for its sequence.

        Wait for it before the next one.

        Args:
            data: the envelope.
            behind: the sequence of the last message.

        Raises:
            FencedError: from what is returned, if somebody else has appended in between.
            LogError: from there, or at once, if it is not known whether the log has it: read the
                tail before going on.
        """
        message_id = secrets.token_hex(8)
        headers = {
            "Nats-Expected-Stream": self.settings.name,
            "Nats-Expected-Last-Sequence": str(behind),
            "Nats-Msg-Id": message_id,
        }
        if self._appended is not None and self._appended[0] == behind:
            headers["Nats-Expected-Last-Msg-Id"] = self._appended[1]
        question = self.connection.ask(
            self.settings.subject, data, headers=headers, within=APPEND_TIMEOUT
        )
        return self._appended_as(question, behind + 1, message_id)

    async def _appended_as(self, question: Question, expected: int, message_id: str) -> int:
        sequence = int(_read(question.subject, (await question.answer()).data)["seq"])
        if sequence != expected:
            raise FencedError(f"an envelope was appended as {sequence}, not {expected}")
        self._appended = sequence, message_id
        return sequence

    async def _api(
        self, verb: str, request: dict[str, Any] | None = None, *, within: float = ANSWER
    ) -> dict[str, Any]:
        subject = f"{_API}.{verb}.{self.settings.name}"
        payload = b"" if request is None else json.dumps(request).encode()
        answer = await self.connection.ask(subject, payload, within=within).answer()
        return _read(subject, answer.data)

    async def make_consumer(self, config: dict[str, Any]) -> str:
        """Make a consumer that ends by itself; return its name.

        Raises:
            LogError: if it cannot be made.
        """
        stream = self.settings.name
        request = {"stream_name": stream, "config": config}
        subject = f"{_API}.CONSUMER.CREATE.{stream}.{config['name']}"
        answer = await self.connection.request(subject, json.dumps(request).encode())
        return str(_read(subject, answer.data)["name"])

    def next_of(self, consumer: str) -> str:
        """Return the subject that a consumer is asked for messages on."""
        return f"{_API}.CONSUMER.MSG.NEXT.{self.settings.name}.{consumer}"


def stream_config(settings: LogSettings) -> dict[str, Any]:
    """Return what JetStream is told of the stream."""
    return {
        "name": settings.name,
        "subjects": [settings.subject],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": settings.replicas,
        "max_bytes": settings.max_bytes,
        "max_age": settings.max_age * _NANOSECONDS,
        "max_msgs": -1,
        "max_consumers": -1,
        "max_msg_size": -1,
        "allow_direct": True,
        "deny_delete": True,
        # Appends are told apart by the sequence that they expect.
        "duplicate_window": min(1000, settings.max_age) * _NANOSECONDS,
    }


_IN_THE_WAY: Final = {
    "max_msgs": "the log lets go of changes long before its bytes are full",
    "max_msgs_per_subject": "the log lets go of changes long before its bytes are full",
    "max_msg_size": "larger messages are refused, and no change comes any more",
    "max_consumers": "no more servers than these can read the log",
    "no_ack": "whoever appends is not answered, and no change comes any more",
    "sealed": "nothing can be appended",
    "mirror": "nothing can be appended",
    "sources": "messages of other streams are among those of the log",
    "republish": "all rows are published to other subjects, too, where others may read them",
    "subject_transform": "the log's messages have another subject",
}
"""What a stream may have besides, and the servers cannot use, with what comes of it."""


def differences(config: dict[str, Any], settings: LogSettings) -> list[str]:
    """Return how a stream differs from what it is to be, one sentence each, with what to do."""
    wanted = stream_config(settings)
    name = settings.name
    seconds = f"{settings.max_age / 1000}".removesuffix(".0")
    variables = {
        "num_replicas": ("NATS_REPLICAS", 1, "", f"--replicas={settings.replicas}"),
        "max_bytes": ("LOG_MAX_BYTES", 1, " bytes", f"--max-bytes={settings.max_bytes}"),
        "max_age": ("LOG_MAX_AGE", _NANOSECONDS, " ms", f"--max-age={seconds}s"),
    }
    told = [
        f"{field} of the stream {name} is {config.get(field)!r}, not {wanted[field]!r}: another "
        f"program has made or changed it; set another CLUSTER_NAME, or use nats stream edit {name}"
        for field in ("subjects", "retention", "storage", "discard")
        if config.get(field) != wanted[field]
    ]
    told += [
        f"{field} of the stream {name} is {config[field]!r}, so that {effect}: another program has "
        f"made or changed it; set another CLUSTER_NAME, or make the stream anew without {field}"
        for field, effect in _IN_THE_WAY.items()
        # NATS says -1 or 0 where there is no limit, and leaves out what is not set.
        if config.get(field, -1) not in (-1, 0, False, None)
    ]
    for field, (variable, factor, unit, option) in variables.items():
        found = config.get(field)
        if found != wanted[field]:
            told.append(
                f"{variable} is {wanted[field] // factor}{unit}, and the stream {name} has "
                f"{int(found or 0) // factor}{unit}; set both alike, the stream by nats stream "
                f"edit {name} {option}"
            )
    return told


def _read(subject: str, data: bytes) -> dict[str, Any]:
    try:
        answer = cast("dict[str, Any]", json.loads(data))
    except ValueError:
        raise LogError(f"the answer to {subject} is not JSON") from None
    error = answer.get("error")
    if error is None:
        return answer
    code, description = int(error.get("err_code", 0)), str(error.get("description", ""))
    if code in _NOT_THE_LAST:
        raise FencedError(f"somebody else has appended to the log: {description}")
    if code in (_NO_STREAM, _NO_MESSAGE):
        raise MissingError(f"{subject}: {description}")
    raise ApiError(subject, code, description)
