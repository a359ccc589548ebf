"""Why what a client has missed cannot be sent to it: it is told of a gap instead."""

from __future__ import annotations

import enum

__all__ = ["LostReason"]


class LostReason(enum.Enum):
    """Why a client that comes back gets a gap instead of the changes that it missed."""

    WINDOW = "replay_window"
    """The client was away for longer than ``REPLAY_WINDOW``."""
    LIMIT = "replay_limit"
    """More clients were away, or more changes had to be kept, than the settings allow."""
    LOST = "replay_lost"
    """The changes belong to another stream than the present one, or another client has gone on from
    the place, or a failure has lost it."""
    RLS_TOO_SLOW = "rls_too_slow"
    """In RLS mode the policies took too long for the changes that the channel had missed."""
    TOKEN_REPLACED = "token_replaced"
    """The channel's token was replaced while changes waited for the row level security of the
    former one."""
    UNPROVEN = "unproven"
    """It is not known what the client has received: its pongs do not repeat the pings."""
