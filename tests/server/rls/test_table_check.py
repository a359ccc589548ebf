"""What is looked up of a batch, and who is told what of it, without a database."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import pytest

from realtime_core import UNCHANGED, Delete, Record, ReplicaIdentity, RowChange, Update
from realtime_server.config.database.tables import (
    Functions,
    KeyColumn,
    LiveColumn,
    Table,
)
from realtime_server.rls.counters import Counters
from realtime_server.rls.lookup.deleted_rows import Condition
from realtime_server.rls.lookup.questions import (
    Failure,
    LookupRow,
    Question,
    RowsToCheck,
    VisibilityAnswer,
)
from realtime_server.rls.payloads import ErrorView, View
from realtime_server.rls.pending_changes import PendingChange, Shown
from realtime_server.rls.table_check import TableCheck
from realtime_server.rls.viewers import Viewer
from tests.server_helpers import delete, insert, make_relation, update

GOODS = make_relation(
    table="goods",
    columns=[("id", "int8", True), ("details", "text", False), ("price", "numeric", False)],
)
WHOLE = attrs.evolve(GOODS, replica_identity=ReplicaIdentity.FULL)
NAMES = frozenset(GOODS.shape.names)
TABLE = Table(
    oid=16385,
    schema="public",
    name="goods",
    has_rls=True,
    is_partitioned=False,
    is_partition=False,
    is_full=False,
    is_at_odds=False,
    columns=tuple(
        LiveColumn(one.name, one.type_name, "pg_catalog", one.type_oid, one.type_name)
        for one in GOODS.columns
    ),
    key=(KeyColumn("id", "int8", "operator(pg_catalog.=)"),),
    published=None,
    published_actions=None,
    has_row_filter=False,
    selectable={"reader": NAMES, "clerk": frozenset({"id", "details"})},
    bypassing=frozenset(),
    types={},
    functions=Functions(),
)
ANN, BOB = (Viewer.of({"role": "reader", "sub": sub}) for sub in ("ann", "bob"))
CLERK = Viewer.of({"role": "clerk"})
KEY = Record(GOODS.key_shape, ("7",))
INSERT, UPDATE = insert(GOODS, "7", "a", "1.5"), update(GOODS, ("8", "b", UNCHANGED))
DELETE = delete(GOODS, KEY)
ROW = Record(WHOLE.shape, ("7", 'a "', None))


class Database:
    """Answers as it is told to, and keeps what it is asked."""

    def __init__(
        self,
        visible: Mapping[Viewer, Collection[int]] = {},
        failed: Mapping[Viewer, Mapping[int, Failure]] = {},
    ) -> None:
        self._visible = visible
        self._failed = failed
        self.rows: list[LookupRow] = []
        self.questions: list[Question] = []
        self.more: list[dict[str, Any]] = []

    async def __call__(
        self, rows: RowsToCheck, questions: Sequence[Question], **more: Any
    ) -> list[VisibilityAnswer]:
        self.rows += rows.rows
        self.questions += questions
        self.more.append({**more, "compared": rows.compared, "condition": rows.condition})
        return [
            VisibilityAnswer(
                visible=set(self._visible.get(one.viewer, ())),
                failed=dict(self._failed.get(one.viewer, {})),
            )
            for one in questions
        ]


def pending(change: RowChange, *viewers: Viewer, others: Collection[Viewer] = ()) -> PendingChange:
    return PendingChange(change, 10, frozenset(viewers), frozenset(others))


async def shown_of(
    candidates: Sequence[PendingChange],
    database: Database,
    *,
    table: Table = TABLE,
    strict: bool = False,
    sampled: Mapping[int, frozenset[Viewer]] = {},
    conditions: Mapping[str, Condition] | None = None,
) -> list[Shown]:
    relation = candidates[0].change.relation
    places = range(len(candidates))
    check = TableCheck(table, relation, candidates, places, strict, sampled, conditions)
    await check.ask(database, Counters())
    shown: list[Shown] = [{} for _ in candidates]
    check.show(shown, {}, 1000)
    return shown


def told(view: Any) -> Any:
    """Return a view's error, or the rows that it shows."""
    payload = view.payload(has_time=True) if isinstance(view, ErrorView) else view.payload()
    data = json.loads(payload)
    if data["errors"]:
        return data["errors"]
    return {name: data[name] for name in ("record", "old_record") if name in data}


