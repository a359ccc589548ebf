"""ServedChannel: what the server keeps of one channel of a connection."""

from __future__ import annotations

import attrs

from ..fanout.groups import Subscription
from ..fanout.registrar import Registered
from ..fanout.source_attachment import Wait
from ..fanout.topic_parser import Topic
from ..replay.notices import Start
from ..replay.visit import Visit

__all__ = ["ServedChannel"]


@attrs.define(eq=False)
class ServedChannel:
    """What the server keeps of one channel, from the time that its join is granted to its end."""

    topic: Topic
    registered: Registered
    """The channel as the mode has registered it."""
    visit: Visit | None
    """The connection, if the channel may be brought back: without bindings it gets no changes."""
    came: float
    """When its join came at the earliest, in seconds of replay's clock; 0 without replay."""
    subscription: Subscription | None = None
    """The channel's subscription in the hub; None while the join waits."""
    wait: Wait | None = None
    """The wait until the database's changes are read: either the join's reply waits, or the message
    that says that the bindings are in place."""
    is_accepted: bool = False
    """Whether its join was answered, ..."""
    is_late: bool = False
    """... and that before changes were read for the first time, so that it may miss some."""
    start: Start | None = None
    """Where its changes begin; None while that is not known, or is not told."""
