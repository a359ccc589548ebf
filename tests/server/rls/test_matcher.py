"""Who is asked about a change, and which channels get it, without a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest

from realtime_core import Delete, Insert, Record, ReplicaIdentity, RowChange
from realtime_server.config.database.tables import LiveColumn
from realtime_server.fanout.groups import BoundDelivery, Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.joins import Binding, parse_join
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.rls.matcher import Matcher
from realtime_server.rls.payloads import ErrorView, View
from realtime_server.rls.pending_changes import PendingChange
from realtime_server.rls.reader import Read
from realtime_server.rls.receivers import Receivers
from realtime_server.rls.viewers import Viewer
from tests.server.rls.test_payloads import TABLE as GOODS_TABLE
from tests.server_helpers import RecordingOutbox, insert, make_relation

TODOS = make_relation()
WHOLE = attrs.evolve(TODOS, replica_identity=ReplicaIdentity.FULL)
ANN, BOB = (Viewer.of({"role": "reader", "sub": sub}) for sub in ("ann", "bob"))
TABLE = attrs.evolve(
    GOODS_TABLE,
    name="todos",
    columns=tuple(
        LiveColumn(one.name, one.type_name, "pg_catalog", one.type_oid, one.type_name)
        for one in TODOS.columns
    ),
)


def sit(hub: Hub, viewer: Viewer, topic: str, *bindings: Binding) -> Subscription:
    subscription = Subscription(
        Topic.parse(topic), SERIALIZERS["1.0.0"], RecordingOutbox(), bindings or None, viewer
    )
    hub.subscribe(subscription)
    return subscription


def binding(number: int, filter: str | None = None) -> Binding:
    config: dict[str, Any] = {"event": "*", "schema": "public", "table": "todos"}
    if filter is not None:
        config["filter"] = filter
    [made] = bindings_of([config])
    return attrs.evolve(made, id=number)


def bindings_of(configs: Sequence[Mapping[str, Any]]) -> Sequence[Binding]:
    found = parse_join({"config": {"postgres_changes": list(configs)}}).bindings
    assert found is not None
    return found


async def matched(hub: Hub, *changes: RowChange) -> list[PendingChange]:
    return await Matcher(hub).match([Read(change, 10) for change in changes])


def view_of(change: RowChange, *names: str, hides_old: bool = True) -> View:
    columns = [column for column in TABLE.columns if column.name in names]
    return View(change, TABLE, columns, {}, hides_old=hides_old, size=10, max_bytes=1000)


def ids(receivers: Receivers, viewer: Viewer, view: View | ErrorView) -> list[Any]:
    """Return the bindings that get it, or a topic's name."""
    found: list[Any] = []
    for delivery, _ in receivers.of(viewer, view):
        found += delivery.ids if isinstance(delivery, BoundDelivery) else ["topic"]
    return found


INSERT = insert(TODOS, "1", "x")
DELETE = Delete(INSERT.transaction, 0, WHOLE, Record(WHOLE.shape, ("1", "x")))


async def test_viewers_are_those_whose_filters_it_passes_and_others_who_listen() -> None:
    hub = Hub()
    sit(hub, ANN, "realtime:room", binding(1, "id=eq.1"))
    sit(hub, BOB, "realtime:room", binding(2, "id=eq.2"))
    first, second = await matched(hub, INSERT, insert(TODOS, "2", "x"))
    assert (first.viewers, first.others, first.filtering) == ({ANN}, {BOB}, {ANN, BOB})
    assert (second.viewers, second.others) == ({BOB}, {ANN})
    assert first.listening.keys() == {ANN, BOB}
    assert first.matched.keys() == {ANN}


async def test_who_has_one_channel_without_a_filter_does_not_count_as_filtering() -> None:
    hub = Hub()
    sit(hub, ANN, "realtime:room", binding(1, "id=eq.9"))
    sit(hub, ANN, "realtime:public:todos")
    sit(hub, BOB, "realtime:room", binding(2, "id=eq.9"))
    [candidate] = await matched(hub, INSERT)
    assert (candidate.viewers, candidate.others, candidate.filtering) == ({ANN}, {BOB}, {BOB})