async def test_a_row_is_shown_to_who_sees_it_and_to_nobody_else() -> None:
    database = Database({ANN: [0], BOB: []})
    [shown] = await shown_of([pending(INSERT, ANN, BOB)], database)
    assert {viewer: told(view) for viewer, view in shown.items()} == {
        ANN: {"record": {"id": 7, "details": "a", "price": 1.5}}
    }
    assert database.rows == [LookupRow(("7",))]
    assert {one.viewer for one in database.questions} == {ANN, BOB}


async def test_a_row_is_looked_up_once_for_all_changes_of_it_and_by_the_new_key() -> None:
    again = update(GOODS, ("7", "c", "2"), KEY)
    database = Database({ANN: [0, 1]})
    candidates = [pending(INSERT, ANN), pending(UPDATE, ANN), pending(again, ANN)]
    shown = await shown_of(candidates, database)
    assert database.rows == [LookupRow(("7",)), LookupRow(("8",))]
    assert database.questions == [Question(ANN, (0, 1))]
    assert [list(one) for one in shown] == [[ANN]] * 3


async def test_each_is_asked_only_about_the_rows_that_concern_it() -> None:
    database = Database({ANN: [0], BOB: [1]})
    shown = await shown_of([pending(INSERT, ANN), pending(UPDATE, BOB, ANN)], database)
    asked = {one.viewer: one.places for one in database.questions}
    assert asked == {ANN: (0, 1), BOB: (1,)}
    # Of a row that a viewer was not asked about, whatever the database says counts for nothing.
    assert [set(one) for one in shown] == [{ANN}, {BOB}]


async def test_who_may_not_select_a_column_is_not_shown_it() -> None:
    [shown] = await shown_of([pending(INSERT, ANN, CLERK)], Database({ANN: [0], CLERK: [0]}))
    assert told(shown[CLERK]) == {"record": {"id": 7, "details": "a"}}
    assert told(shown[ANN]) == {"record": {"id": 7, "details": "a", "price": 1.5}}


async def test_what_is_not_published_is_shown_to_nobody() -> None:
    table = attrs.evolve(TABLE, published=frozenset({"id", "price"}))
    database = Database({ANN: [0], CLERK: [0]})
    [shown] = await shown_of([pending(INSERT, ANN, CLERK)], database, table=table)
    assert told(shown[ANN]) == {"record": {"id": 7, "price": 1.5}}
    assert told(shown[CLERK]) == {"record": {"id": 7}}


async def test_a_role_that_may_select_nothing_is_told_nothing_and_not_asked() -> None:
    table = attrs.evolve(TABLE, selectable={"reader": NAMES})
    for change in (INSERT, DELETE):
        database = Database({CLERK: [0]})
        [shown] = await shown_of([pending(change, CLERK)], database, table=table)
        assert (shown, database.questions) == ({}, [])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"key": ()}, "Error 400: Bad Request, no primary key"),
        ({"published": frozenset({"details"})}, "Error 400: Bad Request, no primary key"),
        ({"selectable": {"reader": {"details"}}}, "Error 401: Unauthorized"),
    ],
)
async def test_a_row_that_cannot_be_looked_up_is_an_error_whatever_the_filters_say(
    changes: dict[str, Any], error: str
) -> None:
    database = Database({ANN: [0], BOB: [0]})
    candidates = [pending(INSERT, ANN, others=[BOB]), pending(DELETE, ANN, others=[BOB])]
    shown, deleted = await shown_of(candidates, database, table=attrs.evolve(TABLE, **changes))
    assert {viewer: told(view) for viewer, view in shown.items()} == {ANN: [error], BOB: [error]}
    assert set(deleted) == {ANN}
    assert database.questions == []


