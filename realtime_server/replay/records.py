"""Records: the journal's entries as the bytes of logical messages, and back.

A record is what one server process has noted since its last one. It is written as one message, or
as several numbered parts where it is long, and counts when the last part is there. Each part has
an HMAC, because every role of the database may write messages.

A part, in network byte order: version (1 byte), stream (8), slot (8), server (8), number of the
record (8), time in seconds since 1970 (double), part and parts (4 each), entries, and the
HMAC-SHA-256 of all that (32). An entry begins with a letter, which says what follows.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, TypeAlias

import attrs

from .empty_stretches import EmptyStretches
from .lost_reasons import LostReason
from .places import Place
from .signatures import SIGNATURE_BYTES, is_signed, signed

__all__ = [
    "MOST_BYTES",
    "PREFIX",
    "Asked",
    "Boot",
    "Ended",
    "Entry",
    "Joined",
    "Low",
    "Part",
    "PlaceTaken",
    "ProcessState",
    "Seal",
    "Shared",
    "Taken",
    "UnknownEntryError",
    "digest",
    "journal_secret",
    "read_part",
    "write_record",
]

PREFIX: Final = "realtime_server.replay"
"""The prefix of the messages."""
MOST_BYTES: Final = 64 * 1024
"""How many bytes a part has at most."""

_VERSION: Final = 2
_ENTRIES: Final = 1000
"""How many entries a part has at most: the longest have 59 bytes."""
_HEAD: Final = Struct(">B8s8s8sQdII")
_NO_REF: Final = -1
_LARGEST: Final = 2**63 - 1
_REASONS: Final = (
    LostReason.LOST,
    LostReason.UNPROVEN,
    LostReason.LIMIT,
    LostReason.WINDOW,
    LostReason.RLS_TOO_SLOW,
    LostReason.TOKEN_REPLACED,
)
"""The reasons of gaps, in the order of their codes, which begin with 1. Other servers read them."""
_ANEW: Final = 128
"""What the code has besides if the client may not know that the channel began anew."""


class UnknownEntryError(Exception):
    """A record has an entry that is not known here, as another version of the server wrote it."""


def journal_secret(
    db_password: str, jwt_secret: str | None, replay_secret: str | None = None
) -> bytes:
    """Return a key that all servers of a deployment have in common, and clients do not know.

    Args:
        db_password: the password of the server's role.
        jwt_secret: the secret of the clients' tokens; None if there is none.
        replay_secret: a secret for this alone, which the others do not matter beside; None if there
            is none.
    """
    secrets = [db_password, jwt_secret or ""] if replay_secret is None else [replay_secret]
    parts = [secret.encode(errors="surrogateescape") for secret in secrets]
    lengths = b"".join(len(part).to_bytes(8) for part in parts)
    return hmac.digest(b"realtime_server replay", lengths + b"".join(parts), "sha256")


def digest(*names: str) -> bytes:
    """Return 8 bytes that identify names, such as that of a slot."""
    return hashlib.sha256("\0".join(names).encode()).digest()[:8]


@attrs.frozen
class Joined:
    """A channel is joined, or its client is away if ``since`` says since when."""

    number: int
    """The number of the channel among those of its process."""
    key: bytes
    """Who it is for, and what it asks for, as 16 bytes."""
    ref: int | None
    """The client's last known ref; None if it sends none."""
    place: Place
    """It has everything up to there, or needs nothing before it."""
    since: float | None = None
    """When it went away, in seconds since 1970; None: it has not."""
    is_open: bool = False
    """Whether it has not gone away, and its place counts all the same, and not its process's
    ``Low``: its client gets what it has missed, say. Then ``since`` is when that was written."""
    lost: LostReason | None = None
    """Why nobody can go on from the place, so that the client has to be told of a gap when it comes
    back; None if it can go on. Then ``since`` has a time."""
    is_anew: bool = False
    """Whether the channel began anew, and its client may not know that."""


@attrs.frozen
class Ended:
    """No client can come back to a channel."""

    number: int


@attrs.frozen
class Taken:
    """The client of another process's channel has come to this process."""

    server: bytes
    """The other process."""
    number: int
    time: float
    """When, in seconds since 1970."""


