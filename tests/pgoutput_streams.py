"""Random streams of pgoutput, and what must come out of them.

:class:`Server` plays a PostgreSQL with some tables and several sessions. What happens is
chosen by a random generator; `messages` is what its walsender sends, `expected` what a
consumer must see. The two are kept apart as a database and its client are: the walsender
numbers subtransactions and remembers which relations it has said to whom (`pgoutput.c`,
`maybe_send_schema` and `cleanup_rel_sync_cache`), and says no more than it must; the model
is a list of changes a transaction, cut off at a rollback to a savepoint.

It covers: plain transactions; streamed ones that take turns, with nested savepoints, released
or rolled back; prepared ones, streamed before or not, with the same few gids again and again;
rollbacks of all of them; origins; messages in and out of transactions; DDL that is committed
or rolled back, alone or with its savepoint; and changes of a publication's column list, which
wait for nobody.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import TypeAlias

import attrs

from realtime_core import (
    LSN,
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Event,
    Gap,
    Insert,
    LogicalMessage,
    Position,
    Transaction,
    Truncate,
    Update,
)
from realtime_core.pgoutput import (
    BeginMessage,
    BeginPrepareMessage,
    CommitMessage,
    CommitPreparedMessage,
    DeleteMessage,
    Fields,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    PrepareMessage,
    RelationColumn,
    RelationMessage,
    RollbackPreparedMessage,
    StreamAbortMessage,
    StreamCommitMessage,
    StreamPrepareMessage,
    StreamStartMessage,
    StreamStopMessage,
    TruncateMessage,
    TypeMessage,
    UpdateMessage,
)
from realtime_core.records import Field

__all__ = ["Seen", "Server", "seen"]

Seen: TypeAlias = tuple[object, ...]
"""An event as plain values, which compare."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MOOD = 16500
_TYPES = (20, 23, 25, 1700, 1184, _MOOD)
_GIDS = ("one", "two", "")
_TEXTS = ("", "1", "ünï", "漢字", "🚀", "a longer text " * 9)
_BYTES = (b"", b"\x00\xff", b"n")


def seen(event: Event) -> Seen:
    """Return the event as plain values, its relation as what its rows say of it."""
    match event:
        case Begin(transaction):
            return ("begin", _head(transaction))
        case Commit(transaction, end_lsn, changes):
            return ("commit", _head(transaction), end_lsn, changes, event.position)
        case Insert(transaction, _, relation, record):
            new = tuple(zip(record, record.fields, strict=True))
            return ("insert", _head(transaction), event.position, str(relation), new)
        case Update(transaction, _, relation, record, old_record):
            new = tuple(zip(record, record.fields, strict=True))
            old = old_record and tuple(zip(old_record, old_record.fields, strict=True))
            return ("update", _head(transaction), event.position, str(relation), new, old)
        case Delete(transaction, _, relation, old_record):
            old = tuple(zip(old_record, old_record.fields, strict=True))
            return ("delete", _head(transaction), event.position, str(relation), old)
        case Truncate(transaction, _, relations, cascade, restart):
            names = tuple(str(relation) for relation in relations)
            return ("truncate", _head(transaction), event.position, names, cascade, restart)
        case LogicalMessage(lsn, prefix, content, transaction):
            head = transaction and _head(transaction)
            return ("message", head, event.position, lsn, prefix, content)
        case Gap():
            raise AssertionError(event)


def _head(transaction: Transaction) -> Seen:
    return (
        transaction.xid,
        transaction.commit_lsn,
        transaction.commit_time,
        transaction.origin,
        transaction.gid,
    )


@attrs.frozen
class Column:
    name: str
    type_oid: int
    is_key: bool


# eq=False: tables and transactions are themselves, whatever they look like.
@attrs.define(eq=False)
class Table:
    oid: int
    name: str
    identity: str
    columns: tuple[Column, ...]
    """As committed."""
    said: bool = False
    """Whether the walsender has described it to everybody since its last change."""
    said_to: set[int] = attrs.field(factory=set)
    """The streams to which it has."""

    def invalidate(self) -> None:
        self.said = False
        self.said_to.clear()


