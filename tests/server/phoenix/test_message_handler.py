"""SocketState: what each message means. Messages in, actions out."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from realtime_server.auth.grant import Grant
from realtime_server.phoenix.actions import (
    Action,
    Channel,
    CheckGrants,
    Close,
    Departure,
    Join,
    Refresh,
    RefuseBroadcast,
    RefusePayload,
    RefusePresence,
    Release,
    Send,
    Subscribe,
)
from realtime_server.phoenix.joins import parse_join
from realtime_server.phoenix.message_handler import SocketState
from realtime_server.phoenix.messages import Message, number_of
from realtime_server.phoenix.reasons import BroadcastReason, PresenceReason
from realtime_server.phoenix.serializers import SERIALIZERS

TOPIC = "realtime:public:todos"


@attrs.frozen
class Socket:
    """A socket's state, written to in its own version."""

    vsn: str
    state: SocketState
    has_join_refs: bool
    """Whether the client sends them: in V1 some do not."""

    def receive(
        self, topic: str, event: str, payload: Any = None, ref: Any = "2", join_ref: Any = None
    ) -> list[Action]:
        payload = {} if payload is None else payload
        if self.vsn == "1.0.0":
            frame: Any = {"topic": topic, "event": event, "payload": payload, "ref": ref}
            if self.has_join_refs:
                frame["join_ref"] = join_ref
        else:
            frame = [join_ref, ref, topic, event, payload]
        return self.state.receive(json.dumps(frame))

    def join(self, topic: str = TOPIC, ref: Any = "1", payload: Any = None) -> Channel:
        """Join and accept; return the membership."""
        *_, action = self.receive(topic, "phx_join", payload, ref=ref, join_ref=ref)
        assert isinstance(action, Join)
        _, subscribe = self.state.accept(action.channel, parse_join(payload))
        assert isinstance(subscribe, Subscribe)
        return subscribe.channel

    def join_ref(self, ref: Any) -> Any:
        """What a message of this client says of the join."""
        return ref if self.has_join_refs else None


def make_socket(vsn: str, *, has_join_refs: bool) -> Socket:
    state = SocketState(SERIALIZERS[vsn], max_payload_bytes=1000)
    return Socket(vsn, state, has_join_refs)


@pytest.fixture(params=["1.0.0", "1.0.0 without join_ref", "2.0.0"])
def socket(request: pytest.FixtureRequest) -> Socket:
    vsn, _, without = request.param.partition(" ")
    return make_socket(vsn, has_join_refs=not without)


@pytest.fixture(params=["1.0.0", "2.0.0"])
def told(request: pytest.FixtureRequest) -> Socket:
    """A socket whose client says to which of its memberships a message belongs."""
    return make_socket(request.param, has_join_refs=True)


def reply(topic: str, status: str, response: Any, ref: Any = "2", join_ref: Any = None) -> Send:
    payload = {"status": status, "response": response}
    return Send(Message(topic, "phx_reply", payload, ref, join_ref))


@pytest.mark.parametrize("ref", ["1", 1, 1.5, None])
def test_at_a_heartbeat_the_channels_are_checked_and_it_is_answered_with_its_ref(
    socket: Socket, ref: Any
) -> None:
    answer = reply("phoenix", "ok", {}, ref)
    assert socket.receive("phoenix", "heartbeat", ref=ref) == [CheckGrants(), answer]


@pytest.mark.parametrize("payload", [{}, [], {"user_token": "x"}])
def test_a_join_is_for_the_caller_to_decide(socket: Socket, payload: Any) -> None:
    actions = socket.receive(TOPIC, "phx_join", payload, ref="1", join_ref="1")
    join_ref = socket.join_ref("1")
    [join] = actions
    assert isinstance(join, Join)
    assert join.payload == payload
    channel = join.channel
    assert (channel.topic, channel.ref, channel.join_ref) == (TOPIC, "1", join_ref)
    assert not channel.is_joined
    assert socket.state.channels == {}