@attrs.frozen
class PlaceTaken:
    """Clients have gone on from places that may have been other clients' with the same key."""

    key: bytes
    """The key, as 16 bytes."""
    ref: int
    """The lowest of the refs of the clients that had left the places."""
    place: Place
    """The lowest place."""
    until: float
    """The time at which this is forgotten, in seconds since 1970."""
    lacks_ref: bool = False
    """Whether a client has taken a place over whose join had no ref."""
    is_missed: bool = False
    """Whether a client has found nothing to go on from, so that those have to be told of a gap that
    may have gone on from another's place."""


@attrs.frozen
class Asked:
    """The client of another process's channel may have come to this process: the other one is to
    ping it."""

    server: bytes
    """The other process."""
    number: int


@attrs.frozen
class Shared:
    """Several clients have a key, although it is one of a session."""

    key: bytes
    """The key, as 16 bytes."""


@attrs.frozen
class Low:
    """All joined channels of the process have everything up to a place."""

    place: Place


@attrs.frozen
class Boot:
    """The process has got its slot, so all other processes with this slot have ended."""


@attrs.frozen
class ProcessState:
    """All that is known of a process follows, until the next entry of this kind."""

    server: bytes
    slot: bytes
    number: int
    """The number of the last record that is in it."""
    time: float
    """The time of that record, in seconds since 1970."""
    low: Place


Entry: TypeAlias = Joined | Ended | Taken | PlaceTaken | Asked | Shared | Low | Boot | ProcessState

_JOINED: Final = Struct(">cQ16sqQqd")
_LOST: Final = Struct(">cQ16sqQqdB")
_ENDED: Final = Struct(">cQ")
_TAKEN: Final = Struct(">c8sQd")
_PLACE_TAKEN: Final = Struct(">c16sqQqd??")
_ASKED: Final = Struct(">c8sQ")
_SHARED: Final = Struct(">c16s")
_LOW: Final = Struct(">cQq")
_BOOT: Final = Struct(">c")
_STATE: Final = Struct(">c8s8sQdQq")
_FORMS: Final = {
    b"J": _JOINED,
    b"O": _JOINED,
    b"G": _LOST,
    b"H": _LOST,
    b"E": _ENDED,
    b"T": _TAKEN,
    b"V": _PLACE_TAKEN,
    b"Q": _ASKED,
    b"S": _SHARED,
    b"L": _LOW,
    b"B": _BOOT,
    b"P": _STATE,
}


@attrs.frozen
class Seal:
    """The server, stream, slot and secret of a process, which all its records have."""

    secret: bytes = attrs.field(repr=False)
    """The key of the HMAC."""
    stream: bytes
    """Which stream places belong to: records of another one mean nothing here. Empty while that is
    not known."""
    slot: bytes
    """The slot that the process reads."""
    server: bytes
    """The process: 8 random bytes."""


@attrs.frozen
class Part:
    """A part of a record, whose signature was checked."""

    slot: bytes
    server: bytes
    number: int
    time: float
    part: int
    parts: int
    data: bytes = attrs.field(repr=False)
    """All of it, without its HMAC."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries. They are read anew each time, because as bytes they take a tenth of the
        memory."""
        return tuple(_entries(self.data))


