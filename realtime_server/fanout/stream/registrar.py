"""CatalogRegistrar: holds joins against the database's tables, where everybody sees everything.

A join that asks for what can never come is refused, with RLS mode's texts. Where the database
cannot be asked a join is accepted; as soon as it can be, its channel is told of what is amiss.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from itertools import chain

import attrs

from realtime_core import Relation
from realtime_core.errors import RealtimeError

from ...auth.grant import Grant
from ...errors import NotPublishedError, NotThereError, RefusedError
from ...phoenix.joins import Binding
from ..registrar import Registered
from ..subscription_specs import (
    SubscriptionSpec,
    check_columns,
    check_spec,
    check_table,
    possible,
    specs_of,
)
from ..topics import Topic
from ..turns import Turns
from .table_lookup import RETRY, Answer, Lookup

__all__ = ["CatalogRegistrar"]


@attrs.define(eq=False)
class _Listener:
    """A channel."""

    viewer: None = None
    """Everybody sees everything."""
    notes: tuple[str, ...] = ()
    wishes: Sequence[tuple[SubscriptionSpec, ...]] = ()
    """What it asks for, until that was held against the tables."""
    amiss: RefusedError | None = None
    """Why nothing comes of it as the tables are."""
    tell: Callable[[RefusedError], None] | None = None
    """Tells its client what is amiss."""

    def note(self, amiss: RefusedError) -> None:
        self.amiss = amiss
        if self.tell is not None:
            self.tell(amiss)


class CatalogRegistrar:
    """Holds joins against tables.

    Args:
        lookup: what tables there are.
        is_attached: whether changes are being read now.
        attached: returns when they are.
    """

    def __init__(
        self,
        lookup: Lookup,
        *,
        is_attached: Callable[[], bool],
        attached: Callable[[], Awaitable[None]],
    ) -> None:
        self._lookup = lookup
        self._is_attached = is_attached
        self._attached = attached
        # In their order, those that are accepted and not judged yet.
        self._unjudged: dict[_Listener, None] = {}
        self._woken = asyncio.Event()

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        wishes = specs_of(topic, bindings)
        # This much is known though the database cannot be asked.
        for ways in wishes:
            possible(ways, check_spec)
        listener = _Listener()
        try:
            if not await self._judge(wishes):
                listener.wishes = wishes
                self._unjudged[listener] = None
                self._woken.set()
        except NotThereError as exc:
            # Topics of the first generation are names, whatever there is. Its clients do not
            # join again when they are refused, and the table may come.
            if bindings is not None:
                raise
            listener.amiss = exc
        return listener

    def watch(self, registered: Registered, tell: Callable[[RefusedError], None]) -> None:
        assert isinstance(registered, _Listener)
        registered.tell = tell
        if registered.amiss is not None:
            tell(registered.amiss)

    async def renew(self, registered: Registered, grant: Grant) -> Hashable:
        return None

    def remove(self, registered: Registered) -> None:
        assert isinstance(registered, _Listener)
        registered.tell = None
        self._unjudged.pop(registered, None)

    def forget(self, relation: Relation) -> None:
        """Ask anew for a table, whatever is remembered: a change has shown it otherwise."""
        self._lookup.forget((relation.schema, relation.table))

    async def judge_later(self) -> None:
        """Judge those that were accepted unjudged, when that can be done, for ever."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            # A stream that cannot go on ends the server.
            with contextlib.suppress(RealtimeError):
                await self._attached()
            for listener in list(self._unjudged):
                try:
                    is_judged = await self._judge(listener.wishes)
                except RefusedError as exc:
                    is_judged = True
                    if listener in self._unjudged:
                        listener.note(exc)
                if is_judged:
                    self._unjudged.pop(listener, None)
                    listener.wishes = ()
                # There may be thousands, and what they ask for is known.
                await asyncio.sleep(0)
            if self._unjudged:
                self._woken.set()
                await asyncio.sleep(RETRY)

    async def _judge(self, wishes: Sequence[tuple[SubscriptionSpec, ...]]) -> bool:
        """Hold wishes against the tables; return whether that could be done.

        Raises:
            RefusedError: if nothing can come of one of them, saying why.
        """
        names = {
            (wish.schema, wish.table)
            for wish in chain(*wishes)
            if wish.schema is not None and wish.table is not None
        }
        problem: RefusedError | None = None
        for fresh in (False, True):
            answer = await self._lookup.tables(names, fresh=fresh)
            if answer is None:
                return False
            try:
                turns = Turns.shared()
                for ways in wishes:
                    await turns.give_way()
                    possible(ways, partial(_check, answer))
            except RefusedError as exc:
                problem = exc
            else:
                return True
            if answer.is_fresh:
                break
            # What was remembered may have changed since.
        assert problem is not None
        if isinstance(problem, NotPublishedError) and not self._is_attached():
            # The stream may wait for the publication.
            return False
        raise problem


def _check(answer: Answer, wish: SubscriptionSpec) -> None:
    check_spec(wish)
    if wish.schema is None or wish.table is None:
        return
    table = check_table(wish, answer.tables[wish.schema, wish.table])
    check_columns(wish, table, table.published or (), answer.enums)
