"""What Wal2JsonSource takes, and what it asks of the plugin."""

from __future__ import annotations

from typing import Any

import pytest

from realtime_core import ConfigError, Wal2JsonSource
from realtime_core.replication.commands import wal2json_options
from realtime_core.sources._wal2json_settings import Wal2JsonSettings


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"format_version": 3}, "format_version is 1 or 2, not 3"),
        ({"tables": []}, "tables is empty: name at least one, or leave it out for all"),
        ({"tables": [("public", "")]}, "tables has ('public', ''), which is not a pair"),
        ({"exclude_tables": [("a", "b", "c")]}, "exclude_tables has ('a', 'b', 'c')"),
        ({"actions": []}, "actions has (); choose from insert, update, delete, truncate"),
        ({"actions": ["upsert"]}, "actions has ('upsert',)"),
        ({"messages": True, "format_version": 1}, "messages need format_version=2"),
        ({"message_prefixes": ["a"]}, "message_prefixes is of no use without messages=True"),
        ({"messages": True, "message_prefixes": []}, "message_prefixes is ()"),
        ({"messages": True, "message_prefixes": ["a,b"]}, "message_prefixes is ('a,b',)"),
        ({"slot": "No"}, "slot 'No' cannot be the name of a replication slot"),
    ],
)
def test_what_cannot_work_is_said(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Wal2JsonSource("", **arguments)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"tables": "public.orders"},
            "tables is a list of pairs of schema and table, not a str: use [('public', 'orders')]",
        ),
        (
            {"exclude_tables": "orders"},
            "exclude_tables is a list of pairs of schema and table, not a str: use "
            "[(None, 'orders')]",
        ),
        ({"tables": 5}, "tables is a list of pairs of schema and table, not an int"),
        (
            {"tables": ["public.orders"]},
            "tables has 'public.orders': write the pair ('public', 'orders')",
        ),
        (
            {"tables": [["public", "orders"]]},
            "tables has ['public', 'orders']: write the pair ('public', 'orders')",
        ),
        ({"tables": [("public", 5)]}, "tables has ('public', 5): a pair's names are str or None"),
        ({"tables": [None]}, "tables has None: it takes pairs of schema and table"),
        ({"actions": "insert"}, "actions is a list of str, not a str: use ['insert']"),
        (
            {"messages": True, "message_prefixes": "app"},
            "message_prefixes is a list of str, not a str: use ['app']",
        ),
    ],
)
def test_a_wrong_type_is_told_what_is_wanted(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError) as caught:
        Wal2JsonSource("", **arguments)
    assert str(caught.value) == words


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Wal2JsonSource("", format_version=0, actions=["x"])  # type: ignore[arg-type,list-item]
    assert len(caught.value.problems) == 2


def test_options_choose_and_leave_nothing_out_else() -> None:
    default = wal2json_options()
    assert default["format-version"] == "2"
    assert "write-in-chunks" not in default
    assert "add-tables" not in default
    # There is no option for no messages.
    assert default["add-msg-prefixes"] == "realtime-core:no-messages"
    assert "add-msg-prefixes" not in wal2json_options(messages=True)
    chosen = wal2json_options(
        format_version=1,
        tables=[("public", "a"), (None, "Odd .*,'\\"), ("shop", None)],
        exclude_tables=[(None, None)],
        actions=["insert", "delete"],
        messages=True,
        message_prefixes=["a", "b"],
    )
    assert chosen["write-in-chunks"] == "true"
    assert chosen["add-tables"] == r"public.a,*.Odd\ \.\*\,\'\\,shop.*"
    assert chosen["filter-tables"] == "*.*"
    assert chosen["actions"] == "insert,delete"
    assert chosen["add-msg-prefixes"] == "a,b"


def test_positions_compare_where_the_same_changes_are_asked_for() -> None:
    def identity(**arguments: Any) -> tuple[str, ...]:
        defaults = {
            "format_version": 2,
            "tables": None,
            "exclude_tables": (),
            "actions": None,
            "messages": False,
            "message_prefixes": None,
        }
        return Wal2JsonSettings(**(defaults | arguments)).identity()

    assert identity() == ("wal2json", "format-version=2")
    one = identity(tables=[("a", "b"), ("c", None)], actions=["update", "insert"])
    assert one == identity(tables=[("c", None), ("a", "b")], actions=["insert", "update", "insert"])
    others = [
        identity(),
        identity(format_version=1),
        identity(tables=[("a", "b")]),
        identity(exclude_tables=[("a", "b")]),
        identity(actions=["insert"]),
        identity(messages=True),
        identity(messages=True, message_prefixes=["a"]),
    ]
    assert len(set(others)) == len(others)
