"""A connection string that is none is refused in words that do not quote it."""

from __future__ import annotations

import traceback

import pytest

from realtime_core import ConfigError, PgoutputSource, SourceError, slot_status

STRINGS = (
    *("host=x hunter2", "host=x password=a hunter2=1", "postgresql://u:hunter2%zz@h/db"),
    *("postgresql://u:hunter2@[h/db", "password='hunter2"),
)


@pytest.mark.parametrize("dsn", STRINGS)
async def test_a_connection_string_that_is_none_is_not_quoted(dsn: str) -> None:
    async def ask() -> str:
        return dsn

    with pytest.raises(ConfigError, match="dsn is not a connection string: write") as setting:
        PgoutputSource(dsn, publications=["shop"])
    with pytest.raises(SourceError, match="dsn is not a connection string: write") as answer:
        async with PgoutputSource(ask, publications=["shop"]):
            pass
    with pytest.raises(SourceError, match="dsn is not a connection string: write") as look:
        await slot_status(dsn, "slot")
    # No waiting mends it.
    assert not answer.value.transient
    for caught in (setting, answer, look):
        assert "hunter2" not in "".join(traceback.format_exception(caught.value, limit=0))