def test_an_accepted_join_is_answered_before_changes_come(socket: Socket) -> None:
    (action,) = socket.receive(TOPIC, "phx_join", ref="1", join_ref="1")
    assert isinstance(action, Join)
    sent, subscribe = socket.state.accept(action.channel)
    assert sent == reply(TOPIC, "ok", {}, "1", socket.join_ref("1"))
    assert isinstance(subscribe, Subscribe)
    channel = subscribe.channel
    assert socket.state.channels == {TOPIC: channel}
    assert (channel.topic, channel.ref, channel.join_ref) == (TOPIC, "1", socket.join_ref("1"))
    assert (channel.config, channel.grant) == (None, Grant())
    assert channel.name == "public:todos"


CONFIG = {"config": {"postgres_changes": [{"event": "*", "schema": "public"}]}}


@pytest.mark.parametrize("payload", [{}, [], {"user_token": "x"}, {"config": {}}, CONFIG])
def test_a_channel_knows_its_grant_and_what_it_asked_for(socket: Socket, payload: Any) -> None:
    (action,) = socket.receive(TOPIC, "phx_join", payload)
    assert isinstance(action, Join)
    grant, config = Grant({"role": "editor"}, 100), parse_join(payload)
    socket.state.accept(action.channel, config, grant=grant)
    channel = socket.state.channels[TOPIC]
    assert (channel.config, channel.grant, channel.grant.role) == (config, grant, "editor")


def test_a_join_with_config_is_answered_with_its_bindings(socket: Socket) -> None:
    (action,) = socket.receive(TOPIC, "phx_join", CONFIG, ref="1")
    assert isinstance(action, Join)
    config = parse_join(CONFIG)
    assert config is not None
    sent, _ = socket.state.accept(action.channel, config)
    assert sent == reply(TOPIC, "ok", config.response(), "1")


def test_bindings_in_place_are_told_with_the_channels_name(socket: Socket) -> None:
    told = {
        "channel": "public:todos",
        "extension": "postgres_changes",
        "status": "ok",
        "message": "Subscribed to PostgreSQL",
    }
    channel = socket.join(payload=CONFIG)
    assert socket.state.in_place(channel) == [Send(Message(TOPIC, "system", told))]


def test_where_there_are_no_rooms_what_is_for_one_is_refused_and_the_channel_stays(
    socket: Socket,
) -> None:
    channel = socket.join(payload=CONFIG)
    for event in ("broadcast", "presence"):
        (refused,) = socket.receive(TOPIC, event, ref="2", join_ref=channel.join_ref)
        message = Message(TOPIC, event, {}, "2", channel.join_ref)
        assert refused == (
            RefuseBroadcast(channel, message, BroadcastReason.DISABLED)
            if event == "broadcast"
            else RefusePresence(message, PresenceReason.DISABLED)
        )
    assert socket.state.channels == {TOPIC: channel}


@pytest.mark.parametrize("event", ["broadcast", "presence"])
def test_the_first_generation_knows_no_such_events(socket: Socket, event: str) -> None:
    channel = socket.join()
    assert socket.receive(TOPIC, event) == [
        Release(channel, Departure.REJOINING),
        Send(Message(TOPIC, "phx_error", {}, channel.join_ref, channel.join_ref)),
    ]


# Joins that wait.


def postpone(socket: Socket, ref: str) -> Channel:
    *_, action = socket.receive(TOPIC, "phx_join", CONFIG, ref=ref, join_ref=ref)
    assert isinstance(action, Join)
    socket.state.postpone(action.channel)
    return action.channel


def test_a_postponed_join_is_not_joined_until_it_is_accepted(socket: Socket) -> None:
    channel = postpone(socket, "1")
    assert socket.state.channels == {TOPIC: channel}
    assert not channel.is_joined
    refused = reply(TOPIC, "error", {"reason": "unmatched topic"}, "2", socket.join_ref("1"))
    assert socket.receive(TOPIC, "access_token", ref="2", join_ref="1") == [refused]
    socket.state.accept(channel)
    assert socket.state.channels == {TOPIC: channel}
    assert channel.is_joined


def test_a_postponed_join_that_is_refused_can_be_tried_again(socket: Socket) -> None:
    channel = postpone(socket, "1")
    assert socket.state.refuse_join(channel, "too late") == [
        reply(TOPIC, "error", {"reason": "too late"}, "1", socket.join_ref("1"))
    ]
    assert socket.state.channels == {}
    assert socket.join().is_joined