@attrs.define(eq=False)
class Savepoint:
    """Where a transaction can go back to: how much there was of everything."""

    changes: int
    locks: int
    shapes: int
    xid: int | None = None
    """Given with its first change."""
    inner: list[int] = attrs.field(factory=list)
    """Of released savepoints within it."""


@attrs.define(eq=False)
class Session:
    """A transaction under way."""

    xid: int
    origin: str | None
    changes: list[Seen] = attrs.field(factory=list)
    locks: list[Table] = attrs.field(factory=list)
    shapes: list[tuple[Table, tuple[Column, ...]]] = attrs.field(factory=list)
    """DDL of its own, not committed."""
    inner: list[int] = attrs.field(factory=list)
    savepoints: list[Savepoint] = attrs.field(factory=list)
    gid: str | None = None
    prepare_end: LSN = attrs.field(factory=LSN)
    """Where the WAL went on after its PREPARE."""

    def columns(self, table: Table) -> tuple[Column, ...]:
        own = [columns for other, columns in self.shapes if other is table]
        return own[-1] if own else table.columns


class Server:
    """A PostgreSQL that does something at random at each :meth:`step`.

    Args:
        random: chooses.
        parallel: whether aborts are long, as with ``streaming 'parallel'``.
    """

    def __init__(self, random: Random, *, parallel: bool = False) -> None:
        self.messages: list[Message] = []
        self.expected: list[Seen] = []
        self._random = random
        self._parallel = parallel
        self._lsn = 2**32 - 1000
        self._xid = 700
        self._tables = [
            Table(16385 + place, f"t{place}", identity, self._shape())
            for place, identity in enumerate("ddfin")
        ]
        self._streams: list[Session] = []
        self._prepared: dict[str, Session] = {}

    def step(self) -> None:
        """Let something happen."""
        choices = [self._plain, self._open_stream, self._message_alone, self._prepare]
        choices += [self._abort_of_nothing]
        if self._streams:
            choices += [self._block] * 6
            choices += [self._rollback_to] * 3 + [self._end_stream, self._change_publication]
        if self._prepared:
            choices.append(self._end_prepared)
        self._random.choice(choices)()

    # Small things

    def _next_lsn(self) -> LSN:
        # Records begin at multiples of eight.
        self._lsn += 8 * self._random.randint(1, 25)
        return LSN(self._lsn)

    def _next_xid(self) -> int:
        self._xid += 1
        return self._xid

    def _time(self) -> int:
        # They do not rise: an origin's transaction has its origin's time.
        return self._random.randint(0, 900_000_000_000_000)

    def _shape(self) -> tuple[Column, ...]:
        width = self._random.randint(1, 5)
        names = self._random.sample("abcdefgh", width)
        return tuple(
            Column(name, self._random.choice(_TYPES), place == 0 or self._random.random() < 0.2)
            for place, name in enumerate(names)
        )

    def _active(self) -> list[Session]:
        return [*self._streams, *self._prepared.values()]

    def _usable(self, session: Session) -> list[Table]:
        """Return the tables that nobody else is altering."""
        altered = {
            table for other in self._active() if other is not session for table, _ in other.shapes
        }
        return [table for table in self._tables if table not in altered]

    def _alterable(self, session: Session) -> list[Table]:
        """Return the tables that nobody else uses."""
        used = {table for other in self._active() if other is not session for table in other.locks}
        return [table for table in self._tables if table not in used]

    # What a transaction does: the messages, and the model's change

    def _do(self, session: Session, *, streamed: bool) -> None:
        xid = self._writer(session) if streamed else None
        kinds = [self._insert] * 4 + [self._update] * 3 + [self._delete, self._truncate]
        self._random.choice([*kinds, self._message, self._alter])(session, xid)

    def _writer(self, session: Session) -> int:
        """Return the xid of the innermost savepoint."""
        if not session.savepoints:
            return session.xid
        savepoint = session.savepoints[-1]
        if savepoint.xid is None:
            savepoint.xid = self._next_xid()
        return savepoint.xid

    def _open(self, session: Session, table: Table, xid: int | None) -> tuple[Column, ...]:
        """Take the lock; describe the table if that was not done."""
        session.locks.append(table)
        columns = session.columns(table)
        if xid is None:
            said, table.said = table.said, True
        else:
            said = session.xid in table.said_to
            table.said_to.add(session.xid)
        if not said:
            if any(column.type_oid == _MOOD for column in columns):
                self.messages.append(TypeMessage(_MOOD, "public", "mood", xid))
            full = table.identity == "f"
            described = tuple(
                RelationColumn(int(full or column.is_key), column.name, column.type_oid, -1)
                for column in columns
            )
            self.messages.append(
                RelationMessage(table.oid, "public", table.name, table.identity, described, xid)
            )
        return columns

    def _field(self) -> Field:
        kind = self._random.random()
        if kind < 0.15:
            return None
        return self._random.choice(_BYTES) if kind < 0.3 else self._random.choice(_TEXTS)

    def _row(self, columns: tuple[Column, ...]) -> Fields:
        return tuple(self._field() for _ in columns)

    def _insert(self, session: Session, xid: int | None) -> None:
        if tables := self._usable(session):
            table = self._random.choice(tables)
            columns = self._open(session, table, xid)
            row = self._row(columns)
            self.messages.append(InsertMessage(table.oid, row, xid))
            session.changes.append(("insert", f"public.{table.name}", _named(columns, row)))

    def _identified(self, session: Session) -> list[Table]:
        return [table for table in self._usable(session) if table.identity != "n"]

    def _update(self, session: Session, xid: int | None) -> None:
        tables = self._identified(session)
        if not tables:
            return
        table = self._random.choice(tables)
        columns = self._open(session, table, xid)
        before = self._row(columns)
        after = tuple(
            UNCHANGED if not column.is_key and self._random.random() < 0.2 else self._field()
            for column in columns
        )
        full = table.identity == "f"
        sent: Fields | None = None
        old: Seen | None = None
        if full or self._chance(0.5):
            sent, old = self._old(table, columns, before)
        self.messages.append(
            UpdateMessage(table.oid, sent, sent is not None and not full, after, xid)
        )
        if full:
            after = tuple(
                was if now is UNCHANGED else now for was, now in zip(before, after, strict=True)
            )
        session.changes.append(("update", f"public.{table.name}", _named(columns, after), old))

    def _delete(self, session: Session, xid: int | None) -> None:
        if tables := self._identified(session):
            table = self._random.choice(tables)
            columns = self._open(session, table, xid)
            sent, old = self._old(table, columns, self._row(columns))
            self.messages.append(DeleteMessage(table.oid, sent, table.identity != "f", xid))
            session.changes.append(("delete", f"public.{table.name}", old))

    def _old(self, table: Table, columns: tuple[Column, ...], row: Fields) -> tuple[Fields, Seen]:
        """Return what is sent of an old row, and what is to be seen of it."""
        if table.identity == "f":
            return row, _named(columns, row)
        pairs = list(zip(columns, row, strict=True))
        sent = tuple(field if column.is_key else None for column, field in pairs)
        return sent, tuple((column.name, field) for column, field in pairs if column.is_key)

    def _truncate(self, session: Session, xid: int | None) -> None:
        usable = self._usable(session)
        if not usable:
            return
        tables = self._random.sample(usable, self._random.randint(1, min(3, len(usable))))
        for table in tables:
            self._open(session, table, xid)
        options = self._random.randrange(4)
        self.messages.append(TruncateMessage(options, tuple(table.oid for table in tables), xid))
        names = tuple(f"public.{table.name}" for table in tables)
        session.changes.append(("truncate", names, options in (1, 3), options in (2, 3)))

    def _message(self, session: Session, xid: int | None) -> None:
        lsn, content = self._next_lsn(), self._random.choice(_BYTES)
        self.messages.append(LogicalMessageMessage(1, lsn, "app", content, xid))
        session.changes.append(("message", lsn, "app", content))

    def _alter(self, session: Session, xid: int | None) -> None:
        if tables := self._alterable(session):
            table = self._random.choice(tables)
            session.locks.append(table)
            session.shapes.append((table, self._shape()))
            table.invalidate()

    # How transactions end: what the model sees

    def _committed(
        self, session: Session, lsn: LSN, end_lsn: LSN, time: int, gid: str | None = None
    ) -> None:
        for table, columns in session.shapes:
            table.columns = columns
        moment = _EPOCH + timedelta(microseconds=time)
        head = (session.xid, lsn, moment, session.origin, gid)
        self.expected.append(("begin", head))
        for index, (kind, *rest) in enumerate(session.changes):
            self.expected.append((kind, head, Position(lsn, index), *rest))
        count = len(session.changes)
        self.expected.append(("commit", head, end_lsn, count, Position(lsn, max(0, count - 1))))

    def _rolled_back(self, session: Session, savepoint: Savepoint | None = None) -> None:
        kept = savepoint or Savepoint(0, 0, 0)
        for table, _ in session.shapes[kept.shapes :]:
            table.invalidate()
        del session.changes[kept.changes :]
        del session.locks[kept.locks :]
        del session.shapes[kept.shapes :]

    def _session(self) -> Session:
        origin = self._random.choice(["upstream", 'up "ü"']) if self._chance(0.15) else None
        return Session(self._next_xid(), origin)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    # Plain and prepared transactions

    def _plain(self) -> None:
        session, time, lsn = self._session(), self._time(), self._next_lsn()
        end_lsn = self._next_lsn()
        self.messages.append(BeginMessage(lsn, time, session.xid))
        self._say_origin(session, lsn)
        for _ in range(self._random.randrange(5)):
            self._do(session, streamed=False)
        self.messages.append(CommitMessage(0, lsn, end_lsn, time))
        self._committed(session, lsn, end_lsn, time)

    def _say_origin(self, session: Session, lsn: LSN) -> None:
        if session.origin is not None:
            self.messages.append(OriginMessage(lsn, session.origin))

    def _free_gid(self) -> str | None:
        free = [gid for gid in _GIDS if gid not in self._prepared]
        return self._random.choice(free) if free else None

    def _prepare(self) -> None:
        gid = self._free_gid()
        if gid is None:
            return
        session, lsn, end_lsn, time = (
            self._session(),
            self._next_lsn(),
            self._next_lsn(),
            self._time(),
        )
        facts = (lsn, end_lsn, time, session.xid, gid)
        self.messages.append(BeginPrepareMessage(*facts))
        self._say_origin(session, lsn)
        for _ in range(self._random.randrange(5)):
            self._do(session, streamed=False)
        self.messages.append(PrepareMessage(0, *facts))
        session.prepare_end = end_lsn
        self._prepared[gid] = session

    def _end_prepared(self) -> None:
        gid = self._random.choice(list(self._prepared))
        session = self._prepared.pop(gid)
        lsn, end_lsn, time = self._next_lsn(), self._next_lsn(), self._time()
        if self._chance(0.6):
            self.messages.append(CommitPreparedMessage(0, lsn, end_lsn, time, session.xid, gid))
            self._committed(session, lsn, end_lsn, time, gid)
        else:
            self.messages.append(
                RollbackPreparedMessage(
                    0, session.prepare_end, end_lsn, self._time(), time, session.xid, gid
                )
            )
            self._rolled_back(session)

    # Streamed transactions

    def _open_stream(self) -> None:
        if len(self._streams) < 4:
            session = self._session()
            self._streams.append(session)
            self._write_block(session, first=True)

    def _block(self) -> None:
        self._write_block(self._random.choice(self._streams), first=False)

    def _write_block(self, session: Session, *, first: bool) -> None:
        self.messages.append(StreamStartMessage(session.xid, first))
        if first:
            self._say_origin(session, LSN(0))
        for _ in range(self._random.randrange(7)):
            if self._chance(0.25):
                session.savepoints.append(
                    Savepoint(len(session.changes), len(session.locks), len(session.shapes))
                )
            elif session.savepoints and self._chance(0.15):
                self._release(session)
            else:
                self._do(session, streamed=True)
        self.messages.append(StreamStopMessage())

    def _release(self, session: Session) -> None:
        savepoint = session.savepoints.pop()
        outer = session.savepoints[-1] if session.savepoints else session
        outer.inner += _written(savepoint)

    def _abort(self, session: Session, subxid: int) -> None:
        more = (self._next_lsn(), self._time()) if self._parallel else (None, None)
        self.messages.append(StreamAbortMessage(session.xid, subxid, *more))
        for table in self._tables:
            table.said_to.discard(session.xid)

    def _abort_of_nothing(self) -> None:
        """Roll back a transaction that was to be streamed, as PostgreSQL 18 does."""
        session = Session(self._next_xid(), None)
        if self._chance(0.5):
            self._abort(session, self._next_xid())
        self._abort(session, session.xid)

    def _rollback_to(self) -> None:
        session = self._random.choice(self._streams)
        if not session.savepoints:
            return
        depth = self._random.randrange(len(session.savepoints))
        rolled_back = session.savepoints[depth:]
        del session.savepoints[depth:]
        for savepoint in reversed(rolled_back):
            for subxid in reversed(_written(savepoint)):
                self._abort(session, subxid)
        self._rolled_back(session, rolled_back[0])

    def _end_stream(self) -> None:
        session = self._random.choice(self._streams)
        self._streams.remove(session)
        gid = self._free_gid()
        kind = self._random.random()
        if kind < 0.25:
            for savepoint in reversed(session.savepoints):
                for subxid in reversed(_written(savepoint)):
                    self._abort(session, subxid)
            for subxid in reversed(session.inner):
                self._abort(session, subxid)
            self._abort(session, session.xid)
            self._rolled_back(session)
        elif kind < 0.5 and gid is not None:
            lsn, session.prepare_end = self._next_lsn(), self._next_lsn()
            self.messages.append(
                StreamPrepareMessage(0, lsn, session.prepare_end, self._time(), session.xid, gid)
            )
            self._prepared[gid] = session
        else:
            lsn, end_lsn, time = self._next_lsn(), self._next_lsn(), self._time()
            self.messages.append(StreamCommitMessage(session.xid, 0, lsn, end_lsn, time))
            for table in self._tables:
                if session.xid in table.said_to:
                    table.said = True
                    table.said_to.discard(session.xid)
            self._committed(session, lsn, end_lsn, time)

    # What belongs to nobody

    def _message_alone(self) -> None:
        lsn, content = self._next_lsn(), self._random.choice(_BYTES)
        self.messages.append(LogicalMessageMessage(0, lsn, "now", content))
        self.expected.append(("message", None, Position(LSN(lsn - 1), 0), lsn, "now", content))

    def _change_publication(self) -> None:
        """Publish other columns of a table, whoever uses it."""
        altered = {table for session in self._active() for table, _ in session.shapes}
        table = self._random.choice(self._tables)
        if table not in altered:
            table.columns = self._shape()
            table.invalidate()


def _named(columns: tuple[Column, ...], row: Fields) -> Seen:
    return tuple((column.name, field) for column, field in zip(columns, row, strict=True))


def _written(savepoint: Savepoint) -> list[int]:
    """Return the subtransactions in it that have changed something, outermost first."""
    own = [] if savepoint.xid is None else [savepoint.xid]
    return own + savepoint.inner
