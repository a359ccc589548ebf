"""What is decided of a batch before policies are asked, without a database."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import attrs
import pytest

from realtime_server.config.database.tables import Table
from realtime_server.rls import checker as checker_module
from realtime_server.rls.checker import Checker
from realtime_server.rls.counters import Counters
from realtime_server.rls.lookup.questions import (
    Failure,
    Question,
    RowsToCheck,
    VisibilityAnswer,
)
from realtime_server.rls.payloads import View
from realtime_server.rls.pending_changes import Lost, PendingChange
from realtime_server.rls.viewers import Viewer
from tests.server.rls.test_table_check import ANN, BOB, CLERK, DELETE, INSERT, TABLE, UPDATE
from tests.server_helpers import insert, make_relation

NAME = (TABLE.schema, TABLE.name)
COLUMNS = [(one.name, one.type_name, one.name == "id") for one in INSERT.relation.columns]


class Catalog:
    """Tables as they are, and which transactions are not over yet."""

    def __init__(self, *tables: Table, unsettled: int = 0) -> None:
        self.tables = {(one.schema, one.name): one for one in tables}
        self.unsettled = unsettled
        self.looks = 0
        self.readers: Collection[str] = ()
        self.timeout = 1.0
        self.connections = self.catalog = self
        self.asked: list[Viewer] = []
        self.too_slow: set[str] = set()

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        yield None

    def is_over(self, xid: int) -> bool:
        return self.looks > self.unsettled

    async def look_at_tables(self, connection: Any, names: Collection[Any], *_: Any) -> Any:
        self.looks += 1
        return self, {name: self.tables[name] for name in names if name in self.tables}

    async def until_settled(self, connection: Any, xids: Sequence[int]) -> None:
        assert xids == [INSERT.transaction.xid]

    async def roles_that_may_read(self, connection: Any, oid: int, roles: Any) -> Any:
        return set(self.readers) & set(roles)

    async def check(
        self, rows: RowsToCheck, questions: Sequence[Question], **_: Any
    ) -> list[VisibilityAnswer]:
        self.asked += (one.viewer for one in questions)
        if rows.table.name in self.too_slow:
            return [
                VisibilityAnswer(failed=dict.fromkeys(one.places, Failure.TIMEOUT))
                for one in questions
            ]
        return [VisibilityAnswer(visible=set(one.places), seconds=0.5) for one in questions]


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    made = Catalog(TABLE)
    for name in ("look_at_tables", "until_settled", "roles_that_may_read"):
        monkeypatch.setattr(checker_module, name, getattr(made, name))
    return made


def checker(catalog: Catalog, **options: Any) -> Checker:
    return Checker(catalog, Counters(), max_record_bytes=1000, **options)  # type: ignore[arg-type]


def pending(change: Any, *viewers: Viewer, others: Collection[Viewer] = ()) -> PendingChange:
    return PendingChange(change, 10, frozenset(viewers), frozenset(others))


async def test_what_nobody_listens_to_is_asked_of_nobody(catalog: Catalog) -> None:
    verdict = await checker(catalog).check([pending(INSERT), pending(DELETE)])
    assert (verdict.shown, catalog.looks, catalog.asked) == ([{}, {}], 0, [])


async def test_each_change_is_decided_in_its_place(catalog: Catalog) -> None:
    candidates = [pending(INSERT, ANN), pending(UPDATE), pending(DELETE, BOB, CLERK)]
    verdict = await checker(catalog).check(candidates)
    assert [set(one) for one in verdict.shown] == [{ANN}, set(), {BOB, CLERK}]
    assert all(isinstance(view, View) for one in verdict.shown for view in one.values())
    assert verdict.seconds == {ANN: 0.5}
    assert catalog.asked == [ANN]


async def test_nothing_is_asked_before_the_changes_are_there_for_everybody(
    catalog: Catalog,
) -> None:
    catalog.unsettled = 2
    await checker(catalog).check([pending(INSERT, ANN)])
    assert catalog.looks == 3


@pytest.mark.parametrize("tables", [[], [attrs.evolve(TABLE, oid=TABLE.oid + 1)]])
async def test_a_table_that_is_gone_or_another_is_lost_to_who_might_have_read_it(
    tables: list[Table], catalog: Catalog
) -> None:
    catalog.tables = {(one.schema, one.name): one for one in tables}
    catalog.readers = ["reader"]
    candidates = [pending(INSERT, ANN, CLERK, others=[BOB])]
    verdict = await checker(catalog).check(candidates)
    # Those, too, whose filters it does not pass: else the loss would tell that.
    assert verdict.shown == [{ANN: Lost.TABLE_REPLACED, BOB: Lost.TABLE_REPLACED}]
    assert catalog.asked == []


async def test_without_oids_a_table_is_known_by_its_name(catalog: Catalog) -> None:
    relation = attrs.evolve(INSERT.relation, oid=0)
    change = attrs.evolve(INSERT, relation=relation)
    verdict = await checker(catalog).check([pending(change, ANN)])
    assert set(verdict.shown[0]) == {ANN}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"published_actions": frozenset({"INSERT", "DELETE"})}, [True, False, True]),
        ({"published_actions": frozenset()}, [False, False, False]),
        ({"published_actions": None}, [False, False, False]),
        (
            {"published_actions": frozenset({"INSERT"}), "has_row_filter": True},
            [False, False, False],
        ),
    ],
)
async def test_of_a_stream_of_everything_what_is_published_is_shown(
    changes: dict[str, Any], expected: list[bool], catalog: Catalog
) -> None:
    catalog.tables[NAME] = attrs.evolve(TABLE, **changes)
    candidates = [pending(INSERT, ANN), pending(UPDATE, ANN), pending(DELETE, ANN)]
    verdict = await checker(catalog, publications=["shop"]).check(candidates)
    assert [bool(one) for one in verdict.shown] == expected


async def test_why_rows_are_shown_to_nobody_is_said_once_until_it_is_over(
    catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "realtime.rls")
    one = checker(catalog)
    at_odds = attrs.evolve(TABLE, is_at_odds=True)
    said = []
    for table in (at_odds, at_odds, TABLE, at_odds):
        catalog.tables[NAME] = table
        caplog.clear()
        verdict = await one.check([pending(INSERT, ANN)])
        said.append(len(caplog.records))
        assert bool(verdict.shown[0]) is (table is TABLE)
    assert said == [1, 0, 0, 1]


async def test_a_viewer_that_was_left_out_has_had_no_sample(catalog: Catalog) -> None:
    """Else a policy that fails would be told of for just the rows that pass the filters."""
    other = insert(make_relation(table="others", columns=COLUMNS), "7", "a", "1.5")
    catalog.tables["public", "others"] = attrs.evolve(TABLE, name="others")
    catalog.too_slow = {TABLE.name}
    one = checker(catalog)
    both = [
        PendingChange(change, 10, frozenset({ANN}), filtering=frozenset({ANN}))
        for change in (INSERT, other)
    ]
    verdict = await one.check(both)
    assert verdict.timeouts == {ANN: 1}
    catalog.asked.clear()
    hidden = PendingChange(other, 10, frozenset(), frozenset({ANN}), frozenset({ANN}))
    await one.check([hidden])
    assert catalog.asked == [ANN]