def test_a_leave_withdraws_a_postponed_join(socket: Socket) -> None:
    channel = postpone(socket, "1")
    assert socket.receive(TOPIC, "phx_leave", ref="2", join_ref="1") == [
        Release(channel, Departure.LEFT),
        reply(TOPIC, "ok", {}, "2", socket.join_ref("1")),
    ]
    assert socket.state.channels == {}


def test_another_join_takes_a_postponed_ones_place(socket: Socket) -> None:
    channel = postpone(socket, "1")
    release, join = socket.receive(TOPIC, "phx_join", CONFIG, ref="2", join_ref="2")
    assert release == Release(channel, Departure.REJOINING)
    assert isinstance(join, Join)


def test_a_refused_join_is_answered_and_can_be_tried_again(socket: Socket) -> None:
    (action,) = socket.receive(TOPIC, "phx_join", ref="1", join_ref="1")
    assert isinstance(action, Join)
    assert socket.state.refuse_join(action.channel, "not you") == [
        reply(TOPIC, "error", {"reason": "not you"}, "1", socket.join_ref("1"))
    ]
    assert socket.state.channels == {}
    assert socket.join().topic == TOPIC


@pytest.mark.parametrize("topic", ["phoenix", "room:lobby", "realtime", "Realtime:x", ""])
def test_a_join_outside_of_realtime_is_unmatched(socket: Socket, topic: str) -> None:
    assert socket.receive(topic, "phx_join", ref="1", join_ref="1") == [
        reply(topic, "error", {"reason": "unmatched topic"}, "1", socket.join_ref("1"))
    ]


def test_the_empty_realtime_topic_can_be_joined(socket: Socket) -> None:
    assert socket.join("realtime:").name == ""


def test_a_leave_ends_the_membership_is_answered_and_closed(socket: Socket) -> None:
    channel = socket.join(ref="1")
    joined = socket.join_ref("1")
    assert socket.receive(TOPIC, "phx_leave", ref="2", join_ref="1") == [
        Release(channel, Departure.LEFT),
        reply(TOPIC, "ok", {}, "2", joined),
        Send(Message(TOPIC, "phx_close", {}, joined, joined)),
    ]
    assert socket.state.channels == {}


def test_a_leave_of_a_topic_that_is_not_joined_is_answered_and_not_closed(socket: Socket) -> None:
    answer = [reply(TOPIC, "ok", {}, "2", socket.join_ref("1"))]
    assert socket.receive(TOPIC, "phx_leave", join_ref="1") == answer
    socket.join()
    socket.receive(TOPIC, "phx_leave", join_ref="1")
    assert socket.receive(TOPIC, "phx_leave", join_ref="1") == answer


def test_a_second_join_ends_the_first_without_a_close(socket: Socket) -> None:
    first = socket.join(ref="1")
    former, action = socket.receive(TOPIC, "phx_join", ref="2", join_ref="2")
    assert former == Release(first, Departure.REJOINING)
    assert isinstance(action, Join)
    _, subscribe = socket.state.accept(action.channel)
    assert isinstance(subscribe, Subscribe)
    assert subscribe.channel != first
    assert socket.state.channels == {TOPIC: subscribe.channel}


def test_a_refused_second_join_leaves_no_membership(socket: Socket) -> None:
    socket.join(ref="1")
    _, action = socket.receive(TOPIC, "phx_join", ref="2", join_ref="2")
    assert isinstance(action, Join)
    socket.state.refuse_join(action.channel, "not you")
    assert socket.state.channels == {}


@pytest.mark.parametrize("event", ["INSERT", "anything", "access_token", "phx_close", "phx_error"])
def test_an_event_on_a_topic_that_is_not_joined_is_unmatched(socket: Socket, event: str) -> None:
    assert socket.receive(TOPIC, event) == [
        reply(TOPIC, "error", {"reason": "unmatched topic"}, "2")
    ]


def test_another_event_on_the_phoenix_topic_is_unmatched(socket: Socket) -> None:
    assert socket.receive("phoenix", "anything") == [
        reply("phoenix", "error", {"reason": "unmatched topic"}, "2")
    ]


def test_a_heartbeat_on_another_topic_is_none(socket: Socket) -> None:
    assert socket.receive("other", "heartbeat") == [
        reply("other", "error", {"reason": "unmatched topic"}, "2")
    ]


