"""The list of tables, without a database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from realtime_core.errors import SourceError
from realtime_server.auth.grant import Grant
from realtime_server.config.database.published_tables import PublishedColumn, PublishedTable
from realtime_server.errors import RefusedError, UnavailableError
from realtime_server.net.inspector import TableList

TODOS = PublishedTable("public", "todos", (PublishedColumn("id", "int8"),))
ANYBODY = Grant()


class Catalog:
    """A database that is asked for its tables, and the time."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.now = 0.0
        self.answer: Sequence[PublishedTable] | SourceError = [TODOS]
        self.at_once = 0
        self.takes = 0.0

    async def ask(self, role: str | None) -> Sequence[PublishedTable]:
        self.asked.append(role)
        assert self.at_once == 0
        self.at_once += 1
        await asyncio.sleep(0)
        self.now += self.takes
        self.at_once -= 1
        if isinstance(self.answer, SourceError):
            raise self.answer
        return self.answer

    def tables(self, *, by_role: bool = False) -> TableList:
        return TableList(self.ask, by_role=by_role, clock=lambda: self.now)


async def test_an_answer_is_given_again_for_a_second() -> None:
    catalog = Catalog()
    tables = catalog.tables()
    answers = await asyncio.gather(*(tables.visible_to(ANYBODY) for _ in range(3)))
    assert answers == [[TODOS]] * 3
    assert catalog.asked == [None]
    catalog.now, catalog.answer = 1.0, []
    assert await tables.visible_to(ANYBODY) == []
    assert catalog.asked == [None, None]


async def test_who_waited_for_a_slow_answer_is_given_it_too() -> None:
    catalog = Catalog()
    catalog.takes = 10.0
    tables = catalog.tables()
    await asyncio.gather(*(tables.visible_to(ANYBODY) for _ in range(3)))
    assert catalog.asked == [None]


async def test_each_role_has_an_answer_of_its_own() -> None:
    catalog = Catalog()
    tables = catalog.tables(by_role=True)
    grants = [Grant({"role": role, "sub": sub}) for role in ("ann", "bob") for sub in ("1", "2")]
    await asyncio.gather(*map(tables.visible_to, grants))
    assert catalog.asked == ["ann", "bob"]
    with pytest.raises(RefusedError, match="the token has no role"):
        await tables.visible_to(Grant({"sub": "1"}))
    for number in range(200):
        await tables.visible_to(Grant({"role": f"role {number}"}))
    await tables.visible_to(grants[0])
    # Not all of them are kept.
    assert catalog.asked.count("ann") == 2


async def test_the_servers_own_tables_are_not_listed() -> None:
    catalog = Catalog()
    catalog.answer = [PublishedTable("realtime", "subscription", ()), TODOS]
    assert await catalog.tables().visible_to(ANYBODY) == [TODOS]


async def test_a_database_that_cannot_be_asked_is_logged_and_left_alone_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    catalog = Catalog()
    catalog.answer = SourceError("host db.internal is gone")
    tables = catalog.tables()
    for _ in range(2):
        with pytest.raises(UnavailableError) as caught:
            await tables.visible_to(ANYBODY)
        # Whoever asks is told nothing of the database.
        assert caught.value.reason == (
            "the database cannot be asked for its tables now; the server's log says why"
        )
    assert catalog.asked == [None]
    assert caplog.record_tuples == [
        (
            "realtime.http",
            logging.WARNING,
            "the inspector cannot list the tables: host db.internal is gone",
        )
    ]
    catalog.now, catalog.answer = 1.0, [TODOS]
    assert await tables.visible_to(ANYBODY) == [TODOS]
