"""CatalogRegistrar: checks joins in STREAM mode against the tables of the database.

A join that can never get a change, as its table does not exist, is refused with the same texts as
in RLS mode. While the database cannot be queried, joins are accepted unchecked; they are checked as
soon as it can be, and the channels are told what is wrong.
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
from ..topic_parser import Topic
from ..turns import Turns
from .table_lookup import RETRY, FoundTables, TableLookup

__all__ = ["CatalogRegistrar"]


@attrs.define(eq=False)
class _RegisteredChannel:
    """A channel in STREAM mode."""

    viewer: None = None
    """Everybody sees every change."""
    notes: tuple[str, ...] = ()
    """Notices for the client; there are none in this mode."""
    specs: Sequence[tuple[SubscriptionSpec, ...]] = ()
    """The changes that the channel asks for, until they were checked, each in alternative
    readings."""
    problem: RefusedError | None = None
    """Why the channel gets no changes, as the tables are now."""
    tell: Callable[[RefusedError], None] | None = None
    """Sends the channel's client the problem."""

    def note(self, problem: RefusedError) -> None:
        """Record a problem, and tell the client."""
        self.problem = problem
        if self.tell is not None:
            self.tell(problem)


class CatalogRegistrar:
    """Checks joins against the tables of the database.

    Args:
        lookup: reads the tables from the database.
        is_attached: returns whether changes are being read now.
        attached: returns when they are being read.
    """

    def __init__(
        self,
        lookup: TableLookup,
        *,
        is_attached: Callable[[], bool],
        attached: Callable[[], Awaitable[None]],
    ) -> None:
        self._lookup = lookup
        self._is_attached = is_attached
        self._attached = attached
        # Channels that were accepted unchecked, in the order in which they came.
        self._unchecked: dict[_RegisteredChannel, None] = {}
        self._woken = asyncio.Event()

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        specs = specs_of(topic, bindings)
        # These checks need no database.
        for alternatives in specs:
            possible(alternatives, check_spec)
        channel = _RegisteredChannel()
        try:
            # Without specs it gets no changes, and there is nothing to check.
            if specs and not await self._check(specs):
                channel.specs = specs
                self._unchecked[channel] = None
                self._woken.set()
        except NotThereError as exc:
            # Topic clients may join any topic. They do not join again when they are refused, and
            # the table may be made later.
            if bindings is not None:
                raise
            channel.problem = exc
        return channel

    @property
    def unchecked(self) -> int:
        """How many channels were accepted before they could be checked."""
        return len(self._unchecked)

    def watch(self, registered: Registered, tell: Callable[[RefusedError], None]) -> None:
        assert isinstance(registered, _RegisteredChannel)
        registered.tell = tell
        if registered.problem is not None:
            tell(registered.problem)

    async def renew(self, registered: Registered, grant: Grant) -> Hashable:
        return None

    def remove(self, registered: Registered) -> None:
        assert isinstance(registered, _RegisteredChannel)
        registered.tell = None
        self._unchecked.pop(registered, None)

    def forget(self, relation: Relation) -> None:
        """Forget what was read about a table, because it was altered."""
        self._lookup.forget((relation.schema, relation.table))

    async def check_later(self) -> None:
        """Check channels that were accepted unchecked, as soon as that can be done; never
        return."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            # If the source cannot go on, the server ends.
            with contextlib.suppress(RealtimeError):
                await self._attached()
            for channel in list(self._unchecked):
                try:
                    is_checked = await self._check(channel.specs)
                except RefusedError as exc:
                    is_checked = True
                    if channel in self._unchecked:
                        channel.note(exc)
                if is_checked:
                    self._unchecked.pop(channel, None)
                    channel.specs = ()
                # There may be thousands, for which the tables are known already.
                await asyncio.sleep(0)
            if self._unchecked:
                self._woken.set()
                await asyncio.sleep(RETRY)

    async def _check(self, specs: Sequence[tuple[SubscriptionSpec, ...]]) -> bool:
        """Check specs against the tables; return whether that could be done.

        Raises:
            RefusedError: if one of them can never get a change, with the reason.
        """
        names = {
            (spec.schema, spec.table)
            for spec in chain(*specs)
            if spec.schema is not None and spec.table is not None
        }
        problem: RefusedError | None = None
        for fresh in (False, True):
            answer = await self._lookup.tables(names, fresh=fresh)
            if answer is None:
                return False
            try:
                turns = Turns.shared()
                for alternatives in specs:
                    await turns.give_way()
                    possible(alternatives, partial(_check_spec, answer))
            except RefusedError as exc:
                problem = exc
            else:
                return True
            if answer.is_fresh:
                break
            # The tables may have been altered since they were read.
        assert problem is not None
        if isinstance(problem, NotPublishedError) and not self._is_attached():
            # The source may be waiting for the publication.
            return False
        raise problem


def _check_spec(answer: FoundTables, spec: SubscriptionSpec) -> None:
    check_spec(spec)
    if spec.schema is None or spec.table is None:
        return
    table = check_table(spec, answer.tables[spec.schema, spec.table])
    check_columns(spec, table, table.published or (), answer.enums)
