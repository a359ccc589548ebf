"""BackfillingSource: the part of a source that reads tables while its stream goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from ..errors import ConfigError
from ._backfill import Backfills
from ._plugin import PluginFacts
from ._stream import StreamSource
from .base import E
from .stream_options import Dsn, StreamOptions

__all__ = ["BackfillingSource"]


class BackfillingSource(StreamSource[E]):
    """A source whose rows are decoded, so that those of a backfill can be compared with them.

    Args:
        dsn: the connection string, or a function that returns it.
        plugin: the output plugin.
        options: see :class:`StreamOptions`.
    """

    def __init__(self, dsn: Dsn, plugin: PluginFacts, **options: Unpack[StreamOptions]) -> None:
        super().__init__(dsn, plugin, **options)
        # None before the first backfill.
        self._backfills: Backfills | None = None

    async def backfill(
        self,
        table: str,
        *,
        where: str | None = None,
        after: Sequence[str] = (),
        chunk_rows: int = 1000,
    ) -> None:
        """Have the rows of a table handed over, too, while the stream goes on.

        They come as :class:`Snapshot` events between transactions, in chunks in the order of the
        primary key, and behind each chunk a :class:`BackfillStep`. A row is as it is at its place
        in the stream: whatever was handed over before it is in it, whatever comes behind it was
        committed later. A consumer may have the row already, and writes it over; an update that
        comes before its row finds none.

        This returns when the table was checked; several backfills run one after the other. If one
        fails, the next read raises the error, and the stream can be read on.

        Args:
            table: its name as ``schema.table``. The stream has to have its changes.
            where: a SQL condition for the rows, which is trusted.
            after: the last :attr:`BackfillStep.after`, to go on after a crash.
            chunk_rows: the most rows of a chunk, which is held in memory.

        Raises:
            ConfigError: if the table cannot be backfilled: it is not streamed, or has no primary
                key; or if an argument is wrong.
            SourceError: if the server cannot be asked.
            RuntimeError: if the source was closed.
        """
        if self._closed:
            raise RuntimeError("this source was closed: make a new one")
        if chunk_rows < 1:
            raise ConfigError(f"chunk_rows is a number of rows from 1, not {chunk_rows}")
        if self._backfills is None:
            self._backfills = Backfills(
                *(self._settings, self._plugin, self._history, self._random, self._filter),
                self._ask,
            )
        await self._backfills.add(table, where=where, after=tuple(after), chunk_rows=chunk_rows)

    def _ask(self) -> None:
        if self._live is not None:
            self._live.ask()

    async def _fill(self) -> None:
        await super()._fill()
        live = self._live
        if self._backfills is None or live is None or self._has_rest or self._error is not None:
            return
        if not live.in_transaction:
            self._backfills.hand_over(self._queue)

    async def aclose(self) -> None:
        """Send the last acknowledgement, release the slot and close the connection."""
        if self._backfills is not None:
            await self._backfills.aclose()
        await super().aclose()
