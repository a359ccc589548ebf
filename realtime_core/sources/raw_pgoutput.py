"""RawPgoutputSource: a PostgreSQL database's changes as the bytes that PostgreSQL sends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal, Unpack

from ..changes import RawEvent
from ..errors import ConfigError
from ..pgoutput.raw_decoder import MAX_ROWS
from ._pgoutput_plugin import Messages, PgoutputSettings, RawPgoutput
from ._stream import StreamSource
from .stream_options import Dsn, StreamOptions
from .sync import SyncSource

__all__ = ["RawPgoutputSource"]


class RawPgoutputSource(StreamSource[RawEvent]):
    """Streams the changes of one or more publications, with rows as bytes.

    It is for programs that pass changes on, or store them, and leave it to others to decode them:
    attaching, acknowledging, gaps and positions are those of :class:`PgoutputSource`, and so are
    all events but the rows. These come as :class:`RawRows`.
    :class:`~realtime_core.pgoutput.Encoder` writes the events as pgoutput messages, of which
    :class:`~realtime_core.pgoutput.ChangeDecoder` makes the changes elsewhere.

    Example::

        encoder = Encoder()
        async with RawPgoutputSource(
            dsn, publications=["shop"], slot="ship", boundaries=True
        ) as source:
            async for event in source:
                await ship(encoder.encode(event))
                source.ack(event)

    Rows are not checked: one that cannot be decoded is an error wherever it is decoded.

    Args:
        dsn: as for :class:`PgoutputSource`.
        publications: as for :class:`PgoutputSource`.
        messages: as for :class:`PgoutputSource`.
        origin: as for :class:`PgoutputSource`.
        streaming: as for :class:`PgoutputSource`. The rows of a large transaction are the same
            bytes as without.
        max_memory: as for :class:`PgoutputSource`.
        spill_directory: as for :class:`PgoutputSource`.
        max_rows: the most rows of one :class:`RawRows`; 1 for a consumer that wants an event for
            each row.
        options: the options of every source: see :class:`StreamOptions`. A ``filter`` and a
            ``snapshot`` need decoded rows, so there are none.

    Raises:
        ConfigError: if the arguments cannot work.
        TypeError: if an argument has a wrong type, or there is no option of that name.
    """

    def __init__(
        self,
        dsn: Dsn = "",
        *,
        publications: Iterable[str],
        messages: Messages = False,
        origin: Literal["any", "none"] = "any",
        streaming: Literal["off", "on", "parallel"] = "off",
        max_memory: int = 64 * 1024 * 1024,
        spill_directory: str | os.PathLike[str] | None = None,
        max_rows: int = MAX_ROWS,
        **options: Unpack[StreamOptions],
    ) -> None:
        settings = PgoutputSettings(
            publications=publications,
            messages=messages,
            origin=origin,
            streaming=streaming,
            max_memory=max_memory,
            spill_directory=spill_directory,
        )
        if max_rows < 1:
            raise ConfigError(f"max_rows is a number of rows above 0, not {max_rows}")
        if options.get("filter") is not None:
            raise ConfigError(
                "filter needs decoded rows, which a RawPgoutputSource does not have: leave it out, "
                "and filter where the rows are decoded, or use a PgoutputSource"
            )
        if options.get("snapshot", "never") != "never":
            raise ConfigError(
                "snapshot needs decoded rows, which a RawPgoutputSource does not have: leave it "
                "out, or use a PgoutputSource"
            )
        plugin = RawPgoutput(settings.publications, settings, max_rows=max_rows)
        super().__init__(dsn, plugin, **options)

    @classmethod
    def sync(cls, *args: Any, **options: Any) -> SyncSource[RawEvent]:  # type: ignore[override]
        """Make a source for programs without an event loop: see :class:`SyncSource`.

        Args:
            args: the arguments of the class.
            options: its keyword arguments.

        Raises:
            ConfigError: if the arguments cannot work.
            TypeError: if an argument has a wrong type, or there is no option of that name.
        """
        return SyncSource(cls(*args, **options))

    def typed(self, classes: Any, *, on_error: Any = "raise") -> Any:
        """Refuse to make objects: rows come as bytes.

        Raises:
            TypeError: always.
        """
        raise TypeError("a RawPgoutputSource has rows as bytes: use typed() of a PgoutputSource")
