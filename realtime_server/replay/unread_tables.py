"""UnreadTables: the tables whose rows are passed over, since no client of this server wants them.

Where several servers share a log, each gets the rows of all tables, and its clients may want those
of a few. Clients of other servers may come back here, and need rows of other tables that have come
before. Those are in the shared log, so nothing of them is kept in memory. When a client asks for
such a table, memory has not all that the client may have missed. It is emptied then, and who comes
back reads the shared log up to here. From then on the table's rows are read.
"""

from __future__ import annotations

from ..fanout.wanted_tables import WantedTables
from .change_log import ChangeLog
from .older_changes import OlderChanges

__all__ = ["UnreadTables"]


class UnreadTables:
    """Decides whose rows are read.

    Args:
        wanted: the tables of which clients of this server have asked for rows.
        log: the changes in memory.
        older: the changes that are read again in the shared log.
    """

    def __init__(self, wanted: WantedTables, log: ChangeLog, older: OlderChanges) -> None:
        self._wanted = wanted
        self._log = log
        self._older = older
        self._has_begun = False
        # By schema and name, the tables of which rows were passed over.
        self._tables: set[tuple[str, str]] = set()
        self._has_passed = False
        wanted.on_more = self._look

    def begin(self) -> None:
        """Have rows passed over, now that it is decided where the first channels begin."""
        self._has_begun = True

    def wants(self, schema: str, table: str) -> bool:
        """Return whether the rows of a table that come now have to be read."""
        may_pass = self._has_begun and self._older.is_readable
        if not may_pass or self._wanted.wants(schema, table):
            return True
        self._tables.add((schema, table))
        self._has_passed = True
        return False

    def take_passed(self) -> bool:
        """Return whether rows were passed over since the last call."""
        has_passed, self._has_passed = self._has_passed, False
        return has_passed

    def _look(self) -> None:
        """Look whether clients want more than is in memory."""
        found = {table for table in self._tables if self._wanted.wants(*table)}
        if found:
            self._tables -= found
            # Of another stream all rows were read.
            if self._older.is_readable:
                self._log.give_up()
