"""UnreadTables: whose rows are passed over, and what becomes of memory when they are wanted."""

from __future__ import annotations

from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.topic_parser import Topic
from realtime_server.fanout.wanted_tables import WantedTables
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.replay.change_log import ChangeLog
from realtime_server.replay.older_changes import OlderChanges
from realtime_server.replay.unread_tables import UnreadTables

from ...server_helpers import RecordingOutbox
from .stage import GAP
from .test_catch_up import batch
from .test_older_changes import Elsewhere

BEGIN = (0, -1)
"""The floor of a memory that has everything."""


class Stage:
    def __init__(self, *, has_begun: bool = True) -> None:
        self.wanted = WantedTables()
        self.log = ChangeLog(max_bytes=1 << 30, window=1e9, clock=lambda: 0.0)
        older = OlderChanges(self.log)
        older.read_older = Elsewhere().read
        self.unread = UnreadTables(self.wanted, self.log, older)
        if has_begun:
            self.unread.begin()
        self.log.append(batch(16, "1"))

    def join(self, table: str) -> None:
        topic = Topic.parse(f"realtime:public:{table}")
        self.wanted.note(Subscription(topic, SERIALIZERS["1.0.0"], RecordingOutbox()))

    def wants(self, table: str) -> bool:
        return self.unread.wants("public", table)


def test_memory_is_emptied_when_rows_are_wanted_that_were_passed_over() -> None:
    stage = Stage()
    stage.join("todos")
    assert stage.wants("todos")
    assert not stage.unread.take_passed()
    assert not stage.wants("item")
    assert (stage.unread.take_passed(), stage.unread.take_passed()) == (True, False)
    # Of this one no rows have come.
    stage.join("other")
    assert stage.log.floor == BEGIN
    stage.join("item")
    assert stage.log.floor == stage.log.end > BEGIN
    assert stage.wants("item")
    # From now on it has all of it.
    stage.log.append(batch(32, "2"))
    floor = stage.log.floor
    stage.join("todos")
    assert stage.log.floor == floor < stage.log.end


def test_all_rows_are_read_until_it_is_known_where_the_first_channels_begin() -> None:
    stage = Stage(has_begun=False)
    assert stage.wants("item")
    stage.join("item")
    assert stage.log.floor == BEGIN
    stage.unread.begin()
    assert not stage.wants("other")


def test_all_rows_are_read_where_nobody_else_has_them() -> None:
    """Places of another stream say nothing where the older changes are."""
    stage = Stage()
    assert not stage.wants("item")
    stage.log.append([GAP])
    assert not stage.wants("item")
    stage.log.append(batch(8, "of another stream"))
    assert stage.wants("item")
    floor = stage.log.floor
    stage.join("item")
    assert stage.log.floor == floor