async def test_without_row_level_security_nobody_is_asked_and_a_hidden_key_is_an_error() -> None:
    table = attrs.evolve(
        TABLE,
        has_rls=False,
        selectable={"reader": NAMES, "clerk": frozenset({"details"})},
    )
    database = Database()
    candidates = [pending(INSERT, ANN, CLERK), pending(update(GOODS, ("8", "b", "2"), KEY), ANN)]
    inserted, updated = await shown_of(candidates, database, table=table)
    assert told(inserted[ANN]) == {"record": {"id": 7, "details": "a", "price": 1.5}}
    assert told(inserted[CLERK]) == ["Error 401: Unauthorized"]
    assert told(updated[ANN])["old_record"] == {"id": 7}
    assert database.questions == []


async def test_under_row_level_security_of_an_old_row_the_key_alone_is_shown() -> None:
    changes = [
        Update(INSERT.transaction, 0, WHOLE, Record(WHOLE.shape, ("8", "b", "2")), ROW),
        Delete(INSERT.transaction, 1, WHOLE, ROW),
    ]
    candidates = [pending(change, ANN) for change in changes]
    updated, deleted = await shown_of(candidates, Database({ANN: [0]}))
    assert told(updated[ANN])["old_record"] == {"id": 7}
    assert told(deleted[ANN]) == {"old_record": {"id": 7}}
    view = deleted[ANN]
    assert isinstance(view, View)
    # No filter may look at more than that.
    assert view.known_of_old == {"id"}


async def test_a_row_whose_relatives_alone_have_row_level_security_is_for_who_bypasses_it() -> None:
    table = attrs.evolve(TABLE, is_at_odds=True, bypassing=frozenset({"clerk"}))
    database = Database({ANN: [0], CLERK: [0]})
    inserted, deleted = await shown_of(
        [pending(INSERT, ANN, CLERK), pending(DELETE, ANN, CLERK)], database, table=table
    )
    assert set(inserted) == {CLERK}
    assert set(deleted) == {ANN, CLERK}
    assert database.questions == []


async def test_a_row_without_the_key_that_the_table_has_now_is_shown_to_nobody() -> None:
    table = attrs.evolve(TABLE, key=(KeyColumn("details", "text", "operator(pg_catalog.=)"),))
    changes = (insert(GOODS, "7", None, "1"), insert(GOODS, "8", UNCHANGED, "1"))
    candidates = [pending(change, ANN) for change in changes]
    database = Database({ANN: [0]})
    assert await shown_of(candidates, database, table=table) == [{}, {}]
    assert database.rows == []


async def test_strictly_a_row_is_compared_in_what_the_role_may_select_and_is_known() -> None:
    database = Database({ANN: [0, 1], CLERK: [0, 1]})
    candidates = [pending(UPDATE, ANN, CLERK), pending(INSERT, ANN, CLERK)]
    shown = await shown_of(candidates, database, strict=True)
    updated, inserted = {"id": "8", "details": "b"}, {"id": "7", "details": "a"}
    by_columns = {
        tuple(column.name for column in one["compared"]): [json.loads(row.values) for row in rows]
        for one, rows in zip(database.more, (database.rows[:2], database.rows[2:]), strict=True)
    }
    assert by_columns == {
        ("id", "details"): [updated, inserted],
        ("id", "details", "price"): [updated, {**inserted, "price": "1.5"}],
    }
    assert [set(one) for one in shown] == [{ANN, CLERK}] * 2