async def test_nobody_is_asked_for_who_listens_to_another_table_or_kind() -> None:
    hub = Hub()
    sit(hub, ANN, "realtime:public:other")
    [made] = bindings_of([{"event": "DELETE", "schema": "public", "table": "todos"}])
    sit(hub, BOB, "realtime:room", made)
    inserted, deleted = await matched(hub, INSERT, DELETE)
    assert (inserted.viewers, inserted.others) == (frozenset(), frozenset())
    assert (deleted.viewers, deleted.others) == ({BOB}, frozenset())


@pytest.mark.parametrize("change", [INSERT, DELETE])
async def test_a_filter_by_a_column_that_is_not_shown_gets_nothing(change: RowChange) -> None:
    hub = Hub()
    sit(hub, ANN, "realtime:room", binding(1, "details=eq.x"), binding(2), binding(3, "id=eq.1"))
    sit(hub, ANN, "realtime:public:todos:details=eq.x")
    [candidate] = await matched(hub, change)
    receivers = Receivers(hub, candidate)
    whole = view_of(change, "id", "details", hides_old=False)
    assert sorted(map(str, ids(receivers, ANN, whole))) == ["1", "2", "3", "topic"]
    assert sorted(map(str, ids(receivers, ANN, view_of(change, "id", hides_old=False)))) == [
        *("2", "3")
    ]


async def test_of_a_deleted_row_that_is_hidden_filters_see_the_key_alone() -> None:
    hub = Hub()
    filters = ("details=eq.x", "or(id.eq.1,details.eq.y)", "or(id.eq.2,details.eq.x)", None)
    sit(hub, ANN, "realtime:room", *(binding(n, each) for n, each in enumerate(filters)))
    sit(hub, ANN, "realtime:public:todos:details=eq.x")
    [candidate] = await matched(hub, DELETE)
    receivers = Receivers(hub, candidate)
    hidden = view_of(DELETE, "id", "details")
    assert sorted(ids(receivers, ANN, hidden)) == [1, 3]
    known = view_of(DELETE, "id", "details", hides_old=False)
    assert sorted(map(str, ids(receivers, ANN, known))) == ["0", "1", "2", "3", "topic"]


async def test_an_error_goes_to_all_channels_of_its_viewer_that_listen() -> None:
    hub = Hub()
    sit(hub, ANN, "realtime:room", binding(1, "id=eq.9"), binding(2))
    sit(hub, ANN, "realtime:public:todos:id=eq.9")
    sit(hub, BOB, "realtime:room", binding(3))
    [candidate] = await matched(hub, INSERT)
    error = ErrorView(INSERT, TABLE, "Error 400")
    assert sorted(map(str, ids(Receivers(hub, candidate), ANN, error))) == ["1", "2", "topic"]


async def test_who_joins_after_the_match_gets_nothing_of_it() -> None:
    hub = Hub()
    sit(hub, ANN, "realtime:room", binding(1))
    [candidate] = await matched(hub, INSERT)
    sit(hub, ANN, "realtime:public:todos")
    receivers = Receivers(hub, candidate)
    assert ids(receivers, ANN, view_of(INSERT, "id")) == [1]
    assert ids(receivers, ANN, ErrorView(INSERT, TABLE, "Error 400")) == [1]
    assert ids(receivers, BOB, view_of(INSERT, "id")) == []


async def test_where_nobody_filters_the_same_is_found_for_all_changes_of_a_kind() -> None:
    hub = Hub()
    sit(hub, ANN, "realtime:public:todos")
    other = make_relation(table="others")
    changes = (INSERT, insert(TODOS, "2", "y"), insert(other, "1", "x"))
    first, second, third = await matched(hub, *changes)
    assert first.viewers is second.viewers
    assert first.viewers == {ANN}
    assert third.viewers == frozenset()
    assert isinstance(first.change, Insert)
