"""WantedTables: what has been asked for since the start, however it was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from realtime_server.fanout import wanted_tables
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.topic_parser import Topic
from realtime_server.fanout.wanted_tables import WantedTables
from realtime_server.phoenix.joins import parse_join
from realtime_server.phoenix.serializers import SERIALIZERS
from tests.server_helpers import RecordingOutbox

TABLES = [("shop", "item"), ("shop", "order"), ("stock", "item"), ("stock", "place")]


def joined(topic: str, *bindings: dict[str, Any]) -> Subscription:
    config = parse_join({"config": {"postgres_changes": list(bindings)}}) if bindings else None
    return Subscription(
        Topic.parse(topic),
        SERIALIZERS["1.0.0"],
        RecordingOutbox(),
        None if config is None else config.bindings,
    )


def wanted_by(*subscriptions: Subscription) -> list[str]:
    wanted = WantedTables()
    # What was found before somebody asks for more is found anew.
    assert not any(wanted.wants(*table) for table in TABLES)
    for subscription in subscriptions:
        wanted.note(subscription)
    return [".".join(table) for table in TABLES if wanted.wants(*table)]


@pytest.mark.parametrize(
    ("topic", "tables"),
    [
        ("realtime:shop:item", ["shop.item"]),
        ("realtime:shop:item:id=eq.1", ["shop.item"]),
        ("realtime:shop", ["shop.item", "shop.order"]),
        ("realtime:*", ["shop.item", "shop.order", "stock.item", "stock.place"]),
        ("realtime:room", []),
    ],
)
def test_a_topic_wants_its_tables(topic: str, tables: list[str]) -> None:
    assert wanted_by(joined(topic)) == tables


@pytest.mark.parametrize(
    ("schema", "table", "tables"),
    [
        ("shop", "item", ["shop.item"]),
        ("shop", "*", ["shop.item", "shop.order"]),
        ("*", "item", ["shop.item", "stock.item"]),
        ("*", "*", ["shop.item", "shop.order", "stock.item", "stock.place"]),
    ],
)
def test_a_binding_wants_its_tables(schema: str, table: str, tables: list[str]) -> None:
    binding = {"event": "INSERT", "schema": schema, "table": table}
    # The topic is a name only.
    assert wanted_by(joined("realtime:stock:place", binding)) == tables


def test_a_binding_with_a_filter_wants_its_table() -> None:
    binding = {"event": "*", "schema": "shop", "table": "item", "filter": "id=eq.1"}
    assert wanted_by(joined("realtime:room", binding)) == ["shop.item"]


def test_all_that_was_asked_for_counts() -> None:
    assert wanted_by(joined("realtime:shop:item"), joined("realtime:stock")) == [
        "shop.item",
        "stock.item",
        "stock.place",
    ]


def test_beyond_a_bound_every_table_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted_tables, "_MOST", 3)
    names = [joined(f"realtime:made:up{number}") for number in range(5)]
    assert wanted_by(*names[:2]) == []
    assert wanted_by(*names) == [".".join(table) for table in TABLES]


def test_what_is_known_of_tables_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted_tables, "_MOST", 3)
    wanted = WantedTables()
    wanted.note(joined("realtime:shop:item"))
    for number in range(10):
        assert not wanted.wants("shop", f"table{number}")
    assert wanted.wants("shop", "item")
    sizes = [len(kept) for kept in vars(wanted).values() if isinstance(kept, set | dict)]
    assert max(sizes) <= 3


def test_a_schema_may_be_wanted_whatever_clients_ask_for() -> None:
    wanted = WantedTables()
    assert not wanted.wants("realtime", "messages")
    wanted.want("realtime")
    assert wanted.wants("realtime", "messages")
    assert not wanted.wants("shop", "item")
