"""Envelope: a piece of the stream as one message, which can be read by itself.

An envelope has a head and a body. The head says where the piece begins and ends, and at which place
the one before it has ended. So whoever reads a chain of envelopes knows by itself whether one is
missing, whatever has carried it. A piece that is larger than a message may be goes in numbered
parts.

The body has pgoutput messages as PostgreSQL wrote them. It begins with the Begin of the transaction
that it stands in, and describes each table before its first rows, so a reader may begin at any
envelope. Rows of one table that follow each other are one run: its lengths stand before its rows,
since that is read and written twice as fast as a length before each row.

This is a codec: bytes in, values out. It does no I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import itemgetter
from struct import Struct, error, pack, unpack_from
from typing import Final, TypeAlias

import attrs

from realtime_core import DecodeError, Position, StreamIdentity
from realtime_core.lsn import LSN
from realtime_core.positions import LAST_INDEX

__all__ = [
    "BEGINS",
    "FIRST_VERSION",
    "HEAD_BYTES",
    "NOWHERE",
    "Envelope",
    "EnvelopeError",
    "Kind",
    "NoEnvelopeError",
    "Place",
    "Run",
    "VERSION",
    "VersionError",
    "decode",
    "encode",
    "messages_of",
    "parts_of",
    "begin_of_log",
    "place_in",
    "position_at",
    "position_behind",
    "write_message",
    "write_run",
]

Place: TypeAlias = tuple[int, int, int]
"""(generation, commit LSN, index): places of one chain only grow. A transaction's end has
``LAST_INDEX``. The generation grows where LSNs do not: behind a gap to another cluster, or to a
standby that had not received everything."""

NOWHERE: Final[Place] = (0, 0, 0)
"""The place before all others."""

BEGINS: Final = b"begins"
"""The body of the mark that a log begins with: what is before its place is not in the log, but was
in the one before it."""

_MAGIC: Final = b"RTE"
FIRST_VERSION: Final = 1
"""The oldest version of envelopes that this server reads and writes."""
VERSION: Final = 1
"""The newest one. All versions begin with the magic bytes and their number."""
_HEAD: Final = Struct("!3sBBHHIQIQIIQIQIH")
_STREAM: Final = Struct("!QIH")
_STREAM_AT: Final = _HEAD.size - _STREAM.size
"""Where the stream's description begins in a head."""
HEAD_BYTES: Final = _HEAD.size
"""How many bytes a head takes, without the names of the stream's publications."""

_PART: Final = Struct("!BI")
_part_at: Final = _PART.unpack_from
_RUN: Final = Struct("!II")
_RUN_OF_ONE: Final = Struct("!BIIII")
_u32_at: Final = Struct("!I").unpack_from
_IS_MESSAGE: Final = 0
_IS_RUN: Final = 1
_MESSAGES: Final = frozenset(b"BORYTMC")
_ROWS: Final = frozenset(b"IUD")
_TAG: Final = itemgetter(0)


class EnvelopeError(DecodeError):
    """An envelope cannot be read.

    Attributes:
        sequence: the number that the envelope has where it was read from.
        problem: what is wrong with it.
    """

    def __init__(self, problem: str, sequence: int) -> None:
        self.problem = problem
        self.sequence = sequence
        super().__init__(f"envelope {sequence} cannot be read: {problem}")


class NoEnvelopeError(EnvelopeError):
    """What stands in an envelope's place is none at all: no server has written it."""


class VersionError(EnvelopeError):
    """An envelope is of a version that this server does not know: a newer server has written it."""


class Kind(enum.IntEnum):
    """The kinds of envelopes."""

    CHANGES = 1
    """Changes of one or more transactions."""
    MARK = 2
    """There are no changes up to a place, which may be the one that the chain stands at."""
    GAP = 3
    """Changes up to a place were lost; the body is the reason."""


_KINDS: Final = {kind.value: kind for kind in Kind}


# Not frozen, since a small transaction has one of its own, and to make a frozen one takes 2.5 times
# as long.
@attrs.define
class Envelope:
    """One message of a chain."""

    kind: Kind
    first: Place
    """The place of the first change."""
    last: Place
    """The place of the last change, or of its transaction's end."""
    prev: Place
    """The place that the envelope before this one has ended at."""
    stream: StreamIdentity
    body: bytes
    part: int = 1
    """The number of this part of a piece, from 1. Only the last part moves the place."""
    parts: int = 1
    """How many parts the piece has."""


