"""Checker: what each viewer is shown of a batch of changes.

A batch is decided as a whole: its tables are looked up once, and each viewer is checked once for
each table, however many changes and subscriptions there are. Nothing is looked up before the
changes' transactions are over in every snapshot.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set

import attrs

from realtime_core import Delete, Relation

from ..config import OutputPlugin
from ..config.database.catalog import look_at_tables, roles_that_may_read
from ..config.database.connections import Connections
from ..config.database.tables import Table, TableName
from .counters import Counters
from .lookup.casts import Casts
from .lookup.commit_visibility import until_settled
from .lookup.deleted_rows import Condition, read_conditions
from .lookup.locks import LockedRelation
from .lookup.shared_check import SharedCheck
from .lookup.visibility import Visibility
from .payloads import event_of
from .pending_changes import Lost, PendingChange, Shown
from .table_check import Lookup, TableCheck
from .unfiltered_samples import Sampled, UnfilteredSamples
from .viewers import Viewer

__all__ = ["Checker", "CheckResult"]

logger = logging.getLogger("realtime.rls")


@attrs.frozen
class CheckResult:
    """What each viewer may see of a batch, and whose policies took too long."""

    shown: list[Shown]
    """The views of each candidate by viewer, in the order of the candidates."""
    timeouts: Counter[Viewer]
    """How many checks of each viewer have taken too long; 0 for a viewer that was not checked for
    all rows because it is new to a table, because others took too long, or because a table is
    locked."""
    seconds: Mapping[Viewer, float] = attrs.field(factory=dict)
    """Seconds that the policies of each viewer took beyond the usual time for as many rows."""
    locked: Set[LockedRelation] = frozenset()
    """The tables that are locked, and other relations."""
    locked_out: Set[Viewer] = frozenset()
    """The viewers that were not checked for all rows because a table is locked."""


class Checker:
    """Decides what each viewer may see of a batch of changes.

    Args:
        visibility: looks rows up in the database.
        counters: counts the checks, and those that failed.
        publications: the publications to apply to a wal2json stream, which has more changes than
            they publish; empty if the stream has just the published changes.
        max_record_bytes: bytes of a change's values as text, beyond which only short ones are
            shown.
        strict: show only rows that still have the values that the change has.
        asks_for_deleted: show a deleted row to the viewers that could see it, if all of its values
            are known, instead of its key to all viewers.
        few: up to how many viewers that are new to a table at the same time are left out of the
            first check, and checked separately.
    """

    def __init__(
        self,
        visibility: Visibility,
        counters: Counters,
        *,
        publications: Collection[str] = (),
        max_record_bytes: int,
        strict: bool = False,
        asks_for_deleted: bool = False,
        few: int = 0,
    ) -> None:
        self._catalog = visibility.catalog
        self._connections = visibility.connections
        self._shared_check = SharedCheck(visibility, few=few)
        self._counters = counters
        self._casts = Casts(visibility.connections, visibility.timeout)
        self._publications = publications
        self._max_record_bytes = max_record_bytes
        self._strict = strict
        self._asks_for_deleted = asks_for_deleted
        self._samples = UnfilteredSamples()
        # The tables of which no row is shown, and for which that was logged.
        self._mentioned: set[TableName] = set()
        # By table, the functions for which it was logged that they are declared IMMUTABLE.
        self._immutable: dict[TableName, tuple[str, ...]] = {}

    async def check(
        self,
        candidates: Sequence[PendingChange],
        lookup: Lookup | None = None,
        catalog: Connections | None = None,
    ) -> CheckResult:
        """Decide what each viewer may see of each change.

        Args:
            candidates: changes, and the viewers that get them if they may see them.
            lookup: looks rows up; None to check all viewers together, with a shortened timeout.
            catalog: connections for reading the catalog; None for the usual ones.

        Raises:
            psycopg.Error: if the database cannot be queried; then nothing is decided.
        """
        shown: list[Shown] = [{} for _ in candidates]
        by_relation: dict[Relation, list[int]] = {}
        for place, candidate in enumerate(candidates):
            if candidate.viewers or candidate.others:
                by_relation.setdefault(candidate.change.relation, []).append(place)
        timeouts: Counter[Viewer] = Counter()
        if not by_relation:
            return CheckResult(shown, timeouts)
        audiences = {one for each in candidates for one in (each.viewers, each.others)}
        roles = {viewer.role for audience in audiences for viewer in audience}
        xids = {each.change.transaction.xid for each in candidates}
        catalog = catalog or self._catalog
        tables = await self._look_at_tables(catalog, by_relation, roles, xids)
        pages: list[TableCheck] = []
        seconds: dict[Viewer, float] = {}
        locked: set[LockedRelation] = set()
        for relation, places in by_relation.items():
            table = tables.get((relation.schema, relation.table))
            # Another table of the same name has other readers.
            if table is None or relation.oid not in (0, table.oid):
                lost = [candidates[place] for place in places]
                await self._lose(catalog, relation, lost, places, shown)
                continue
            self._mention(table)
            self._mention_immutable(table)
            if self._publications:
                places = _published(candidates, places, table)
            sampled: Sampled = {}
            if table.has_rls and not table.is_at_odds:
                sampled = self._samples.pick(candidates, places)
            conditions: Mapping[str, Condition] | None = None
            if self._asks_for_deleted and table.has_rls:
                conditions = await self._conditions(candidates, places, table)
            page = TableCheck(
                table, relation, candidates, places, self._strict, sampled, conditions
            )
            apart: frozenset[Viewer] = frozenset()
            if lookup is None:
                apart = frozenset(timeouts)
                # A viewer that has taken too long for one table is checked separately for all of
                # them.
                may_retry = not timeouts.total()
                await page.ask(self._shared_check.check, self._counters, apart, may_retry=may_retry)
            else:
                await page.ask(lookup, self._counters)
            unasked = {viewer for viewer, count in page.timeouts.items() if not count} | apart
            self._samples.note(candidates, sampled, page.failed, unasked)
            timeouts.update(page.timeouts)
            locked |= page.locked
            for viewer, taken in page.seconds.items():
                seconds[viewer] = seconds.get(viewer, 0.0) + taken
            pages.append(page)
        answers = await self._casts.json_of(
            {one for page in pages for one in page.unknown_values()}
        )
        for page in pages:
            page.show(shown, answers, self._max_record_bytes)
        locked_out = set().union(*(page.locked_out for page in pages))
        return CheckResult(shown, timeouts, seconds, locked, locked_out)

    async def _lose(
        self,
        catalog: Connections,
        relation: Relation,
        candidates: Sequence[PendingChange],
        places: Sequence[int],
        shown: Sequence[Shown],
    ) -> None:
        """Note that changes are lost because their table has been renamed, replaced or dropped.

        Viewers get a gap if their role may read the table under the name that it has now. If the
        table is gone, or the stream has no OIDs, it is not known which roles could read it; then
        all viewers that listen to it get the gap.
        """
        audiences = [one.viewers | one.others for one in candidates]
        roles = {viewer.role for audience in audiences for viewer in audience}
        async with catalog.one() as connection:
            told = await roles_that_may_read(connection, relation.oid, roles)
        for place, audience in zip(places, audiences, strict=True):
            theirs = (viewer for viewer in audience if viewer.role in told)
            shown[place].update(dict.fromkeys(theirs, Lost.TABLE_REPLACED))

    async def _conditions(
        self, candidates: Sequence[PendingChange], places: Sequence[int], table: Table
    ) -> Mapping[str, Condition] | None:
        """Return by role the condition under which it could see a deleted row; None: do not
        check."""
        roles = {
            viewer.role
            for place in places
            if isinstance(candidates[place].change, Delete)
            for viewer in candidates[place].viewers
        }
        if not roles:
            return {}
        async with self._connections.one() as connection:
            return await read_conditions(connection, table, sorted(roles))

    async def _look_at_tables(
        self,
        catalog: Connections,
        relations: Collection[Relation],
        roles: Collection[str],
        xids: Collection[int],
    ) -> dict[TableName, Table]:
        """Read the present state of tables, when everybody sees what the transactions did."""
        names = {(relation.schema, relation.table) for relation in relations}
        async with catalog.one() as connection:
            while True:
                snapshot, tables = await look_at_tables(
                    connection, names, roles, self._publications, OutputPlugin.WAL2JSON
                )
                left = [xid for xid in xids if not snapshot.is_over(xid)]
                if not left:
                    return tables
                await until_settled(connection, left)

    def _mention(self, table: Table) -> None:
        """Log once why no viewer is shown a table's rows, if that may surprise."""
        name = (table.schema, table.name)
        if not (table.is_at_odds or table.has_row_filter):
            self._mentioned.discard(name)
        elif name not in self._mentioned:
            self._mentioned.add(name)
            if table.is_at_odds:
                logger.warning(
                    "rows of %s.%s are shown to no role to which row level security applies: it is "
                    "not enabled there, but on other tables of the same partitioned one; enable it "
                    "on all whose names changes have, as publish_via_partition_root says",
                    *name,
                )
            else:
                logger.warning(
                    "changes of %s.%s are shown to no role: the publication has a row filter for "
                    "it, which OUTPUT_PLUGIN=wal2json does not apply; take it away, and write a "
                    "policy instead",
                    *name,
                )

    def _mention_immutable(self, table: Table) -> None:
        """Log once why a table's rows take longer to look up than others'."""
        name, functions = (table.schema, table.name), table.functions.immutable
        if functions != self._immutable.pop(name, ()) and functions:
            logger.warning(
                "policies of %s.%s call %s, declared IMMUTABLE: as PostgreSQL may keep the result "
                "with a plan, rows are looked up with a new plan for each viewer, which takes "
                "several times as long; ALTER FUNCTION … STABLE what reads claims, settings or "
                "tables",
                *name,
                ", ".join(functions),
            )
        if functions:
            self._immutable[name] = functions


def _published(
    candidates: Sequence[PendingChange], places: Sequence[int], table: Table
) -> list[int]:
    """Return the places of the changes that are published."""
    actions = table.published_actions
    if actions is None or table.has_row_filter:
        return []
    return [place for place in places if event_of(candidates[place].change) in actions]