@pytest.mark.parametrize(
    ("payload", "token"),
    [
        ({"access_token": "x"}, "x"),
        ({"access_token": None}, None),
        ({"access_token": 5}, 5),
        ({}, None),
        ([], None),
        ("x", None),
    ],
)
def test_an_access_token_is_for_the_caller_to_decide(
    socket: Socket, payload: Any, token: Any
) -> None:
    channel = socket.join()
    actions = socket.receive(TOPIC, "access_token", payload, join_ref="1")
    assert actions == [Refresh(channel, token)]
    assert socket.state.channels == {TOPIC: channel}


def test_the_end_of_a_membership_is_an_error_to_the_first_generation(socket: Socket) -> None:
    channel, joined = socket.join(ref="1"), socket.join_ref("1")
    assert socket.state.end(channel, "the token has expired") == [
        Release(channel, Departure.REFUSED),
        Send(Message(TOPIC, "phx_error", {}, joined, joined)),
    ]
    assert socket.state.channels == {}


def test_who_should_join_again_in_a_moment_is_told_of_an_error(socket: Socket) -> None:
    channel, joined = socket.join(ref="1", payload={"config": {}}), socket.join_ref("1")
    *_, last = socket.state.end(channel, "not now", for_good=False)
    assert last == Send(Message(TOPIC, "phx_error", {}, joined, joined))


def test_later_generations_are_told_why_a_membership_ends(socket: Socket) -> None:
    channel, joined = socket.join(ref="1", payload={"config": {}}), socket.join_ref("1")
    assert socket.state.end(channel, "the token has expired") == [
        Release(channel, Departure.REFUSED),
        Send(
            Message(
                TOPIC,
                "system",
                {
                    "channel": "public:todos",
                    "extension": "system",
                    "status": "error",
                    "message": "the token has expired",
                },
            )
        ),
        Send(Message(TOPIC, "phx_close", {}, joined, joined)),
    ]
    assert socket.state.channels == {}


def test_a_membership_ends_once(socket: Socket) -> None:
    former = socket.join(ref="1")
    channel = socket.join(ref="2")
    assert socket.state.end(former, "late") == []
    assert socket.state.channels == {TOPIC: channel}
    socket.state.end(channel, "the first")
    assert socket.state.end(channel, "the second") == []


