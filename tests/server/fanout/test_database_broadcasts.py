"""What the database broadcasts, in one order with everything else of the rooms."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from realtime_core import RowChange
from realtime_server.fanout.database_broadcasts import DatabaseBroadcasts
from realtime_server.fanout.dispatch import Dispatch
from realtime_server.fanout.frames import TextFrame
from realtime_server.fanout.room import Member
from realtime_server.phoenix.broadcasts import Broadcast
from tests.server.fanout.test_message_rows import row
from tests.server.fanout.test_rooms import Loop, inbox


def numbers(member: Member) -> list[int]:
    return inbox(member).payloads()


def message(number: int, **values: str | None) -> RowChange:
    return row(payload=json.dumps(number), private="f", **values)


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def broadcasts(loop: Loop) -> DatabaseBroadcasts:
    return DatabaseBroadcasts(loop.rooms, max_payload_bytes=1000, clock=lambda: 0.0)


def test_members_get_rows_in_one_write_and_other_servers_nothing(
    loop: Loop, broadcasts: DatabaseBroadcasts
) -> None:
    members = [loop.join(), loop.join(vsn="1.0.0")]
    loop.bus.told.clear()
    assert list(broadcasts.sending([message(1), message(2, topic="other"), message(3)])) == []
    for member in members:
        assert numbers(member) == [1, 3]
        assert len(inbox(member).writes) == 1
    assert loop.bus.told == []
    assert broadcasts.stats().broadcasts == 3


def test_pushes_wait_until_a_dispatch_has_written_its_rows(
    loop: Loop, broadcasts: DatabaseBroadcasts
) -> None:
    sender, member = loop.join(), loop.join()
    dispatch = Dispatch(lambda: 0.0)
    assert list(broadcasts.adding(message(1), dispatch)) == []
    loop.send(2, sender)
    loop.turns()
    assert numbers(member) == []
    for _ in dispatch.hand_out():
        pass
    broadcasts.release()
    loop.turns()
    assert numbers(member) == [1, 2]


def test_rows_wait_until_the_rooms_have_written_what_they_began() -> None:
    # Each look at the clock ends a slice of time.
    times = iter(range(10_000))
    loop = Loop(lambda: float(next(times)))
    broadcasts = DatabaseBroadcasts(loop.rooms, max_payload_bytes=1000, clock=lambda: 0.0)
    sender, *members = [loop.join() for _ in range(5)]
    for number in range(3):
        loop.send(number, sender)
    loop.turn()
    # Some have got it, and some have not.
    steps = broadcasts.sending([message(7)])
    waits = 0
    for _ in steps:
        waits += 1
        loop.send(8 + waits, sender)
        loop.turn()
    loop.turns()
    assert waits > 0
    orders = [numbers(member) for member in members]
    assert all(order == orders[0] for order in orders)
    # Only what was begun is written before.
    assert orders[0] == [0, 7, 1, 2, *(8 + number for number in range(1, waits + 1))]


def test_whoever_is_cancelled_meanwhile_waits_for_no_turn_of_the_event_loop() -> None:
    """As :func:`.run_steps` then does all steps without a pause, which would have no end."""
    times = iter(range(10_000))
    loop = Loop(lambda: float(next(times)))
    broadcasts = DatabaseBroadcasts(loop.rooms, max_payload_bytes=1000, clock=lambda: 0.0)
    sender, *members = [loop.join() for _ in range(5)]
    loop.send(1, sender)
    loop.turn()
    loop.send(2, sender)
    assert len([*islice(broadcasts.sending([message(7)]), 1000)]) < 1000
    assert [numbers(member) for member in members] == [[1, 7]] * 4
    loop.turns()
    assert [numbers(member) for member in members] == [[1, 7, 2]] * 4


def test_a_room_without_members_holds_nobody_up(loop: Loop, broadcasts: DatabaseBroadcasts) -> None:
    member = loop.join()
    dispatch = Dispatch(lambda: 0.0)
    assert list(broadcasts.adding(message(1, topic="other"), dispatch)) == []
    loop.send(2)
    loop.turns()
    assert numbers(member) == [2]


def test_a_dispatch_may_have_changes_between_the_rows(
    loop: Loop, broadcasts: DatabaseBroadcasts
) -> None:
    member = loop.join()
    dispatch = Dispatch(lambda: 0.0)
    change = json.dumps([None, None, "t", "e", {"payload": "change"}]).encode()
    ((members, _),) = loop.rooms.frames(member.room, Broadcast("m", b"1"))
    for number in range(2):
        list(broadcasts.adding(message(number), dispatch))
        dispatch.add(members, TextFrame(change))
    list(dispatch.hand_out())
    broadcasts.release()
    assert inbox(member).payloads() == [0, "change", 1, "change"]
    assert len(inbox(member).writes) == 1


def test_the_transactions_of_private_messages_are_remembered_whoever_is_there(
    broadcasts: DatabaseBroadcasts,
) -> None:
    """Somebody may join before queries see them."""
    list(broadcasts.sending([message(1), row(extension="presence")]))
    assert [*broadcasts.commits.xids()] == []
    private = row()
    list(broadcasts.sending([private]))
    assert [*broadcasts.commits.xids()] == [private.transaction.xid]
