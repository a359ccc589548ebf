"""Bodies: the original's JSON, in parts, and what names a request."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import orjson

from realtime_core import LSN, StreamIdentity, Transaction
from realtime_server.webhooks.body import Bodies, Body, message_id
from tests.server_helpers import COMMIT_TIME, TRANSACTION

STREAM = StreamIdentity(7, 1, ("shop",))
COMMITTED = attrs.evolve(TRANSACTION, stream=STREAM)


def bodies_of(*changes: bytes, most: int, transaction: Transaction = COMMITTED) -> list[Body]:
    bodies = Bodies(transaction, most)
    parts = [bodies.add(change, index) for index, change in enumerate(changes)]
    return [part for part in (*parts, bodies.end()) if part is not None]


def test_a_body_has_the_commits_time_and_the_changes() -> None:
    (body,) = bodies_of(b'{"a":1}', b'{"b":2}', most=1000)
    expected = b'{"commit_timestamp":"2026-11-24T05:36:00.166595Z","changes":[{"a":1},{"b":2}]}'
    assert body.content == expected
    assert (body.first, body.last, body.part, body.is_last) == (0, 1, 1, True)
    assert str(body.position) == "0/1000:1@7.1/shop"


def test_nothing_makes_no_body() -> None:
    assert bodies_of(most=1000) == []


def test_what_does_not_fit_goes_in_numbered_parts() -> None:
    changes = [b"%d" % number for number in range(100_000, 100_010)]
    room = Bodies(COMMITTED, 1000).room
    # Two changes and their commas.
    parts = bodies_of(*changes, most=1000 - room + 14)
    assert [(part.first, part.last, part.part, part.is_last) for part in parts] == [
        *((2 * part - 2, 2 * part - 1, part, False) for part in (1, 2, 3, 4)),
        (8, 9, 5, True),
    ]
    assert all(len(part.content) <= 1000 - room + 14 for part in parts)
    told = [change for part in parts for change in orjson.loads(part.content)["changes"]]
    assert told == list(range(100_000, 100_010))


def test_a_change_that_is_too_large_has_a_body_of_its_own() -> None:
    parts = bodies_of(b"1", b'"' + b"x" * 5000 + b'"', b"2", most=200)
    assert [orjson.loads(part.content)["changes"] for part in parts] == [[1], ["x" * 5000], [2]]


def test_an_id_depends_on_the_commit_its_changes_and_the_endpoint_alone() -> None:
    (body,) = bodies_of(b"1", b"2", most=1000)
    ours = message_id(body, name="a", endpoint="http://x")
    assert ours == "msg_" + ours[4:]
    assert len(ours) == 36
    assert "." not in ours
    # Another process, another body's text, another timeline, another number of publications.
    later = attrs.evolve(
        COMMITTED, xid=9, stream=StreamIdentity(7, 2, ("shop", "other")), origin="x"
    )
    (same,) = bodies_of(b"3", b"4", most=1000, transaction=later)
    assert message_id(same, name="a", endpoint="http://x") == ours


def test_ids_differ_by_whatever_makes_it_another_request() -> None:
    (body,) = bodies_of(b"1", b"2", most=1000)
    first, second = bodies_of(b"1", b"2", most=60)
    others = [
        attrs.evolve(body, transaction=attrs.evolve(COMMITTED, commit_lsn=LSN(0x1001))),
        attrs.evolve(
            body,
            transaction=attrs.evolve(COMMITTED, commit_time=COMMIT_TIME.replace(microsecond=1)),
        ),
        attrs.evolve(
            body, transaction=attrs.evolve(COMMITTED, stream=StreamIdentity(8, 1, ("shop",)))
        ),
        first,
        second,
    ]
    ids = {message_id(each, name="a", endpoint="http://x") for each in (body, *others)}
    ids.add(message_id(body, name="b", endpoint="http://x"))
    ids.add(message_id(body, name="a", endpoint="http://y"))
    assert len(ids) == 8


def test_the_commits_time_is_told_with_all_its_digits() -> None:
    transaction = attrs.evolve(COMMITTED, commit_time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    (body,) = bodies_of(b"1", most=1000, transaction=transaction)
    assert orjson.loads(body.content)["commit_timestamp"] == "2026-01-02T03:04:05.000000Z"
