"""Joins: what is taken, what is refused, and with which words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_server.errors import JoinError
from realtime_server.phoenix import joins
from realtime_server.phoenix.joins import (
    Binding,
    BroadcastConfig,
    JoinConfig,
    PresenceConfig,
    ReplayConfig,
    parse_join,
    parsing_join,
)


def config(**members: Any) -> JoinConfig:
    parsed = parse_join({"config": members})
    assert parsed is not None
    return parsed


def bindings(*sent: Any) -> tuple[Binding, ...]:
    return config(postgres_changes=list(sent)).bindings


def refusal(payload: Any) -> str:
    with pytest.raises(JoinError) as caught:
        parse_join(payload)
    return caught.value.reason


def refused(*sent: Any) -> str:
    return refusal({"config": {"postgres_changes": list(sent)}})


TODOS = {"event": "*", "schema": "public", "table": "todos"}


@pytest.mark.parametrize("payload", [{}, [], None, "x", 5, {"user_token": "t"}])
def test_a_join_without_config_is_of_the_first_generation(payload: Any) -> None:
    assert parse_join(payload) is None


@pytest.mark.parametrize(
    "sent",
    [
        None,
        {},
        {"postgres_changes": []},
        {"postgres_changes": None},
        {"broadcast": {"ack": False, "self": False}, "presence": {"key": ""}, "private": False},
        {"something": "new"},
    ],
)
def test_a_config_without_bindings_has_none(sent: Any) -> None:
    parsed = parse_join({"config": sent})
    assert parsed is not None
    assert (parsed.bindings, parsed.wait) == ((), None)
    assert parsed.response() == {"postgres_changes": []}


def test_a_channel_is_private_if_it_says_so() -> None:
    for private in (True, "true", "TRUE"):
        assert config(private=private).is_private
    for public in (False, None, "False"):
        assert not config(private=public).is_private
    assert not config().is_private


def test_what_stock_clients_send_is_read() -> None:
    parsed = parse_join(
        {
            "config": {
                "broadcast": {"ack": False, "self": False},
                "presence": {"key": "", "enabled": False},
                "postgres_changes": [{**TODOS, "filter": "id=eq.1", "select": ["id", "task"]}],
                "postgres_changes_options": {"wait": True, "timeout": 15000},
                "private": False,
            },
            "access_token": "t",
        }
    )
    assert parsed is not None
    (binding,) = parsed.bindings
    assert (binding.event, binding.schema, binding.table) == ("*", "public", "todos")
    assert (binding.filter_text, binding.columns) == ("id=eq.1", {"id"})
    assert binding.select == {"id", "task"}
    assert not binding.leaves
    assert parsed.wait == 15


def test_the_reply_has_what_was_sent_verbatim_in_order_each_with_an_id() -> None:
    sent = [
        {**TODOS, "filter": ' id = eq.1 , "a"=eq."x"'.replace(" ", "")},
        {"event": "insert", "schema": "*"},
        {**TODOS, "event": "UPDATE", "filter": None},
        TODOS,
        TODOS,
    ]
    parsed = config(postgres_changes=sent)
    shown = parsed.response()["postgres_changes"]
    ids = [entry["id"] for entry in shown]
    assert shown == [{**entry, "id": id} for entry, id in zip(sent, ids, strict=True)]
    assert ids == [binding.id for binding in parsed.bindings]
    assert ids[3] == ids[4]
    assert len(set(ids)) == 4


def test_members_that_nobody_knows_are_not_echoed() -> None:
    sent = {**TODOS, "id": 5, "extra": [[]]}
    (shown,) = config(postgres_changes=[sent]).response()["postgres_changes"]
    assert shown.keys() == {*TODOS, "id"}
    assert shown["id"] != 5


def test_what_is_nested_deeply_is_refused_like_anything_else() -> None:
    deep: Any = json.loads("[" * 900 + "]" * 900)
    assert bindings({"table": "t", "extra": deep})
    for depth in (100, 900, 1024):
        deep = orjson.loads("[" * depth + "]" * depth)
        assert refused({"table": deep}).startswith(
            "config.postgres_changes[0].table must be a string, not "
        )


def test_an_id_is_the_same_each_time_and_tells_bindings_apart() -> None:
    variants: list[dict[str, Any]] = [
        TODOS,
        {**TODOS, "event": "INSERT"},
        {**TODOS, "schema": "other"},
        {**TODOS, "table": "other"},
        {**TODOS, "filter": "id=eq.1"},
        {**TODOS, "filter": "id=eq.1", "leaves": True},
        {**TODOS, "select": []},
        {**TODOS, "select": ["id"]},
    ]
    ids = [binding.id for binding in bindings(*variants)]
    assert len(set(ids)) == len(ids)
    assert [binding.id for binding in bindings(*reversed(variants))] == ids[::-1]
    assert all(0 < id < 2**31 for id in ids)
    # A rejoin after a restart knows it again.
    assert ids[0] == 229011251


def test_different_bindings_of_one_join_never_share_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "_MAX_ID", 5)
    tables = [{**TODOS, "table": name} for name in "abcda"]
    found = bindings(*tables)
    assert len({binding.id for binding in found[:4]}) == 4
    assert found[4] == found[0]
    assert all(binding.id for binding in found)


def test_what_is_left_out_is_anything_but_the_schema() -> None:
    assert bindings({})[0] == bindings({"event": "*", "schema": "public", "table": "*"})[0]
    assert bindings({"event": None, "schema": None, "table": None, "filter": None})
    (binding,) = bindings({"event": "delete"})
    assert binding.event == "DELETE"
    assert (binding.wants("DELETE"), binding.wants("INSERT")) == (True, False)


def test_an_empty_filter_is_none() -> None:
    assert bindings({**TODOS, "filter": ""})[0].filter is None


@pytest.mark.parametrize(
    ("options", "wait"),
    [
        ({}, None),
        ({"wait": False, "timeout": 5}, None),
        ({"wait": True}, 15),
        ({"wait": True, "timeout": 1500}, 1.5),
        ({"wait": True, "timeout": 10**9}, 20),
        ({"wait": True, "timeout": -1}, 0),
        (None, None),
    ],
)
def test_waiting_is_bounded(options: Any, wait: float | None) -> None:
    assert config(postgres_changes_options=options).wait == wait


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (5, "config must be an object, not 5"),
        ([], "config must be an object, not []"),
        ({"postgres_changes": "x"}, 'config.postgres_changes must be a list, not "x"'),
        ({"postgres_changes": {}}, "config.postgres_changes must be a list, not {}"),
        ({"postgres_changes": [5]}, "config.postgres_changes[0] must be an object, not 5"),
        (
            {"postgres_changes": [{}, {"table": 5}]},
            "config.postgres_changes[1].table must be a string, not 5",
        ),
        (
            {"postgres_changes": [{"select": "id"}]},
            'config.postgres_changes[0].select must be a list, not "id"',
        ),
        (
            {"postgres_changes": [{"select": ["id", True]}]},
            "config.postgres_changes[0].select[1] must be a string, not true",
        ),
        (
            {"postgres_changes": [{"leaves": 1}]},
            "config.postgres_changes[0].leaves must be true or false, not 1",
        ),
        (
            {"postgres_changes_options": {"timeout": "1"}},
            'config.postgres_changes_options.timeout must be a number, not "1"',
        ),
        (
            {"postgres_changes_options": {"timeout": True}},
            "config.postgres_changes_options.timeout must be a number, not true",
        ),
        ({"private": "yes"}, 'config.private must be true or false, not "yes"'),
        ({"broadcast": []}, "config.broadcast must be an object, not []"),
        (
            {"presence": "x" * 100},
            f'config.presence must be an object, not "{"x" * 39}…',
        ),
    ],
)
def test_a_wrong_shape_is_refused_with_its_place(members: Any, reason: str) -> None:
    assert refusal({"config": members}) == reason


def test_the_third_problem_is_the_last() -> None:
    assert refused({"event": 1}, {"table": 2}, {"schema": 3}, {"filter": 4}, 5) == (
        "config.postgres_changes[0].event must be a string, not 1; "
        "config.postgres_changes[1].table must be a string, not 2; "
        "config.postgres_changes[2].schema must be a string, not 3; nothing further was read"
    )


@pytest.mark.parametrize(
    ("binding", "reason"),
    [
        (
            {"event": "UPSERT"},
            '.event must be one of *, INSERT, UPDATE, DELETE, TRUNCATE, not "UPSERT"',
        ),
        (
            {**TODOS, "event": "TRUNCATE", "filter": "id=eq.1"},
            ".filter is about rows, and a TRUNCATE has none: leave it out",
        ),
        (
            {"filter": "id=eq.1"},
            ".filter is about one table's columns: name schema and table",
        ),
        (
            {"schema": "*", "table": "todos", "filter": "id=eq.1"},
            ".filter is about one table's columns: name schema and table",
        ),
        (
            {"table": "*", "select": ["id"]},
            ".select chooses among one table's columns: name schema and table",
        ),
        ({**TODOS, "leaves": True}, ".leaves is about rows that leave a filter: give it a filter"),
        (
            {**TODOS, "event": "UPDATE", "filter": "id=eq.1", "leaves": True},
            ".leaves is told as a DELETE: ask for the event * or DELETE",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(binding: Any, reason: str) -> None:
    assert refused(TODOS, binding) == f"config.postgres_changes[1]{reason}"


def test_an_error_in_a_filter_tells_its_position() -> None:
    reason = refused({**TODOS, "filter": "id=eq.1,task=equals.x"})
    assert reason.startswith("config.postgres_changes[0].filter: unknown operator 'equals'")
    assert "at character 14 of 'id=eq.1,task=equals.x'" in reason


def test_a_join_has_so_many_bindings_and_no_more() -> None:
    assert len(bindings(*[TODOS] * 100)) == 100
    assert refused(*[TODOS] * 101) == (
        "config.postgres_changes has 101 entries, at most 100 are taken"
    )


class CountedList(list[Any]):
    """A list that knows how many of its entries were read."""

    read = 0

    def __iter__(self) -> Iterator[Any]:
        for entry in super().__iter__():
            self.read += 1
            yield entry


@pytest.mark.parametrize(
    ("sent", "place", "most"),
    [
        ([1] * 120_000, "config.postgres_changes", 100),
        ([{}] * 120_000, "config.postgres_changes", 100),
        ([{**TODOS, "select": [1] * 120_000}], "config.postgres_changes[0].select", 1600),
    ],
)
def test_a_list_that_is_too_long_is_not_read(sent: list[Any], place: str, most: int) -> None:
    counted = CountedList(sent)
    if most == 1600:
        selected = counted[0]["select"] = CountedList(sent[0]["select"])
    else:
        selected = counted
    reason = refusal({"config": {"postgres_changes": counted}})
    assert reason == f"{place} has 120000 entries, at most {most} are taken"
    assert selected.read == 0


def test_nothing_is_read_behind_the_third_problem() -> None:
    selected = CountedList([1] * 1600)
    entries = CountedList([{**TODOS, "select": selected}] * 100)
    assert refusal({"config": {"postgres_changes": entries}}) == (
        "config.postgres_changes[0].select[0] must be a string, not 1; "
        "config.postgres_changes[0].select[1] must be a string, not 1; "
        "config.postgres_changes[0].select[2] must be a string, not 1; nothing further was read"
    )
    assert (entries.read, selected.read) == (1, 3)


def test_a_long_join_is_read_in_steps() -> None:
    entries = [
        {**TODOS, "filter": ",".join(f"id=neq.{place}{number}" for number in range(5))}
        for place in range(100)
    ]
    steps = parsing_join({"config": {"postgres_changes": entries}})
    # One for each binding, after which others have their turn.
    assert sum(1 for _ in steps) == 101


@pytest.mark.parametrize(
    ("filters", "refused"),
    [
        ([",".join(f"id=neq.{number}" for number in range(250))] * 3, 2),
        (["details=match.a"] * 11, 10),
        (["details=like.*a_" + "b" * 70 + "*"] * 8, 4),
        ([f"tags=cs.{{{'1,' * 2500}1}}"] * 3, 1),
    ],
)
def test_the_filters_of_a_join_are_bounded_by_what_they_cost_together(
    filters: list[str], refused: int
) -> None:
    entries = [{**TODOS, "filter": text} for text in filters]
    assert parse_join({"config": {"postgres_changes": entries[:refused]}}) is not None
    # Nothing is read behind the one that is too much.
    entries.append({**TODOS, "filter": "("})
    with pytest.raises(JoinError) as caught:
        parse_join({"config": {"postgres_changes": entries}})
    assert caught.value.reason == (
        f"config.postgres_changes[{refused}].filter: the filters of one join cost as much as 500 "
        "conditions at most, where a regular expression counts as 50; join several topics, or with "
        "fewer filters"
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = ("event", "schema", "table", "filter", "select", "leaves")
entries = st.dictionaries(
    st.sampled_from([*MEMBERS, "id"]),
    values | st.sampled_from(["*", "INSERT", "id=eq.1", "a"]),
    max_size=7,
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "postgres_changes": st.lists(entries | values, max_size=3) | values,
        "postgres_changes_options": values
        | st.fixed_dictionaries({}, optional={"wait": values, "timeout": values}),
        "broadcast": values,
        "presence": values,
        "private": values,
    },
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({"config": configs | values}))
def test_any_config_is_echoed_or_refused_with_a_reason(payload: Any) -> None:
    try:
        parsed = parse_join(payload)
    except JoinError as caught:
        reason = caught.reason
    else:
        reason = ""
    if reason:
        assert reason.startswith(("config", "PrivateChannelsDisabled: "))
        return
    assert parsed is not None
    shown = parsed.response()["postgres_changes"]
    sent = (payload["config"] or {}).get("postgres_changes") or []
    assert json.loads(json.dumps(shown)) == [
        {**{name: entry[name] for name in MEMBERS if name in entry}, "id": one["id"]}
        for entry, one in zip(sent, shown, strict=True)
    ]
    assert all(one["id"] for one in shown)


# How a channel broadcasts.


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (None, BroadcastConfig()),
        ({}, BroadcastConfig()),
        ({"ack": None, "self": None, "bytes": None, "replay": None}, BroadcastConfig()),
        ({"replication_ready": "true"}, BroadcastConfig(wants_stream_notice=True)),
        ({"replication_ready": False}, BroadcastConfig()),
        ({"ack": True, "self": False, "other": 1}, BroadcastConfig(acknowledges=True)),
        ({"ack": "TRUE", "self": "true"}, BroadcastConfig(acknowledges=True, hears_itself=True)),
        ({"bytes": "false"}, BroadcastConfig(takes_bytes=False)),
    ],
)
def test_how_a_channel_broadcasts(sent: Any, expected: BroadcastConfig) -> None:
    assert config(broadcast=sent).broadcast == expected
    assert BroadcastConfig() == BroadcastConfig(
        acknowledges=False, hears_itself=False, takes_bytes=True
    )


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"ack": 1}, "config.broadcast.ack must be true or false, not 1"),
        ({"self": "yes"}, 'config.broadcast.self must be true or false, not "yes"'),
        ({"bytes": {}}, "config.broadcast.bytes must be true or false, not {}"),
        ({"replay": 7}, "config.broadcast.replay must be an object, not 7"),
        (
            {"replay": {"since": 0}},
            "UnableToReplayMessages: only private channels replay broadcasts; join with private "
            "true, or without config.broadcast.replay",
        ),
    ],
)
def test_a_broadcast_that_is_not_understood_is_refused(sent: Any, reason: str) -> None:
    assert refusal({"config": {"broadcast": sent}}) == reason


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (None, PresenceConfig("", is_enabled=False)),
        ({}, PresenceConfig("", is_enabled=True)),
        ({"key": None, "enabled": None}, PresenceConfig("", is_enabled=True)),
        ({"key": "", "enabled": False}, PresenceConfig("", is_enabled=False)),
        ({"key": "é" * 127, "enabled": "TRUE"}, PresenceConfig("é" * 127, is_enabled=True)),
        ({"key": 7, "enabled": "false"}, PresenceConfig("7", is_enabled=False)),
        ({"key": 1.5}, PresenceConfig("1.5", is_enabled=True)),
        ({"key": False, "other": 1}, PresenceConfig("false", is_enabled=True)),
    ],
)
def test_what_a_channel_asks_of_presence(sent: Any, expected: PresenceConfig) -> None:
    assert config(presence=sent).presence == expected


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"key": []}, "config.presence.key must be a string, not []"),
        (
            {"key": "é" * 128},
            f'config.presence.key must be 255 bytes at most, not "{"é" * 39}…',
        ),
        ({"enabled": 1}, "config.presence.enabled must be true or false, not 1"),
    ],
)
def test_presence_that_is_not_understood_is_refused(sent: Any, reason: str) -> None:
    assert refusal({"config": {"presence": sent}}) == reason


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({}, ReplayConfig(0.0, 10)),
        ({"since": None, "limit": None}, ReplayConfig(0.0, 10)),
        ({"since": 1764374400000.5, "limit": 25}, ReplayConfig(1764374400000.5, 25)),
    ],
)
def test_which_stored_broadcasts_a_private_channel_wants(sent: Any, expected: ReplayConfig) -> None:
    parsed = config(private=True, broadcast={"replay": sent})
    assert parsed.broadcast.replay == expected
    assert config(private=True).broadcast.replay is None


@pytest.mark.parametrize(
    ("sent", "place"),
    [
        *(({"since": since}, "since") for since in (-1, True, "0", 1e300, float("nan"), [])),
        *(({"limit": limit}, "limit") for limit in (0, 26, 1.5, True, "1")),
    ],
)
def test_a_replay_that_is_not_understood_is_refused(sent: Any, place: str) -> None:
    told = refusal({"config": {"private": True, "broadcast": {"replay": sent}}})
    assert f"config.broadcast.replay.{place} must be a" in told
