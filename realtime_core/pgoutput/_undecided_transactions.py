"""UndecidedTransactions: streamed and prepared transactions, until they end.

Each of them is a :class:`~realtime_core.pgoutput._held_transaction.HeldTransaction`. This class
knows which there are, which one the current messages belong to, and how much memory all of them
take.
"""

from __future__ import annotations

from ..errors import DecodeError
from ._held_transaction import HeldTransaction, HoldableMessage
from ._relations import RelationCache
from .messages import (
    BeginPrepareMessage,
    CommitPreparedMessage,
    Message,
    OriginMessage,
    PrepareMessage,
    RelationMessage,
    RollbackPreparedMessage,
    StreamAbortMessage,
    StreamPrepareMessage,
    StreamStartMessage,
    StreamStopMessage,
    TypeMessage,
)
from .spill import SpillStore

__all__ = ["UndecidedTransactions"]


class UndecidedTransactions:
    """The transactions of one stream whose end has not come yet.

    Methods raise DecodeError for a message that cannot come at this place. Those that take a
    message of the :attr:`current` transaction return ``()``: there is nothing to hand over yet.

    Args:
        relations: the relations that the stream has described to all transactions.
        max_memory: how many bytes of changes all transactions together may hold in memory.
        store: takes the changes beyond that.
    """

    def __init__(self, relations: RelationCache, max_memory: int, store: SpillStore) -> None:
        self._relations = relations
        self._max_memory = max_memory
        self._store = store
        self._streamed: dict[int, HeldTransaction] = {}
        self._prepared: dict[str, HeldTransaction] = {}
        self._memory = 0
        self.current: HeldTransaction | None = None
        """The transaction that messages belong to, inside of a stream block, and between Begin
        Prepare and Prepare; None elsewhere."""

    def close(self) -> None:
        """Drop all transactions, and their spill files."""
        for held in (*self._streamed.values(), *self._prepared.values()):
            held.close()
        if self.current is not None:
            self.current.close()
        self._streamed.clear()
        self._prepared.clear()
        self._memory = 0

    # Messages of the current transaction

    def hold(self, message: HoldableMessage) -> tuple[()]:
        """Keep a change; spill the largest transaction's oldest changes if memory is short.

        Raises:
            SpillError: if it cannot be stored.
        """
        self._memory += self._current().hold(message)
        while self._memory > self._max_memory:
            everyone = {*self._streamed.values(), *self._prepared.values(), self._current()}
            largest = max(everyone, key=lambda held: held.memory)
            self._memory -= largest.spill()
        return ()

    def describe(self, message: RelationMessage) -> tuple[()]:
        self._current().relations.add_relation(message)
        return ()

    def name_type(self, message: TypeMessage) -> tuple[()]:
        self._current().relations.add_type(message)
        return ()

    def set_origin(self, message: OriginMessage) -> tuple[()]:
        self._current().origin = message.name
        return ()

    def _current(self) -> HeldTransaction:
        assert self.current is not None
        return self.current

    # Where the current transaction begins and ends

    def start_block(self, message: StreamStartMessage) -> None:
        held = self._streamed.get(message.xid)
        if message.first_segment:
            if held is not None:
                raise DecodeError(f"transaction {message.xid} is streamed from its start again")
            held = HeldTransaction(message.xid, RelationCache(self._relations), self._store)
            self._streamed[message.xid] = held
        if held is None:
            raise DecodeError(f"the start of streamed transaction {message.xid} is missing")
        self.current = held

    def stop_block(self, message: StreamStopMessage) -> None:
        held = self._leave(message)
        if held.gid is not None:
            raise DecodeError(f"Stream Stop within prepared transaction {held.gid!r}")

    def begin_prepare(self, message: BeginPrepareMessage) -> None:
        # Its changes are not streamed, so what it describes is described to all transactions.
        self.current = HeldTransaction(message.xid, self._relations, self._store, gid=message.gid)

    def prepare(self, message: PrepareMessage) -> None:
        held = self._leave(message)
        if (held.xid, held.gid) != (message.xid, message.gid):
            raise DecodeError(
                f"Prepare of {message.gid!r}, transaction {message.xid}, within that of "
                f"{held.gid!r}, transaction {held.xid}"
            )
        self._keep_prepared(message.gid, held)

    def _leave(self, message: Message) -> HeldTransaction:
        held = self.current
        if held is None:
            raise DecodeError(f"{type(message).__name__} without its beginning")
        self.current = None
        return held

    # How a transaction ends

    def prepare_streamed(self, message: StreamPrepareMessage) -> None:
        # PostgreSQL describes the same relations again to other transactions, so nothing needs to
        # be taken over, whether this one commits or not.
        held = self._pop_streamed(message.xid)
        self._keep_prepared(message.gid, held)

    def abort(self, message: StreamAbortMessage) -> None:
        if message.xid not in self._streamed:
            # PostgreSQL 18 also sends this for a transaction that it was about to stream and then
            # found rolled back, so that nothing of it has come.
            return
        if message.subxid == message.xid:
            self.take_streamed(message.xid).close()
        else:
            self._streamed[message.xid].abort(message.subxid)

    def take_streamed(self, xid: int) -> HeldTransaction:
        """Remove a streamed transaction that ends; the caller has to replay or to close it."""
        held = self._pop_streamed(xid)
        self._memory -= held.memory
        return held

    def take_prepared(
        self, message: CommitPreparedMessage | RollbackPreparedMessage
    ) -> HeldTransaction | None:
        """Remove a prepared transaction that ends; the caller has to replay or to close it.

        Returns:
            None if the transaction was prepared before this stream began.
        """
        held = self._prepared.pop(message.gid, None)
        if held is None:
            return None
        if held.xid != message.xid:
            raise DecodeError(
                f"{message.gid!r} ends as transaction {message.xid}, but was prepared as {held.xid}"
            )
        self._memory -= held.memory
        return held

    def _pop_streamed(self, xid: int) -> HeldTransaction:
        held = self._streamed.pop(xid, None)
        if held is None:
            raise DecodeError(f"the end of streamed transaction {xid}, which never began")
        return held

    def _keep_prepared(self, gid: str, held: HeldTransaction) -> None:
        former = self._prepared.pop(gid, None)
        if former is not None:
            self._memory -= former.memory
            former.close()
        self._prepared[gid] = held
