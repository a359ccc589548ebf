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


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("hots=x dbname=y", "dsn has no option 'hots': write 'host'"),
        ("host=x pasword=hunter2", "dsn has no option 'pasword': write 'password'"),
        ("host=x database=y", "dsn has no option 'database': write 'dbname'"),
        ("host=x username=y", "dsn has no option 'username': write 'user'"),
        (
            "postgresql://u:hunter2@h/db?sslmod=require",
            "dsn has no option 'sslmod': write 'sslmode'",
        ),
    ],
)
async def test_a_misspelled_option_is_named(dsn: str, words: str) -> None:
    with pytest.raises(ConfigError) as setting:
        PgoutputSource(dsn, publications=["shop"])
    with pytest.raises(SourceError) as look:
        await slot_status(dsn, "slot")
    for caught in (setting, look):
        assert str(caught.value) == words