class Run:
    """Rows of one relation within a body, which are read when they are asked for.

    Args:
        relation_oid: the relation.
        count: how many rows these are.
        body: the body.
        at: where the lengths of the rows begin in it.
        behind: where the run ends.
    """

    __slots__ = ("_at", "_behind", "_body", "count", "relation_oid")

    def __init__(self, relation_oid: int, count: int, body: bytes, at: int, behind: int) -> None:
        self.relation_oid = relation_oid
        """The relation."""
        self.count = count
        """How many rows these are."""
        self._body = body
        self._at = at
        self._behind = behind

    def messages(self, sequence: int) -> list[bytes]:
        """Return the rows' messages.

        Args:
            sequence: the envelope's number, for errors.

        Raises:
            EnvelopeError: if these are no rows.
        """
        body, count, at = self._body, self.count, self._at
        if count == 1:
            # As where transactions are small; it takes a third of the time.
            message = body[at + 4 : self._behind]
            if _u32_at(body, at) != (len(message),):
                raise EnvelopeError("the row of a run has another length than it says", sequence)
            if message[0] not in _ROWS:
                raise EnvelopeError("a run has a message that is no row", sequence)
            return [message]
        lengths = unpack_from(f"!{count}I", body, at)
        start = at + 4 * count
        if start + sum(lengths) != self._behind or not all(lengths):
            raise EnvelopeError("the rows of a run have other lengths than it says", sequence)
        messages = [body[a:b] for a, b in pairwise(accumulate(lengths, initial=start))]
        if not _ROWS.issuperset(map(_TAG, messages)):
            raise EnvelopeError("a run has a message that is no row", sequence)
        return messages


def encode(envelope: Envelope, version: int = VERSION) -> bytes:
    """Return the bytes of an envelope, in a version that all who are to read it know."""
    stream = envelope.stream
    names = "\0".join(stream.publications).encode()
    generation, first_lsn, first_index = envelope.first
    _, last_lsn, last_index = envelope.last
    prev_generation, prev_lsn, prev_index = envelope.prev
    # fmt: off
    head = _HEAD.pack(
        _MAGIC, version, envelope.kind, envelope.part, envelope.parts,
        generation, first_lsn, first_index, last_lsn, last_index,
        prev_generation, prev_lsn, prev_index,
        stream.system_identifier, stream.timeline, len(names),
    )
    # fmt: on
    return b"".join((head, names, envelope.body))


def decode(data: bytes, sequence: int = 0) -> Envelope:
    """Read the bytes of an envelope; what is in its body is not looked at.

    Args:
        data: the bytes.
        sequence: the envelope's number where it was read from, for errors.

    Raises:
        NoEnvelopeError: if it is none.
        VersionError: if it is of a version that is not known.
        EnvelopeError: if it is broken.
    """
    if not data.startswith(_MAGIC):
        raise NoEnvelopeError("it does not begin as an envelope does", sequence)
    # Another version may have a shorter head.
    version = data[len(_MAGIC) : len(_MAGIC) + 1]
    if version and not FIRST_VERSION <= version[0] <= VERSION:
        raise VersionError(
            f"it is of version {version[0]}, and this server reads version {VERSION} at most: a "
            "newer server has written it, so replace this one by a newer one too",
            sequence,
        )
    try:
        # fmt: off
        (
            _, _, number, part, parts,
            generation, first_lsn, first_index, last_lsn, last_index,
            prev_generation, prev_lsn, prev_index,
            _, _, size,
        ) = _HEAD.unpack_from(data)
        # fmt: on
    except error:
        raise EnvelopeError(f"{len(data)} bytes are no whole head", sequence) from None
    if not 1 <= part <= parts:
        raise EnvelopeError(f"it is part {part} of {parts}", sequence)
    start = _HEAD.size + size
    if len(data) < start:
        raise EnvelopeError("it ends within its head", sequence)
    kind = _KINDS.get(number)
    if kind is None:
        raise EnvelopeError(f"{number} is not a valid Kind", sequence)
    try:
        stream = _read_stream(data[_STREAM_AT:start])
    except ValueError as exc:
        raise EnvelopeError(str(exc), sequence) from None
    first, last = (generation, first_lsn, first_index), (generation, last_lsn, last_index)
    prev = (prev_generation, prev_lsn, prev_index)
    # A mark may say once more where the chain stands.
    grows = prev <= last if kind is Kind.MARK else prev < last
    if not first <= last or (part == parts and not grows):
        raise EnvelopeError(
            f"its places do not grow: {_shown(prev)}, {_shown(first)}, {_shown(last)}", sequence
        )
    return Envelope(kind, first, last, prev, stream, data[start:], part, parts)


@lru_cache(maxsize=16)
def _read_stream(data: bytes) -> StreamIdentity:
    """Return the stream whose description stands at the end of a head.

    Those that follow each other are of one stream, and so have the same object.
    """
    system, timeline, _ = _STREAM.unpack_from(data)
    names = data[_STREAM.size :].decode()
    return StreamIdentity(system, timeline, tuple(names.split("\0")) if names else ())