@pytest.mark.parametrize("event", ["phx_join", "access_token", "heartbeat"])
@pytest.mark.parametrize("letter", ["x", "漢", '"'])
def test_a_payload_may_be_so_large_and_no_larger(socket: Socket, event: str, letter: str) -> None:
    size = len(json.dumps(letter, ensure_ascii=False).encode()) - 2
    most = letter * ((1000 - 2) // size)
    assert not isinstance(socket.receive(TOPIC, event, most)[0], RefusePayload)
    (refused,) = socket.receive(TOPIC, event, most + letter)
    assert isinstance(refused, RefusePayload)
    assert refused.message.event == event


@pytest.mark.parametrize("event", ["anything", "heartbeat", "INSERT", "phx_reply", ""])
def test_an_unknown_event_ends_the_membership_with_an_error(socket: Socket, event: str) -> None:
    channel = socket.join(ref="1")
    joined = socket.join_ref("1")
    assert socket.receive(TOPIC, event, join_ref="1") == [
        Release(channel, Departure.REJOINING),
        Send(Message(TOPIC, "phx_error", {}, joined, joined)),
    ]
    assert socket.state.channels == {}
    assert socket.join(ref="3") != channel


@pytest.mark.parametrize("event", ["phx_leave", "access_token", "anything"])
def test_a_message_of_an_earlier_membership_is_ignored(told: Socket, event: str) -> None:
    told.join(ref="1")
    channel = told.join(ref="2")
    assert told.receive(TOPIC, event, ref="3", join_ref="1") == []
    assert told.state.channels == {TOPIC: channel}


def test_a_leave_of_an_earlier_membership_does_not_withdraw_a_postponed_join(told: Socket) -> None:
    told.join(ref="1")
    channel = postpone(told, "2")
    assert told.receive(TOPIC, "phx_leave", ref="3", join_ref="1") == []
    assert told.state.channels == {TOPIC: channel}


def test_the_end_of_an_earlier_membership_is_told_with_its_own_join_ref(told: Socket) -> None:
    told.join(ref="1")
    *_, close = told.receive(TOPIC, "phx_leave", ref="2", join_ref="1")
    told.join(ref="3")
    assert isinstance(close, Send)
    assert json.loads(SERIALIZERS[told.vsn].encode(close.message)) == (
        {"topic": TOPIC, "event": "phx_close", "payload": {}, "ref": "1"}
        if told.vsn == "1.0.0"
        else ["1", "1", TOPIC, "phx_close", {}]
    )


@pytest.fixture
def v1() -> Socket:
    return make_socket("1.0.0", has_join_refs=True)


def leave_and_wait(v1: Socket) -> Action:
    """Leave a channel of a binding client; return what waits."""
    channel = v1.join(ref="1", payload={"config": {}})
    assert v1.receive(TOPIC, "phx_leave", ref="2", join_ref="1") == [
        Release(channel, Departure.LEFT),
        reply(TOPIC, "ok", {}, "2", "1"),
    ]
    assert v1.state.is_waiting
    return Send(Message(TOPIC, "phx_close", {}, "1", "1"))


def test_todays_clients_that_join_again_in_v1_get_no_close(v1: Socket) -> None:
    leave_and_wait(v1)
    (join,) = v1.receive(TOPIC, "phx_join", {"config": {}}, ref="3", join_ref="3")
    assert isinstance(join, Join)
    assert not v1.state.is_waiting


@pytest.mark.parametrize(
    ("topic", "event"),
    [("realtime:other", "phx_join"), (TOPIC, "phx_leave"), ("phoenix", "heartbeat")],
)
def test_any_other_message_lets_a_close_be_sent(v1: Socket, topic: str, event: str) -> None:
    expected = leave_and_wait(v1)
    assert v1.receive(topic, event, ref="3", join_ref="1")[0] == expected
    assert not v1.state.is_waiting


def test_a_close_is_sent_when_no_message_comes(v1: Socket) -> None:
    expected = leave_and_wait(v1)
    assert v1.state.part() == [expected]
    assert v1.state.part() == []


def test_a_message_without_join_ref_belongs_to_the_membership_there_is(told: Socket) -> None:
    channel = told.join(ref="1")
    assert told.receive(TOPIC, "phx_leave", ref="2", join_ref=None) == [
        Release(channel, Departure.LEFT),
        reply(TOPIC, "ok", {}, "2"),
        Send(Message(TOPIC, "phx_close", {}, "1", "1")),
    ]


def test_a_membership_without_join_ref_gets_every_message(told: Socket) -> None:
    channel = told.join(ref=None)
    assert told.receive(TOPIC, "phx_leave", ref="2", join_ref="1") == [
        Release(channel, Departure.LEFT),
        reply(TOPIC, "ok", {}, "2", "1"),
        Send(Message(TOPIC, "phx_close", {}, None, None)),
    ]


def test_topics_are_independent(socket: Socket) -> None:
    one, two = socket.join("realtime:one", ref="1"), socket.join("realtime:two", ref="2")
    socket.receive("realtime:one", "phx_leave", join_ref="1")
    assert one not in socket.state.channels.values()
    assert socket.state.channels == {"realtime:two": two}


def test_what_is_no_message_closes_with_code_and_reason(socket: Socket) -> None:
    assert socket.state.receive("{") == [Close(1007, "the message is not JSON")]


def test_after_a_close_nothing_is_answered(socket: Socket) -> None:
    socket.state.receive(b"\0")
    assert socket.receive("phoenix", "heartbeat") == []
    assert socket.receive(TOPIC, "phx_join") == []


@pytest.mark.parametrize(
    ("ref", "number"),
    [
        ("7", 7),
        (7, 7),
        ("0", 0),
        ("", None),
        (None, None),
        ("x", None),
        ("-1", None),
        (-1, None),
        (1.5, None),
        ("٣", None),
        ("9" * 16, None),
        (10**15, None),
    ],
)
def test_a_ref_is_a_number_or_not(ref: Any, number: int | None) -> None:
    assert number_of(ref) == number


def test_the_highest_ref_of_the_client_is_kept(v1: Socket) -> None:
    for ref in ("3", "12", "", None, "5"):
        v1.receive("phoenix", "heartbeat", ref=ref)
    assert v1.state.last_ref == 12
