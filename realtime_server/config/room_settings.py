"""RoomSettings: the environment variables of rooms, in which clients send to each other."""

# ruff: noqa: RUF009 (variable() makes attrs fields)

from __future__ import annotations

from typing import Final

import attrs

from . import _kinds as kinds
from ._environment import variable
from .cluster_settings import ClusterSettings

__all__ = ["MESSAGES_PUBLICATION", "STATES", "RoomSettings"]

MESSAGES_PUBLICATION: Final = "supabase_realtime_messages_publication"
"""The publication of the table ``realtime.messages``, which ``migrate`` makes."""
STATES: Final = 4
"""How many times a room's state fits into what may wait for one client, unless a setting says how
large it may be."""


@attrs.frozen
class RoomSettings(ClusterSettings):
    """The settings of rooms, and of what one client may cost the others there."""

    broadcast: kinds.Flag = variable(
        True,
        "let clients [broadcast](../topics/broadcast.md) to each other, and see who is "
        "[present](../topics/presence.md)",
    )
    private_channels: kinds.OptionalFlag = variable(
        None,
        "let clients join [private channels](../topics/private-channels.md), on which policies "
        "decide; unset: in RLS mode; in STREAM mode it takes connections to the database",
    )
    private_only: kinds.Flag = variable(False, "refuse joins of channels that are not private")
    max_deliveries_per_second: kinds.Number = variable(
        100_000, "how many messages to members the broadcasts of one connection may be, a second"
    )
    presence_interval: kinds.Milliseconds = variable(
        100,
        "the least time from one message about who is [present](../topics/presence.md) in a room "
        "to the next; where more than 400 members get them it is longer, so that these get 4,000 a "
        "second together",
    )
    max_presence_calls_per_second: kinds.Number = variable(
        10, "how many times a second one channel may track or untrack"
    )
    max_presence_bytes: kinds.Bytes = variable(8 * 1024, "the size of what one channel tracks")
    max_presence_members: kinds.Number = variable(
        10_000, "how many channels of one room may be tracked"
    )
    max_presence_state_bytes: kinds.OptionalBytes = variable(
        None,
        "the size of all that the channels of one room track; unset: a quarter of "
        "`OUTBOX_MAX_BYTES`, as each new channel is sent all of it",
    )
    broadcast_from_database: kinds.Flag = variable(
        False,
        "broadcast the rows of the table `realtime.messages` to their rooms "
        "([how](../howto/broadcast-from-the-database.md)); the publication "
        f"`{MESSAGES_PUBLICATION}` is read besides `PUBLICATIONS`",
    )
    broadcast_messages: kinds.Flag = variable(
        False,
        "in STREAM mode, broadcast messages of `pg_logical_emit_message` with the prefix "
        "`realtime:broadcast` to [public rooms]"
        "(../howto/broadcast-from-the-database.md#without-a-table); the database sends those of "
        "all applications then",
    )

    @property
    def stream_publications(self) -> tuple[str, ...]:
        """The publications that the server's stream is read from."""
        if not self.broadcast_from_database or MESSAGES_PUBLICATION in self.publications:
            return self.publications
        return (*self.publications, MESSAGES_PUBLICATION)