async def test_an_error_of_a_policy_is_told_to_who_listens_without_a_filter() -> None:
    database = Database(failed={one: {0: Failure.ERROR} for one in (ANN, BOB, CLERK)})
    candidate = attrs.evolve(pending(INSERT, ANN, BOB, CLERK), filtering=frozenset({BOB, CLERK}))
    [shown] = await shown_of([candidate], database, sampled={0: frozenset({CLERK})})
    # CLERK has been looked up whatever the filters say; of BOB's filter it would tell.
    error = ["Error 500: Internal Server Error, row level security raised an error"]
    assert {viewer: told(view) for viewer, view in shown.items()} == {ANN: error, CLERK: error}
    assert all(isinstance(view, ErrorView) for view in shown.values())


async def test_a_sample_is_looked_up_and_shown_to_nobody_whose_filter_it_does_not_pass() -> None:
    database = Database({ANN: [0], BOB: [0]})
    [shown] = await shown_of(
        [pending(INSERT, ANN, others=[BOB])], database, sampled={0: frozenset({BOB})}
    )
    assert {one.viewer for one in database.questions} == {ANN, BOB}
    assert set(shown) == {ANN}


CONDITIONS = {"reader": Condition("owner = 'ann'", "public"), "clerk": Condition(None, "public")}


async def test_a_deleted_row_is_asked_about_as_it_was_and_shown_as_a_whole() -> None:
    change = Delete(INSERT.transaction, 0, WHOLE, ROW)
    database = Database({ANN: [0], BOB: []}, {})
    [shown] = await shown_of([pending(change, ANN, BOB, CLERK)], database, conditions=CONDITIONS)
    assert database.rows == [LookupRow(('("7","a \\"",)',))]
    assert {one.viewer for one in database.questions} == {ANN, BOB}
    assert {viewer: told(view) for viewer, view in shown.items()} == {
        ANN: {"old_record": {"id": 7, "details": 'a "', "price": None}},
        CLERK: {"old_record": {"id": 7, "details": 'a "'}},
    }


async def test_where_not_all_of_it_is_known_a_deleted_row_is_its_key_to_everybody() -> None:
    database = Database()
    [shown] = await shown_of([pending(DELETE, ANN, BOB)], database, conditions=CONDITIONS)
    assert {viewer: told(view) for viewer, view in shown.items()} == {
        ANN: {"old_record": {"id": 7}},
        BOB: {"old_record": {"id": 7}},
    }
    assert database.questions == []


async def test_of_a_deleted_row_neither_an_error_nor_a_role_without_condition_is_told() -> None:
    change = Delete(INSERT.transaction, 0, WHOLE, ROW)
    database = Database(failed={ANN: {0: Failure.ERROR}})
    conditions = {"reader": CONDITIONS["reader"]}
    [shown] = await shown_of([pending(change, ANN, CLERK)], database, conditions=conditions)
    assert shown == {}


async def test_who_takes_too_long_is_counted_and_who_was_not_asked_is_named() -> None:
    database = Database(failed={ANN: {0: Failure.TIMEOUT}, BOB: {0: Failure.UNASKED}})
    candidate = pending(INSERT, ANN, BOB)
    counters = Counters()
    check = TableCheck(TABLE, GOODS, [candidate], [0], False, {})
    await check.ask(database, counters)
    assert dict(check.timeouts) == {ANN: 1, BOB: 0}
    assert check.failed == {0: {ANN}}
    assert (counters.checks, counters.errors) == (1, 0)
    shown: list[Shown] = [{}]
    check.show(shown, {}, 1000)
    assert told(shown[0][ANN]) == [
        "Error 500: Internal Server Error, row level security took too long"
    ]
    assert BOB not in shown[0]


async def test_who_has_taken_too_long_elsewhere_is_not_asked_and_the_others_hurry() -> None:
    database = Database({BOB: [0]})
    check = TableCheck(TABLE, GOODS, [pending(INSERT, ANN, BOB)], [0], False, {})
    await check.ask(database, Counters(), {ANN})
    assert [one.viewer for one in database.questions] == [BOB]
    assert [one["may_retry"] for one in database.more] == [False]