def position_at(place: Place, stream: StreamIdentity) -> Position:
    """Return the position of a place."""
    return Position(LSN(place[1]), place[2], stream)


def position_behind(place: Place, stream: StreamIdentity) -> Position:
    """Return the first position behind a place."""
    _, lsn, index = place
    lsn, index = (lsn + 1, 0) if index == LAST_INDEX else (lsn, index + 1)
    return Position(LSN(lsn), index, stream)


def begin_of_log(lsn: int, stream: StreamIdentity) -> Envelope:
    """Return the mark that a new log begins with.

    Args:
        lsn: the changes of transactions come that commit at this LSN or later.
        stream: the stream's identity.
    """
    place, before = (0, lsn - 1, LAST_INDEX), (0, lsn - 1, LAST_INDEX - 1)
    return Envelope(Kind.MARK, place, place, before, stream, BEGINS)


def place_in(envelope: Envelope, place: Place, stream: StreamIdentity | None) -> Place:
    """Return a place as it is called behind an envelope, with which another log may begin.

    Args:
        envelope: the envelope.
        place: a place in the chain before it.
        stream: the stream of the place.
    """
    begins = envelope.kind is Kind.MARK and envelope.body == BEGINS
    if not begins or stream != envelope.stream or stream.timeline != envelope.stream.timeline:
        return place
    return (envelope.last[0], *place[1:])


def write_message(message: bytes) -> bytes:
    """Return the part of a body for one pgoutput message that is no row."""
    return _PART.pack(_IS_MESSAGE, len(message)) + message


def write_run(relation_oid: int, messages: Sequence[bytes]) -> bytes:
    """Return the part of a body for rows of one relation."""
    if len(messages) == 1:
        # As where transactions are small; it takes a tenth of the time.
        (message,) = messages
        size = len(message)
        return _RUN_OF_ONE.pack(_IS_RUN, _RUN.size + 4 + size, relation_oid, 1, size) + message
    lengths = pack(f"!{len(messages)}I", *map(len, messages))
    rows = b"".join(messages)
    head = _PART.pack(_IS_RUN, _RUN.size + len(lengths) + len(rows))
    return b"".join((head, _RUN.pack(relation_oid, len(messages)), lengths, rows))


def parts_of(body: bytes, sequence: int) -> list[bytes | Run]:
    """Read a body: pgoutput messages, and runs of rows.

    Args:
        body: the body of an envelope with changes.
        sequence: the envelope's number, for errors.

    Raises:
        EnvelopeError: if it is none.
    """
    parts: list[bytes | Run] = []
    for kind, at, behind in _bounds(body, sequence):
        if kind == _IS_RUN:
            parts.append(_read_run(body, at, behind, sequence))
        elif kind == _IS_MESSAGE and body[at] in _MESSAGES:
            parts.append(body[at:behind])
        else:
            raise EnvelopeError(f"its body has a part of kind {kind}", sequence)
    return parts


def messages_of(body: bytes, sequence: int) -> Iterator[bytes]:
    """Read the pgoutput messages of a body that are no rows; rows take next to no time.

    Args:
        body: the body of an envelope with changes.
        sequence: the envelope's number, for errors.

    Raises:
        EnvelopeError: if it is none.
    """
    for kind, at, behind in _bounds(body, sequence):
        if kind == _IS_MESSAGE:
            yield body[at:behind]


def _bounds(body: bytes, sequence: int) -> list[tuple[int, int, int]]:
    """Return the kind of each part of a body, and where its content begins and ends."""
    bounds = []
    at, end = 0, len(body)
    while at < end:
        start = at + _PART.size
        if start > end:
            raise EnvelopeError("its body ends within a part", sequence)
        kind, size = _part_at(body, at)
        at = start + size
        if at > end or not size:
            raise EnvelopeError(f"a part of its body has {size} bytes", sequence)
        bounds.append((kind, start, at))
    return bounds


def _read_run(body: bytes, at: int, behind: int, sequence: int) -> Run:
    if behind - at < _RUN.size:
        raise EnvelopeError("it has a run without a head", sequence)
    oid, count = _RUN.unpack_from(body, at)
    at += _RUN.size
    # Each row has a length, and one byte or more.
    if not count or at + 5 * count > behind:
        raise EnvelopeError(f"it has a run of {count} rows", sequence)
    return Run(oid, count, body, at, behind)


def _shown(place: Place) -> str:
    generation, lsn, index = place
    return f"{generation}/{LSN(lsn)}:{index}"
