"""Places are written where they come from, and not before everybody was told of a gap."""

from __future__ import annotations

import attrs
import pytest

from realtime_core import LSN, Gap, GapReason, Position, SourceStats, StreamIdentity
from realtime_server.replay.change_log import ChangeLog
from realtime_server.replay.stream_origin import StreamOrigin

OLD = StreamIdentity(1, 1, ("shop",))
NEW = StreamIdentity(1, 2, ("shop",))
GAP = Gap(None, Position(LSN(1000), 0, NEW), GapReason.NEW_TIMELINE)


def test_it_is_not_known_between_a_gap_and_when_all_have_been_told_of_it() -> None:
    stats = SourceStats(stream=OLD)
    origin = StreamOrigin(lambda: stats, "shop")
    assert origin.stream() is OLD
    # The stream has been attached to what was promoted, and nothing has come from there.
    stats = attrs.evolve(stats, stream=NEW, gaps=1)
    assert origin.stream() is None
    origin.before([GAP])
    assert origin.stream() is None
    origin.after()
    assert origin.stream() is NEW


@pytest.mark.parametrize("reason", GapReason)
def test_places_of_another_timeline_or_cluster_say_nothing_although_they_are_lower(
    reason: GapReason,
) -> None:
    log = ChangeLog(max_bytes=1000, window=300, clock=lambda: 0.0)
    until = Position(LSN(1000), 0, NEW)
    log.append([Gap(None, until, reason)])
    is_other = reason in (GapReason.NEW_TIMELINE, GapReason.OTHER_CLUSTER)
    assert log.epoch == is_other
    if is_other:
        assert log.floor == log.end == (1000, -1)