def write_record(
    seal: Seal, number: int, time: float, entries: Sequence[Entry], empty: EmptyStretches
) -> Iterator[bytes]:
    """Yield the parts of a record, each made when it is asked for.

    Args:
        seal: of the process.
        number: of the record; each has a higher one than the last.
        time: in seconds since 1970.
        entries: in order; they must not change meanwhile.
        empty: where the stream has nothing: channels that are before that are said to be behind it.
    """
    parts = max(-(-len(entries) // _ENTRIES), 1)
    for part in range(parts):
        some = entries[part * _ENTRIES : (part + 1) * _ENTRIES]
        head = _HEAD.pack(_VERSION, seal.stream, seal.slot, seal.server, number, time, part, parts)
        data = head + b"".join(_packed(entry, empty) for entry in some)
        yield signed(seal.secret, data)


def read_part(seal: Seal, data: bytes) -> Part | None:
    """Read the head of a part that :func:`write_record` has made.

    Args:
        seal: of the reading process, whose secret and stream it has to have.
        data: the message's content.

    Returns:
        None if it is none of this deployment's: another version, another stream, or forged.
    """
    if len(data) > MOST_BYTES or len(data) < _HEAD.size + SIGNATURE_BYTES:
        return None
    version, stream, slot, server, number, time, part, parts = _HEAD.unpack_from(data)
    if version != _VERSION or stream != seal.stream:
        return None
    if not is_signed(seal.secret, data):
        return None
    return Part(slot, server, number, time, part, parts, data[:-SIGNATURE_BYTES])


def _packed(entry: Entry, empty: EmptyStretches) -> bytes:
    match entry:
        case Joined(number, key, ref, place, since, is_open, lost, is_anew):
            lsn, index = empty.lifted(place)
            values = number, key, _ref(ref), lsn, index, -1.0 if since is None else since
            if lost is not None or is_anew:
                code = 0 if lost is None else _REASONS.index(lost) + 1
                return _LOST.pack(b"H" if is_open else b"G", *values, code + _ANEW * is_anew)
            return _JOINED.pack(b"O" if is_open else b"J", *values)
        case Ended(number):
            return _ENDED.pack(b"E", number)
        case Taken(server, number, time):
            return _TAKEN.pack(b"T", server, number, time)
        case PlaceTaken(key, ref, place, until, lacks_ref, is_missed):
            lsn, index = place
            return _PLACE_TAKEN.pack(b"V", key, _ref(ref), lsn, index, until, lacks_ref, is_missed)
        case Asked(server, number):
            return _ASKED.pack(b"Q", server, number)
        case Shared(key):
            return _SHARED.pack(b"S", key)
        case Low(place):
            return _LOW.pack(b"L", place[0], place[1])
        case Boot():
            return _BOOT.pack(b"B")
        case ProcessState(server, slot, number, time, low):
            return _STATE.pack(b"P", server, slot, number, time, *empty.lifted(low))


def _ref(ref: int | None) -> int:
    # A client may send any number as its ref.
    return _NO_REF if ref is None or not 0 <= ref <= _LARGEST else ref


def _what_to_tell(code: object = 0) -> tuple[LostReason | None, bool]:
    assert isinstance(code, int)
    is_anew, reason = divmod(code, _ANEW)
    if reason > len(_REASONS):
        raise UnknownEntryError
    return (_REASONS[reason - 1] if reason else None), bool(is_anew)


def _entries(body: bytes) -> Iterator[Entry]:
    at = _HEAD.size
    while at < len(body):
        form = _FORMS.get(body[at : at + 1])
        if form is None or at + form.size > len(body):
            raise UnknownEntryError
        yield _entry(*form.unpack_from(body, at))
        at += form.size


def _entry(letter: bytes, *values: object) -> Entry:
    match letter, values:
        case b"J" | b"O" | b"G" | b"H", (
            int(number),
            bytes(key),
            int(ref),
            int(lsn),
            int(index),
            float(since),
            *code,
        ):
            return Joined(
                number,
                key,
                None if ref < 0 else ref,
                (lsn, index),
                None if since < 0 else since,
                letter in (b"O", b"H"),
                *_what_to_tell(*code),
            )
        case b"E", (int(number),):
            return Ended(number)
        case b"T", (bytes(server), int(number), float(time)):
            return Taken(server, number, time)
        case b"V", (
            bytes(key),
            int(ref),
            int(lsn),
            int(index),
            float(until),
            bool(lacks_ref),
            bool(is_missed),
        ):
            return PlaceTaken(key, ref, (lsn, index), until, lacks_ref, is_missed)
        case b"Q", (bytes(server), int(number)):
            return Asked(server, number)
        case b"S", (bytes(key),):
            return Shared(key)
        case b"L", (int(lsn), int(index)):
            return Low((lsn, index))
        case b"P", (bytes(server), bytes(slot), int(number), float(time), int(lsn), int(index)):
            return ProcessState(server, slot, number, time, (lsn, index))
    return Boot()
